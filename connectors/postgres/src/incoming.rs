//! The receive buffer of the stream: messages are decoded in place, without copying.
//!
//! <https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-START-REPLICATION>

use std::io;

use bytes::{Buf, BytesMut};
use sooner_api::Result;
use sooner_schemas::{Lsn, Relation};
use tokio::io::AsyncRead;

use crate::client::{KEPT_BYTES, announced_size, read_some};
use crate::decode::Decoder;
use crate::errors::{ServerError, connection_lost, protocol};
use crate::memory::{ReadLimits, row_too_large};
use crate::pgoutput::{self, RelationShape, unix_micros};
use crate::tracked::Next;

/// Reason why decoding has paused.
#[derive(Debug)]
pub enum Pause {
    /// No whole message is left in the buffer.
    BufferEmpty,
    /// The batch is complete and has to be taken first.
    BatchReady,
    /// The server requests a status update at once.
    ReplyRequested,
    /// A relation has to be looked up in the catalog and set on the decoder; the message that needs it is still in the
    /// buffer.
    RelationNeeded(RelationShape),
    /// A relation has to be set again with a column made nullable; the message that needs it is still in the buffer.
    Relax {
        /// Object id of the relation.
        oid: u32,
        /// The relation, with the column nullable.
        relation: Relation,
    },
}

/// Bytes of a change that say which relation's it is: the frame's header, that of WAL data, and that of the change.
const CHANGE_HEAD_BYTES: usize = 5 + 25 + 5;

/// Received bytes that have not been decoded yet.
pub struct Incoming {
    buffer: BytesMut,
    received_lsn: Lsn,
    limits: ReadLimits,
    /// Bytes to come of a message that is left out: they are dropped as they come.
    dropped_bytes: usize,
}

impl Incoming {
    /// Starts with the bytes that were received together with the answer to START_REPLICATION.
    pub fn new(buffer: BytesMut, limits: ReadLimits) -> Incoming {
        Incoming { buffer, received_lsn: Lsn::ZERO, limits, dropped_bytes: 0 }
    }

    /// The buffer that received bytes are appended to, and the size of the message that has begun in it.
    fn buffer(&mut self) -> (&mut BytesMut, Option<usize>) {
        let size = announced_size(&self.buffer).ok().flatten();
        let size = size.filter(|size| *size <= self.limits.row_bytes && self.dropped_bytes == 0);
        (&mut self.buffer, size)
    }

    /// The buffer, without what was received before.
    pub fn discard(&mut self) -> &mut BytesMut {
        self.buffer.clear();
        &mut self.buffer
    }

    /// Highest LSN that a message of the server has carried so far.
    pub fn received_lsn(&self) -> Lsn {
        self.received_lsn
    }

    /// Decodes whole messages until there is a reason to pause; if the server has ended the stream, returns an error.
    pub fn decode(&mut self, decoder: &mut Decoder, now_micros: i64) -> Result<Pause> {
        let mut consumed = 0;
        let mut was_large = false;
        let pause = loop {
            if decoder.is_ready() {
                break Pause::BatchReady;
            }
            let dropped = self.dropped_bytes.min(self.buffer.len() - consumed);
            self.dropped_bytes -= dropped;
            consumed += dropped;
            let rest = &self.buffer[consumed..];
            let Some(length) = announced_size(rest).map_err(|error| lost(&error))? else { break Pause::BufferEmpty };
            if length > self.limits.row_bytes && rest.len() >= CHANGE_HEAD_BYTES && is_large_change(rest) {
                match refuse(&rest[..CHANGE_HEAD_BYTES], length, decoder, now_micros, &self.limits)? {
                    Some(pause) => break pause,
                    None => self.dropped_bytes = length,
                }
                continue;
            }
            if rest.len() < length {
                break Pause::BufferEmpty;
            }
            was_large |= length > KEPT_BYTES;
            let (tag, payload) = (rest[0], &rest[5..length]);
            let pause = match tag {
                b'd' => copy_data(payload, decoder, now_micros, &mut self.received_lsn)?,
                b'E' => return Err(ServerError::parse(payload).into_error("Postgres ended the stream")),
                b'c' | b'C' | b'Z' => return Err(lost(&io::Error::other("the server ended the stream"))),
                _ => None,
            };
            if !matches!(pause, Some(Pause::Relax { .. } | Pause::RelationNeeded(_))) {
                consumed += length;
            }
            if let Some(pause) = pause {
                break pause;
            }
        };
        self.buffer.advance(consumed);
        if was_large {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Ok(pause)
    }
}

/// Whether a frame that begins so carries a change of a row.
fn is_large_change(frame: &[u8]) -> bool {
    frame[0] == b'd' && frame[5] == b'w' && matches!(frame[30], b'I' | b'U' | b'D')
}

/// Leaves a change out that is too large, and so its table; given how its frame begins, and its size.
fn refuse(
    head: &[u8],
    bytes: usize,
    decoder: &mut Decoder,
    now_micros: i64,
    limits: &ReadLimits,
) -> Result<Option<Pause>> {
    let short = |_| protocol("cannot understand the stream", "a message ends early");
    let (mut lsn, mut oid) = (&head[6..], &head[31..]);
    let (lsn, oid) = (Lsn(lsn.try_get_u64().map_err(short)?), oid.try_get_u32().map_err(short)?);
    Ok(paused(decoder.refuse(oid, lsn, now_micros, |table| row_too_large(table, bytes, limits))?))
}

fn paused(next: Next) -> Option<Pause> {
    match next {
        Next::Continue => None,
        Next::RelationNeeded(shape) => Some(Pause::RelationNeeded(shape)),
        Next::Relax { oid, relation } => Some(Pause::Relax { oid, relation }),
    }
}

/// Handles a message inside CopyData: `w` carries a pgoutput message, `k` is a keepalive, others are ignored.
fn copy_data(mut payload: &[u8], decoder: &mut Decoder, now_micros: i64, received: &mut Lsn) -> Result<Option<Pause>> {
    let short = |_| protocol("cannot understand the stream", "a message ends early");
    match payload.try_get_u8().map_err(short)? {
        b'w' => {
            let lsn = Lsn(payload.try_get_u64().map_err(short)?);
            payload.try_get_u64().map_err(short)?;
            payload.try_get_i64().map_err(short)?;
            *received = lsn.max(*received);
            let message = pgoutput::parse(payload)
                .map_err(|error| protocol("cannot understand a message of pgoutput", error.0))?;
            Ok(paused(decoder.apply(lsn, message, now_micros)?))
        }
        b'k' => {
            let end = Lsn(payload.try_get_u64().map_err(short)?);
            let server_micros = unix_micros(payload.try_get_i64().map_err(short)?);
            let reply_requested = payload.try_get_u8().map_err(short)? != 0;
            *received = end.max(*received);
            decoder.caught_up(end, server_micros);
            Ok(reply_requested.then_some(Pause::ReplyRequested))
        }
        _ => Ok(None),
    }
}

/// Reads once, and appends what has come. Cancelling loses no bytes.
pub async fn read_on<S: AsyncRead + Unpin + ?Sized>(stream: &mut S, incoming: &mut Incoming) -> io::Result<()> {
    let (buffer, size) = incoming.buffer();
    read_some(stream, buffer, size).await
}

/// Error of a stream that has broken off.
pub fn lost(error: &io::Error) -> sooner_api::Error {
    connection_lost("lost the replication stream", error)
}
