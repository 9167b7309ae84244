//! `sooner status`: prints the status that the pipeline last wrote.

use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use sooner_api::{Clock, SlotStanding, SuccessorStanding, TableState, TopicStanding};
use sooner_schemas::TableName;

use super::print;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::standby::PHASE;
use crate::status::{CopyStatus, Status, TableStatus, load};

/// Age in seconds beyond which a status comes from a process that hangs or has ended.
const STALE_SECONDS: f64 = 10.0;

/// Prints the status once; with `watch`, again every second, with the rates since the time before. A pipeline that
/// never wrote a status is an error.
pub async fn run(config: &Config, json: bool, watch: bool) -> anyhow::Result<()> {
    let mut former = None;
    loop {
        let Some(status) = load(&config.state_dir)? else {
            anyhow::bail!(
                "the pipeline '{}' has not run yet, or with another state_dir than {}. To do: start it with `sooner run`.",
                config.name,
                config.state_dir.display()
            );
        };
        let text = match json {
            true => format!("{}\n", serde_json::to_string_pretty(&status)?),
            false => render(&status, former.as_ref()),
        };
        if !watch {
            print(&text);
            return Ok(());
        }
        // Clears the terminal and moves the cursor to its first line.
        print(&format!("\x1b[2J\x1b[H{text}"));
        former = Some(status);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Events a second of a table since a former status; none without one, or where the table began again.
fn rate(name: &TableName, status: &Status, former: Option<&Status>) -> Option<f64> {
    let former = former.filter(|former| former.updated_micros < status.updated_micros)?;
    let seconds = (status.updated_micros - former.updated_micros) as f64 / 1e6;
    let events = status.tables.get(name)?.events.checked_sub(former.tables.get(name)?.events)?;
    Some(events as f64 / seconds)
}

/// Whether the process that wrote a status still runs: the status is fresh, and a process of its id exists.
pub fn is_running(status: &Status) -> bool {
    let age = (SystemClock.now_micros() - status.updated_micros) as f64 / 1e6;
    age < STALE_SECONDS && Path::new(&format!("/proc/{}", status.pid)).exists()
}

fn render(status: &Status, former: Option<&Status>) -> String {
    let state = match (&status.trouble, is_running(status)) {
        _ if !status.paused.is_empty() => "paused; `sooner resume` lets it go on".to_owned(),
        (Some(trouble), _) => format!("in trouble: {trouble}"),
        (None, true) if status.standby => PHASE.to_owned(),
        (None, true) => "running".to_owned(),
        (None, false) => "not running; this is what it last said".to_owned(),
    };
    let mut text = format!(
        "{}  {state}\nsource log ends at {}, read to {}, in the lake to {}, slot confirmed to {}\n{}\n",
        status.pipeline,
        status.server_end_lsn,
        status.received_lsn,
        status.durable_lsn,
        status.confirmed_flush_lsn,
        status.slot.as_ref().map(slot_line).unwrap_or_default()
    );
    let width = status.tables.keys().map(|name| name.to_string().len()).max().unwrap_or(5).max(5);
    text.push_str(&format!(
        "{:width$}  {:9}  {:>12}  {:>12}  {:>9}  {:>10}  {:>8}  {:>8}  {:>7}  {:>6}  {:>5}  watermark\n",
        "table", "phase", "rows copied", "events", "events/s", "lag", "lag s", "unread", "version", "files", "gone"
    ));
    for (name, table) in &status.tables {
        text.push_str(&line(name, table, rate(name, status, former), width));
    }
    for (name, table) in &status.tables {
        if let Some(copy) = &table.copy {
            text.push_str(&format!("\n{name} is being copied: {}\n", copy_line(table, copy)));
        }
    }
    for (name, table) in &status.tables {
        if let Some(topic) = &table.topic {
            text.push_str(&format!("\n{name} {}\n", topic_line(topic)));
        }
    }
    for (name, table) in &status.tables {
        if !table.columns_not_sent.is_empty() {
            let columns = table.columns_not_sent.join(", ");
            text.push_str(&format!("\n{name} lacks what Postgres does not send of it: {columns}\n"));
        }
    }
    for (name, table) in &status.tables {
        if let Some(error) = table.state.error() {
            text.push_str(&format!("\n{name} is {}: {error}\n", table.state.name()));
        }
    }
    text
}

fn slot_line(slot: &SlotStanding) -> String {
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let left = slot.safe_bytes.map(|bytes| format!(", is lost after {} more", size(bytes.max(0).unsigned_abs())));
    let status = slot.wal_status.as_deref().unwrap_or("unknown");
    format!(
        "the slot makes Postgres keep {} of log ({status}){}\n",
        size(slot.retained_bytes),
        left.unwrap_or_default()
    )
}

/// How a table's copy gets on, such as "5000 of about 20000 rows, 1000 rows/s, 2.1 MiB/s, 15s left".
pub fn copy_line(table: &TableStatus, copy: &CopyStatus) -> String {
    let estimated = table.rows_estimated.map(|rows| format!(" of about {rows}")).unwrap_or_default();
    let left = copy.seconds_left.map(|seconds| {
        let left = Duration::from_secs(seconds.round() as u64);
        format!(", {} left", humantime::format_duration(left))
    });
    format!(
        "{}{estimated} rows, {:.0} rows/s, {}/s{}",
        table.rows_copied,
        copy.rows_per_second,
        ByteSize(copy.bytes_per_second as u64),
        left.unwrap_or_default()
    )
}

/// Where a table's events are that move, or have moved, from topic to topic.
fn topic_line(topic: &TopicStanding) -> String {
    let kept = match topic.archived.as_slice() {
        [] => String::new(),
        archived => format!("; kept as they are, for other consumers: {}", archived.join(", ")),
    };
    let next = topic.successor.as_ref().map(|next| {
        let SuccessorStanding { topic, partitions, messages_left } = next;
        format!("; about {messages_left} messages are still to be written to {topic} ({partitions} partitions)")
    });
    let (topic, partitions) = (&topic.topic, topic.partitions);
    format!("goes to topic {topic} ({partitions} partitions){}{kept}", next.unwrap_or_default())
}

fn line(name: &TableName, table: &TableStatus, rate: Option<f64>, width: usize) -> String {
    let phase = match &table.state {
        TableState::Parked { .. } => "PARKED",
        state => state.name(),
    };
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    format!(
        "{:width$}  {phase:9}  {:>12}  {:>12}  {:>9}  {:>10}  {:>8}  {:>8}  {:>7}  {:>6}  {:>5}  {}\n",
        name.to_string(),
        table.rows_copied,
        table.events,
        or_dash(rate.map(|rate| format!("{rate:.0}"))),
        or_dash(table.lag_bytes.map(|bytes| ByteSize(bytes).to_string())),
        or_dash(table.lag_seconds.map(|seconds| format!("{seconds:.1}"))),
        // Unread messages exist only where the table is read from a topic.
        or_dash(table.lag_messages.map(|unread| unread.to_string())),
        or_dash(table.table_version.map(|version| version.to_string())),
        or_dash(table.files.map(|files| files.to_string())),
        // Rows in the files that are gone.
        or_dash(table.deleted_row_ratio.map(|ratio| format!("{:.0}%", ratio * 100.0))),
        or_dash(table.watermark_lsn.map(|lsn| lsn.to_string())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_since_the_status_before() {
        let at = |micros: i64, events: u64| {
            let mut status = Status { updated_micros: micros, ..Status::default() };
            let table = TableStatus { events, ..TableStatus::new(TableState::Copying) };
            status.tables.insert(TableName::new("public", "t"), table);
            status
        };
        let of = |former: &Status, status: &Status| rate(&TableName::new("public", "t"), status, Some(former));
        assert_eq!(of(&at(1_000_000, 10), &at(3_000_000, 50)), Some(20.0));
        assert_eq!(of(&at(1_000_000, 50), &at(3_000_000, 10)), None, "the process began again");
        assert_eq!(of(&at(1_000_000, 10), &at(1_000_000, 10)), None);
        assert!(render(&at(3_000_000, 50), Some(&at(1_000_000, 10))).contains(" 20 "));
    }
}
