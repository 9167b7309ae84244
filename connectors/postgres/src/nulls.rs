//! Columns that hold NULLs whatever the catalog says: a constraint that is not valid yet says nothing of older rows.

use sooner_api::SourceTable;
use sooner_schemas::Relation;

use crate::tracked::relaxed;

/// Columns that may be NULL, each with the object id of its table.
#[derive(Debug, Default)]
pub struct KnownNulls(Vec<(u32, String)>);

impl KnownNulls {
    /// A column was met that holds one.
    pub fn note(&mut self, table: u32, column: String) {
        self.0.push((table, column));
    }

    /// What was found out about a table before it was last written.
    pub fn note_all(&mut self, table: u32, written: Option<&Relation>) {
        let nullable = written.into_iter().flat_map(|written| &written.columns).filter(|column| column.nullable);
        self.0.extend(nullable.map(|column| (table, column.name.clone())));
    }

    /// A table with those columns as they are.
    pub fn apply(&self, mut table: SourceTable) -> SourceTable {
        let table_oid = table.relation.oid;
        for (_, column) in self.0.iter().filter(|(oid, _)| *oid == table_oid) {
            table.relation = relaxed(&table.relation, column);
        }
        table
    }
}
