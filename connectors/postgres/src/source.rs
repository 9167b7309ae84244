//! A source: the stream, and beside it copies of tables, whose rows join the stream between its transactions.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use sooner_api::{Class, EventBatch, Result, SchemaRegistry, Source, SourceTable, Step};
use sooner_schemas::Lsn;
use sooner_schemas::event::Watermark;
use tokio::runtime::Handle;
use tokio::time::{Duration, Instant};

use crate::chunk::CopiedTable;
use crate::copies::{Copies, Joined};
use crate::copy_workers::Message;
use crate::encoders::EncoderFactory;
use crate::options::ConnectOptions;
use crate::stream::{Next, PostgresStream};
use crate::tracked::relaxed;
use crate::visibility::Visibility;

/// Encoders that are built at the same time, which may ask a registry.
const ENCODERS_AT_ONCE: usize = 8;
/// How long the end of a copy waits for the stream before the server is asked to send what it keeps back.
const PATIENCE: Duration = Duration::from_millis(200);

/// Reads copies and changes of a database.
pub struct PostgresSource<R> {
    encoders: Arc<EncoderFactory<R>>,
    stream: PostgresStream<R>,
    copies: Copies,
    /// Tables whose copy has not begun.
    to_copy: Vec<SourceTable>,
    /// Tables, by object id, that are to be copied again, as they are by then.
    to_copy_again: Vec<u32>,
    /// Copies begin when the stream has got here: what is before may be changes of rows of another shape.
    copies_from: Lsn,
    /// Columns that may be NULL whatever the catalog says, with the object id of their table.
    with_nulls: Vec<(u32, String)>,
    /// Transactions of other sessions may have written to tables before the stream carried them.
    awaits_writers: bool,
    /// What has been handed on in whole transactions.
    emitted: Watermark,
    /// Steps that come next.
    ready: VecDeque<Step>,
    /// A batch of the stream was handed on last, so a copy's rows come first.
    is_copys_turn: bool,
    /// When a copy's end began to wait for the stream.
    waits_since: Option<Instant>,
}

/// How tables are copied.
pub struct CopySettings {
    /// How to connect.
    pub connect: ConnectOptions,
    /// Chunks that are read at the same time.
    pub workers: usize,
    /// Threads that read them.
    pub runtime: Handle,
    /// For a new slot: the transactions that come before it.
    pub before_slot: Option<Visibility>,
}

impl<R: SchemaRegistry> PostgresSource<R> {
    /// Follows the stream from an LSN, and copies tables beside it.
    pub async fn new(
        settings: CopySettings,
        encoders: Arc<EncoderFactory<R>>,
        mut stream: PostgresStream<R>,
        to_copy: Vec<SourceTable>,
        start_lsn: Lsn,
    ) -> Result<PostgresSource<R>> {
        let CopySettings { connect, workers, runtime, before_slot } = settings;
        let (latest, server_end) = stream.ask_visible().await?;
        let awaits_writers = before_slot.is_none();
        let copies_from = if awaits_writers { server_end } else { start_lsn };
        let copies = Copies::start(&connect, latest, before_slot, workers, &runtime);
        let emitted = Lsn(start_lsn.0.saturating_sub(1));
        Ok(PostgresSource {
            encoders,
            stream,
            copies,
            to_copy,
            to_copy_again: Vec::new(),
            copies_from,
            with_nulls: Vec::new(),
            awaits_writers,
            emitted: Watermark { commit_lsn: emitted, end_lsn: start_lsn, commit_micros: 0 },
            ready: VecDeque::new(),
            is_copys_turn: false,
            waits_since: None,
        })
    }

    /// Begins to copy tables, the largest first.
    async fn begin(&mut self, mut tables: Vec<SourceTable>) -> Result<()> {
        tables.sort_by_key(|table| std::cmp::Reverse(table.size_bytes));
        let (encoders, awaits_writers) = (&self.encoders, self.awaits_writers);
        let built = tables.into_iter().map(|table| async move {
            match CopiedTable::new(table.clone(), encoders, awaits_writers).await {
                Err(error) if error.class == Class::Operator => Ok(Err((table, error))),
                built => built.map(Ok),
            }
        });
        let built: Vec<_> = stream::iter(built).buffered(ENCODERS_AT_ONCE).try_collect().await?;
        for copied in built {
            match copied {
                Ok(copied) => {
                    self.stream.follow_copied(&copied.table, self.emitted.commit_lsn);
                    self.ready.push_back(self.copies.begin(copied, self.emitted.commit_lsn));
                }
                Err((table, error)) => self.stream.stop(table.name(), error),
            }
        }
        Ok(())
    }

