//! What a pipeline goes on from: whether what was stored, the server and the slot continue each other, and the record
//! to start with. Without I/O.

use std::sync::Arc;

use sooner_api::{
    Code, Error, ProgressRecord, Result, SourceTable, SystemIdentity, TableFact, TableProgress, TableState,
};
use sooner_schemas::evolution::{Evolution, compare_relations};
use sooner_schemas::{Lsn, TableName};

const RECOPY: &str = "point [source] back to the former server; or, if this one is right, start with --recopy, which copies \
                      all tables again";

/// Compares what was stored about the pipeline with the server and the slot that it now meets: nothing may have been
/// skipped. A record from before the first slot was created knows of no position.
pub fn check(record: &ProgressRecord, slot_name: &str, identity: &SystemIdentity, slot_lsn: Option<Lsn>) -> Result<()> {
    if record.confirmed_lsn == Lsn::ZERO {
        return Ok(());
    }
    let Some(slot_lsn) = slot_lsn else { return Err(slot_gone(slot_name, record.confirmed_lsn)) };
    let refuse = |why: String, remedy: &str| {
        let what = "cannot go on from where the pipeline was";
        Err(Error::operator(Code::PositionsDiscontinuous, what, why, remedy))
    };
    if record.system_id != identity.system_id {
        let why = format!("this is system {}, but it read from system {}", identity.system_id, record.system_id);
        return refuse(why, RECOPY);
    }
    if record.timeline != identity.timeline {
        let why = format!(
            "the server is on timeline {}, but it read from timeline {}: after a failover or a recovery changes may differ",
            identity.timeline, record.timeline
        );
        return refuse(why, RECOPY);
    }
    if record.slot != slot_name {
        let why = format!(
            "the slot is '{slot_name}', but what is stored was read from the slot '{}': by this pipeline under another \
             setting, or by another pipeline that stores it in the same place",
            record.slot
        );
        let remedy = "set slot of [source] back, or give each pipeline a name and a progress_topic of its own; or start \
                      with --recopy, which copies all tables again";
        return refuse(why, remedy);
    }
    if record.confirmed_lsn > identity.flushed_lsn {
        let why = format!(
            "the server's log ends at {}, but it was read to {}: the server was set back to an earlier state, and what it does \
             from there on was never read",
            identity.flushed_lsn, record.confirmed_lsn
        );
        return refuse(why, RECOPY);
    }
    if slot_lsn > record.confirmed_lsn {
        let why = format!(
            "the slot stands at {slot_lsn}, but the lake is only known to be complete to {}: somebody advanced or re-created \
             the slot, and the changes between are gone from it",
            record.confirmed_lsn
        );
        return refuse(why, "start with --recopy, which copies all tables again");
    }
    Ok(())
}

fn slot_gone(name: &str, confirmed: Lsn) -> Error {
    Error::operator(
        Code::SlotGone,
        format!("the slot '{name}' is gone"),
        format!("the pipeline had confirmed it up to {confirmed}; changes since then cannot be read any more"),
        "start with --recopy, which creates the slot and copies all tables again",
    )
}

/// The record to start with: tables that are new, were replaced, changed without an event or are resumed have to be
/// copied; those that cannot be read wait; those that are not there any more are gone.
pub fn next_record(
    former: Option<&ProgressRecord>,
    identity: SystemIdentity,
    slot_name: &str,
    tables: &[SourceTable],
    resume: &[TableName],
) -> ProgressRecord {
    let entry = |table: &SourceTable| {
        let (name, oid) = (table.name().clone(), Some(table.relation.oid));
        let known = former.and_then(|record| record.tables.get(&name)).filter(|known| known.oid == oid);
        let mut progress = known.cloned().unwrap_or_else(|| TableProgress::new(TableState::Copying, oid));
        (progress.state, _) = progress.state.step(what_happened(&progress, table, resume.contains(&name)));
        if progress.state == TableState::Copying {
            progress.relation = Some(Arc::new(table.relation.clone()));
        }
        progress.facts = Some(Arc::new(table.facts.clone()));
        (name, progress)
    };
    let gone = former.into_iter().flat_map(|record| &record.tables).map(|(name, progress)| {
        let (state, _) = progress.state.step(TableFact::Removed);
        (name.clone(), TableProgress { state, ..progress.clone() })
    });
    ProgressRecord {
        system_id: identity.system_id,
        timeline: identity.timeline,
        slot: slot_name.to_owned(),
        confirmed_lsn: former.map_or(Lsn::ZERO, |record| record.confirmed_lsn),
        tables: gone.chain(tables.iter().map(entry)).collect(),
    }
}

