//! Notices what happens to tables without an event: they come, go, are altered, published or withdrawn. One cheap query
//! looks at all of them; only what has changed since the last look is looked at closely, and judged without I/O.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::{FollowedTable, Outcome, Result, SourceTable, TableChange, TableNote};
use sooner_schemas::differences::differences;
use sooner_schemas::evolution::{Evolution, compare_relations};
use sooner_schemas::masking::unnamed_mask;
use sooner_schemas::{CatalogFacts, Lsn, Relation, TableName};

use crate::catalog;
use crate::client::Client;
use crate::digest::digests;
use crate::inspection::{TableFilter, candidates, taking_part};
use crate::numbering::number_columns;
use crate::pgoutput::RelationShape;
use crate::postponed::Reshaped;
use crate::publication::{Members, ensure};
use crate::verdict::{Verdict, columns_changed, copy_needed, shape_changed, tables_changed};

/// What is known of the tables, and what has been seen of them.
pub struct Watch {
    publication: String,
    selects: TableFilter,
    /// Every table that takes part, or will, by object id.
    known: HashMap<u32, Known>,
    /// What the last look saw of each table, by object id.
    seen: HashMap<u32, String>,
    /// Tables are still to be added to the publication.
    is_publishing: bool,
    /// Columns that are dropped or renamed cost no copy.
    keeps_columns: bool,
    /// What the publication carried at the last look at something that changed.
    members: Option<Members>,
    /// What was noticed of tables, with what is done about it, since that was last taken.
    changes: Vec<(TableName, String, Outcome)>,
}

/// A table as it was known last.
struct Known {
    table: SourceTable,
    /// What its events were last written by.
    written: Arc<Relation>,
    is_followed: bool,
}

impl Watch {
    /// Watches the tables that a publication carries or may carry. `followed` are read from the stream, or copied;
    /// `apart` are known, and take no part.
    pub fn new(
        publication: &str,
        selects: TableFilter,
        followed: Vec<FollowedTable>,
        apart: Vec<SourceTable>,
        keeps_columns: bool,
    ) -> Watch {
        let followed = followed.into_iter().map(|FollowedTable { table, written, .. }| {
            let written = written.unwrap_or_else(|| Arc::new(table.relation.clone()));
            Known { table, written, is_followed: true }
        });
        let apart = apart.into_iter().map(|table| {
            let written = Arc::new(table.relation.clone());
            Known { table, written, is_followed: false }
        });
        let known = followed.chain(apart).map(|known| (known.table.relation.oid, known)).collect();
        Watch {
            publication: publication.to_owned(),
            selects,
            known,
            seen: HashMap::new(),
            is_publishing: true,
            keeps_columns,
            members: None,
            changes: Vec::new(),
        }
    }

    /// Looks at all tables; returns what that means for those that changed.
    pub async fn look(&mut self, client: &mut Client) -> Result<Vec<Verdict>> {
        let seen = digests(client, &self.publication).await?;
        if seen == self.seen && !self.is_publishing {
            return Ok(Vec::new());
        }
        self.members = None;
        let found = candidates(client, &self.publication, &self.selects).await?;
        let publishable = found.iter().filter(|found| found.is_publishable());
        let publishable: Vec<_> = publishable.map(|found| found.table.source_name.clone()).collect();
        self.is_publishing = !publishable.is_empty();
        self.seen = seen;
        let verdicts = self.judge_all(taking_part(found));
        // What was judged is returned before anything else can fail or be cancelled: it is not judged twice.
        if !verdicts.is_empty() || publishable.is_empty() {
            return Ok(verdicts);
        }
        let published = ensure(client, &self.publication, &publishable, self.selects.through_roots).await?;
        self.is_publishing = published.pending;
        let changed = || tables_changed("tables were added to the publication".to_owned());
        Ok(published.changed.then(|| Verdict::ChangedLater(None, changed())).into_iter().collect())
    }

