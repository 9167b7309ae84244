//! Status updates to the server: how far the stream is read, and what the server may forget.
//!
//! <https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-STANDBY-STATUS-UPDATE>

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use sooner_api::{Error, failpoint};
use sooner_schemas::Lsn;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::now_micros;
use crate::dial::Duplex;
use crate::pgoutput::postgres_micros;

/// Interval of the status updates to the server, which are sent even while the consumer is busy.
const FEEDBACK_INTERVAL: Duration = Duration::from_secs(1);
/// The message Terminate, which ends the stream even while the server waits for us to read.
const FAREWELL: &[u8] = b"X\0\0\0\x04";

/// Positions that the status updates report, shared with the task that sends them.
#[derive(Default)]
pub struct FeedbackState {
    /// Highest LSN that a message of the server has carried.
    pub received: AtomicU64,
    /// The server may forget everything before this LSN; zero while that is not known.
    pub flushed: AtomicU64,
    /// An update is wanted at once.
    pub send_now: Notify,
    /// The server shuts down: whatever is committed in its log is visible when it runs again.
    pub shuts_down: AtomicBool,
    end_now: Notify,
    ended_by_us: Mutex<Option<Error>>,
}

impl FeedbackState {
    /// Ends the stream after one more update; why, if that is no matter of course.
    pub fn end(&self, why: Option<Error>) {
        *self.ended_by_us.lock().unwrap_or_else(PoisonError::into_inner) = why;
        self.end_now.notify_one();
    }

    /// Why the stream was ended by us, if it was.
    pub fn ended_by_us(&self) -> Option<Error> {
        self.ended_by_us.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sends status updates on its own timer, so that the server receives them while the consumer is busy.
pub async fn send_feedback(mut writer: WriteHalf<Box<dyn Duplex>>, reported: Arc<FeedbackState>) {
    let mut timer = interval(FEEDBACK_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut confirmed = reported.flushed.load(Ordering::Relaxed);
    loop {
        // A timed update requests a reply: that proves the connection alive, and advances an idle watermark.
        let (ask, is_last) = tokio::select! {
            biased;
            () = reported.end_now.notified() => (false, true),
            () = reported.send_now.notified() => (false, false),
            _ = timer.tick() => (true, false),
        };
        let flushed = reported.flushed.load(Ordering::Relaxed);
        let received = reported.received.load(Ordering::Relaxed).max(flushed);
        let mut message = status_update(Lsn(received), Lsn(flushed), now_micros(), ask);
        if is_last {
            message.put_slice(FAREWELL);
        }
        // The reader notices a broken connection and reports it.
        if writer.write_all(&message).await.is_err() || writer.flush().await.is_err() {
            return;
        }
        if flushed > confirmed {
            failpoint("slot_confirmed");
            confirmed = flushed;
        }
        if is_last {
            // The reader notices the end.
            let _ = writer.shutdown().await;
            return;
        }
    }
}

/// Builds a standby status update inside a CopyData message.
fn status_update(received: Lsn, flushed: Lsn, now_micros: i64, ask_reply: bool) -> BytesMut {
    let mut message = BytesMut::with_capacity(39 + FAREWELL.len());
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
