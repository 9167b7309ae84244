//! The initial copy in direct mode: tables side by side, each committed at once when it is complete.

use futures::StreamExt;
use sooner_api::{Class, Code, Error, LakeTable, ProgressStore, Result, SchemaRegistry, TablePhase};
use sooner_postgres::catalog::Table;
use sooner_postgres::snapshot::TableCopy;
use sooner_schemas::event::TableEvents;
use tokio::sync::mpsc;

use super::copy_source::{CopySource, QUEUE_BATCHES};
use crate::ledger::Ledger;

/// What the copies share.
pub struct CopyJob<R> {
    /// What is copied from.
    pub from: CopySource<R>,
    /// Bytes of events that a table may hold before they are sealed.
    pub seal_bytes: usize,
}

impl<R: SchemaRegistry> CopyJob<R> {
    /// Copies all tables. One that cannot be copied is parked, and the others go on.
    pub async fn run<T: LakeTable, P: ProgressStore>(
        &self,
        tables: Vec<(Table, T)>,
        ledger: &mut Ledger<P>,
    ) -> Result<Vec<T>> {
        let copies = tables.into_iter().map(|(table, lake)| self.copy(table, lake));
        let mut copies = futures::stream::iter(copies).buffer_unordered(self.from.tables_at_once);
        let mut done = Vec::new();
        while let Some((table, lake, result)) = copies.next().await {
            let name = table.relation.name;
            let (phase, reason) = match result {
                Ok(()) => (TablePhase::Streaming, None),
                Err(error) if error.class == Class::Operator => (TablePhase::Parked, Some(error.to_string())),
                Err(error) => return Err(error),
            };
            if let Some(reason) = &reason {
                tracing::error!(table = %name, reason, "the table stopped");
            }
            ledger.set_phase(&name, phase, reason.clone()).await?;
            self.from.board.table(&name, |status| {
                status.phase = phase;
                status.reason = reason;
            });
            done.push(lake);
        }
        Ok(done)
    }

    async fn copy<T: LakeTable>(&self, table: Table, mut lake: T) -> (Table, T, Result<()>) {
        let result = self.copy_rows(&table, &mut lake).await;
        if result.is_err() {
            lake.discard();
        }
        (table, lake, result)
    }

    async fn copy_rows<T: LakeTable>(&self, table: &Table, lake: &mut T) -> Result<()> {
        let name = &table.relation.name;
        let watermark = self.from.watermark();
        let copy = self.from.start(table).await?;
        lake.begin_copy(copy.schema().clone()).await?;
        let (sender, receiver) = mpsc::channel(QUEUE_BATCHES);
        let (read, written) = tokio::join!(tokio::spawn(read(copy, sender)), self.write(name, lake, receiver));
        written?;
        read.unwrap_or_else(|panic| {
            Err(Error::fatal(
                Code::Internal,
                format!("cannot copy {name}"),
                format!("its reader ended: {panic}"),
                "report this",
            ))
        })?;
        let committed = lake.commit(watermark).await?;
        self.from.board.table(name, |status| status.table_version = Some(committed.table_version));
        self.from.board.reached(name, watermark);
        tracing::info!(table = %name, rows = committed.rows_written, "copied");
        Ok(())
    }

    async fn write<T: LakeTable>(
        &self,
        name: &sooner_schemas::TableName,
        lake: &mut T,
        mut batches: mpsc::Receiver<TableEvents>,
    ) -> Result<()> {
        while let Some(events) = batches.recv().await {
            let rows = events.events.len() as u64;
            lake.stage(events).await?;
            if lake.staged_bytes() >= self.seal_bytes {
                lake.seal().await?;
            }
            self.from.board.table(name, |status| status.rows_copied += rows);
        }
        Ok(())
    }
}

async fn read(mut copy: TableCopy, batches: mpsc::Sender<TableEvents>) -> Result<()> {
    while let Some(events) = copy.next().await? {
        if batches.send(events).await.is_err() {
            // The writer has failed, and says why.
            return Ok(());
        }
    }
    Ok(())
}