    /// Tables are copied again, once the stream has got to where the server is now.
    async fn plan_again(&mut self, oids: Vec<u32>) -> Result<()> {
        for oid in &oids {
            self.copies.abandon(*oid);
            self.stream.mute(*oid);
        }
        self.to_copy.retain(|table| !oids.contains(&table.relation.oid));
        let (_, server_end) = self.stream.ask_visible().await?;
        self.copies_from = server_end;
        self.to_copy_again.extend(oids.into_iter().filter(|oid| !self.to_copy_again.contains(oid)).collect::<Vec<_>>());
        Ok(())
    }

    /// Begins the copies that wait, if the stream has got far enough.
    async fn begin_planned(&mut self) -> Result<()> {
        if self.emitted.end_lsn < self.copies_from {
            return Ok(());
        }
        let mut tables = std::mem::take(&mut self.to_copy);
        let again = std::mem::take(&mut self.to_copy_again);
        if !again.is_empty() {
            tables.extend(self.stream.find_tables(&again).await?);
        }
        for table in &mut tables {
            let with_nulls = self.with_nulls.iter().filter(|(oid, _)| *oid == table.relation.oid);
            table.relation =
                with_nulls.fold(table.relation.clone(), |relation, (_, column)| relaxed(&relation, column));
        }
        if tables.is_empty() { Ok(()) } else { self.begin(tables).await }
    }

    /// What a worker's report means: its rows are handed on, or a copy starts over.
    async fn join(&mut self, message: Message) -> Result<()> {
        match self.copies.join(message, self.stream.unseen(), self.emitted.commit_lsn) {
            Joined::Nothing => {}
            Joined::Rows(step) => self.ready.push_back(step),
            Joined::Altered(oid) => self.plan_again(vec![oid]).await?,
            Joined::UnexpectedNull(oid, column) => {
                self.with_nulls.push((oid, column));
                self.plan_again(vec![oid]).await?;
            }
            Joined::Stopped(oid, error) => {
                if let Some(table) = self.copies.abandon(oid) {
                    self.stream.stop(&table, error);
                }
            }
            Joined::Failed(error) => return Err(error),
        }
        self.end_copies().await
    }

    /// Hands on the ends of copies that are complete with what the stream has handed on.
    async fn end_copies(&mut self) -> Result<()> {
        for (oid, step) in self.copies.ends(self.emitted) {
            self.stream.end_copy(oid);
            self.ready.push_back(step);
        }
        if !self.copies.waits_for_stream() {
            self.waits_since = None;
            return Ok(());
        }
        let since = *self.waits_since.get_or_insert_with(Instant::now);
        if since.elapsed() > PATIENCE {
            self.waits_since = None;
            self.stream.push().await?;
        }
        Ok(())
    }

    /// Takes note of a batch of the stream that is handed on.
    async fn note(&mut self, batch: &EventBatch) -> Result<()> {
        if let Some(coverage) = batch.coverage() {
            self.emitted = coverage.watermark;
        }
        let partial = self.stream.take_partial();
        if self.copies.is_empty() {
            return Ok(());
        }
        self.copies.note(&batch.steps);
        self.copies.complete(partial);
        Ok(())
    }

    /// Whatever waits for the stream to stand between two transactions.
    async fn between(&mut self) -> Result<()> {
        if let Some(visible) = self.stream.take_visible() {
            self.copies.forget(visible, self.stream.unseen());
        }
        let recopy = std::mem::take(&mut self.stream.postponed().recopy);
        if !recopy.is_empty() {
            self.plan_again(recopy).await?;
        }
        self.begin_planned().await?;
        for oid in std::mem::take(&mut self.stream.postponed().dropped) {
            self.copies.abandon(oid);
            self.to_copy_again.retain(|planned| *planned != oid);
        }
        if !self.copies.is_empty() {
            self.end_copies().await?;
        }
        let is_planned = !(self.to_copy.is_empty() && self.to_copy_again.is_empty());
        let is_done = self.copies.is_empty() && !is_planned && self.ready.is_empty();
        self.stream.postponed().set_copying(!is_done)
    }
}

impl<R: SchemaRegistry> Source for PostgresSource<R> {
    async fn next(&mut self) -> Result<EventBatch> {
        loop {
            if self.stream.is_between() {
                self.between().await?;
                if std::mem::take(&mut self.is_copys_turn)
                    && let Some(message) = self.copies.try_next()
                {
                    self.join(message).await?;
                }
            }
            if !self.ready.is_empty() {
                let steps = self.ready.drain(..).collect();
                return Ok(EventBatch { steps, ..EventBatch::default() });
            }
            let next = {
                let message = std::pin::pin!(self.copies.next_or_pause(self.waits_since.map(|since| since + PATIENCE)));
                self.stream.next_or(message).await?
            };
            match next {
                Next::Batch(batch) => {
                    self.is_copys_turn = true;
                    self.note(&batch).await?;
                    return Ok(batch);
                }
                Next::Other(Some(message)) => self.join(message).await?,
                Next::Other(None) | Next::Inspected => {}
            }
        }
    }

    fn confirm(&mut self, durable_lsn: Lsn) {
        self.stream.confirm(durable_lsn);
    }
}