    /// Judges a relation that the stream describes, for a change that is to be carried.
    pub async fn announced(
        &mut self,
        client: &mut Client,
        name: &TableName,
        shape: &RelationShape,
    ) -> Result<(Relation, Option<Verdict>)> {
        let members = match self.members.take() {
            Some(members) => members,
            None => Members::load(client, &self.publication, self.selects.through_roots).await?,
        };
        let catalog::Announced { mut relation, mut table } = catalog::announced(client, &members, name, shape).await?;
        self.members = Some(members);
        if let Some(table) = &mut table {
            table.facts.keeps_gone_partitions = self.selects.keeps_gone_partitions;
        }
        if let (Some(known), Some(table)) = (self.known.get(&shape.oid), &table)
            && !number_columns(&mut relation, &known.written, &table.relation)
        {
            let why =
                "columns were dropped, added or renamed in a way that leaves open which of them are which".to_owned();
            let verdict = Verdict::Stopped(name.clone(), copy_needed(name, why));
            return Ok((relation, Some(verdict)));
        }
        let rules = (self.selects.masks)(name);
        if let Some(misfit) = rules.misfit(&relation) {
            // By now it may fit, or waits.
            return Ok((relation, Some(Verdict::Stopped(name.clone(), copy_needed(name, misfit.why)))));
        }
        rules.mark(&mut relation);
        let verdict = self.judge_announced(&relation, table.map(|table| table.facts));
        Ok((relation, verdict))
    }

    /// What a relation means by which the next events are written. `facts` are those of its table by now, which may be
    /// ahead of the stream; none if it is gone.
    pub fn judge_announced(&mut self, relation: &Relation, facts: Option<CatalogFacts>) -> Option<Verdict> {
        let known = self.known.get_mut(&relation.oid)?;
        let table = relation.name.clone();
        let facts = facts.unwrap_or_else(|| known.table.facts.clone());
        match compare_relations(&known.written, relation) {
            Evolution::Recopy(why) => return Some(Verdict::Stopped(table.clone(), copy_needed(&table, why))),
            Evolution::Decision(what) => return Some(Verdict::Stopped(table.clone(), shape_changed(&table, &what))),
            Evolution::Reshaped if !self.keeps_columns => {
                return Some(columns_changed(&table));
            }
            Evolution::Same | Evolution::Metadata | Evolution::Reshaped => {}
        }
        if let Some(why) = known.table.facts.silent_change(&facts) {
            return Some(Verdict::Stopped(table.clone(), copy_needed(&table, why)));
        }
        if *known.written == *relation && known.table.facts == facts {
            return None;
        }
        let differences = differences(&known.written, relation);
        if !differences.is_empty() {
            self.changes.push((table.clone(), differences.join(", "), Outcome::Metadata));
        }
        known.written = Arc::new(relation.clone());
        known.table.facts = facts;
        Some(Verdict::Noted(TableNote {
            table,
            relation: Some(known.written.clone()),
            facts: Arc::new(known.table.facts.clone()),
        }))
    }

    /// What the tables mean that are there by now.
    fn judge_all(&mut self, tables: Vec<SourceTable>) -> Vec<Verdict> {
        let is_there = |known: &Known| {
            tables
                .iter()
                .any(|table| table.relation.oid == known.table.relation.oid && table.name() == known.table.name())
        };
        let gone: Vec<_> = self.known.values().filter(|known| !is_there(known)).collect();
        let is_dropped = |known: &&Known| {
            let (oid, name) = (known.table.relation.oid, known.table.name());
            tables.iter().all(|table| table.relation.oid != oid && table.name() != name)
        };
        if let Some(replaced) = gone.iter().find(|known| !is_dropped(known)) {
            let name = replaced.table.name();
            return vec![Verdict::Changed(tables_changed(format!("{name} was renamed or replaced")))];
        }
        let dropped: Vec<_> = gone.iter().map(|known| (known.table.relation.oid, known.table.name().clone())).collect();
        let dropped = dropped.into_iter().map(|(oid, name)| {
            self.known.remove(&oid);
            Verdict::ChangedLater(Some(oid), tables_changed(format!("{name} was dropped")))
        });
        let dropped: Vec<_> = dropped.collect();
        let judged = tables.into_iter().filter_map(|table| self.judge(table));
        dropped.into_iter().chain(judged).collect()
    }

