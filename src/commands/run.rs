//! `sooner run`, `sooner source` and `sooner sink`: run the pipeline or one side of it until SIGTERM or SIGINT.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use sooner_api::{Clock, Result};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};

use super::listening::{listen, origins};
pub use super::sides::Sides;
use super::{trimming, verifying};
use crate::audit::actor::user;
use crate::audit::recorder::Recorder;
use crate::bars::CopyBars;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::control::Requests;
use crate::http::live::Live;
use crate::http::shapes::Shapes;
use crate::journal::{Entry, Kind};
use crate::pipeline::{panicked, run_direct, run_kafka_sink, run_kafka_source};
use crate::reports;
use crate::running::Running;
use crate::status::StatusBoard;

/// How often files of secrets are looked at.
const SECRETS_INTERVAL: Duration = Duration::from_secs(5);

/// Runs these sides of the pipeline until a signal or an error ends them. `recopy` forgets the pipeline's position and
/// copies all tables again. The status is written to the state folder meanwhile, and once more at the end.
///
/// With `bars`, the copies that run are shown on the terminal. At SIGHUP the configuration is read again from `path`.
pub async fn run(
    config: Config,
    path: &Path,
    sides: Sides,
    recopy: bool,
    bars: Option<CopyBars>,
) -> anyhow::Result<()> {
    // With the folder of requests, so that what others put there can be taken out.
    Requests::new(&config.state_dir).prepare().map_err(|error| {
        anyhow::anyhow!(
            "cannot create the state folder {}: {error}. To do: set state_dir to a folder that this process may write.",
            config.state_dir.display()
        )
    })?;
    let stop = stop_on_signal()?;
    let board = StatusBoard::new(&config.name, config.stalled_after());
    let live = Live::new(config.http.as_ref().and_then(|http| http.token.as_deref()));
    let shapes = Shapes::new(origins(&config, sides));
    let listening = listen(&config, (path, sides), &board, (live.clone(), shapes.clone())).await?;
    board.started(&config.state_dir);
    if recopy {
        let what = format!("--recopy was asked for by {}: all tables are copied again", user());
        board.note(Entry::new(SystemClock.now_micros(), Kind::Asked, what));
    }
    let recorder = Recorder::start(&config.state_dir, sides.name());
    let state_dir = config.state_dir.clone();
    let saver = tokio::spawn(board.clone().keep_saving(state_dir.clone()));
    let drawing = bars.map(|bars| tokio::spawn(bars.draw(board.clone())));
    let asks = Asks { stop, hangup: signal(SignalKind::hangup())?, live };
    let taken_over = |config: &Config| shapes.follow(origins(config, sides));
    let result = run_and_reload(config, path, (sides, recopy), (&board, &recorder), asks, taken_over).await;
    saver.abort();
    if let Some(listening) = listening {
        listening.abort();
    }
    if let Some(drawing) = drawing {
        drawing.abort();
    }
    board.ended(result.as_ref().err());
    // The status only informs people; a failure to write it is no reason to fail.
    let _ = board.save(&state_dir);
    recorder.finish().await;
    result?;
    tracing::info!("stopped");
    Ok(())
}

/// What reaches a pipeline from outside, and what outside is told of its configuration.
struct Asks {
    stop: watch::Sender<bool>,
    hangup: Signal,
    live: Live,
}

/// Runs the sides, and starts them anew with each configuration that is read again, which is told to `taken_over`.
async fn run_and_reload(
    mut config: Config,
    path: &Path,
    (sides, recopy): (Sides, bool),
    (board, recorder): (&StatusBoard, &Recorder),
    asks: Asks,
    taken_over: impl Fn(&Config),
) -> Result<()> {
    let Asks { stop, mut hangup, live } = asks;
    // Until all tables are known to be copied, a further configuration copies them, too.
    let recopy = Arc::new(AtomicBool::new(recopy));
    let mut look = tokio::time::interval(SECRETS_INTERVAL);
    let mut first = None;
    loop {
        note(path, &config, &mut first, board);
        recorder.runs(&config);
        live.runs(config.lake.as_ref().map(|lake| lake.url.as_str()), config.kafka.is_some());
        let (halt, mut stopped) = (watch::Sender::new(false), stop.subscribe());
        // Until the next round.
        let _reporting = match sides {
            Sides::Source => None,
            Sides::Both | Sides::Sink => reports::scheduler::start(&config, board)?,
        };
        let _verifying = match sides {
            Sides::Source => None,
            Sides::Both | Sides::Sink => verifying::scheduler::start(&config, board, sides == Sides::Both)?,
        };
        let _trimming = match sides {
            Sides::Source => None,
            Sides::Both | Sides::Sink => trimming::start(&config, board)?,
        };
        let mut running = std::pin::pin!(run_sides(config.clone(), sides, recopy.clone(), board.clone(), halt.clone()));
        let reloaded = loop {
            tokio::select! {
                biased;
                ended = &mut running => return ended,
                _ = stopped.wait_for(|stop| *stop) => break None,
                // A terminal that is closed takes what ran in it along.
                _ = hangup.recv() => if std::io::stderr().is_terminal() {
                    break None;
                } else if let Some(reloaded) = reload(path, &config) {
                    break Some(reloaded);
                },
                _ = look.tick() => if config.secrets.have_changed() {
                    tracing::info!("a secret's file has changed");
                    config.secrets.note();
                    if let Some(reloaded) = reload(path, &config) {
                        break Some(reloaded);
                    }
                },
            }
        };
        halt.send_replace(true);
        let ended = running.await;
        match reloaded {
            Some(reloaded) if !*stop.borrow() => {
                taken_over(&reloaded);
                config = reloaded;
            }
            _ => return ended,
        }
        if let Err(error) = ended {
            tracing::warn!(code = %error.code, %error, "the former configuration ended with this");
        }
    }
}

