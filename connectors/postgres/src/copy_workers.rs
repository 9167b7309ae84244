//! The workers that read chunks of tables, and what they report.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sooner_api::{Class, Error, Reservation};
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use crate::chunk::{ChunkReader, ChunkSnapshot, CopiedRows, CopiedTable};
use crate::memory::ReadLimits;
use crate::options::ConnectOptions;
use crate::pace::Pace;
use crate::schedule::{Chunk, ChunkEnd, Schedule};
use crate::visibility::Visibility;

/// What all workers share.
pub struct Shared {
    /// How to connect.
    pub options: ConnectOptions,
    /// What reading may take of the memory.
    pub limits: ReadLimits,
    /// What is to be read.
    pub state: Mutex<State>,
    /// There may be something to read.
    pub wake: Notify,
    /// How fast it may be read.
    pub pace: Pace,
}

/// What is to be read.
pub struct State {
    /// What is left.
    pub schedule: Schedule,
    /// The tables, by object id.
    pub tables: HashMap<u32, Arc<CopiedTable>>,
    /// A snapshot that was taken lately.
    pub latest: Arc<Visibility>,
    /// Snapshots of chunks on their way: for one that is not known yet, an earlier one.
    pub in_use: HashMap<u64, Arc<Visibility>>,
}

/// How long rows of a chunk wait for somebody to take them, with its transaction open.
const PATIENCE: Duration = Duration::from_secs(10);

/// What workers report.
pub enum Message {
    /// Rows were read.
    Rows(Arc<Chunk>, Arc<ChunkSnapshot>, CopiedRows),
    /// All rows of a chunk were read.
    Ended(Arc<Chunk>, Arc<ChunkSnapshot>, ChunkEnd),
    /// A chunk could not be read.
    Failed(Arc<Chunk>, Failure),
}

/// Why a chunk could not be read.
#[derive(Debug)]
pub enum Failure {
    /// For this reason.
    Error(Error),
    /// This column is NOT NULL, and holds a NULL that is older than the constraint.
    UnexpectedNull(String),
    /// Nobody has taken its rows for long. Its transaction is not kept open for that.
    Congested,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl Shared {
    /// What is to be read.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads chunks until the receiver is dropped.
    pub async fn work(self: Arc<Shared>, messages: mpsc::Sender<Message>) {
        let mut reader = None;
        loop {
            let (chunk, copied) = self.next_chunk().await;
            let mut bytes = 0;
            let read = self.read(&chunk, &copied, &mut reader, &messages, &mut bytes).await;
            let message = match read {
                Ok((snapshot, end)) => Message::Ended(chunk, snapshot, end),
                Err(failure) => {
                    // Its transaction has failed with it.
                    reader = None;
                    Message::Failed(chunk, failure)
                }
            };
            // Nobody takes it any more only when the source is dropped.
            if messages.send(message).await.is_err() {
                return;
            }
            // With no transaction open.
            self.pace.keep(bytes).await;
        }
    }

    async fn next_chunk(&self) -> (Arc<Chunk>, Arc<CopiedTable>) {
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            woken.as_mut().enable();
            if let Some(found) = self.take_chunk() {
                return found;
            }
            let rests_until = self.state().schedule.rests_until();
            match rests_until {
                None => woken.await,
                Some(until) => tokio::select! {
                    () = woken => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    fn take_chunk(&self) -> Option<(Arc<Chunk>, Arc<CopiedTable>)> {
        let mut state = self.state();
        let chunk = state.schedule.next(Instant::now())?;
        let copied = state.tables.get(&chunk.table).cloned()?;
        let latest = state.latest.clone();
        state.in_use.insert(chunk.id, latest);
        Some((Arc::new(chunk), copied))
    }

    async fn read(
        &self,
        chunk: &Arc<Chunk>,
        copied: &CopiedTable,
        reader: &mut Option<ChunkReader>,
        messages: &mpsc::Sender<Message>,
        bytes: &mut usize,
    ) -> Result<(Arc<ChunkSnapshot>, ChunkEnd), Failure> {
        let reader = match reader {
            Some(reader) => reader,
            // What keeps us from connecting is not the table's fault: it passes, or the stream meets it, too.
            none => none.insert(ChunkReader::open(&self.options).await.map_err(passing)?),
        };
        let started = Instant::now();
        let mut rows = reader.start(copied, &chunk.part).await?;
        let snapshot = rows.snapshot.clone();
        // It cannot be read in parts.
        let is_whole = rows.blocks == Some(0);
        if let Some(earlier) = self.state().in_use.get_mut(&chunk.id) {
            *earlier = Arc::new(snapshot.sees.clone());
        }
        loop {
            let reservation = self.room(rows.batch_bytes(&self.limits).await?, is_whole).await?;
            let mut events = match rows.next().await {
                Ok(Some(events)) => events,
                Ok(None) => break,
                Err(error) => {
                    return Err(rows.unexpected_null.take().map_or(Failure::Error(error), Failure::UnexpectedNull));
                }
            };
            events.reservation = reservation;
            *bytes += events.bytes.len();
            let rows = Message::Rows(chunk.clone(), snapshot.clone(), events);
            // Nobody takes it any more only when the source is dropped, which ends this task.
            if is_whole {
                let _ = messages.send(rows).await;
            } else if let Err(SendTimeoutError::Timeout(_)) = messages.send_timeout(rows, PATIENCE).await {
                return Err(Failure::Congested);
            }
        }
        let blocks = rows.blocks;
        rows.end().await?;
        // A part is to take no longer than that, at the pace that is kept.
        let took = started.elapsed().max(self.pace.duration_of(*bytes));
        Ok((snapshot.clone(), ChunkEnd { snapshot_lsn: snapshot.lsn, blocks, took }))
    }
}

impl Shared {
    /// Room for the next rows of a chunk; of one that can be read again in parts, only if there is some before long.
    async fn room(&self, bytes: usize, is_whole: bool) -> Result<Reservation, Failure> {
        let room = self.limits.copies.reserve(bytes);
        if is_whole {
            return Ok(room.await);
        }
        timeout(PATIENCE, room).await.map_err(|_| Failure::Congested)
    }
}

fn passing(error: Error) -> Error {
    Error { class: Class::Retry, ..error }
}
