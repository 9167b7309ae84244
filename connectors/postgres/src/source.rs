//! A source: the stream, and beside it copies of tables, whose rows join the stream between its transactions.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use sooner_api::{Class, EventBatch, Result, SchemaRegistry, Source, SourceTable, Step};
use sooner_schemas::Lsn;
use sooner_schemas::event::Watermark;
use tokio::time::{Duration, Instant, timeout};

use crate::chunk::CopiedTable;
use crate::copies::{Copies, CopySettings, Joined};
use crate::copy_workers::Message;
use crate::encoders::EncoderFactory;
use crate::side_connection::ServerState;
use crate::stream::{Next, PostgresStream};
use crate::tracked::relaxed;
use crate::watch::tables_changed;

/// Encoders that are built at the same time, which may ask a registry.
const ENCODERS_AT_ONCE: usize = 8;
/// How long it is looked, at the end, for what is visible by then.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// How long the end of a copy waits for the stream before the server is asked to send what it keeps back.
const PATIENCE: Duration = Duration::from_millis(200);

/// Reads copies and changes of a database.
pub struct PostgresSource<R> {
    encoders: Arc<EncoderFactory<R>>,
    stream: PostgresStream<R>,
    copies: Copies,
    /// Copies that have been announced, each with where the stream has to get before it begins: what is before may be
    /// changes of rows of another shape.
    announced: Vec<(CopiedTable, Lsn)>,
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

impl<R: SchemaRegistry> PostgresSource<R> {
    /// Follows the stream from an LSN, and copies tables beside it.
    pub async fn new(
        settings: CopySettings,
        encoders: Arc<EncoderFactory<R>>,
        mut stream: PostgresStream<R>,
        to_copy: Vec<SourceTable>,
        start_lsn: Lsn,
    ) -> Result<PostgresSource<R>> {
        let ServerState { visible: latest, end_lsn: server_end, .. } = stream.server_state().await?;
        let is_new = settings.before_slot.is_some();
        let copies = Copies::start(settings, latest);
        let emitted = start_lsn.last_before();
        let mut source = PostgresSource {
            encoders,
            stream,
            copies,
            announced: Vec::new(),
            with_nulls: Vec::new(),
            awaits_writers: !is_new,
            emitted: Watermark { commit_lsn: emitted, end_lsn: start_lsn, commit_micros: 0 },
            ready: VecDeque::new(),
            is_copys_turn: false,
            waits_since: None,
        };
        source.announce(to_copy, if is_new { start_lsn } else { server_end }).await?;
        // Of tables that come later, others may have written before the stream carried them.
        source.awaits_writers = true;
        Ok(source)
    }

    /// Announces copies, the largest first, which begin once the stream has got to an LSN.
    async fn announce(&mut self, mut tables: Vec<SourceTable>, from: Lsn) -> Result<()> {
        tables.sort_by_key(|table| std::cmp::Reverse(table.size_bytes));
        for table in &mut tables {
            let with_nulls = self.with_nulls.iter().filter(|(oid, _)| *oid == table.relation.oid);
            table.relation =
                with_nulls.fold(table.relation.clone(), |relation, (_, column)| relaxed(&relation, column));
        }
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
                    self.ready.push_back(self.copies.announce(&copied, self.emitted.commit_lsn));
                    self.announced.push((copied, from));
                }
                Err((table, error)) => {
                    self.stream.stop(table.name(), error.clone());
                    self.ready.push_back(Step::Stop { table: table.name().clone(), error });
                }
            }
        }
        Ok(())
    }

    /// Tables are copied again, once the stream has got to where the server is now.
    async fn announce_again(&mut self, oids: Vec<u32>) -> Result<()> {
        for oid in &oids {
            self.copies.abandon(*oid);
            self.stream.mute(*oid);
        }
        self.announced.retain(|(copied, _)| !oids.contains(&copied.table.relation.oid));
        // In this order: whatever happens to a table after it was looked at is noticed by its copy.
        let tables = self.stream.find_tables(&oids).await?;
        let server_end = self.stream.server_state().await?.end_lsn;
        if tables.len() < oids.len() {
            let why = "a table that was to be copied again is gone, or has to wait".to_owned();
            self.stream.postponed.change(None, tables_changed(why))?;
        }
        self.announce(tables, server_end).await
    }

    /// Begins the announced copies that the stream has got far enough for.
    fn begin_announced(&mut self) {
        let emitted = self.emitted;
        let (due, later) =
            std::mem::take(&mut self.announced).into_iter().partition(|(_, from)| emitted.end_lsn >= *from);
        self.announced = later;
        for (copied, _) in due {
            self.stream.follow_copied(&copied.table, emitted.commit_lsn);
            self.copies.begin(copied, emitted.commit_lsn);
        }
    }

    /// What a worker's report means: its rows are handed on, or a copy starts over.
    async fn join(&mut self, message: Message) -> Result<()> {
        match self.copies.join(message, &self.stream.unseen, self.emitted.commit_lsn) {
            Joined::Nothing => {}
            Joined::Rows(step) => self.ready.push_back(step),
            Joined::Altered(oid) => self.announce_again(vec![oid]).await?,
            Joined::UnexpectedNull(oid, column) => {
                self.with_nulls.push((oid, column));
                self.announce_again(vec![oid]).await?;
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
        self.copies.give_way(batch.server_end.bytes_since(self.emitted.end_lsn));
        let altered = self.copies.note(&batch.steps);
        self.stream.postponed.recopy.extend(altered);
        self.copies.complete(partial);
        Ok(())
    }

    /// Whatever waits for the stream to stand between two transactions.
    async fn between(&mut self) -> Result<()> {
        if let Some(visible) = self.stream.take_visible() {
            self.copies.forget(visible, &mut self.stream.unseen);
        }
        for oid in std::mem::take(&mut self.stream.postponed.dropped) {
            self.copies.abandon(oid);
            self.announced.retain(|(copied, _)| copied.table.relation.oid != oid);
        }
        let recopy = std::mem::take(&mut self.stream.postponed.recopy);
        if !recopy.is_empty() {
            self.announce_again(recopy).await?;
        }
        if self.stream.is_idle() {
            self.begin_announced();
        }
        if !self.copies.is_empty() {
            self.end_copies().await?;
        }
        let is_done = self.copies.is_empty() && self.announced.is_empty() && self.ready.is_empty();
        self.stream.postponed.set_copying(!is_done)
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

    async fn finish(self, durable_lsn: Lsn) {
        let PostgresSource { mut stream, mut copies, .. } = self;
        if let Ok(Ok(state)) = timeout(LAST_LOOK, stream.server_state()).await {
            copies.forget(state.visible, &mut stream.unseen);
        }
        drop(copies);
        stream.finish(durable_lsn).await;
    }
}
