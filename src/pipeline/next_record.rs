//! The record that an attempt to read a database starts with: what each table is to do, given what was stored of it and
//! what it is by now. Without I/O.

use std::sync::Arc;

use sooner_api::{
    Code, CopyProgress, Error, ProgressRecord, SourceTable, SystemIdentity, TableFact, TableProgress, TableState,
    UnfinishedCopy,
};
use sooner_schemas::evolution::{Evolution, compare_relations};
use sooner_schemas::masking::unnamed_mask;
use sooner_schemas::{Lsn, Relation, TableName};

use super::continuity::Continuation;

/// What was stored before.
#[derive(Clone, Copy)]
pub struct Former<'a> {
    /// The record; none if nothing counts.
    pub record: Option<&'a ProgressRecord>,
    /// Columns that were dropped or renamed cost no copy.
    pub keeps_columns: bool,
}

/// The record to start with: tables that are new, were replaced, changed without an event or are resumed have to be
/// copied; those that cannot be read wait; those that are not there any more are gone.
pub fn next_record(
    former: Former<'_>,
    identity: SystemIdentity,
    continuation: Continuation,
    slot_name: &str,
    tables: &[SourceTable],
    resume: &[TableName],
) -> ProgressRecord {
    let Former { record: former, keeps_columns } = former;
    let entry = |table: &SourceTable| {
        let (name, oid) = (table.name().clone(), Some(table.relation.oid));
        let known = former.and_then(|record| record.tables.get(&name)).filter(|known| known.oid == oid);
        let mut progress = known.cloned().unwrap_or_else(|| TableProgress::new(TableState::Copying, oid));
        let written = progress.relation.clone();
        if continuation == Continuation::Upgraded {
            progress.facts = Some(Arc::new(table.facts.clone()));
        }
        progress.step(what_happened(&progress, table, resume.contains(&name), keeps_columns));
        let is_same = continuation == Continuation::SameServer;
        progress.copy.take_if(|copy| !is_same || !goes_on(copy, written, table, &identity.run));
        if progress.state == TableState::Copying && progress.copy.is_none() {
            progress.relation = Some(Arc::new(table.relation.clone()));
        }
        progress.facts = Some(Arc::new(table.facts.clone()));
        (name, progress)
    };
    let gone = former.into_iter().flat_map(|record| &record.tables).map(|(name, progress)| {
        let mut progress = progress.clone();
        progress.step(TableFact::Removed);
        (name.clone(), progress)
    });
    ProgressRecord {
        system_id: identity.system_id,
        timeline: identity.timeline,
        version: identity.version,
        forked_at: match continuation {
            Continuation::Promoted(fork) => Some(fork),
            _ => former.and_then(|record| record.forked_at),
        },
        slot: slot_name.to_owned(),
        confirmed_lsn: former.map_or(Lsn::ZERO, |record| record.confirmed_lsn),
        tables: gone.chain(tables.iter().map(entry)).collect(),
    }
}

/// Whether a copy that was broken off can go on: the table still has the columns and the blocks that it had, and no
/// crash of the server has lost what was copied.
fn goes_on(copy: &UnfinishedCopy, written: Option<Arc<Relation>>, table: &SourceTable, run: &str) -> bool {
    let same_columns = written.is_some_and(|written| compare_relations(&written, &table.relation) == Evolution::Same);
    let has_blocks = |source: &CopyProgress| source.rest.file_node == table.facts.file_node && source.rest.run == run;
    same_columns && copy.source.as_ref().is_some_and(has_blocks)
}

