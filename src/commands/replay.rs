//! `sooner replay`: the events of a table within a range, in commit order, each once, for whoever has to be fed again.

use serde_json::{Value, json};
use sooner_delta::replaying::range::{Bound, From, Range};
use sooner_schemas::TableName;

use super::replaying::target::Target;
use super::replaying::{Kept, Replay, Report};
use super::wait::{Until, parse_until, source_end};
use super::{parse_name, print};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;

/// What is to be replayed.
#[derive(Debug, clap::Args)]
pub struct Asked {
    /// Name of the table: schema.table
    table: String,
    /// Transactions after this: an LSN such as 0/16B3748, or a UTC time such as 2026-01-31T22:00:00Z; or copy, for the
    /// last copy of the whole table and all events since it began.
    #[arg(long, value_parser = parse_from)]
    from: Wanted,
    /// Transactions up to and with this: an LSN, a UTC time, or now.
    #[arg(long, value_parser = parse_to)]
    to: Wanted,
    /// Where the events are read; from the history if the table has one, otherwise from its topic.
    #[arg(long, value_enum)]
    source: Option<Kept>,
    /// File to write: FILE.jsonl for one JSON object a line in Debezium's envelope, FILE.parquet for the columns of a
    /// history; - for lines to standard output, with what was written told on standard error.
    #[arg(long, default_value = "-")]
    into: String,
    /// Tell what was written as JSON.
    #[arg(long)]
    json: bool,
}

/// An end of the range, as a person wrote it.
#[derive(Clone, Copy, Debug)]
enum Wanted {
    Copy,
    Now,
    At(Until),
}

fn parse_from(text: &str) -> Result<Wanted, String> {
    match text {
        "copy" => Ok(Wanted::Copy),
        "now" => Err("nothing happened after now".to_owned()),
        _ => parse_until(text).map(Wanted::At).map_err(|_| expected("copy")),
    }
}

fn parse_to(text: &str) -> Result<Wanted, String> {
    match text {
        "now" => Ok(Wanted::Now),
        _ => parse_until(text).map(Wanted::At).map_err(|_| expected("now")),
    }
}

fn expected(word: &str) -> String {
    format!("expected {word}, a UTC time such as 2026-01-31T22:00:00Z, or an LSN such as 0/16B3748")
}

/// Runs `sooner replay`.
pub async fn run(config: &Config, asked: Asked) -> anyhow::Result<()> {
    let table = parse_name(&asked.table)?;
    let range = range_of(config, &asked).await?;
    let told = json!({"from": from_text(range.from), "to": range.to.to_string(), "into": asked.into});
    let replaying = async {
        let report = replay(config, table.clone(), range, &asked).await?;
        let told = report.json();
        Ok(((), told))
    };
    recorded(config, Act::new("replay", told).of_table(&table), replaying).await
}

async fn range_of(config: &Config, asked: &Asked) -> anyhow::Result<Range> {
    let from = match asked.from {
        Wanted::At(until) => From::After(bound(until)?),
        Wanted::Copy | Wanted::Now => From::Copy,
    };
    let to = match asked.to {
        Wanted::At(until) => bound(until)?,
        Wanted::Copy | Wanted::Now => Bound::Lsn(source_end(config).await?),
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

async fn replay(config: &Config, table: TableName, range: Range, asked: &Asked) -> anyhow::Result<Report> {
    let (mut target, writer) = Target::open(&asked.into)?;
    let replay = Replay { config, table, range };
    let written = replay.run(asked.source, target.form, writer).await?;
    target.complete()?;
    let report = Report {
        table: replay.table.clone(),
        kept: written.kept,
        from: from_text(range.from),
        to: range.to.to_string(),
        last: written.last,
        into: asked.into.clone(),
        events: written.events,
        rows: written.rows,
        erased: written.erased,
        bytes: written.bytes,
        sha256: written.sha256,
    };
    let text = match asked.json {
        true => format!("{}\n", report.json()),
        false => report.text(),
    };
    match asked.into.as_str() {
        "-" => tell_beside(&text),
        _ => print(&text),
    }
    Ok(report)
}

/// Tells on standard error what was written to standard output. A failure to write, as to a closed pipe, is no error.
fn tell_beside(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

impl Report {
    fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    fn text(&self) -> String {
        let Report { table, events, from, to, sha256, bytes, .. } = self;
        let kept = match self.kept {
            Kept::History => "history",
            Kept::Topic => "topic",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_a_range_are_positions_times_or_words() {
        assert!(matches!(parse_from("copy"), Ok(Wanted::Copy)));
        assert!(matches!(parse_from("0/AB"), Ok(Wanted::At(Until::Lsn(_)))));
        assert!(matches!(parse_to("now"), Ok(Wanted::Now)));
        assert!(parse_from("now").is_err());
        assert!(parse_to("copy").unwrap_err().contains("UTC"));
    }
}
