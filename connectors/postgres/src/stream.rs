//! Follows the replication stream: reads and decodes it, and reports progress to the server.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use sooner_api::{
    Class, Error, EventBatch, FollowedTable, Positions, Result, SchemaRegistry, Source, SourceTable, failpoint,
};
use sooner_schemas::{Lsn, Relation, TableName};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use crate::client::{Client, Mode, quote_name, quote_text, read_more};
use crate::clock::now_micros;
use crate::decode::Decoder;
use crate::dial::Duplex;
use crate::encoders::EncoderFactory;
use crate::errors::connection_lost;
use crate::incoming::{Incoming, Pause};
use crate::inspection::TableFilter;
use crate::options::ConnectOptions;
use crate::pgoutput::{RelationShape, postgres_micros};
use crate::tracked::Selected;
use crate::watch::{Verdict, Watch};

/// Interval of the status updates to the server, which are sent even while the consumer is busy.
const FEEDBACK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which the catalog is checked for the tables, and the server is asked for the end of its log.
const INSPECTION_INTERVAL: Duration = Duration::from_secs(2);
/// Time limit for such a check; one that takes longer is abandoned until the next interval.
const INSPECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval is at least so many times as long as a look takes.
const INSPECTION_SHARE: u32 = 50;
/// Silence after which the connection counts as dead. The server sends a keepalive at half its `wal_sender_timeout`,
/// whose default is 60 s, and answers a request for one at once.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// What to stream, and from where.
pub struct StreamSettings {
    /// Slot to stream from.
    pub slot: String,
    /// Publication that determines what the server sends.
    pub publication: String,
    /// Tables that take part.
    pub selects: TableFilter,
    /// Tables whose events are carried from the start.
    pub follow: Vec<FollowedTable>,
    /// Tables that are copied first, and carried once they are selected.
    pub copy: Vec<SourceTable>,
    /// Tables that take no part at the moment.
    pub apart: Vec<SourceTable>,
    /// LSN to start at: the slot's confirmed position or a later one. Transactions that end before it are not sent.
    pub start_lsn: Lsn,
}

/// A running replication stream. Dropping it stops the status updates.
pub struct PostgresStream<R> {
    reader: ReadHalf<Box<dyn Duplex>>,
    incoming: Incoming,
    decoder: Decoder,
    encoders: Arc<EncoderFactory<R>>,
    options: ConnectOptions,
    /// Connection for catalog queries beside the stream; opened on demand, and again after a query failed.
    catalog: Option<Client>,
    watch: Watch,
    reported: Arc<FeedbackState>,
    feedback: JoinHandle<()>,
    inspection: Interval,
    last_heard: Instant,
}

/// Positions that the status updates report, shared with the task that sends them.
#[derive(Default)]
struct FeedbackState {
    received: AtomicU64,
    flushed: AtomicU64,
    send_now: Notify,
}

