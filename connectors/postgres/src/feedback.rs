//! Status updates to the server: how far the stream is read, and what the server may forget.
//!
//! <https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-STANDBY-STATUS-UPDATE>

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use sooner_api::failpoint;
use sooner_schemas::Lsn;
use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::now_micros;
use crate::dial::Duplex;
use crate::pgoutput::postgres_micros;

/// Interval of the status updates to the server, which are sent even while the consumer is busy.
const FEEDBACK_INTERVAL: Duration = Duration::from_secs(1);
/// Positions that the status updates report, shared with the task that sends them.
#[derive(Default)]
pub struct FeedbackState {
    /// Highest LSN that a message of the server has carried.
    pub received: AtomicU64,
    /// The server may forget everything before this LSN; zero while that is not known.
    pub flushed: AtomicU64,
    /// An update is wanted at once.
    pub send_now: Notify,
}

/// Sends status updates on its own timer, so that the server receives them while the consumer is busy.
pub async fn send_feedback(mut writer: WriteHalf<Box<dyn Duplex>>, reported: Arc<FeedbackState>) {
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
