//! The initial copy to topics: tables side by side, their rows through one writer.

use futures::StreamExt;
use sooner_api::{Class, EventWriter, Result, SchemaRegistry};
use sooner_postgres::catalog::Table;
use sooner_schemas::event::{EventBatch, Poisoned, Watermark};
use tokio::sync::mpsc;

use super::copy_source::{CopySource, QUEUE_BATCHES};

/// A table to copy, and whether the copy has to replace what may be there of it.
pub struct ToCopy {
    /// Table.
    pub table: Table,
    /// Its topic, or the lake, may have something of it.
    pub replaces: bool,
    /// One without rows is told of by the mark of a copy, which has no key; a compacted topic takes none.
    pub tells_if_empty: bool,
}

impl<R: SchemaRegistry> CopySource<R> {
    /// Copies all tables to their topics. One that cannot be copied is parked by the writer, and the others go on.
    pub async fn copy_to_topics<W: EventWriter>(&self, tables: Vec<ToCopy>, log: &mut W) -> Result<()> {
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
        let mut copy = self.start(&table.table).await?;
        let mut rows = 0;
        let mut next = match table.replaces {
            true => Some(copy.start_event()),
            // An empty table sends nothing else that would tell of it.
            false => copy.next().await?.or_else(|| table.tells_if_empty.then(|| copy.start_event())),
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
        Ok(self.watermark())
    }
}
