//! `sooner replay`: the events of a table within a range, in commit order, each once, for whoever has to be fed again.

use std::time::Duration;

use serde_json::{Value, json};
use sooner_delta::replaying::range::{Bound, From, Range};
use sooner_schemas::TableName;

use super::replaying::target::Target;
use super::replaying::{Replay, Report};
use super::wait::source_end;
use super::{parse_name, print};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::tasks::EventSource;
use crate::until::{RangeEnd, Until, parse_from, parse_to};

/// How long is waited for what is on its way; `sooner wait` waits for longer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be replayed.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Name of the table: schema.table
    table: String,
    /// Transactions after this: an LSN such as 0/16B3748, or a UTC time such as 2026-01-31T22:00:00Z; or copy, for the
    /// last copy of the whole table and all events since it began.
    #[arg(long, value_parser = parse_from)]
    from: RangeEnd,
    /// Transactions up to and with this: an LSN, a UTC time, or now.
    #[arg(long, value_parser = parse_to)]
    to: RangeEnd,
    /// Where the events are read; from the history if the table has one, otherwise from its topic.
    #[arg(long, value_enum)]
    source: Option<EventSource>,
    /// File to write: FILE.jsonl for one JSON object a line in Debezium's envelope, FILE.parquet for the columns of a
    /// history; - for lines to standard output, with what was written told on standard error.
    #[arg(long, default_value = "-")]
    into: String,
    /// Tell what was written as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `sooner replay`.
pub async fn run(config: &Config, asked: Asked) -> anyhow::Result<()> {
    let table = parse_name(&asked.table)?;
    let range = range_of(config, asked.from, asked.to).await?;
    let replaying = async {
        let report = replay(config, table.clone(), range, (asked.source, &asked.into, PATIENCE)).await?;
        let text = match asked.json {
            true => format!("{}\n", report.json()),
            false => report.text(),
        };
        match asked.into.as_str() {
            "-" => tell_beside(&text),
            _ => print(&text),
        }
        Ok(((), report.json()))
    };
    recorded(config, act(&table, range, &asked.into), replaying).await
}

/// What the audit trail is told of who asks for a replay.
fn act(table: &TableName, range: Range, into: &str) -> Act {
    let told = json!({"from": from_text(range.from), "to": range.to.to_string(), "into": into});
    Act::new("replay", told).of_table(table)
}

/// The range between two ends; now is where the source's log ends.
pub async fn range_of(config: &Config, from: RangeEnd, to: RangeEnd) -> anyhow::Result<Range> {
    let from = match from {
        RangeEnd::At(until) => From::After(bound(until)?),
        RangeEnd::Copy | RangeEnd::Now => From::Copy,
    };
    let to = match to {
        RangeEnd::At(until) => bound(until)?,
        RangeEnd::Copy | RangeEnd::Now => Bound::Lsn(source_end(config).await?),
    };
    let is_backward = match (from, to) {
        (From::After(Bound::Lsn(from)), Bound::Lsn(to)) => from > to,
        (From::After(Bound::Micros(from)), Bound::Micros(to)) => from > to,
        _ => false,
    };
    anyhow::ensure!(!is_backward, "--from {} is after --to {to}. To do: exchange them", from_text(from));
    Ok(Range { from, to })
}

fn bound(until: Until) -> anyhow::Result<Bound> {
    Ok(match until {
        Until::Lsn(lsn) => Bound::Lsn(lsn),
        Until::Time(time) => {
            Bound::Micros(i64::try_from(time.duration_since(std::time::SystemTime::UNIX_EPOCH)?.as_micros())?)
        }
    })
}

/// The start of a range, as `--from` takes it.
pub fn from_text(from: From) -> String {
    match from {
        From::After(bound) => bound.to_string(),
        From::Copy => "copy".to_owned(),
    }
}

/// Writes the events of a range to a file that is there whole or not at all, or to standard output for `-`. What is on
/// its way is waited for as long as `patience`.
pub async fn replay(
    config: &Config,
    table: TableName,
    range: Range,
    (source, into, patience): (Option<EventSource>, &str, Duration),
) -> anyhow::Result<Report> {
    let (mut target, writer) = Target::open(into)?;
    let replay = Replay { config, table, range, patience };
    let written = replay.run(source, target.form, writer).await?;
    target.complete()?;
    Ok(Report {
        table: replay.table,
        kept: written.kept,
        from: from_text(range.from),
        to: range.to.to_string(),
        last: written.last,
        into: into.to_owned(),
        events: written.events,
        rows: written.rows,
        erased: written.erased,
        bytes: written.bytes,
        sha256: written.sha256,
    })
}

/// Tells on standard error what was written to standard output. A failure to write, as to a closed pipe, is no error.
fn tell_beside(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

impl Report {
    /// As JSON.
    pub fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn text(&self) -> String {
        let Report { table, events, from, to, sha256, bytes, .. } = self;
        let kept = match self.kept {
            EventSource::History => "history",
            EventSource::Topic => "topic",
        };
        let erased = match self.erased {
            0 => String::new(),
            erased => format!("; {erased} rows more, whose values were erased, are left out"),
        };
        format!(
            "{table}: {events} events from {from} to {to}, from its {kept}: {bytes} bytes, SHA-256 {sha256}{erased}\n"
        )
    }
}
