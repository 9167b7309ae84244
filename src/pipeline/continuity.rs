//! What a pipeline goes on from: whether what was stored, the server and the slot continue each other, and the record
//! to start with. Without I/O.

use std::sync::Arc;

use sooner_api::{
    Code, CopyProgress, Error, ProgressRecord, Result, SourceTable, SystemIdentity, TableFact, TableProgress,
    TableState, UnfinishedCopy,
};
use sooner_schemas::evolution::{Evolution, compare_relations};
use sooner_schemas::{Lsn, Relation, TableName};

const RECOPY: &str = "point [source] back to the former server; or, if this one is right, start with --recopy, which copies \
                      all tables again";

/// First version from which pg_upgrade takes logical slots over.
const FIRST_TO_UPGRADE_SLOTS: u32 = 170_000;
/// Log between the end of a server and the slots of the one that pg_upgrade made of it, at most, in bytes.
const MOST_UPGRADE_WAL: u64 = 256 << 20;

/// How a pipeline goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// From the server that it read.
    SameServer,
    /// From a standby that was promoted: what is beyond this LSN is of another history than the server's.
    Promoted(Lsn),
    /// From a server that pg_upgrade made of the one that it read.
    Upgraded,
}

/// Compares what was stored about the pipeline with the server and the slot that it now meets: nothing may have been
/// skipped. A record from before the first slot was created knows of no position.
///
/// A standby that was promoted goes on where everything that was read is part of its history too, and a server that
/// pg_upgrade made where the tables are those that it took over. Returns how it goes on.
pub fn check(
    record: &ProgressRecord,
    slot_name: &str,
    identity: &SystemIdentity,
    slot_lsn: Option<Lsn>,
    tables: &[SourceTable],
) -> Result<Continuation> {
    if record.confirmed_lsn == Lsn::ZERO {
        return Ok(Continuation::SameServer);
    }
    let mut continuation = Continuation::SameServer;
    if record.system_id != identity.system_id {
        if let Some(why_not) = not_upgraded(record, identity, slot_lsn, tables) {
            let why = format!(
                "this is system {}, but it read from system {}, and pg_upgrade did not make the one of the other: {why_not}",
                identity.system_id, record.system_id
            );
            return refuse(why, RECOPY);
        }
        continuation = Continuation::Upgraded;
    } else if record.timeline != identity.timeline {
        continuation = Continuation::Promoted(fork(record, identity)?);
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
    // Only of the server and the slot that were read.
    let Some(slot_lsn) = slot_lsn else { return Err(slot_gone(slot_name, record.confirmed_lsn)) };
    if slot_lsn > record.confirmed_lsn && continuation != Continuation::Upgraded {
        let why = format!(
            "the slot stands at {slot_lsn}, but the lake is only known to be complete to {}: somebody advanced or re-created \
             the slot, and the changes between are gone from it",
            record.confirmed_lsn
        );
        return refuse(why, "start with --recopy, which copies all tables again");
    }
    Ok(continuation)
}

fn refuse<T>(why: String, remedy: &str) -> Result<T> {
    Err(Error::operator(Code::PositionsDiscontinuous, "cannot go on from where the pipeline was", why, remedy))
}

/// Where the history that was read forks from the server's; an error if something beyond that was read.
fn fork(record: &ProgressRecord, identity: &SystemIdentity) -> Result<Lsn> {
    let forks =
        format!("the server is on timeline {}, but it read from timeline {}", identity.timeline, record.timeline);
    let Some((_, fork)) = identity.forks.iter().find(|(timeline, _)| *timeline == record.timeline) else {
        return refuse(format!("{forks}, which is not part of its history"), RECOPY);
    };
    if record.confirmed_lsn > *fork {
        let why = format!(
            "{forks} up to {}, of which the server has only what is before {fork}: the rest was lost in a failover",
            record.confirmed_lsn
        );
        return refuse(why, RECOPY);
    }
    Ok(*fork)
}

/// Why a server cannot be the one that was read, after pg_upgrade; none if it is. That takes slots over since 17, each
/// only if all that its server wrote was confirmed, and goes on in the log a little after where the old server ended,
/// on a first timeline.
///
/// <https://www.postgresql.org/docs/current/pgupgrade.html>
fn not_upgraded(
    record: &ProgressRecord,
    identity: &SystemIdentity,
    slot_lsn: Option<Lsn>,
    tables: &[SourceTable],
) -> Option<&'static str> {
    let Some(slot_lsn) = slot_lsn else { return Some("it has no such slot") };
    if record.version < FIRST_TO_UPGRADE_SLOTS || identity.version < record.version || identity.timeline != 1 {
        return Some("it takes slots over from version 17 on, to the same or a later version");
    }
    if slot_lsn < record.confirmed_lsn || slot_lsn.bytes_since(record.confirmed_lsn) > MOST_UPGRADE_WAL {
        return Some("the slot does not stand right after what was read");
    }
    let followed = record.tables.iter().filter(|(_, progress)| progress.state.takes_events());
    let mut kept = followed.map(|(name, progress)| {
        let table = tables.iter().find(|table| table.name() == name);
        let facts = progress.facts.as_ref();
        table.zip(facts).is_some_and(|(table, facts)| {
            progress.oid == Some(table.relation.oid) && facts.file_node == table.facts.file_node
        })
    });
    (!kept.all(|is_kept| is_kept)).then_some("its tables have other object ids or files")
}

