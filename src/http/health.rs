//! Whether a pipeline is well: pure judgements of its status, each with a reason and a remedy.

use serde::{Deserialize, Serialize};
use sooner_api::{Class, Side, TableState};

use crate::standby;
use crate::status::Status;

/// Log that may be written before the slot is lost, in bytes, below which that is told.
const SAFE_BYTES: i64 = 1 << 30;

/// How bad something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Nothing is wrong.
    #[default]
    Ok,
    /// It passes by itself, or will need a person.
    Warn,
    /// A person is needed.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: `pipeline`, `progress`, `slot`, the name of a table, or `history of` one.
    pub name: String,
    /// How it is.
    pub health: Health,
    /// Since when, in microseconds since 1970, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_micros: Option<i64>,
    /// Why it is not well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Check {
    fn well(name: &str) -> Check {
        let (reason, remedy) = (String::new(), String::new());
        Check { name: name.to_owned(), health: Health::Ok, since_micros: None, reason, remedy }
    }

    fn ill(name: &str, health: Health, reason: impl Into<String>, remedy: impl Into<String>) -> Check {
        Check { health, reason: reason.into(), remedy: remedy.into(), ..Check::well(name) }
    }
}

/// All checks, the worst first.
pub fn checks(status: &Status) -> Vec<Check> {
    let mut checks = vec![pipeline(status), progress(status)];
    checks.extend(slot(status));
    checks.extend(status.tables.iter().filter_map(|(name, table)| {
        let (health, error) = match &table.state {
            TableState::Parked { error, .. } => (Health::Error, error),
            TableState::Waiting { error } => (Health::Warn, error),
            _ => return None,
        };
        Some(Check::ill(&name.to_string(), health, format!("{}: {}", error.what, error.why), &error.remedy))
    }));
    checks.extend(status.untrimmed.iter().map(|(name, error)| {
        let reason = format!("{}: {}", error.what, error.why);
        Check::ill(&format!("history of {name}"), Health::Warn, reason, &error.remedy)
    }));
    checks.sort_by_key(|check| std::cmp::Reverse(check.health));
    checks
}

/// Whether the loops turn. A process that waits for a slot, copies for long, has a slow lake or is paused is alive.
pub fn is_live(status: &Status) -> bool {
    progress(status).health != Health::Error
}

/// What a pipeline that is ready does: tables are streamed or copied at the moment, or it stands by. None if it is not
/// ready.
pub fn readiness(status: &Status) -> Option<&'static str> {
    if status.trouble.is_some() || !status.paused.is_empty() {
        return None;
    }
    match status.standby {
        true => Some(standby::PHASE),
        false => (!status.tables.is_empty()).then_some("ok"),
    }
}

/// Whether it is ready.
pub fn is_ready(status: &Status) -> bool {
    readiness(status).is_some()
}

fn sides(status: &Status) -> String {
    let names = status.paused.iter().map(|side| match side {
        Side::Source => "source",
        Side::Sink => "sink",
    });
    names.collect::<Vec<_>>().join(" and ")
}

fn pipeline(status: &Status) -> Check {
    if !status.paused.is_empty() {
        let reason =
            format!("the {} is paused, as somebody asked; what it would read is kept meanwhile", sides(status));
        return Check::ill("pipeline", Health::Warn, reason, "`sooner resume` lets it go on");
    }
    let Some(trouble) = &status.trouble else {
        let reason = if status.standby { standby::PHASE } else { "" };
        return Check { reason: reason.to_owned(), ..Check::well("pipeline") };
    };
    let health = if trouble.class == Class::Retry { Health::Warn } else { Health::Error };
    Check::ill("pipeline", health, format!("{}: {}", trouble.what, trouble.why), &trouble.remedy)
}

fn progress(status: &Status) -> Check {
    let still_since = status.still_since_micros.filter(|_| status.paused.is_empty());
    let Some(since) = still_since else { return Check::well("progress") };
    let reason = "there is something to do, and nothing has been done since";
    let mut check = Check::ill("progress", Health::Error, reason, "restart the process, and report this");
    check.since_micros = Some(since);
    check
}