/// What happened to a table since its progress was stored, judged by what it is now.
fn what_happened(stored: &TableProgress, table: &SourceTable, is_resumed: bool) -> TableFact {
    let name = table.name();
    if let Some(error) = &table.blocked {
        return TableFact::Blocked(error.clone());
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
        _ => TableFact::Selected,
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::Relation;
    use sooner_schemas::catalog_facts::AttributeFacts;

    use super::*;

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
        SystemIdentity { system_id: system_id.into(), timeline, flushed_lsn: Lsn(100) }
    }

    fn refused(slot: &str, identity: &SystemIdentity, lsn: u64) -> Error {
        check(&record(), slot, identity, Some(Lsn(lsn))).unwrap_err()
    }

    #[test]
    fn the_slot_may_lag_but_not_lead() {
        assert!(check(&record(), "s", &identity("7", 1), Some(Lsn(100))).is_ok());
        assert!(check(&record(), "s", &identity("7", 1), Some(Lsn(99))).is_ok());
        let error = refused("s", &identity("7", 1), 101);
        assert_eq!(error.code, Code::PositionsDiscontinuous);
        assert!(error.why.contains("0/65") && error.why.contains("0/64"), "{error}");
    }

    #[test]
    fn a_slot_that_is_gone_is_missed_once_it_was_confirmed() {
        let error = check(&record(), "s", &identity("7", 1), None).unwrap_err();
        assert_eq!(error.code, Code::SlotGone);
        let unconfirmed = ProgressRecord { confirmed_lsn: Lsn::ZERO, ..record() };
        assert!(check(&unconfirmed, "s", &identity("7", 1), None).is_ok());
    }

    #[test]
    fn another_system_or_timeline_is_named() {
        assert!(refused("s", &identity("8", 1), 1).why.contains("system 8"));
        assert!(refused("s", &identity("7", 2), 1).why.contains("timeline 2"));
    }

    #[test]
    fn another_slot_and_a_server_that_was_set_back_are_named() {
        let error = refused("t", &identity("7", 1), 1);
        assert!(error.why.contains("'t'") && error.why.contains("'s'"), "{error}");
        let behind = SystemIdentity { flushed_lsn: Lsn(99), ..identity("7", 1) };
        let error = refused("s", &behind, 1);
        assert!(error.why.contains("ends at 0/63") && error.why.contains("read to 0/64"), "{error}");
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
        let mut former = next_record(None, identity("7", 1), "s", &tables, &[]);
        for progress in former.tables.values_mut() {
            progress.state = TableState::Streaming { copied_lsn: Some(Lsn(5)) };
        }
        former.confirmed_lsn = Lsn(50);
        let now = [table("kept", 1), table("replaced", 2), table("resumed", 1), table("added", 1)];
        let resume = [TableName::new("public", "resumed")];
        let record = next_record(Some(&former), identity("7", 1), "s", &now, &resume);
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
        let mut former = next_record(None, identity("7", 1), "s", &[table("t", 1)], &[]);
        former.tables.values_mut().for_each(|progress| progress.state = TableState::Streaming { copied_lsn: None });
        let state_of = |change: &dyn Fn(&mut SourceTable)| {
            let mut now = table("t", 1);
            change(&mut now);
            let record = next_record(Some(&former), identity("7", 1), "s", &[now], &[]);
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
    fn a_parked_table_stays_parked_until_it_is_resumed() {
        let error = Error::operator(Code::ShapeChanged, "w", "y", "r");
        let mut former = next_record(None, identity("7", 1), "s", &[table("t", 1)], &[]);
        let progress = former.tables.values_mut().next().unwrap();
        progress.state = TableState::Parked { error, copied_lsn: None };
        let record = next_record(Some(&former), identity("7", 1), "s", &[table("t", 1)], &[]);
        assert_eq!(states(&record), [("t", "parked")]);
    }
}
