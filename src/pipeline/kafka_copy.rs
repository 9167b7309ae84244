//! The initial copy to topics: tables side by side, their rows through one writer.

use std::sync::Arc;

use futures::StreamExt;
use sooner_api::{Class, EventWriter, Result, SchemaRegistry};
use sooner_postgres::ConnectOptions;
use sooner_postgres::catalog::Table;
use sooner_postgres::decode::{EncoderFactory, now_micros};
use sooner_postgres::slot::ExportedSnapshot;
use sooner_postgres::snapshot::TableCopy;
use sooner_schemas::event::{EventBatch, Poisoned, Watermark};
use tokio::sync::mpsc;

use crate::status::StatusBoard;

/// Batches between reading and writing.
const QUEUE_BATCHES: usize = 2;

/// A table to copy, and whether its topic has events from before, which the copy replaces.
pub struct ToCopy {
    /// Table.
    pub table: Table,
    /// Its topic has events.
    pub replaces: bool,
}

/// What the copies share.
pub struct KafkaCopy<R> {
    /// Where to copy from.
    pub connect: ConnectOptions,
    /// As of when.
    pub snapshot: ExportedSnapshot,
    /// How rows become events.
    pub encoders: Arc<EncoderFactory<R>>,
    /// Tables at the same time.
    pub tables_at_once: usize,
    /// Where to tell how far it is.
    pub board: StatusBoard,
}

impl<R: SchemaRegistry> KafkaCopy<R> {
    /// Copies all tables. One that cannot be copied is parked by the writer, and the others go on.
    pub async fn run<W: EventWriter>(&self, tables: Vec<ToCopy>, log: &mut W) -> Result<()> {
        let (sender, mut batches) = mpsc::channel(QUEUE_BATCHES);
        let copies = tables.into_iter().map(|table| self.copy(table, sender.clone()));
        let mut copies = futures::stream::iter(copies).buffer_unordered(self.tables_at_once);
        loop {
            tokio::select! {
                Some(batch) = batches.recv() => log.append(batch).await?,
                copied = copies.next() => match copied {
                    Some(copied) => copied?,
                    None => break,
                },
            }
        }
        while let Ok(batch) = batches.try_recv() {
            log.append(batch).await?;
        }
        Ok(())
    }

    async fn copy(&self, table: ToCopy, batches: mpsc::Sender<EventBatch>) -> Result<()> {
        let name = table.table.relation.name.clone();
        let end = match self.copy_rows(table, &batches).await {
            Ok(watermark) => EventBatch { completed: vec![(name, watermark)], ..EventBatch::default() },
            Err(error) if error.class == Class::Operator => {
                let poisoned = vec![Poisoned { table: name, reason: error.to_string() }];
                EventBatch { poisoned, ..EventBatch::default() }
            }
            Err(error) => return Err(error),
        };
        // The writer has failed, and says why.
        let _ = batches.send(end).await;
        Ok(())
    }

    async fn copy_rows(&self, table: ToCopy, batches: &mpsc::Sender<EventBatch>) -> Result<Watermark> {
        let name = &table.table.relation.name;
        let mut copy = TableCopy::start(&self.connect, &self.snapshot, &table.table, &self.encoders).await?;
        let mut rows = 0;
        let mut next = match table.replaces {
            true => Some(copy.start_event()),
            // An empty table sends nothing else that would tell of it.
            false => Some(copy.next().await?.unwrap_or_else(|| copy.start_event())),
        };
        while let Some(events) = next {
            rows += events.events.len() as u64;
            if batches.send(EventBatch { tables: vec![events], ..EventBatch::default() }).await.is_err() {
                break;
            }
            self.board.table(name, |status| status.rows_copied = rows);
            next = copy.next().await?;
        }
        tracing::info!(table = %name, rows, "copied to its topic");
        Ok(Watermark {
            commit_lsn: self.snapshot.last_commit_lsn(),
            end_lsn: self.snapshot.consistent_lsn,
            commit_micros: now_micros(),
        })
    }
}
