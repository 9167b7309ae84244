//! Following the stream: reading, decoding, and telling the server how far we are.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sooner_api::{Error, Result, SchemaRegistry, Source};
use sooner_schemas::event::EventBatch;
use sooner_schemas::{Lsn, TableName};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::catalog;
use crate::client::{Client, Duplex, Mode, quote_name, quote_text, read_more, split_frame};
use crate::decode::{Decoder, EncoderFactory, Next, now_micros};
use crate::errors::{ServerError, connection_lost, protocol};
use crate::options::ConnectOptions;
use crate::pgoutput::{self, postgres_micros, unix_micros};

/// How often the server hears from us, whatever else happens.
const FEEDBACK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the catalog is asked whether the tables are still there, and the server where its log ends.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Silence after which the connection counts as dead. The server sends a keepalive at half its `wal_sender_timeout`,
/// whose default is 60 s, and answers a request for one at once.
const SILENCE_LIMIT: Duration = Duration::from_secs(120);

/// What to stream.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Slot.
    pub slot: String,
    /// Publication.
    pub publication: String,
    /// Tables whose events are carried.
    pub tables: HashSet<TableName>,
}

/// A running stream.
pub struct PostgresStream<R> {
    reader: ReadHalf<Box<dyn Duplex>>,
    buffer: BytesMut,
    decoder: Decoder,
    encoders: Arc<EncoderFactory<R>>,
    catalog: Client,
    publication: String,
    positions: Arc<Positions>,
    feedback: JoinHandle<()>,
    look: Interval,
    last_heard: Instant,
}

/// What the feedback says.
#[derive(Default)]
struct Positions {
    received: AtomicU64,
    flushed: AtomicU64,
    send_now: Notify,
}

