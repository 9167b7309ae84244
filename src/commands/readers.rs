//! Who reads a pipeline's topics, and how fast: as a person says, as brokers and a running sink say, or as is assumed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use sooner_schemas::TableName;

use super::status::is_running;
use crate::status::{Status, load};

/// Messages per second that a consumer is taken to read where nothing is known: a cautious number for small rows.
const ASSUMED_RATE: f64 = 10_000.0;
/// How long a sink that has a backlog is watched.
const WATCH_TIME: Duration = Duration::from_secs(2);

/// Where a number comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// An argument said so.
    Given,
    /// Brokers said so.
    Group,
    /// It follows from what a sink that runs on this machine does.
    Measured,
    /// Nobody said so.
    Assumed,
}

impl Origin {
    /// The origin, as a person reads it.
    pub fn text(self) -> &'static str {
        match self {
            Origin::Given => "as given",
            Origin::Group => "as the brokers say",
            Origin::Measured => "as the running sink shows",
            Origin::Assumed => "assumed",
        }
    }
}

/// How many consumers share the topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Consumers {
    /// So many; 1 at least.
    pub count: usize,
    /// Where that comes from.
    pub origin: Origin,
}

impl fmt::Display for Consumers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} consumer(s) ({})", self.count, self.origin.text())
    }
}

/// How fast one consumer is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ConsumerRate {
    /// So many messages per second.
    pub messages_per_second: f64,
    /// Where that comes from.
    pub origin: Origin,
}

/// How many consumers there are: what was given; or else the members of the group; or else, where brokers do not tell,
/// as many as it takes to read all partitions if each reads as many as the sink that runs here.
pub fn consumers(
    given: Option<usize>,
    members: Option<usize>,
    status: Option<&Status>,
    topics: &BTreeMap<TableName, i32>,
) -> Consumers {
    if let Some(count) = given {
        return Consumers { count: count.max(1), origin: Origin::Given };
    }
    if let Some(count) = members.filter(|count| *count > 0) {
        return Consumers { count, origin: Origin::Group };
    }
    let assumed = Consumers { count: 1, origin: Origin::Assumed };
    let Some(status) = status.filter(|status| is_running(status)) else { return assumed };
    let read_here = |table: &TableName| status.tables.get(table).map_or(0, |table| table.partitions.len());
    let (here, all) = topics.iter().fold((0, 0), |(here, all), (table, partitions)| {
        (here + read_here(table), all + partitions.unsigned_abs() as usize)
    });
    let count = (all + here / 2).checked_div(here);
    count.map_or(assumed, |count| Consumers { count: count.max(1), origin: Origin::Measured })
}

/// How fast one consumer is: what was given; or else what the sink that runs here does, if it has a backlog, so that it
/// does what it can; or else an assumption.
pub async fn consumer_rate(
    state_dir: &Path,
    status: Option<&Status>,
    given: Option<f64>,
) -> anyhow::Result<ConsumerRate> {
    if let Some(messages_per_second) = given {
        return Ok(ConsumerRate { messages_per_second, origin: Origin::Given });
    }
    let assumed = ConsumerRate { messages_per_second: ASSUMED_RATE, origin: Origin::Assumed };
    let Some(before) = status.filter(|status| is_running(status) && has_backlog(status)) else { return Ok(assumed) };
    tokio::time::sleep(WATCH_TIME).await;
    let after = load(state_dir)?;
    let measured = after.and_then(|after| busy_rate(before, &after));
    let measured = measured.map(|rate| ConsumerRate { messages_per_second: rate, origin: Origin::Measured });
    Ok(measured.unwrap_or(assumed))
}

fn has_backlog(status: &Status) -> bool {
    status.tables.values().any(|table| table.lag_messages.is_some_and(|unread| unread > 0))
}

/// Events per second between two looks at a process that had a backlog at both; none if it had not.
fn busy_rate(before: &Status, after: &Status) -> Option<f64> {
    let seconds = (after.updated_micros - before.updated_micros) as f64 / 1e6;
    if before.pid != after.pid || seconds <= 0.0 || !has_backlog(before) || !has_backlog(after) {
        return None;
    }
    let events = |status: &Status| status.tables.values().map(|table| table.events).sum::<u64>();
    let merged = events(after).checked_sub(events(before)).filter(|merged| *merged > 0)?;
    Some(merged as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use sooner_api::{Clock, PartitionOffsets, TableState};

    use super::*;
    use crate::clock::SystemClock;
    use crate::status::TableStatus;

    fn name() -> TableName {
        TableName::new("public", "t")
    }

    fn status(seconds: i64, events: u64, unread: u64, partitions: i32) -> Status {
        let mut table = TableStatus::new(TableState::Streaming { copied_lsn: None });
        (table.events, table.lag_messages) = (events, Some(unread));
        table.partitions = (0..partitions).map(|partition| (partition, PartitionOffsets::default())).collect();
        let updated_micros = SystemClock.now_micros() + seconds * 1_000_000;
        let mut status = Status { pid: std::process::id(), updated_micros, ..Status::default() };
        status.tables.insert(name(), table);
        status
    }

    #[test]
    fn a_sink_shows_what_it_can_only_while_it_has_a_backlog() {
        let at = |seconds: i64, events, unread| Status {
            updated_micros: seconds * 1_000_000,
            ..status(0, events, unread, 1)
        };
        assert_eq!(busy_rate(&at(10, 100, 5), &at(12, 500, 7)), Some(200.0));
        assert_eq!(busy_rate(&at(10, 100, 5), &at(12, 500, 0)), None, "it may be faster");
        assert_eq!(busy_rate(&at(10, 500, 5), &at(12, 100, 5)), None, "it began again");
        let other = Status { pid: 0, ..at(12, 500, 7) };
        assert_eq!(busy_rate(&at(10, 100, 5), &other), None, "it is another");
    }

    #[test]
    fn consumers_are_those_of_the_group_or_as_many_as_share_the_partitions() {
        let topics = BTreeMap::from([(name(), 12)]);
        let of = |given, members, status: Option<&Status>| {
            let found = consumers(given, members, status, &topics);
            (found.count, found.origin)
        };
        let running = status(0, 0, 0, 4);
        assert_eq!(of(Some(7), Some(2), Some(&running)), (7, Origin::Given));
        assert_eq!(of(None, Some(2), Some(&running)), (2, Origin::Group));
        assert_eq!(of(None, None, Some(&running)), (3, Origin::Measured), "4 of 12 partitions are read here");
        assert_eq!(of(None, Some(0), None), (1, Origin::Assumed), "nobody reads at the moment");
        let ended = status(-60, 0, 0, 4);
        assert_eq!(of(None, None, Some(&ended)), (1, Origin::Assumed));
    }
}
