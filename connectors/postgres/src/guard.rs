//! What is watched beside the stream, whatever its consumer does: how much log the slot makes the server keep, and
//! whether the server shuts down, which it cannot while it waits for somebody to confirm the end of its log.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytesize::ByteSize;
use sooner_api::{Code, Error, Result, SlotStanding};
use sooner_schemas::Lsn;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::feedback::FeedbackState;
use crate::side_connection::SideConnection;
use crate::slot::{self, PLUGIN, Slot};
use crate::teardown::drop_slot;

/// Interval at which the slot is looked up.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time limit of one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the stream may go on after the server began to shut down: usually all is confirmed by then.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(15);
/// How often it is tried to drop a slot whose stream is just ending.
const DROP_TRIES: u32 = 300;
const DROP_PAUSE: Duration = Duration::from_secs(1);

/// Receives what the slot's standing is, every few seconds.
pub type SlotObserver = Arc<dyn Fn(&SlotStanding) + Send + Sync>;

/// How much log a slot may keep, and what follows.
#[derive(Clone)]
pub struct SlotLimit {
    /// Log in bytes of which a person is warned; from half of it on, too. None for no limit but the server's.
    pub max_retained_bytes: Option<u64>,
    /// A slot beyond that is dropped, and one that was lost replaced: all tables are copied again.
    pub gives_up: bool,
    /// Receives the slot's standing.
    pub observer: SlotObserver,
}

impl SlotLimit {
    /// No limit but the server's own, and nobody who watches.
    pub fn none() -> SlotLimit {
        SlotLimit { max_retained_bytes: None, gives_up: false, observer: Arc::new(|_| {}) }
    }
}

/// How near a slot is to its limit. In order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pressure {
    None,
    /// More than half of it.
    High,
    /// Beyond it.
    Over,
}

/// Watches until the stream has to end, and ends it.
pub struct Guard {
    slot: String,
    limit: SlotLimit,
    connection: SideConnection,
    stream: Arc<FeedbackState>,
    warned: Pressure,
    shutting_down: Option<Instant>,
}

impl Guard {
    /// Watches the slot of a stream.
    pub fn new(slot: &str, limit: SlotLimit, connection: SideConnection, stream: Arc<FeedbackState>) -> Guard {
        Guard { slot: slot.to_owned(), limit, connection, stream, warned: Pressure::None, shutting_down: None }
    }

    /// Runs until the stream is ended here.
    pub async fn run(mut self) {
        let mut timer = interval(INTERVAL);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            let why = match timeout(LOOK_TIMEOUT, self.look()).await {
                Ok(Ok(standing)) => {
                    self.shutting_down = None;
                    self.stream.shuts_down.store(false, Ordering::Relaxed);
                    self.judge(standing)
                }
                Ok(Err(error)) => self.after(&error),
                Err(_) => None,
            };
            if let Some(why) = why {
                let gives_up = why.code == Code::SlotLost;
                self.stream.end(Some(why));
                if gives_up {
                    self.drop_slot().await;
                }
                return;
            }
        }
    }

    async fn look(&mut self) -> Result<Option<SlotStanding>> {
        let mut client = self.connection.take().await?;
        let found = slot::find(&mut client, &self.slot).await?;
        self.connection.give_back(client);
        Ok(found.map(|found| found.standing))
    }

    /// Why the stream has to end, given how its slot stands.
    fn judge(&mut self, standing: Option<SlotStanding>) -> Option<Error> {
        let standing = standing?;
        (self.limit.observer)(&standing);
        let pressure = pressure(&standing, self.limit.max_retained_bytes);
        let is_worse = pressure > std::mem::replace(&mut self.warned, pressure);
        let kept = ByteSize(standing.retained_bytes);
        if self.limit.gives_up && is_over(&standing, &self.limit) {
            return Some(Error::retry(
                Code::SlotLost,
                format!("gave up the slot '{}'", self.slot),
                format!("it made Postgres keep {kept} of log, which is more than max_retained_wal"),
                "nothing: all tables are copied again. Find out what kept sooner from writing",
            ));
        }
        if is_worse {
            let what = match pressure {
                Pressure::Over => "the slot makes Postgres keep more log than max_retained_wal",
                _ => "the slot makes Postgres keep more than half of the log that it may",
            };
            let left_until_lost = standing.safe_bytes.map(|bytes| ByteSize(bytes.max(0).unsigned_abs()).to_string());
            tracing::warn!(slot = self.slot, %kept, left_until_lost, "{what}: sooner, or what it writes to, is slow");
        }
        None
    }

    /// Why the stream has to end after a look failed: the server shuts down.
    fn after(&mut self, error: &Error) -> Option<Error> {
        tracing::debug!(%error, "could not look at the slot");
        // It takes no more connections, though our stream lives.
        if !error.why.contains("SQLSTATE 57P03") {
            return None;
        }
        self.stream.shuts_down.store(true, Ordering::Relaxed);
        let since = *self.shutting_down.get_or_insert_with(Instant::now);
        (since.elapsed() >= SHUTDOWN_GRACE).then(|| error.clone())
    }

    async fn drop_slot(&mut self) {
        for _ in 0..DROP_TRIES {
            // Whoever has made another slot of that name meanwhile keeps it.
            let dropped = async {
                let mut client = self.connection.take().await?;
                match slot::find(&mut client, &self.slot).await? {
                    Some(found) if is_over(&found.standing, &self.limit) => {
                        drop_slot(&mut client, &self.slot).await.map(drop)
                    }
                    _ => Ok(()),
                }
            };
            match timeout(LOOK_TIMEOUT, dropped).await {
                Ok(Ok(())) => {
                    tracing::error!(slot = self.slot, "gave the slot up rather than let Postgres keep more log");
                    return;
                }
                Ok(Err(error)) => tracing::debug!(%error, "cannot drop the slot yet"),
                Err(_) => tracing::debug!("dropping the slot takes long"),
            }
            sleep(DROP_PAUSE).await;
        }
        tracing::error!(slot = self.slot, "could not drop the slot, which keeps log; the next attempt drops it");
    }
}

