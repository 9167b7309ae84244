//! `sooner events`: what happened to the pipeline and to its tables, and what was done about it.

use std::time::{Duration, SystemTime};

use sooner_api::Clock;
use sooner_schemas::TableName;

use super::{parse_name, print};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::journal::{Entry, Kind, read};

/// How often a journal that is followed is read again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

/// Which entries are shown, and how.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Only those of this table: schema.table
    pub table: Option<String>,
    /// Only those of so long ago at most.
    pub since: Option<Duration>,
    /// As JSON, one object a line.
    pub json: bool,
    /// Go on with what happens from now on.
    pub follow: bool,
}

/// Prints the journal of the pipeline, the oldest entry first.
pub async fn run(config: &Config, shown: Shown) -> anyhow::Result<()> {
    let table = shown.table.as_deref().map(parse_name).transpose()?;
    let since = shown.since.map(|since| SystemClock.now_micros().saturating_sub(since.as_micros() as i64));
    let mut printed = 0;
    loop {
        let entries = read(&config.state_dir)?;
        // Fewer than before: the older file was replaced.
        printed = if entries.len() < printed { 0 } else { printed };
        for entry in entries[printed..].iter().filter(|entry| is_wanted(entry, table.as_ref(), since)) {
            print(&if shown.json { format!("{}\n", serde_json::to_string(entry)?) } else { line(entry) });
        }
        if !shown.follow {
            if entries.is_empty() {
                print("nothing has happened yet\n");
            }
            return Ok(());
        }
        printed = entries.len();
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

fn is_wanted(entry: &Entry, table: Option<&TableName>, since: Option<i64>) -> bool {
    table.is_none_or(|table| entry.table.as_ref() == Some(table)) && since.is_none_or(|since| entry.at_micros >= since)
}

fn line(entry: &Entry) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_micros(entry.at_micros.max(0).unsigned_abs());
    let table = entry.table.as_ref().map(|table| format!("{table}: ")).unwrap_or_default();
    let lsn = entry.lsn.map(|lsn| format!(" (at {lsn})")).unwrap_or_default();
    let action = match entry.kind {
        _ if entry.action.is_empty() => String::new(),
        Kind::Parked | Kind::Waiting | Kind::Failed | Kind::Interrupted | Kind::ReportFailed | Kind::HistoryKept => {
            format!(". To do: {}", entry.action)
        }
        _ => format!(": {}", entry.action),
    };
    let kind = kind_name(entry.kind);
    format!("{}  {kind:13}  {table}{}{lsn}{action}\n", humantime::format_rfc3339_seconds(at), entry.what)
}

/// Name of a kind, for people.
fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Started => "started",
        Kind::Configured => "configured",
        Kind::Asked => "asked",
        Kind::Stopped => "stopped",
        Kind::Paused => "paused",
        Kind::Resumed => "resumed",
        Kind::Failed => "FAILED",
        Kind::Interrupted => "interrupted",
        Kind::Recovered => "recovered",
        Kind::TableChanged => "table changed",
        Kind::TableGone => "table gone",
        Kind::CopyStarted => "copy started",
        Kind::CopyEnded => "copy ended",
        Kind::Parked => "PARKED",
        Kind::Waiting => "waiting",
        Kind::ReportMade => "report made",
        Kind::ReportFailed => "REPORT FAILED",
        Kind::CutMade => "cut made",
        Kind::HistoryTrimmed => "history",
        Kind::HistoryKept => "HISTORY KEPT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_what_and_what_to_do() {
        let table = TableName::new("public", "t");
        let entry =
            Entry { action: "give it one".into(), ..Entry::new(1_000_000, Kind::Parked, "it has lost its key") };
        let entry = entry.of_table(&table);
        assert_eq!(
            line(&entry),
            "1970-01-01T00:00:01Z  PARKED         public.t: it has lost its key. To do: give it one\n"
        );
        assert!(is_wanted(&entry, Some(&table), Some(1_000_000)));
        assert!(!is_wanted(&entry, Some(&TableName::new("public", "u")), None));
        assert!(!is_wanted(&entry, None, Some(1_000_001)));
    }
}
