//! Names that tables keep: a table is known by the name that it had when it was first met, whatever it is called later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sooner_api::KnownNames;
use sooner_schemas::TableName;

use crate::catalog_table::CatalogTable;

/// The names, by object id. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct KeptNames {
    by_oid: Arc<Mutex<KnownNames>>,
}

impl KeptNames {
    /// Takes over what was stored before. What is known already counts.
    pub fn learn(&self, stored: KnownNames) {
        let mut by_oid = self.by_oid.lock().unwrap_or_else(PoisonError::into_inner);
        for (oid, name) in stored {
            by_oid.entry(oid).or_insert(name);
        }
    }

    /// Gives these tables, which are all that there are, the names by which they are known; those that are new and
    /// selected keep what they are called now. Returns object ids of tables whose name is another one's, and which are
    /// called by their object id as well meanwhile.
    pub fn give(&self, tables: &mut [CatalogTable], selects: impl Fn(&TableName) -> bool) -> Vec<u32> {
        let mut by_oid = self.by_oid.lock().unwrap_or_else(PoisonError::into_inner);
        by_oid.retain(|oid, _| tables.iter().any(|found| found.table.relation.oid == *oid));
        let mut taken_by: HashMap<TableName, u32> = by_oid.iter().map(|(oid, name)| (name.clone(), *oid)).collect();
        let mut taken = Vec::new();
        for table in tables.iter_mut().map(|found| &mut found.table) {
            let oid = table.relation.oid;
            if let Some(known) = by_oid.get(&oid) {
                table.relation.name.clone_from(known);
            } else if !selects(&table.source_name) {
                continue;
            } else if taken_by.contains_key(&table.source_name) {
                table.relation.name.table.push_str(&format!(" ({oid})"));
                taken.push(oid);
            } else {
                taken_by.insert(table.source_name.clone(), oid);
                by_oid.insert(oid, table.source_name.clone());
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::SourceTable;
    use sooner_schemas::Relation;

    use super::*;
    use crate::eligibility::Access;

    fn found(oid: u32, name: &str) -> CatalogTable {
        let relation = Relation { oid, ..Relation::new(TableName::new("public", name), Vec::new(), Vec::new()) };
        let table = SourceTable::new(relation);
        CatalogTable { table, access: Access::default(), is_partitioned: false, ancestors: Vec::new() }
    }

    fn known_as(kept: &KeptNames, tables: &[(u32, &str)]) -> Vec<String> {
        let mut found: Vec<_> = tables.iter().map(|(oid, name)| found(*oid, name)).collect();
        kept.give(&mut found, |name| !name.table.starts_with("no"));
        found.iter().map(|found| found.table.relation.name.table.clone()).collect()
    }

    #[test]
    fn a_table_keeps_its_first_name_and_one_that_takes_it_waits_until_it_is_free() {
        let kept = KeptNames::default();
        assert_eq!(known_as(&kept, &[(1, "a"), (2, "no")]), ["a", "no"]);
        assert_eq!(known_as(&kept, &[(1, "b"), (2, "yes")]), ["a", "yes"]);
        assert_eq!(known_as(&kept, &[(1, "no"), (3, "a")]), ["a", "a (3)"]);
        assert_eq!(known_as(&kept, &[(3, "a")]), ["a"], "the other one was dropped");
        assert_eq!(known_as(&kept, &[(3, "b"), (4, "b")]), ["a", "b"]);
    }

    #[test]
    fn names_that_were_stored_count_after_a_restart() {
        let kept = KeptNames::default();
        kept.learn(KnownNames::from([(1, TableName::new("public", "a"))]));
        assert_eq!(known_as(&kept, &[(1, "b"), (2, "a")]), ["a", "a (2)"]);
    }
}