fn slot_gone(name: &str, confirmed: Lsn) -> Error {
    Error::operator(
        Code::SlotGone,
        format!("the slot '{name}' is gone"),
        format!("the pipeline had confirmed it up to {confirmed}; changes since then cannot be read any more"),
        "start with --recopy, which creates the slot and copies all tables again",
    )
}

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

    fn refused(slot: &str, identity: &SystemIdentity, lsn: u64) -> Error {
        check(&record(), slot, identity, Some(Lsn(lsn)), &[]).unwrap_err()
    }

    #[test]
    fn the_slot_may_lag_but_not_lead() {
        assert!(check(&record(), "s", &identity("7", 1), Some(Lsn(100)), &[]).is_ok());
        assert!(check(&record(), "s", &identity("7", 1), Some(Lsn(99)), &[]).is_ok());
        let error = refused("s", &identity("7", 1), 101);
        assert_eq!(error.code, Code::PositionsDiscontinuous);
        assert!(error.why.contains("0/65") && error.why.contains("0/64"), "{error}");
    }

    #[test]
    fn a_slot_that_is_gone_is_missed_once_it_was_confirmed() {
        let error = check(&record(), "s", &identity("7", 1), None, &[]).unwrap_err();
        assert_eq!(error.code, Code::SlotGone);
        let elsewhere = check(&record(), "s", &identity("8", 1), None, &[]).unwrap_err();
        assert_eq!(elsewhere.code, Code::PositionsDiscontinuous, "another server is no reason to copy its tables");
        assert!(check(&record(), "t", &identity("7", 1), None, &[]).unwrap_err().why.contains("'t'"));
        let unconfirmed = ProgressRecord { confirmed_lsn: Lsn::ZERO, ..record() };
        assert!(check(&unconfirmed, "s", &identity("7", 1), None, &[]).is_ok());
    }

    #[test]
    fn a_promoted_standby_goes_on_if_it_has_all_that_was_read() {
        let promoted = |fork| SystemIdentity { forks: vec![(1, Lsn(fork))], ..identity("7", 2) };
        let went_on = check(&record(), "s", &promoted(100), Some(Lsn(90)), &[]);
        assert_eq!(went_on, Ok(Continuation::Promoted(Lsn(100))));
        assert!(refused("s", &promoted(99), 90).why.contains("before 0/63"));
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