fn slot(status: &Status) -> Option<Check> {
    let slot = status.slot.as_ref()?;
    let status = slot.wal_status.as_deref().unwrap_or_default();
    let check = match (status, slot.safe_bytes) {
        ("lost", _) => Check::ill(
            "slot",
            Health::Error,
            "Postgres has removed log that the slot still needs",
            "start with --recopy, or set when_slot_is_lost = \"copy\"",
        ),
        (status, Some(safe)) if status == "unreserved" || safe < SAFE_BYTES => Check::ill(
            "slot",
            Health::Warn,
            format!("the slot is lost after {} more bytes of log", safe.max(0)),
            "see why the pipeline lags; or raise max_slot_wal_keep_size of the server",
        ),
        _ => Check::well("slot"),
    };
    Some(check)
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, Error, SlotStanding};
    use sooner_schemas::TableName;

    use super::*;
    use crate::status::TableStatus;

    fn table(state: TableState) -> Status {
        let mut status = Status::default();
        status.tables.insert(TableName::new("public", "t"), TableStatus::new(state));
        status
    }

    #[test]
    fn what_stands_still_is_dead_unless_it_is_paused() {
        let mut status = table(TableState::Streaming { copied_lsn: None });
        assert!(is_live(&status) && is_ready(&status));
        status.still_since_micros = Some(5);
        assert!(!is_live(&status));
        assert_eq!(checks(&status)[0].since_micros, Some(5));
        status.paused.insert(Side::Source);
        assert!(is_live(&status) && !is_ready(&status));
        assert_eq!(pipeline(&status).health, Health::Warn);
        assert!(!is_ready(&Status::default()));
    }

    #[test]
    fn a_sink_that_stands_by_is_ready_and_says_so() {
        let mut status = Status { standby: true, ..Status::default() };
        assert_eq!(readiness(&status), Some(standby::PHASE));
        assert_eq!((pipeline(&status).health, pipeline(&status).reason.as_str()), (Health::Ok, standby::PHASE));
        status.trouble = Some(Error::retry(Code::KafkaUnreachable, "cannot connect", "refused", "nothing"));
        assert_eq!(readiness(&status), None);
    }

    #[test]
    fn what_is_worst_comes_first_with_its_remedy() {
        let error = Error::operator(Code::ShapeChanged, "cannot follow", "no key", "give it one");
        let mut status = table(TableState::Parked { error, copied_lsn: None });
        status.trouble = Some(Error::retry(Code::PostgresUnreachable, "cannot connect", "refused", "nothing"));
        let unreserved = Some("unreserved".to_owned());
        status.slot = Some(SlotStanding { safe_bytes: Some(5), wal_status: unreserved, ..SlotStanding::default() });
        let checks = checks(&status);
        let told: Vec<_> = checks.iter().map(|check| (check.name.as_str(), check.health)).collect();
        let (error, warn) = (Health::Error, Health::Warn);
        assert_eq!(told, [("public.t", error), ("pipeline", warn), ("slot", warn), ("progress", Health::Ok)]);
        assert_eq!((checks[0].reason.as_str(), checks[0].remedy.as_str()), ("cannot follow: no key", "give it one"));
        let kept = Error::operator(Code::HistoryKeyChanged, "cannot trim it", "another key", "copy it");
        status.untrimmed.insert(TableName::new("public", "u"), kept);
        let kept = super::checks(&status).into_iter().find(|check| check.name == "history of public.u").unwrap();
        assert_eq!((kept.health, kept.reason.as_str()), (warn, "cannot trim it: another key"));
        status.slot = Some(SlotStanding { wal_status: Some("lost".to_owned()), ..SlotStanding::default() });
        assert_eq!(slot(&status).unwrap().health, Health::Error);
    }
}