/// What happened to a table since its progress was stored, judged by what it is now.
fn what_happened(stored: &TableProgress, table: &SourceTable, is_resumed: bool, keeps_columns: bool) -> TableFact {
    let name = table.name();
    if let Some(error) = &table.blocked {
        return TableFact::Blocked(error.clone());
    }
    if let Some(why) = stored.relation.as_ref().and_then(|written| unnamed_mask(written, &table.relation)) {
        // Even if it is resumed: what was masked would be copied as it is.
        tracing::warn!(table = %name, %why, "the table is not copied");
        let remedy = format!("then reload (SIGHUP) or restart, and `sooner resume {name}`");
        let what = format!("cannot follow {name} under its masks");
        return TableFact::Failed(Error::operator(Code::MaskUnfit, what, why, remedy));
    }
    if is_resumed {
        return TableFact::CopyNeeded;
    }
    if !stored.state.takes_events() {
        return TableFact::Selected;
    }
    let silent = stored.facts.as_ref().and_then(|facts| facts.silent_change(&table.facts));
    let evolution = stored.relation.as_ref().map(|written| compare_relations(written, &table.relation));
    match (silent, evolution) {
        (_, Some(Evolution::Decision(what))) => TableFact::Failed(Error::operator(
            Code::ShapeChanged,
            format!("cannot follow {name}"),
            format!("its shape changed: {what}"),
            format!("`sooner resume {name}` copies it again, once it has a key"),
        )),
        (Some(why), _) | (None, Some(Evolution::Recopy(why))) => {
            tracing::warn!(table = %name, %why, "the table is copied again");
            TableFact::CopyNeeded
        }
        (None, Some(Evolution::Reshaped)) if !keeps_columns => {
            tracing::warn!(table = %name, "columns were dropped or renamed: the table is copied again");
            TableFact::CopyNeeded
        }
        _ => TableFact::Selected,
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::Relation;
    use sooner_schemas::catalog_facts::{AttributeFacts, CatalogRow, PublicationFacts};

    use super::*;
    use crate::pipeline::continuity::check;

    fn of(record: Option<&ProgressRecord>) -> Former<'_> {
        Former { record, keeps_columns: true }
    }

    fn record() -> ProgressRecord {
        ProgressRecord {
            system_id: "7".into(),
            timeline: 1,
            slot: "s".into(),
            confirmed_lsn: Lsn(100),
            ..ProgressRecord::default()
        }
    }

    fn identity(system_id: &str, timeline: u32) -> SystemIdentity {
        SystemIdentity {
            system_id: system_id.into(),
            timeline,
            flushed_lsn: Lsn(100),
            forks: Vec::new(),
            version: 180_000,
            run: String::new(),
        }
    }

    #[test]
    fn a_promoted_standby_goes_on_if_it_has_all_that_was_read() {
        let promoted = |fork| SystemIdentity { forks: vec![(1, Lsn(fork))], ..identity("7", 2) };
        let went_on = check(&record(), "s", &promoted(100), Some(Lsn(90)), &[]);
        assert_eq!(went_on, Ok(Continuation::Promoted(Lsn(100))));
        assert!(check(&record(), "s", &promoted(99), Some(Lsn(90)), &[]).unwrap_err().why.contains("before 0/63"));
        let record = next_record(of(Some(&record())), promoted(100), went_on.unwrap(), "s", &[], &[]);
        assert_eq!((record.timeline, record.forked_at, record.confirmed_lsn), (2, Some(Lsn(100)), Lsn(100)));
    }

    #[test]
    fn a_server_made_by_pg_upgrade_goes_on_if_its_tables_and_its_slot_are_those_of_before() {
        let sizes = |oid, file_node, publication| {
            let mut table = table("t", oid);
            table.facts.file_node = file_node;
            let publication = CatalogRow { oid: publication, version: publication };
            table.facts.publication = Some(PublicationFacts { publication, members: Vec::new() });
            table
        };
        let mut former = next_record(of(None), identity("7", 1), Continuation::SameServer, "s", &[sizes(1, 5, 1)], &[]);
        former.tables.values_mut().for_each(|progress| progress.state = TableState::Streaming { copied_lsn: None });
        former.confirmed_lsn = Lsn(100);
        let upgraded = SystemIdentity { flushed_lsn: Lsn(1 << 30), ..identity("8", 1) };
        let tried = |former: &ProgressRecord, lsn, table: &SourceTable| {
            check(former, "s", &upgraded, Some(Lsn(lsn)), std::slice::from_ref(table))
        };
        let same = sizes(1, 5, 2);
        assert_eq!(tried(&former, 1 << 24, &same), Ok(Continuation::Upgraded));
        let record = next_record(
            of(Some(&former)),
            upgraded.clone(),
            Continuation::Upgraded,
            "s",
            std::slice::from_ref(&same),
            &[],
        );
        assert_eq!(states(&record), [("t", "streaming")], "another publication means nothing then");
        for (lsn, table) in [(1 << 29, &same), (99, &same), (1 << 24, &sizes(2, 5, 2)), (1 << 24, &sizes(1, 6, 2))] {
            assert_eq!(tried(&former, lsn, table).unwrap_err().code, Code::PositionsDiscontinuous);
        }
        former.version = 160_004;
        assert!(tried(&former, 1 << 24, &same).unwrap_err().why.contains("version 17"));
    }

    fn table(name: &str, oid: u32) -> SourceTable {
        let relation = Relation { oid, ..Relation::new(TableName::new("public", name), Vec::new(), Vec::new()) };
        SourceTable::new(relation)
    }

    fn states(record: &ProgressRecord) -> Vec<(&str, &'static str)> {
        record.tables.iter().map(|(name, progress)| (name.table.as_str(), progress.state.name())).collect()
    }

    #[test]
    fn new_replaced_and_resumed_tables_are_copied_and_others_go_on() {
        let tables = ["kept", "replaced", "resumed", "dropped"].map(|name| table(name, 1));
        let mut former = next_record(of(None), identity("7", 1), Continuation::SameServer, "s", &tables, &[]);
        for progress in former.tables.values_mut() {
            progress.state = TableState::Streaming { copied_lsn: Some(Lsn(5)) };
        }
        former.confirmed_lsn = Lsn(50);
        let now = [table("kept", 1), table("replaced", 2), table("resumed", 1), table("added", 1)];
        let resume = [TableName::new("public", "resumed")];
        let record = next_record(of(Some(&former)), identity("7", 1), Continuation::SameServer, "s", &now, &resume);
        let expected = [
            ("added", "copying"),
            ("dropped", "gone"),
            ("kept", "streaming"),
            ("replaced", "copying"),
            ("resumed", "copying"),
        ];
        assert_eq!(states(&record), expected);
        assert_eq!(record.confirmed_lsn, Lsn(50));
    }

    #[test]
    fn a_table_whose_rows_changed_while_nobody_looked_is_copied_and_one_that_was_vacuumed_goes_on() {
        let mut former = next_record(of(None), identity("7", 1), Continuation::SameServer, "s", &[table("t", 1)], &[]);
        former.tables.values_mut().for_each(|progress| progress.state = TableState::Streaming { copied_lsn: None });
        let state_of = |change: &dyn Fn(&mut SourceTable)| {
            let mut now = table("t", 1);
            change(&mut now);
            let record = next_record(of(Some(&former)), identity("7", 1), Continuation::SameServer, "s", &[now], &[]);
            record.tables.into_values().next().map(|progress| progress.state.name())
        };
        assert_eq!(state_of(&|_| {}), Some("streaming"));
        assert_eq!(state_of(&|now| now.facts.file_node = 5), Some("streaming"), "VACUUM FULL");
        let altered = |now: &mut SourceTable| {
            now.facts.file_node = 5;
            now.facts.columns = vec![AttributeFacts { number: 1, version: 9, has_missing: false }];
        };
        assert_eq!(state_of(&altered), Some("copying"));
        let error = Error::operator(Code::IdentityUnusable, "w", "y", "r");
        assert_eq!(state_of(&|now| now.blocked = Some(error.clone())), Some("waiting"));
    }

    #[test]
    fn a_table_is_copied_for_other_masks_and_not_for_a_masked_column_that_no_rule_names() {
        use sooner_schemas::mask::Mask;
        use sooner_schemas::{Column, ColumnType, Scalar};
        let with = |name: &str, mask: Option<Mask>| {
            let column = Column::new(name, ColumnType::Scalar(Scalar::Text)).numbered(1);
            let mut table = table("t", 1);
            table.relation.columns = vec![Column { mask, ..column }];
            table
        };
        let start = |former: Option<&ProgressRecord>, now: SourceTable, resume: &[TableName]| {
            next_record(of(former), identity("7", 1), Continuation::SameServer, "s", &[now], resume)
        };
        let mut former = start(None, with("a", Some(Mask::Null)), &[]);
        former.tables.values_mut().for_each(|progress| progress.state = TableState::Streaming { copied_lsn: None });
        let state = |now, resume: &[TableName]| states(&start(Some(&former), now, resume))[0].1;
        assert_eq!(state(with("a", Some(Mask::Null)), &[]), "streaming");
        assert_eq!(state(with("a", Some(Mask::Truncate(1))), &[]), "copying");
        assert_eq!(state(with("a", None), &[]), "copying");
        assert_eq!(state(with("b", Some(Mask::Null)), &[]), "streaming");
        assert_eq!(state(with("b", None), &[]), "parked");
        assert_eq!(state(with("b", None), &[TableName::new("public", "t")]), "parked", "even if it is resumed");
        assert_eq!(state(with("b", Some(Mask::Keep)), &[]), "copying");
    }

    #[test]
    fn a_parked_table_stays_parked_until_it_is_resumed() {
        let error = Error::operator(Code::ShapeChanged, "w", "y", "r");
        let mut former = next_record(of(None), identity("7", 1), Continuation::SameServer, "s", &[table("t", 1)], &[]);
        let progress = former.tables.values_mut().next().unwrap();
        progress.state = TableState::Parked { error, copied_lsn: None };
        let record =
            next_record(of(Some(&former)), identity("7", 1), Continuation::SameServer, "s", &[table("t", 1)], &[]);
        assert_eq!(states(&record), [("t", "parked")]);
    }
}