impl<R: SchemaRegistry> PostgresStream<R> {
    /// Starts to stream from `settings.start_lsn`, and spawns the task that sends status updates.
    pub async fn start(
        options: &ConnectOptions,
        settings: StreamSettings,
        encoders: Arc<EncoderFactory<R>>,
    ) -> Result<PostgresStream<R>> {
        let client = Client::connect(options, Mode::Replication).await?;
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})",
            quote_name(&settings.slot),
            settings.start_lsn,
            quote_text(&quote_name(&settings.publication)),
        );
        let (stream, buffer) = client.start_replication(&command).await?;
        let (reader, writer) = tokio::io::split(stream);
        let reported =
            Arc::new(FeedbackState { flushed: AtomicU64::new(settings.start_lsn.0), ..FeedbackState::default() });
        let mut inspection = interval(INSPECTION_INTERVAL);
        inspection.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let StreamSettings { publication, selects, follow, copy, apart, start_lsn, .. } = settings;
        let selected = |followed: &FollowedTable| {
            let selected = Selected { name: followed.table.name().clone(), covered: followed.covered.clone() };
            (followed.table.relation.oid, selected)
        };
        let decoder = Decoder::new(follow.iter().map(selected).collect(), start_lsn);
        let copied =
            copy.into_iter().map(|table| FollowedTable { table, written: None, covered: Positions::whole(Lsn::ZERO) });
        let watch = Watch::new(&publication, selects, follow.into_iter().chain(copied).collect(), apart);
        Ok(PostgresStream {
            reader,
            incoming: Incoming::new(buffer),
            decoder,
            encoders,
            options: options.clone(),
            catalog: None,
            watch,
            feedback: tokio::spawn(send_feedback(writer, reported.clone())),
            reported,
            inspection,
            last_heard: Instant::now(),
        })
    }

    /// Decodes all whole messages in the buffer, up to the end of a batch; looks up relations where they are needed.
    async fn decode_buffer(&mut self) -> Result<()> {
        let now = now_micros();
        loop {
            match self.incoming.decode(&mut self.decoder, now)? {
                Pause::BufferEmpty | Pause::BatchReady => break,
                Pause::ReplyRequested => self.reported.send_now.notify_one(),
                Pause::RelationNeeded(shape) => self.look_up(shape).await?,
                Pause::Relax { oid, relation } => self.set_relation(oid, relation).await?,
            }
        }
        if self.decoder.take_look_wanted() {
            self.inspection.reset_immediately();
        }
        self.reported.received.fetch_max(self.incoming.received_lsn().0, Ordering::Relaxed);
        Ok(())
    }

    /// Looks up a relation that a change needs. If the change cannot be carried, its table is stopped.
    async fn look_up(&mut self, shape: RelationShape) -> Result<()> {
        let Some(Selected { name, .. }) = self.decoder.selected(shape.oid).cloned() else {
            self.decoder.ignore(shape.oid);
            return Ok(());
        };
        let mut client = self.catalog_client().await?;
        let (relation, verdict) = self.watch.announced(&mut client, &name, &shape).await?;
        self.catalog = Some(client);
        let stops = matches!(verdict, Some(Verdict::Stopped(..)));
        self.obey(verdict)?;
        if stops { Ok(()) } else { self.set_relation(shape.oid, relation).await }
    }

    fn obey(&mut self, verdicts: impl IntoIterator<Item = Verdict>) -> Result<()> {
        for verdict in verdicts {
            match verdict {
                Verdict::Noted(note) => self.decoder.note(note),
                Verdict::Stopped(table, error) => self.stop(&table, error),
                Verdict::Changed(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn stop(&mut self, table: &TableName, error: Error) {
        self.watch.stopped(table);
        self.decoder.stop(table, error);
    }

    async fn set_relation(&mut self, oid: u32, relation: Relation) -> Result<()> {
        match self.encoders.build(&relation).await {
            Ok(encoder) => self.decoder.set_relation(oid, relation, encoder),
            Err(error) if error.class == Class::Operator => {
                self.stop(&relation.name, error);
                self.decoder.ignore(oid);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn catalog_client(&mut self) -> Result<Client> {
        match self.catalog.take() {
            Some(client) => Ok(client),
            None => Client::connect(&self.options, Mode::Sql).await,
        }
    }

    /// Queries the end of the server's log, and looks for what happened to tables. After an error it is tried again at
    /// the next interval.
    async fn inspect_catalog(&mut self) -> Result<Vec<Verdict>> {
        let mut client = self.catalog_client().await?;
        let end = client.query_value("SELECT pg_catalog.pg_current_wal_lsn()").await?;
        if let Some(end) = end.and_then(|text| text.parse().ok()) {
            self.decoder.server_end(end);
        }
        let verdicts = self.watch.look(&mut client).await?;
        self.catalog = Some(client);
        Ok(verdicts)
    }

    /// Looks at the catalog, unless that takes too long.
    async fn inspect(&mut self) -> Result<()> {
        let started = Instant::now();
        let verdicts = match timeout(INSPECTION_TIMEOUT, self.inspect_catalog()).await {
            Ok(Ok(verdicts)) => verdicts,
            Ok(Err(error)) => {
                tracing::debug!(%error, "could not look at the catalog");
                return Ok(());
            }
            Err(_) => {
                tracing::debug!("looking at the catalog took too long");
                return Ok(());
            }
        };
        // With very many tables, looking takes a bounded share of the server's time.
        self.inspection.reset_after(INSPECTION_INTERVAL.max(started.elapsed() * INSPECTION_SHARE));
        self.obey(verdicts)
    }
}

impl<R: SchemaRegistry> PostgresStream<R> {
    /// Carries the events of a table whose copy has ended, but for those that are covered. To be called before anything
    /// was read.
    pub fn select(&mut self, table: &TableName, covered: Positions) {
        if let Some(oid) = self.watch.oid_of(table) {
            self.decoder.select(oid, Selected { name: table.clone(), covered });
        }
    }
}

impl<R: SchemaRegistry> Source for PostgresStream<R> {
    async fn next(&mut self) -> Result<EventBatch> {
        let asked = Instant::now();
        loop {
            self.decode_buffer().await?;
            if let Some(batch) = self.decoder.take() {
                return Ok(batch);
            }
            tokio::select! {
                biased;
                // First, because a busy stream is always ready to be read.
                _ = self.inspection.tick() => {
                    self.inspect().await?;
                    // Nothing is read while the consumer is busy: silence counts from this call on, at the earliest.
                    if self.last_heard.max(asked).elapsed() > SILENCE_LIMIT {
                        return Err(lost(&io::Error::new(io::ErrorKind::TimedOut, "the server has fallen silent")));
                    }
                }
                read = read_more(&mut self.reader, self.incoming.buffer()) => {
                    read.map_err(|error| lost(&error))?;
                    self.last_heard = Instant::now();
                }
            }
        }
    }

    fn confirm(&mut self, durable_lsn: Lsn) {
        self.reported.flushed.fetch_max(durable_lsn.0, Ordering::Relaxed);
    }
}

impl<R> Drop for PostgresStream<R> {
    fn drop(&mut self) {
        self.feedback.abort();
    }
}

/// Sends status updates on its own timer, so that the server receives them while the consumer is busy.
async fn send_feedback(mut writer: WriteHalf<Box<dyn Duplex>>, reported: Arc<FeedbackState>) {
    let mut timer = interval(FEEDBACK_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut confirmed = reported.flushed.load(Ordering::Relaxed);
    loop {
        // A timed update requests a reply: that proves the connection alive, and advances an idle watermark.
        let ask = tokio::select! {
            _ = timer.tick() => true,
            () = reported.send_now.notified() => false,
        };
        let flushed = reported.flushed.load(Ordering::Relaxed);
        let received = reported.received.load(Ordering::Relaxed).max(flushed);
        let message = status_update(Lsn(received), Lsn(flushed), now_micros(), ask);
        // The reader notices a broken connection and reports it.
        if writer.write_all(&message).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        if flushed > confirmed {
            failpoint("slot_confirmed");
            confirmed = flushed;
        }
    }
}

/// Builds a standby status update inside a CopyData message.
fn status_update(received: Lsn, flushed: Lsn, now_micros: i64, ask_reply: bool) -> BytesMut {
    let mut message = BytesMut::with_capacity(39);
    message.put_u8(b'd');
    message.put_u32(38);
    message.put_u8(b'r');
    message.put_u64(received.0);
    message.put_u64(flushed.0);
    message.put_u64(flushed.0);
    message.put_i64(postgres_micros(now_micros));
    message.put_u8(ask_reply.into());
    message
}

fn lost(error: &io::Error) -> Error {
    connection_lost("lost the replication stream", error)
}
