//! A pipeline in a few lines, whatever the number of its tables: for a page that looks every other second, and for
//! whoever looks at many pipelines.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use sooner_api::{Error, Side, SlotStanding};
use sooner_schemas::Lsn;

use super::Shared;
use super::health::{Check, Health, checks};
use crate::status::Status;

/// A pipeline's state at one moment, without its single tables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Pipeline.
    pub pipeline: String,
    /// When this was so, in microseconds since 1970.
    pub updated_micros: i64,
    /// How it is: as its worst check.
    pub health: Health,
    /// The worst check, if not all is well.
    pub worst: Option<Check>,
    /// Checks that are not well.
    pub ill: usize,
    /// Sides that rest, because somebody asked for it.
    pub paused: BTreeSet<Side>,
    /// Why nothing moves at the moment, if so.
    pub trouble: Option<Error>,
    /// Where the source's log ends.
    pub server_end_lsn: Lsn,
    /// Up to where the stream has been read.
    pub received_lsn: Lsn,
    /// Up to where everything is in the lake.
    pub durable_lsn: Lsn,
    /// Up to where the slot has been confirmed.
    pub confirmed_flush_lsn: Lsn,
    /// How much log the slot makes Postgres keep; none before that is known.
    pub slot: Option<SlotStanding>,
    /// Number of tables.
    pub tables_count: usize,
    /// Number of tables in each phase that some are in.
    pub phases: BTreeMap<String, usize>,
    /// Events merged since the process started, of all tables.
    pub events: u64,
    /// The greatest lag of a table, in seconds; none before one is known.
    pub lag_seconds: Option<f64>,
    /// The greatest lag of a table in bytes of log; none before one is known.
    pub lag_bytes: Option<u64>,
    /// Whether tables are read from topics here.
    pub reads_topics: bool,
}

impl Summary {
    /// The summary of a status.
    pub fn of(status: &Status) -> Summary {
        let checks = checks(status);
        let ill = checks.iter().filter(|check| check.health != Health::Ok).count();
        let worst = checks.into_iter().next().filter(|check| check.health != Health::Ok);
        let mut phases = BTreeMap::<String, usize>::new();
        for table in status.tables.values() {
            *phases.entry(table.state.name().to_owned()).or_default() += 1;
        }
        let tables = || status.tables.values();
        Summary {
            pipeline: status.pipeline.clone(),
            updated_micros: status.updated_micros,
            health: worst.as_ref().map_or(Health::Ok, |worst| worst.health),
            worst,
            ill,
            paused: status.paused.clone(),
            trouble: status.trouble.clone(),
            server_end_lsn: status.server_end_lsn,
            received_lsn: status.received_lsn,
            durable_lsn: status.durable_lsn,
            confirmed_flush_lsn: status.confirmed_flush_lsn,
            slot: status.slot.clone(),
            tables_count: status.tables.len(),
            phases,
            events: tables().map(|table| table.events).sum(),
            lag_seconds: tables().filter_map(|table| table.lag_seconds).reduce(f64::max),
            lag_bytes: tables().filter_map(|table| table.lag_bytes).max(),
            reads_topics: tables().any(|table| !table.partitions.is_empty()),
        }
    }
}

/// `GET /api/v1/summary`: the status without its tables, and how many of these are in which phase.
pub async fn summary(State(shared): State<Shared>) -> Json<Summary> {
    Json(shared.board.look(Summary::of))
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, TableState};
    use sooner_schemas::TableName;

    use super::*;
    use crate::status::TableStatus;

    #[test]
    fn what_is_worst_of_all_tables_is_told_and_survives_json() {
        let mut status = Status { pipeline: "shop".to_owned(), ..Status::default() };
        assert_eq!(Summary::of(&status).health, Health::Ok);
        let streaming = TableState::Streaming { copied_lsn: None };
        for (name, lag, events) in [("a", Some(0.5), 3), ("b", Some(2.0), 4), ("c", None, 0)] {
            let table = TableStatus { lag_seconds: lag, events, ..TableStatus::new(streaming.clone()) };
            status.tables.insert(TableName::new("public", name), table);
        }
        let error = Error::operator(Code::ShapeChanged, "cannot follow", "no key", "give it one");
        let parked = TableStatus::new(TableState::Parked { error, copied_lsn: None });
        status.tables.insert(TableName::new("public", "d"), parked);
        let summary = Summary::of(&status);
        assert_eq!((summary.tables_count, summary.events, summary.lag_seconds), (4, 7, Some(2.0)));
        let phases = [("parked".to_owned(), 1), ("streaming".to_owned(), 3)];
        assert_eq!(summary.phases.iter().map(|(name, count)| (name.clone(), *count)).collect::<Vec<_>>(), phases);
        let worst = summary.worst.as_ref().unwrap();
        assert_eq!((summary.health, summary.ill, worst.name.as_str()), (Health::Error, 1, "public.d"));
        let text = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&text).unwrap(), summary);
    }
}
