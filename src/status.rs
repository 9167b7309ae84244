//! What a running pipeline tells about itself, in a file that `sooner status` reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sooner_api::{TablePhase, TableProgress};
use sooner_kafka::consumer::lag::PartitionOffsets;
use sooner_postgres::catalog::Table;
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

/// A pipeline's state at one moment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Pipeline.
    pub pipeline: String,
    /// Process.
    pub pid: u32,
    /// When this was written, in microseconds since 1970.
    pub updated_micros: i64,
    /// Why nothing moves at the moment, if so.
    pub trouble: Option<String>,
    /// Where the source's log ends.
    pub server_end_lsn: Lsn,
    /// Up to where the stream has been read.
    pub received_lsn: Lsn,
    /// Up to where everything is in the lake.
    pub durable_lsn: Lsn,
    /// Up to where the slot has been confirmed.
    pub confirmed_flush_lsn: Lsn,
    /// Tables by name.
    pub tables: BTreeMap<String, TableStatus>,
}

/// A table's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableStatus {
    /// What it is doing.
    pub phase: TablePhase,
    /// Rows read by the initial copy.
    pub rows_copied: u64,
    /// Rows to copy, as the planner estimates.
    pub rows_estimated: Option<u64>,
    /// Events merged since the process started.
    pub events: u64,
    /// Log between where the table is complete to and where the source's log ends, in bytes.
    pub lag_bytes: u64,
    /// Age of the oldest event that is not visible yet, in seconds.
    pub lag_seconds: f64,
    /// With Kafka: messages of its topic, in the partitions that are read here, that have not been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_messages: Option<u64>,
    /// With Kafka: the time of what is being read at the moment, in microseconds since 1970; none where all has been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_micros: Option<i64>,
    /// With Kafka: where those partitions stand.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partitions: BTreeMap<i32, PartitionOffsets>,
    /// Version of the lake table.
    pub table_version: Option<u64>,
    /// The table is complete up to here.
    pub watermark_lsn: Lsn,
    /// Commit time at the source of the last transaction up to there, in microseconds since 1970.
    pub watermark_micros: i64,
    /// Why it is parked.
    pub reason: Option<String>,
    /// With Kafka: what the source's side does with the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_phase: Option<TablePhase>,
}

impl Default for TableStatus {
    fn default() -> TableStatus {
        TableStatus {
            phase: TablePhase::Copying,
            rows_copied: 0,
            rows_estimated: None,
            events: 0,
            lag_bytes: 0,
            lag_seconds: 0.0,
            lag_messages: None,
            unread_micros: None,
            partitions: BTreeMap::new(),
            table_version: None,
            watermark_lsn: Lsn::ZERO,
            watermark_micros: 0,
            reason: None,
            source_phase: None,
        }
    }
}

impl TableStatus {
    /// Takes over what the source's side does with the table. While it streams, the sink's side has the say.
    pub fn source_is(&mut self, known: &TableProgress) {
        let former = self.source_phase.replace(known.phase);
        if known.phase != TablePhase::Streaming || former != Some(TablePhase::Streaming) {
            self.phase = known.phase;
            self.reason.clone_from(&known.reason);
        }
    }
}

/// The status that all parts of the pipeline write to.
#[derive(Clone, Debug, Default)]
pub struct StatusBoard(Arc<Mutex<Status>>);

impl StatusBoard {
    /// Changes the status.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Changes a table's status.
    pub fn table(&self, table: &TableName, change: impl FnOnce(&mut TableStatus)) {
        self.update(|status| change(status.tables.entry(table.to_string()).or_default()));
    }

    /// Shows the tables that take part, and forgets others.
    pub fn show_tables(&self, known: &BTreeMap<String, TableProgress>, tables: &[Table]) {
        self.update(|status| status.tables.retain(|name, _| known.contains_key(name)));
        for table in tables {
            let progress = known.get(&table.relation.name.to_string());
            self.table(&table.relation.name, |status| {
                status.rows_estimated = table.estimated_rows;
                if let Some(progress) = progress {
                    status.phase = progress.phase;
                    status.reason.clone_from(&progress.reason);
                }
                if status.phase == TablePhase::Copying {
                    status.rows_copied = 0;
                }
            });
        }
    }

    /// Notes that a table is complete up to a watermark.
    pub fn reached(&self, table: &TableName, watermark: Watermark) {
        self.table(table, |table| {
            table.watermark_lsn = watermark.commit_lsn;
            table.watermark_micros = watermark.commit_micros;
        });
    }

    /// A copy of the status.
    pub fn read(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the status to its file, whole or not at all.
    pub fn save(&self, state_dir: &Path, now_micros: i64) -> std::io::Result<()> {
        let mut status = self.read();
        status.updated_micros = now_micros;
        let path = file(state_dir);
        let beside = path.with_extension("json.new");
        std::fs::write(&beside, serde_json::to_vec_pretty(&status)?)?;
        std::fs::rename(beside, path)
    }
}

/// The file of a state folder.
pub fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("status.json")
}

/// Reads the status that a process last wrote; none if none ever did.
pub fn load(state_dir: &Path) -> anyhow::Result<Option<Status>> {
    match std::fs::read(file(state_dir)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
