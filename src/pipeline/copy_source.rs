//! What every copy starts from: a snapshot that all tables are read under, and how their rows become events.

use std::sync::Arc;

use sooner_api::{Result, SchemaRegistry};
use sooner_postgres::ConnectOptions;
use sooner_postgres::catalog::Table;
use sooner_postgres::decode::now_micros;
use sooner_postgres::encoders::EncoderFactory;
use sooner_postgres::slot::{self, ExportedSnapshot};
use sooner_postgres::snapshot::TableCopy;
use sooner_schemas::event::Watermark;

use crate::config::SourceConfig;
use crate::status::StatusBoard;

/// Batches between reading and writing.
pub const QUEUE_BATCHES: usize = 2;

/// What copies share.
pub struct CopySource<R> {
    connect: ConnectOptions,
    snapshot: ExportedSnapshot,
    encoders: Arc<EncoderFactory<R>>,
    /// Tables at the same time.
    pub tables_at_once: usize,
    /// Where to tell how far it is.
    pub board: StatusBoard,
}

impl<R: SchemaRegistry> CopySource<R> {
    /// Reads under the snapshot that came with a new slot, or under one of its own. `tables` is the number to copy.
    pub async fn open(
        source: &SourceConfig,
        snapshot: Option<ExportedSnapshot>,
        encoders: Arc<EncoderFactory<R>>,
        board: StatusBoard,
        tables: usize,
    ) -> Result<CopySource<R>> {
        let snapshot = match snapshot {
            Some(snapshot) => snapshot,
            None => slot::snapshot(&source.connect).await?,
        };
        tracing::info!(tables, lsn = %snapshot.consistent_lsn, "copying");
        let (connect, tables_at_once) = (source.connect.clone(), source.copy_tables_at_once);
        Ok(CopySource { connect, snapshot, encoders, tables_at_once, board })
    }

    /// Starts to read a table.
    pub async fn start(&self, table: &Table) -> Result<TableCopy> {
        TableCopy::start(&self.connect, &self.snapshot, table, &self.encoders).await
    }

    /// What a table is complete to once it is copied.
    pub fn watermark(&self) -> Watermark {
        Watermark {
            commit_lsn: self.snapshot.last_commit_lsn(),
            end_lsn: self.snapshot.consistent_lsn,
            commit_micros: now_micros(),
        }
    }
}