/// Writes down what runs from now on, for `sooner plan`, and for the audit trail where there is one; the listener goes
/// on as it was at first. A failure to do so is no reason to fail.
fn note(path: &Path, config: &Config, first: &mut Option<Running>, board: &StatusBoard) {
    let written = Running::of(path, config).and_then(|running| {
        let first = first.get_or_insert_with(|| running.clone());
        let running = running.listening_as(first);
        if config.audit.is_some() {
            board.note(Entry::of_settings(running.since_micros, serde_json::to_value(&running.settings)?));
        }
        running.store(&config.state_dir)
    });
    if let Err(error) = written {
        tracing::warn!(%error, "cannot write down the configuration that runs");
    }
}

/// The configuration as it is by now; none, with a reason in the log, if the pipeline cannot take it over.
fn reload(path: &Path, former: &Config) -> Option<Config> {
    let mut config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the configuration is not taken over");
            return None;
        }
    };
    if (&config.name, &config.state_dir) != (&former.name, &former.state_dir) {
        tracing::error!("the configuration is not taken over: name and state_dir need a new start of the process");
        return None;
    }
    let stays = match (&config.http, &former.http) {
        (Some(http), Some(former)) => former.listens_as(http),
        (http, former) => http == former,
    };
    if !stays {
        tracing::warn!("[http] stays as it was until the process starts anew");
        config.http.clone_from(&former.http);
    }
    tracing::info!("the configuration was read again");
    Some(config)
}

async fn run_sides(
    mut config: Config,
    sides: Sides,
    recopy: Arc<AtomicBool>,
    board: StatusBoard,
    stop: watch::Sender<bool>,
) -> Result<()> {
    let stopped = stop.subscribe();
    if sides == Sides::Both && config.kafka.is_none() {
        tracing::info!(pipeline = config.name, "starting, in direct mode");
        return run_direct(config, &recopy, board, stopped).await;
    }
    config.kafka()?;
    tracing::info!(pipeline = config.name, ?sides, "starting");
    let mut running = Vec::new();
    if sides != Sides::Sink {
        let (config, board, stopped) = (config.clone(), board.clone(), stopped.clone());
        running.push(on_a_thread(move |handle| handle.block_on(run_kafka_source(config, &recopy, board, stopped))));
    }
    if sides != Sides::Source {
        if sides == Sides::Sink {
            // A sink without a source takes the resume requests itself.
            config.source = None;
        }
        running.push(on_a_thread(move |handle| handle.block_on(run_kafka_sink(config, board, stopped))));
    }
    // When one side ends, so does the other; the first error counts.
    let (first, _, rest) = futures::future::select_all(running).await;
    stop.send_replace(true);
    let mut result = outcome(first);
    for side in futures::future::join_all(rest).await {
        result = result.and(outcome(side));
    }
    result
}

fn outcome(ended: std::result::Result<Result<()>, oneshot::error::RecvError>) -> Result<()> {
    ended.unwrap_or_else(|_| Err(panicked("a side of the pipeline")))
}

/// Runs one side on a thread of its own, so that neither side waits for the other, nor for Kafka's blocking calls.
fn on_a_thread(work: impl FnOnce(Handle) -> Result<()> + Send + 'static) -> oneshot::Receiver<Result<()>> {
    let (done, result) = oneshot::channel();
    let handle = Handle::current();
    thread::spawn(move || {
        // The receiver is gone only when the process ends.
        let _ = done.send(work(handle));
    });
    result
}

/// Returns a channel whose value becomes true at the first SIGTERM or SIGINT. A second signal ends the process at
/// once, as without a handler.
fn stop_on_signal() -> anyhow::Result<watch::Sender<bool>> {
    let stop = watch::Sender::new(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        asked.send_replace(true);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(stop)
}
