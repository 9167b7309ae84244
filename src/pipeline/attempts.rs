//! Attempts, one after the other, until the pipeline is told to stop or a person is needed.

use std::future::Future;
use std::time::{Duration, Instant};

use sooner_api::{Class, Code, Fact, Result, Side, Telemetry};
use tokio::sync::watch;

use crate::control::Requests;

/// The shortest pause between two attempts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// An attempt of this length counts as success: the next pause is short again.
const GOOD_ATTEMPT: Duration = Duration::from_secs(30);
/// How often requests are looked for.
const REQUESTS_INTERVAL: Duration = Duration::from_millis(500);

/// How often a pipeline that is paused looks whether it still is.
const PAUSE_INTERVAL: Duration = Duration::from_secs(1);
/// How often it looks at what goes on beside it.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How an attempt ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// The next one has something to do first: a table has to be copied, or somebody asked for it.
    Again,
}

/// Makes attempts until told to stop. What passes by itself is tried again; what needs a person is returned.
pub async fn attempts<T: Telemetry>(
    telemetry: &T,
    mut stop: watch::Receiver<bool>,
    mut attempt: impl AsyncFnMut(watch::Receiver<bool>) -> Result<End>,
) -> Result<()> {
    let mut pause = SHORTEST_PAUSE;
    while !*stop.borrow() {
        let started = Instant::now();
        match attempt(stop.clone()).await {
            Ok(End::Stopped) => return Ok(()),
            Ok(End::Again) => pause = SHORTEST_PAUSE,
            // Nothing failed: the next attempt sees to it.
            Err(error) if matches!(error.code, Code::TablesChanged | Code::CopyNeeded) => {
                tracing::info!(code = %error.code, %error, "starting over");
                wait(SHORTEST_PAUSE, &mut stop).await;
                pause = SHORTEST_PAUSE;
            }
            Err(error) if error.class == Class::Retry => {
                if started.elapsed() > GOOD_ATTEMPT {
                    pause = SHORTEST_PAUSE;
                }
                tracing::warn!(code = %error.code, %error, "interrupted; trying again in {:.1} s", pause.as_secs_f64());
                telemetry.record(Fact::Interrupted(&error));
                wait(pause, &mut stop).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for about so long, or until the pipeline is told to stop.
async fn wait(pause: Duration, stop: &mut watch::Receiver<bool>) {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))) => {}
    }
}

/// Rests while these sides are paused, and looks `beside` again and again. Returns at once if none is.
pub async fn rest_while_paused<T: Telemetry>(
    telemetry: &T,
    mut stop: watch::Receiver<bool>,
    requests: &Requests,
    sides: &[Side],
    mut beside: impl AsyncFnMut(),
) {
    let is_paused = || sides.iter().any(|side| requests.is_paused(*side));
    let tell = || sides.iter().for_each(|side| telemetry.record(Fact::Paused(*side, requests.is_paused(*side))));
    if !is_paused() {
        tell();
        return;
    }
    tracing::info!("paused");
    let mut looks_at = Instant::now();
    while is_paused() && !*stop.borrow() {
        tell();
        let look = async {
            if looks_at <= Instant::now() {
                beside().await;
                looks_at = Instant::now() + LOOK_INTERVAL;
            }
            tokio::time::sleep(PAUSE_INTERVAL).await;
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            () = look => {}
        }
    }
    tell();
    tracing::info!("going on");
}

/// Ends an attempt when the pipeline is told to stop, a side is paused, or somebody asks for a whole table to be read
/// again, unless nobody is to ask. What had been asked for before this is called, the attempt sees to itself, however
/// long it takes until it has.
pub fn halt_on_request(
    halt: watch::Sender<bool>,
    mut stop: watch::Receiver<bool>,
    requests: Requests,
    sides: &'static [Side],
    takes_tables: bool,
) -> impl Future<Output = ()> + Send + 'static {
    let mut known = requests.whole_tables();
    async move {
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(REQUESTS_INTERVAL) => {
                    if sides.iter().any(|side| requests.is_paused(*side)) {
                        break;
                    }
                    let asked = requests.whole_tables();
                    if takes_tables && asked.iter().any(|table| !known.contains(table)) {
                        break;
                    }
                    // One that was seen to may be asked for again.
                    known.retain(|table| asked.contains(table));
                }
            }
        }
        halt.send_replace(true);
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::{Error, NoTelemetry};

    use super::*;

    fn failure(class: Class) -> Error {
        Error { class, ..Error::retry(Code::PostgresUnreachable, "w", "y", "r") }
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_by_itself_is_tried_again_with_growing_pauses() {
        let (_stop, stopped) = watch::channel(false);
        let mut starts = Vec::new();
        attempts(&NoTelemetry, stopped, async |_| {
            starts.push(tokio::time::Instant::now());
            if starts.len() < 6 { Err(failure(Class::Retry)) } else { Ok(End::Stopped) }
        })
        .await
        .unwrap();
        let pauses: Vec<_> = starts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        assert_eq!(pauses.len(), 5);
        for (pause, expected) in pauses.iter().zip([0.5, 1.0, 2.0, 4.0, 8.0]) {
            assert!((0.79..=1.21).contains(&(pause / expected)), "{pauses:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tables_that_come_and_go_let_nobody_wait_longer_and_longer() {
        let (_stop, stopped) = watch::channel(false);
        let mut starts = Vec::new();
        attempts(&NoTelemetry, stopped, async |_| {
            starts.push(tokio::time::Instant::now());
            let changed = Error { code: Code::TablesChanged, ..failure(Class::Retry) };
            if starts.len() < 6 { Err(changed) } else { Ok(End::Stopped) }
        })
        .await
        .unwrap();
        let pauses: Vec<_> = starts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        assert!(pauses.iter().all(|pause| (0.39..=0.61).contains(pause)), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_needs_a_person_ends_the_attempts() {
        for class in [Class::Operator, Class::Fatal] {
            let (_stop, stopped) = watch::channel(false);
            let ended = attempts(&NoTelemetry, stopped, async |_| Err(failure(class))).await;
            assert_eq!(ended.unwrap_err().class, class);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_a_pause() {
        let (stop, stopped) = watch::channel(false);
        let mut attempted = 0;
        attempts(&NoTelemetry, stopped, async |_| {
            attempted += 1;
            stop.send_replace(true);
            Err(failure(Class::Retry))
        })
        .await
        .unwrap();
        assert_eq!(attempted, 1);
    }
}