    fn judge(&mut self, now: SourceTable) -> Option<Verdict> {
        let name = now.name().clone();
        let Some(known) = self.known.get_mut(&now.relation.oid) else {
            return Some(Verdict::ChangedLater(None, tables_changed(format!("{name} is new"))));
        };
        if !known.is_followed {
            if known.table.blocked.as_ref().is_some_and(|error| error.code.is_about_topics()) {
                // The database cannot change that.
                return None;
            }
            let former = std::mem::replace(&mut known.table, now).blocked;
            let why = match &known.table.blocked {
                now if *now == former => return None,
                None => format!("{name} can be copied now"),
                // Maybe the publication can be extended by now.
                Some(error) => format!("{name} waits for something else: {}", error.why),
            };
            return Some(Verdict::ChangedLater(None, tables_changed(why)));
        }
        if let Some(error) = now.blocked {
            return Some(Verdict::Changed(tables_changed(format!("{name} has to wait: {}", error.why))));
        }
        if let Some(why) = known.table.facts.silent_change(&now.facts) {
            return Some(Verdict::Stopped(name.clone(), copy_needed(&name, why)));
        }
        let evolution = compare_relations(&known.written, &now.relation);
        // A column that came and went leaves its number behind, by which later ones are told apart.
        let is_renumbered = evolution == Evolution::Same && known.written.last_number < now.relation.last_number;
        match evolution {
            Evolution::Metadata | Evolution::Reshaped | Evolution::Same
                if evolution == Evolution::Metadata
                    || self.keeps_columns && (is_renumbered || evolution == Evolution::Reshaped) =>
            {
                let written = known.written.clone();
                return Some(Verdict::Reshaped(Box::new(Reshaped { table: now, written })));
            }
            Evolution::Reshaped => return Some(columns_changed(&name)),
            _ => {}
        }
        if known.table.facts == now.facts {
            return None;
        }
        known.table.facts = now.facts;
        Some(Verdict::Noted(TableNote { table: name, relation: None, facts: Arc::new(known.table.facts.clone()) }))
    }

    /// Tables as they are by now, without those that are gone or have to wait.
    pub async fn find(&mut self, client: &mut Client, oids: &[u32]) -> Result<Vec<SourceTable>> {
        let mut found = taking_part(candidates(client, &self.publication, &self.selects).await?);
        let unmasks =
            |now: &Relation| self.known.get(&now.oid).and_then(|known| unnamed_mask(&known.written, now)).is_some();
        found
            .retain(|found| oids.contains(&found.relation.oid) && found.blocked.is_none() && !unmasks(&found.relation));
        Ok(found)
    }

    /// A table is followed from what it is now.
    pub fn follow(&mut self, table: SourceTable) {
        let written = Arc::new(table.relation.clone());
        self.known.insert(table.relation.oid, Known { table, written, is_followed: true });
    }

    /// The object id of a table that takes part.
    pub fn oid_of(&self, table: &TableName) -> Option<u32> {
        self.known.iter().find(|(_, known)| known.table.name() == table).map(|(oid, _)| *oid)
    }

    /// Whether events of a table are still written by a relation.
    pub fn is_written_by(&self, oid: u32, relation: &Arc<Relation>) -> bool {
        self.known.get(&oid).is_some_and(|known| Arc::ptr_eq(&known.written, relation))
    }

    /// The next look judges a table again, whether or not it has changed.
    pub fn look_again(&mut self, oid: u32) {
        self.seen.remove(&oid);
    }

    /// What was noticed of tables since this was last called; the stream has been read up to an LSN.
    pub fn take_changes(&mut self, lsn: Lsn) -> Vec<TableChange> {
        let changes = std::mem::take(&mut self.changes).into_iter();
        changes.map(|(table, what, outcome)| TableChange { table, lsn: Some(lsn), what, outcome }).collect()
    }

    /// A table is copied again, for this reason.
    pub fn is_copied_again(&mut self, table: &TableName, why: &str) {
        self.changes.push((table.clone(), why.to_owned(), Outcome::Copied));
        self.stopped(table);
    }

