//! A source: the stream, and beside it copies of tables, whose rows join the stream between its transactions.

mod requests;

use std::collections::VecDeque;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use sooner_api::{
    Class, CopyAnswer, CopyRequest, Coverage, Error, EventBatch, FollowedTable, GoesOn, Result, SchemaRegistry, Source,
    SourceTable, Step, TableToCopy,
};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Duration, Instant, timeout};

use crate::announced::{Announced, CopyStart, Waiting};
use crate::asked::Asked;
use crate::chunk::CopiedTable;
use crate::copies::Copies;
use crate::copy_workers::Message;
use crate::encoders::EncoderFactory;
use crate::joining::{Ended, Joined};
use crate::nulls::KnownNulls;
use crate::settings::CopySettings;
use crate::side_connection::ServerState;
use crate::stream::{Next, PostgresStream};
use crate::verdict::tables_changed;

/// Encoders that are built at the same time, which may ask a registry.
const ENCODERS_AT_ONCE: usize = 8;
/// How long it is looked, at the end, for what is visible by then.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// How long the end of a copy waits for the stream before the server is asked to send what it keeps back.
const PATIENCE: Duration = Duration::from_millis(200);

/// Reads a database.
pub struct PostgresSource<R> {
    encoders: Arc<EncoderFactory<R>>,
    stream: PostgresStream<R>,
    copies: Copies,
    announced: Waiting,
    /// What somebody has asked for.
    asked: Asked,
    /// Columns that may be NULL whatever the catalog says.
    nulls: KnownNulls,
    /// Transactions of other sessions may have written to tables before the stream carried them.
    awaits_writers: bool,
    /// What has been handed on in whole transactions.
    emitted: Watermark,
    /// Where the server's log ended at last.
    server_end: Lsn,
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
        to_copy: Vec<TableToCopy>,
        start_lsn: Lsn,
        requests: UnboundedReceiver<CopyRequest>,
    ) -> Result<PostgresSource<R>> {
        let ServerState { visible: latest, end_lsn: server_end, .. } = stream.server_state().await?;
        let is_new = settings.before_slot.is_some();
        let asked = Asked::new(settings.apart.clone(), requests);
        let copies = Copies::start(settings, latest);
        let mut source = PostgresSource {
            encoders,
            stream,
            copies,
            announced: Waiting::default(),
            asked,
            nulls: KnownNulls::default(),
            awaits_writers: !is_new,
            emitted: Watermark { commit_lsn: start_lsn.last_before(), end_lsn: start_lsn, commit_micros: 0 },
            server_end,
            ready: VecDeque::new(),
            is_copys_turn: false,
            waits_since: None,
        };
        let (resumed, new): (Vec<_>, Vec<_>) = to_copy.into_iter().partition(|copy| copy.goes_on.is_some());
        source.resume(resumed).await?;
        source
            .announce(new.into_iter().map(|copy| copy.table).collect(), if is_new { start_lsn } else { server_end })
            .await?;
        // Of tables that come later, others may have written before the stream carried them.
        source.awaits_writers = true;
        Ok(source)
    }

    /// Announces copies, the largest first, which begin once the stream has got to an LSN.
    async fn announce(&mut self, mut tables: Vec<SourceTable>, from: Lsn) -> Result<()> {
        tables.sort_by_key(|table| std::cmp::Reverse(table.size_bytes));
        let tables: Vec<_> = tables.into_iter().map(|table| self.nulls.apply(table)).collect();
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
                    let (step, id) = self.copies.announce(&copied, self.emitted.commit_lsn);
                    self.ready.push_back(step);
                    self.announced.push(copied.table.relation.oid, from, CopyStart::Whole(copied, id));
                }
                Err((table, error)) => self.stop(table.name(), error),
            }
        }
        Ok(())
    }

    /// A table stops whose copy cannot begin.
    fn stop(&mut self, table: &TableName, error: Error) {
        self.stream.stop(table, error.clone());
        self.ready.push_back(Step::Stop { table: table.clone(), error });
    }

    /// Goes on with copies that were broken off, each once the stream has got to what its consumer has.
    async fn resume(&mut self, resumed: Vec<TableToCopy>) -> Result<()> {
        for GoesOn { progress, followed, reached } in resumed.into_iter().filter_map(|copy| copy.goes_on) {
            let FollowedTable { table, written, covered } = followed;
            let oid = table.relation.oid;
            // What was found out about it before the break.
            self.nulls.note_all(oid, written.as_deref());
            // What is not in the stream any more may not be visible yet, where commits wait for standbys.
            let copied = match CopiedTable::new(self.nulls.apply(table.clone()), &self.encoders, true).await {
                Err(error) if error.class == Class::Operator => {
                    self.stop(table.name(), error);
                    continue;
                }
                built => built?,
            };
            self.stream.follow_on(&copied.table, covered);
            self.copies.resume(copied, &progress);
            self.announced.push(oid, Lsn(reached.0 + 1), CopyStart::Released);
        }
        Ok(())
    }

    /// Tables are copied again, once the stream has got to where the server is now.
    async fn announce_again(&mut self, oids: Vec<u32>) -> Result<()> {
        for oid in &oids {
            self.copies.abandon(*oid);
            self.stream.mute(*oid);
            self.announced.remove(*oid);
        }
        // In this order: whatever happens to a table after it was looked at is noticed by its copy.
        let tables = self.stream.find_tables(&oids).await?;
        let server_end = self.stream.server_state().await?.end_lsn;
        if tables.len() < oids.len() {
            let why = "a table that was to be copied again is gone, or has to wait".to_owned();
            self.stream.postponed.change(None, tables_changed(why))?;
        }
        self.announce(tables, server_end).await
    }

    /// Events of tables that are to be copied again are left out: they must not count as complete before whoever takes
    /// the batch knows of the copy that has their rows.
    async fn announce_left_out(&mut self, batch: &mut EventBatch) -> Result<()> {
        let Some(end) = batch.steps.iter().rposition(|step| matches!(step, Step::Complete(_))) else { return Ok(()) };
        self.announce_postponed().await?;
        batch.steps.splice(end..end, self.ready.drain(..));
        Ok(())
    }

    async fn announce_postponed(&mut self) -> Result<()> {
        let mut recopy = std::mem::take(&mut self.stream.postponed.recopy);
        recopy.sort_unstable();
        recopy.dedup();
        if recopy.is_empty() { Ok(()) } else { self.announce_again(recopy).await }
    }

    /// Begins the announced copies that the stream has got far enough for.
    async fn begin_announced(&mut self) -> Result<()> {
        let Watermark { commit_lsn: emitted, end_lsn, .. } = self.emitted;
        for Announced { oid, from, start } in self.announced.take_due(end_lsn) {
            match start {
                CopyStart::Whole(copied, id) => {
                    self.stream.follow_copied(&copied.table, emitted);
                    self.copies.begin(copied, id, emitted, None);
                }
                CopyStart::InPlace(copied, request) => {
                    self.stream.copy_in_place(oid);
                    self.copies.begin(copied, 0, emitted, Some(request));
                }
                CopyStart::Released => {
                    self.emitted.commit_lsn = emitted.max(from.last_before());
                    self.copies.release(oid, emitted);
                }
                CopyStart::Reshaped(reshaped) => {
                    self.ready.extend(self.stream.reshape(&reshaped).await?);
                    self.ready.push_back(Step::Complete(Coverage::all(self.emitted)));
                }
            }
        }
        Ok(())
    }

    /// Says that tables have other columns, once the stream has got to where the server is now.
    async fn announce_reshaped(&mut self) -> Result<()> {
        let reshaped = self.stream.take_reshaped().await?;
        if !reshaped.is_empty() {
            // In a quiet database nothing else brings the stream there.
            self.stream.push().await?;
        }
        for (from, reshaped) in reshaped {
            let oid = reshaped.table.relation.oid;
            match self.is_copied(oid) {
                // A copy of all rows notices by itself what happens to its table.
                true => self.stream.look_again(oid),
                false => self.announced.push(oid, from, CopyStart::Reshaped(Box::new(reshaped))),
            }
        }
        Ok(())
    }

    /// What a worker's report means: its rows are handed on, or a copy starts over.
    async fn join(&mut self, message: Message) -> Result<()> {
        match self.copies.join(message, &self.stream.unseen, self.emitted.commit_lsn) {
            Joined::Nothing => {}
            Joined::Rows(step) => self.ready.push_back(step),
            Joined::Part(oid) => self.report(oid),
            Joined::Altered(oid) => self.start_over(oid).await?,
            Joined::UnexpectedNull(oid, column) => {
                self.nulls.note(oid, column);
                self.start_over(oid).await?;
            }
            Joined::Stopped(oid, error) => {
                if let Some(request) = self.abandon_in_place(oid) {
                    self.asked.answer(CopyAnswer::Refused(request, error));
                } else if let Some(table) = self.copies.abandon(oid) {
                    self.stream.stop(&table, error);
                }
            }
            Joined::Failed(error) => return Err(error),
        }
        self.end_copies().await
    }

    /// Hands on how far a copy is.
    fn report(&mut self, oid: u32) {
        self.ready.extend(self.copies.progress(oid, Some(self.emitted), false));
    }

    /// A copy starts over, from what its table is by now.
    async fn start_over(&mut self, oid: u32) -> Result<()> {
        match self.abandon_in_place(oid) {
            Some(request) => self.asked.put_off(request),
            None => self.announce_again(vec![oid]).await?,
        }
        Ok(())
    }

    /// Hands on the ends of copies that are complete with what the stream has handed on.
    async fn end_copies(&mut self) -> Result<()> {
        let ended = self.copies.ends(self.emitted);
        if !ended.is_empty() {
            // Whoever asked for them is waiting for a watermark beyond.
            self.stream.push().await?;
        }
        for (oid, ended) in ended {
            self.stream.end_copy(oid);
            match ended {
                Ended::Whole(step) => self.ready.push_back(step),
                Ended::InPlace(request) => self.asked.answer(CopyAnswer::HandedOn(request)),
            }
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
    async fn note(&mut self, batch: &mut EventBatch) -> Result<()> {
        if let Some(Coverage { watermark, .. }) = batch.coverage() {
            // Copied rows never stand before those that a consumer has, though no transaction may be between.
            let commit_lsn = watermark.commit_lsn.max(self.emitted.commit_lsn);
            self.emitted = Watermark { commit_lsn, ..*watermark };
        }
        let partial = self.stream.take_partial();
        if self.copies.is_empty() {
            return Ok(());
        }
        self.server_end = self.server_end.max(batch.server_end);
        self.copies.give_way(self.server_end.bytes_since(self.emitted.end_lsn));
        for oid in self.copies.note(&batch.steps) {
            match self.abandon_in_place(oid) {
                Some(request) => self.asked.put_off(request),
                None => self.stream.postponed.recopy.push(oid),
            }
        }
        // Whoever has the event must know that the rest of its row is still to come.
        let watermark = batch.coverage().map(|_| self.emitted);
        for oid in self.copies.complete(partial) {
            batch.steps.extend(self.copies.progress(oid, watermark, true));
        }
        Ok(())
    }

    /// Whatever waits for the stream to stand between two transactions.
    async fn between(&mut self) -> Result<()> {
        if let Some(visible) = self.stream.take_visible() {
            self.copies.forget(visible, &mut self.stream.unseen);
        }
        for oid in std::mem::take(&mut self.stream.postponed.dropped) {
            self.copies.abandon(oid);
            self.announced.remove(oid);
        }
        self.announce_postponed().await?;
        self.announce_reshaped().await?;
        self.take_requests().await?;
        if self.stream.is_idle() {
            self.begin_announced().await?;
        }
        if !self.copies.is_empty() {
            self.end_copies().await?;
        }
        let is_done = self.copies.is_empty() && self.announced.is_empty() && self.ready.is_empty();
        self.stream.postponed.set_copying(!is_done, || self.copies.are_fragile())
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
            if !self.ready.is_empty() || self.asked.has_answers() {
                let (steps, answers) = (self.ready.drain(..).collect(), self.asked.take_answers());
                return Ok(EventBatch { steps, answers, changes: self.stream.take_changes(), ..EventBatch::default() });
            }
            let next = {
                let message = std::pin::pin!(self.copies.next_or_pause(self.waits_since.map(|since| since + PATIENCE)));
                self.stream.next_or(message).await?
            };
            match next {
                Next::Batch(mut batch) => {
                    self.is_copys_turn = true;
                    self.note(&mut batch).await?;
                    self.announce_left_out(&mut batch).await?;
                    batch.changes = self.stream.take_changes();
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
