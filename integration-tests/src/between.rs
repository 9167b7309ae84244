//! What a pipeline through Kafka needs, a database, a broker and a registry; and what its status reports of a table.

use std::time::Duration;

use sooner::status::Status;
use sooner_api::{Error, TableState};

use crate::kafka::Kafka;
use crate::pipeline::{Pipeline, find, of};
use crate::postgres::{Postgres, Version};
use crate::registry::Registry;

/// How long a pipeline may take to reach an expected state.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Starts a database, a broker and a schema registry.
pub async fn start() -> (Postgres, Kafka, Registry) {
    (Postgres::start(Version::V15).await, Kafka::start(), Registry::start())
}

/// Why a table is parked; none if it is not.
pub fn parked(status: &Status, table: &str) -> Option<Error> {
    match &find(status, table)?.state {
        TableState::Parked { error, .. } => Some(error.clone()),
        _ => None,
    }
}

/// Whether a table streams, on every side that reports its state.
pub fn streams(status: &Status, table: &str) -> bool {
    let streaming = |state: &TableState| matches!(state, TableState::Streaming { .. });
    find(status, table)
        .is_some_and(|table| streaming(&table.state) && table.source_state.as_ref().is_none_or(streaming))
}

impl Pipeline {
    /// Waits until a table is parked, and returns why.
    pub async fn wait_until_parked(&self, table: &str) -> Error {
        let status = self.wait_for("it is parked", LIMIT, |status| parked(status, table).is_some()).await;
        parked(&status, table).expect("parked")
    }

    /// Waits until all of these tables stream.
    pub async fn wait_until_streaming(&self, tables: &[&str]) {
        let all = |status: &Status| tables.iter().all(|table| streams(status, table));
        self.wait_for(&format!("{tables:?} stream"), LIMIT, all).await;
    }

    /// Waits until a table streams and its rows have been copied again since the process started.
    pub async fn wait_until_copied(&self, table: &str) {
        let pid = self.pid();
        let copied =
            |status: &Status| status.pid == pid && streams(status, table) && of(status, table).table_version.is_some();
        self.wait_for(&format!("{table} is copied"), LIMIT, copied).await;
    }

    /// Runs `sooner resume`, which requests that a table be copied again.
    pub fn resume(&self, table: &str) {
        let output = self.output("resume", &[table]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
