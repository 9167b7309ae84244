//! A request for a cut at a position that has passed: the tables' logs have it, so the stream need not make it.

use serde::{Deserialize, Serialize};
use sooner_api::Clock;
use sooner_schemas::{Lsn, TableName};

use crate::clock::SystemClock;

/// A position that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Past {
    /// This one.
    Lsn(Lsn),
    /// The latest that a table's log knows at or before a moment, in microseconds since 1970.
    Micros(i64),
}

/// A cut that is to be found in the logs of tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastCutRequest {
    /// Its name.
    pub name: String,
    /// Its tables; all of the pipeline if none are named.
    pub tables: Vec<TableName>,
    /// Its position.
    pub at: Past,
    /// Until when it is kept, in milliseconds since 1970; until it is dropped if none.
    pub until_millis: Option<i64>,
    /// When it was asked for, in microseconds since 1970.
    pub asked_micros: i64,
}

impl PastCutRequest {
    /// A request that is made now.
    pub fn new(name: String, tables: Vec<TableName>, at: Past, until_millis: Option<i64>) -> PastCutRequest {
        PastCutRequest { name, tables, at, until_millis, asked_micros: SystemClock.now_micros() }
    }
}