impl<R: SchemaRegistry> PostgresStream<R> {
    /// Starts to stream from where the slot stands.
    pub async fn start(
        options: &ConnectOptions,
        settings: StreamSettings,
        encoders: Arc<EncoderFactory<R>>,
    ) -> Result<PostgresStream<R>> {
        let catalog = Client::connect(options, Mode::Sql).await?;
        let client = Client::connect(options, Mode::Replication).await?;
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '1', publication_names {})",
            quote_name(&settings.slot),
            quote_text(&quote_name(&settings.publication)),
        );
        let (stream, buffer) = client.start_replication(&command).await?;
        let (reader, writer) = tokio::io::split(stream);
        let positions = Arc::new(Positions::default());
        let mut look = interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(PostgresStream {
            reader,
            buffer,
            decoder: Decoder::new(settings.tables),
            encoders,
            catalog,
            publication: settings.publication,
            feedback: tokio::spawn(send_feedback(writer, positions.clone())),
            positions,
            look,
            last_heard: Instant::now(),
        })
    }

    /// Takes all whole messages from the buffer, up to the end of a batch.
    async fn decode_buffer(&mut self) -> Result<()> {
        let now = now_micros();
        while !self.decoder.is_ready() {
            let frame = split_frame(&mut self.buffer).map_err(|error| lost(&error))?;
            let Some(frame) = frame else { return Ok(()) };
            match frame.tag {
                b'd' => self.copy_data(frame.payload, now).await?,
                b'E' => return Err(ServerError::parse(&frame.payload).into_error("Postgres ended the stream")),
                b'c' | b'C' | b'Z' => return Err(lost(&io::Error::other("the server ended the stream"))),
                _ => {}
            }
        }
        Ok(())
    }

    /// A message inside CopyData: `w` carries log, `k` is a keepalive.
    async fn copy_data(&mut self, mut payload: Bytes, now: i64) -> Result<()> {
        let short = |_| protocol("cannot understand the stream", "a message ends early");
        match payload.try_get_u8().map_err(short)? {
            b'w' => {
                let lsn = Lsn(payload.try_get_u64().map_err(short)?);
                payload.try_get_u64().map_err(short)?;
                payload.try_get_i64().map_err(short)?;
                let message = pgoutput::parse(&payload)
                    .map_err(|error| protocol("cannot understand a message of pgoutput", error.0))?;
                self.positions.received.fetch_max(lsn.0, Ordering::Relaxed);
                match self.decoder.apply(lsn, message, now)? {
                    Next::Continue => Ok(()),
                    Next::LookUp(shape) => {
                        let relation = catalog::relation_of(&mut self.catalog, &shape).await?;
                        let encoder = self.encoders.build(&relation).await?;
                        self.decoder.set_relation(shape.oid, relation, encoder);
                        Ok(())
                    }
                }
            }
            b'k' => {
                let end = Lsn(payload.try_get_u64().map_err(short)?);
                let server_micros = unix_micros(payload.try_get_i64().map_err(short)?);
                let reply_requested = payload.try_get_u8().map_err(short)? != 0;
                self.positions.received.fetch_max(end.0, Ordering::Relaxed);
                self.decoder.caught_up(end, server_micros);
                if reply_requested {
                    self.positions.send_now.notify_one();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn look_around(&mut self) -> Result<()> {
        let end = self.catalog.query_value("SELECT pg_catalog.pg_current_wal_lsn()").await?;
        if let Some(end) = end.and_then(|text| text.parse().ok()) {
            self.decoder.server_end(end);
        }
        let tables = self.decoder.selected();
        for (table, why) in catalog::missing_tables(&mut self.catalog, &self.publication, &tables).await? {
            self.decoder.poison(&table, why);
        }
        Ok(())
    }
}

impl<R: SchemaRegistry> Source for PostgresStream<R> {
    async fn next(&mut self) -> Result<EventBatch> {
        loop {
            self.decode_buffer().await?;
            if let Some(batch) = self.decoder.take() {
                return Ok(batch);
            }
            tokio::select! {
                read = read_more(&mut self.reader, &mut self.buffer) => {
                    read.map_err(|error| lost(&error))?;
                    self.last_heard = Instant::now();
                }
                _ = self.look.tick() => {
                    self.look_around().await?;
                    if self.last_heard.elapsed() > SILENCE_LIMIT {
                        return Err(lost(&io::Error::new(io::ErrorKind::TimedOut, "the server has fallen silent")));
                    }
                }
            }
        }
    }

    fn confirm(&mut self, durable_lsn: Lsn) {
        if self.positions.flushed.fetch_max(durable_lsn.0, Ordering::Relaxed) < durable_lsn.0 {
            self.positions.send_now.notify_one();
        }
    }
}

impl<R> Drop for PostgresStream<R> {
    fn drop(&mut self) {
        self.feedback.abort();
    }
}

/// Reports positions on its own timer, so that the server hears from us while the consumer is busy.
async fn send_feedback(mut writer: WriteHalf<Box<dyn Duplex>>, positions: Arc<Positions>) {
    let mut timer = interval(FEEDBACK_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = positions.send_now.notified() => {}
        }
        let flushed = positions.flushed.load(Ordering::Relaxed);
        let received = positions.received.load(Ordering::Relaxed).max(flushed);
        let message = status_update(Lsn(received), Lsn(flushed), now_micros());
        // A broken connection shows itself to the reader.
        if writer.write_all(&message).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

/// A standby status update inside CopyData. It asks for a reply, which shows that the connection lives.
fn status_update(received: Lsn, flushed: Lsn, now_micros: i64) -> BytesMut {
    let mut message = BytesMut::with_capacity(39);
    message.put_u8(b'd');
    message.put_u32(38);
    message.put_u8(b'r');
    message.put_u64(received.0);
    message.put_u64(flushed.0);
    message.put_u64(flushed.0);
    message.put_i64(postgres_micros(now_micros));
    message.put_u8(1);
    message
}

fn lost(error: &io::Error) -> Error {
    connection_lost("lost the replication stream", error)
}
