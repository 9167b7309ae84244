//! What a pipeline goes on from: whether what was stored, the server and the slot continue each other, and the record
//! to start with. Without I/O.

use sooner_api::{Code, Error, ProgressRecord, Result, SourceTable, SystemIdentity};
use sooner_schemas::Lsn;

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

#[cfg(test)]
mod tests {
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
}