/// Whether a slot makes the server keep more log than it may, so that dropping it helps: what only an open transaction
/// has kept, the next slot would wait for, too.
pub fn is_over(standing: &SlotStanding, limit: &SlotLimit) -> bool {
    let is_unconfirmed = |limit: u64| standing.unconfirmed_bytes > limit / 2;
    pressure(standing, limit.max_retained_bytes) == Pressure::Over
        && limit.max_retained_bytes.is_some_and(is_unconfirmed)
}

/// Whether a slot is one of ours that is to be replaced: lost, or over its limit, and nobody streams from it.
pub fn is_to_be_dropped(found: &Slot, limit: &SlotLimit, database: &str) -> bool {
    let is_ours = found.plugin.as_deref() == Some(PLUGIN) && found.database.as_deref() == Some(database);
    let is_useless = found.is_lost() || is_over(&found.standing, limit);
    limit.gives_up && is_ours && is_useless && found.active_pid.is_none()
}

/// Where the stream from a slot that exists goes on; of one that is to be replaced, none and the reason. An error for
/// one that cannot be used and is left alone.
pub fn usable(name: &str, found: &Slot, limit: &SlotLimit, database: &str) -> Result<(Option<Lsn>, Option<Error>)> {
    let checked = slot::check(name, found, database);
    if is_to_be_dropped(found, limit, database) {
        return Ok((None, Some(checked.err().unwrap_or_else(|| slot::keeps_too_much(name, found)))));
    }
    Ok((Some(checked?), None))
}

/// How near a slot is to a limit, or to the server's own (`max_slot_wal_keep_size`).
fn pressure(standing: &SlotStanding, limit: Option<u64>) -> Pressure {
    match limit {
        Some(limit) if standing.retained_bytes > limit => Pressure::Over,
        Some(limit) if standing.retained_bytes > limit / 2 => Pressure::High,
        _ if standing.safe_bytes.is_some_and(|safe| safe < standing.retained_bytes as i64) => Pressure::High,
        _ => Pressure::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_either_limit_is_high_and_only_our_own_can_be_exceeded() {
        let standing =
            |retained_bytes, safe_bytes| SlotStanding { retained_bytes, safe_bytes, ..SlotStanding::default() };
        assert_eq!(pressure(&standing(u64::MAX, None), None), Pressure::None);
        assert_eq!(pressure(&standing(50, None), Some(100)), Pressure::None);
        assert_eq!(pressure(&standing(51, None), Some(100)), Pressure::High);
        assert_eq!(pressure(&standing(101, None), Some(100)), Pressure::Over);
        assert_eq!(pressure(&standing(60, Some(40)), None), Pressure::High);
        assert_eq!(pressure(&standing(60, Some(-5)), None), Pressure::High);
        assert_eq!(pressure(&standing(40, Some(60)), Some(100)), Pressure::None);
    }

    #[test]
    fn what_only_an_open_transaction_keeps_is_no_reason_to_give_up() {
        let limit = SlotLimit { max_retained_bytes: Some(100), ..SlotLimit::none() };
        let standing =
            |unconfirmed_bytes| SlotStanding { retained_bytes: 101, unconfirmed_bytes, ..SlotStanding::default() };
        assert!(!is_over(&standing(50), &limit));
        assert!(is_over(&standing(51), &limit));
    }
}
