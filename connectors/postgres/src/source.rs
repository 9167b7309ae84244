//! A source: copies of tables first, then the stream. The stream is open all the time, so that nobody else takes the
//! slot, and the server hears from us; what it sends waits until the copies have ended.

use std::sync::Arc;

use sooner_api::{EventBatch, Positions, Result, SchemaRegistry, Source, SourceTable, Step};
use sooner_schemas::Lsn;
use tokio::runtime::Handle;

use crate::copies::Copies;
use crate::encoders::EncoderFactory;
use crate::options::ConnectOptions;
use crate::slot::{self, ExportedSnapshot};
use crate::stream::PostgresStream;

/// Reads copies and changes of a database.
pub struct PostgresSource<R> {
    options: ConnectOptions,
    encoders: Arc<EncoderFactory<R>>,
    runtime: Handle,
    tables_at_once: usize,
    stream: PostgresStream<R>,
    copying: Copying,
}

/// How far the copies are.
enum Copying {
    /// They have to be started.
    Wanted(Vec<SourceTable>, Option<ExportedSnapshot>),
    /// They run.
    Running(Copies),
    /// There is nothing to copy, or all of it is done.
    Done,
}

impl<R: SchemaRegistry> PostgresSource<R> {
    /// Copies tables, under the snapshot of a new slot if there is one, and then follows the stream. Copies run on
    /// threads of `runtime`.
    pub fn new(
        options: ConnectOptions,
        encoders: Arc<EncoderFactory<R>>,
        stream: PostgresStream<R>,
        copy: Vec<SourceTable>,
        snapshot: Option<ExportedSnapshot>,
        tables_at_once: usize,
        runtime: Handle,
    ) -> PostgresSource<R> {
        let copying = if copy.is_empty() { Copying::Done } else { Copying::Wanted(copy, snapshot) };
        PostgresSource { options, encoders, runtime, tables_at_once, stream, copying }
    }

    /// Tables whose copy has ended follow the stream from there.
    fn follow_copied(&mut self, batch: &EventBatch, snapshot_lsn: Lsn) {
        for step in &batch.steps {
            if let Step::CopyEnd { table, .. } = step {
                self.stream.select(table, Positions::whole(snapshot_lsn));
            }
        }
    }
}

impl<R: SchemaRegistry> Source for PostgresSource<R> {
    async fn next(&mut self) -> Result<EventBatch> {
        loop {
            match &mut self.copying {
                Copying::Done => return self.stream.next().await,
                Copying::Wanted(tables, snapshot) => {
                    let (tables, snapshot) = (std::mem::take(tables), snapshot.take());
                    let snapshot = match snapshot {
                        Some(snapshot) => snapshot,
                        None => slot::snapshot(&self.options).await?,
                    };
                    let (encoders, at_once) = (self.encoders.clone(), self.tables_at_once);
                    let copies = Copies::start(&self.options, snapshot, encoders, tables, at_once, &self.runtime);
                    self.copying = Copying::Running(copies);
                }
                Copying::Running(copies) => {
                    let last_commit_lsn = copies.snapshot().last_commit_lsn();
                    match copies.next().await? {
                        Some(batch) => {
                            self.follow_copied(&batch, last_commit_lsn);
                            return Ok(batch);
                        }
                        None => {
                            self.copying = Copying::Done;
                            tracing::info!("streaming");
                        }
                    }
                }
            }
        }
    }

    fn confirm(&mut self, durable_lsn: Lsn) {
        self.stream.confirm(durable_lsn);
    }
}
