//! A running pipeline: attempts, one after the other, until it is told to stop or a person is needed.
//!
//! [`direct`] is one process without a broker. With Kafka there are two sides, which may run in one process or on
//! different machines: [`kafka_source`], and [`kafka_sink`], which reads through [`budgeted`]. The loops are the same:
//! [`source`] and [`sink`].

pub mod budgeted;
pub mod control;
pub mod copy;
pub mod copy_source;
pub mod direct;
pub mod kafka_copy;
pub mod kafka_sink;
pub mod kafka_source;
pub mod prepare;
pub mod sink;
pub mod source;
pub mod worker;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sooner_api::{Class, Clock, Result};
use tokio::sync::watch;

use crate::clock::SystemClock;
use crate::status::StatusBoard;

/// How often the slot is confirmed, at most: each time the progress record is stored first.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(5);
/// How often requests are looked for, and the status is written.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The shortest pause between two attempts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// An attempt of this length counts as success: the next pause is short again.
const GOOD_ATTEMPT: Duration = Duration::from_secs(30);

/// How an attempt ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// The next one has something to do first: a table has to be copied, or somebody asked for it.
    Again,
}

/// Makes attempts until told to stop. What passes by itself is tried again; what needs a person is returned.
pub async fn attempts(
    board: &StatusBoard,
    mut stop: watch::Receiver<bool>,
    mut attempt: impl AsyncFnMut(watch::Receiver<bool>) -> Result<End>,
) -> Result<()> {
    let mut pause = SHORTEST_PAUSE;
    while !*stop.borrow() {
        let started = Instant::now();
        match attempt(stop.clone()).await {
            Ok(End::Stopped) => return Ok(()),
            Ok(End::Again) => pause = SHORTEST_PAUSE,
            Err(error) if error.class == Class::Retry => {
                if started.elapsed() > GOOD_ATTEMPT {
                    pause = SHORTEST_PAUSE;
                }
                tracing::warn!(%error, "interrupted; trying again in {:.1} s", pause.as_secs_f64());
                board.update(|status| status.trouble = Some(error.to_string()));
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))) => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ends the attempt when the pipeline is told to stop, or a table is to be resumed.
async fn halt_on_request(halt: watch::Sender<bool>, mut stop: watch::Receiver<bool>, state_dir: PathBuf) {
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            () = tokio::time::sleep(LOOK_INTERVAL) => {
                if !control::requested(&state_dir).is_empty() {
                    break;
                }
            }
        }
    }
    halt.send_replace(true);
}

/// Writes the status again and again.
pub async fn save_status(board: StatusBoard, state_dir: PathBuf) {
    loop {
        if let Err(error) = board.save(&state_dir, SystemClock.now_micros()) {
            tracing::debug!(%error, "cannot write the status");
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