    /// A table that stopped is not judged any more.
    pub fn stopped(&mut self, table: &TableName) {
        for known in self.known.values_mut().filter(|known| known.table.name() == table) {
            known.is_followed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, Error, Positions};
    use sooner_schemas::catalog_facts::AttributeFacts;
    use sooner_schemas::{Column, ColumnType, Scalar};

    use super::*;

    fn table(oid: u32, name: &str) -> SourceTable {
        let columns = vec![Column::new("id", ColumnType::Scalar(Scalar::Int8)).numbered(1)];
        let mut table =
            SourceTable::new(Relation { oid, ..Relation::new(TableName::new("public", name), columns, vec![0]) });
        table.facts.file_node = 1;
        table.facts.columns = vec![AttributeFacts { number: 1, version: 10, has_missing: false }];
        table
    }

    fn blocked(table: SourceTable) -> SourceTable {
        let error = Error::operator(Code::PostgresPermissionDenied, "cannot follow it", "no grant", "grant it");
        SourceTable { blocked: Some(error), ..table }
    }

    fn rewritten(mut table: SourceTable) -> SourceTable {
        table.facts.file_node += 1;
        table.facts.columns[0].version += 1;
        table
    }

    /// Follows a table `t`, and knows of `w`, which has to wait.
    fn watch() -> Watch {
        let covered = Positions::whole(Lsn::ZERO);
        let followed = vec![FollowedTable { table: table(1, "t"), written: None, covered }];
        Watch::new("p", TableFilter::new(|_| true), followed, vec![blocked(table(2, "w"))], true)
    }

    fn judged(tables: Vec<SourceTable>) -> Vec<Verdict> {
        watch().judge_all(tables)
    }

    fn changes(verdicts: &[Verdict], part: &str) -> bool {
        let [Verdict::Changed(error) | Verdict::ChangedLater(_, error)] = verdicts else { return false };
        error.code == Code::TablesChanged && error.why.contains(part)
    }

    #[test]
    fn nothing_new_means_nothing() {
        assert_eq!(judged(vec![table(1, "t"), blocked(table(2, "w"))]), []);
    }

    #[test]
    fn rows_written_again_are_copied_and_other_changes_noted() {
        let verdicts = judged(vec![rewritten(table(1, "t")), blocked(table(2, "w"))]);
        assert!(
            matches!(&verdicts[..], [Verdict::Stopped(_, error)] if error.code == Code::CopyNeeded),
            "{verdicts:?}"
        );
        let mut vacuumed = table(1, "t");
        vacuumed.facts.file_node = 9;
        let verdicts = judged(vec![vacuumed, blocked(table(2, "w"))]);
        assert!(matches!(&verdicts[..], [Verdict::Noted(note)] if note.facts.file_node == 9), "{verdicts:?}");
    }

    #[test]
    fn harmless_changes_do_not_add_up_to_a_harmful_one() {
        let mut watch = watch();
        let waiting = blocked(table(2, "w"));
        let mut altered = table(1, "t");
        altered.facts.columns[0].version = 11;
        assert!(matches!(watch.judge_all(vec![altered.clone(), waiting.clone()])[..], [Verdict::Noted(_)]));
        altered.facts.file_node = 2;
        assert!(matches!(watch.judge_all(vec![altered, waiting])[..], [Verdict::Noted(_)]), "VACUUM FULL, later");
    }

    #[test]
    fn tables_that_come_go_or_take_a_name_are_inspected() {
        let waiting = || blocked(table(2, "w"));
        assert!(changes(&judged(vec![table(1, "t"), waiting(), table(3, "new")]), "public.new is new"));
        assert!(changes(&judged(vec![waiting()]), "public.t was dropped"));
        assert!(changes(&judged(vec![table(9, "t"), waiting()]), "public.t was renamed or replaced"));
        let swapped = judged(vec![table(2, "t"), table(1, "w")]);
        assert!(changes(&swapped, "replaced"), "{swapped:?}");
    }

    #[test]
    fn a_table_that_has_to_wait_is_inspected_once_it_need_not_and_the_other_way_round() {
        assert!(changes(&judged(vec![table(1, "t"), table(2, "w")]), "public.w can be copied now"));
        assert!(changes(&judged(vec![blocked(table(1, "t")), blocked(table(2, "w"))]), "no grant"));
    }

    #[test]
    fn another_key_or_a_dropped_column_in_the_stream_needs_a_copy_and_a_wider_row_is_noted() {
        let judge = |change: &dyn Fn(&mut Relation)| {
            let mut relation = table(1, "t").relation;
            change(&mut relation);
            watch().judge_announced(&relation, Some(table(1, "t").facts))
        };
        let wider = judge(&|relation| {
            let column = Column::new("note", ColumnType::Scalar(Scalar::Text)).nullable().numbered(2);
            relation.columns.push(column);
        });
        assert!(matches!(wider, Some(Verdict::Noted(note)) if note.relation.is_some()));
        let retyped = judge(&|relation| relation.columns[0].column_type = ColumnType::Scalar(Scalar::Text));
        assert!(matches!(retyped, Some(Verdict::Stopped(_, error)) if error.code == Code::CopyNeeded));
        let keyless = judge(&|relation| relation.key.clear());
        assert!(matches!(keyless, Some(Verdict::Stopped(_, error)) if error.code == Code::ShapeChanged));
        assert_eq!(judge(&|_| {}), None);
    }
}
