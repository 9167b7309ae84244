//! Cuts at positions that have passed, for those who ask a running process for them: requests are files in the state
//! folder, which also reach the process that follows, and are seen to one after the other, beside the stream.

use std::path::Path;
use std::time::{Duration, Instant};

use sooner_api::{Class, Clock, Code, Error, Result};
use sooner_delta::DeltaLake;
use sooner_delta::past_cuts::PastCuts;

use super::past_cut;
use super::upkeep::open_lake;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::cut_desk::CutRequests;
use crate::journal::Entry;
use crate::past_cut_request::PastCutRequest;
use crate::side_thread::SideThread;
use crate::status::{StatusBoard, load};
use crate::told::operator_error;

/// How often it is looked for requests.
const INTERVAL: Duration = Duration::from_millis(500);
/// How often tables of cuts that have ended are looked for.
const SWEEPS: Duration = Duration::from_secs(3600);
/// After the lake could not be reached.
const PAUSE: Duration = Duration::from_secs(5);
/// How long a process takes, at most, until its status has all of its tables again.
const STARTING: Duration = Duration::from_secs(30);

/// Sees to requests as long as what is returned is kept. Each goes by the configuration that the file has by then.
pub fn start(path: &Path, requests: CutRequests, board: StatusBoard) -> Result<SideThread> {
    let path = path.to_owned();
    let (started, started_micros) = (Instant::now(), SystemClock.now_micros());
    SideThread::start("past cuts", move || async move {
        let mut swept = Instant::now();
        loop {
            let mut pause = INTERVAL;
            if swept.elapsed() > SWEEPS {
                swept = Instant::now();
                if let Err(error) = sweep(&path).await {
                    tracing::warn!(error = format!("{error:#}"), "tables of cuts that have ended are still there");
                }
            }
            for request in requests.past() {
                let done = see_to(&path, (&requests, &board), &request).await;
                match done.map_err(|error| operator_error(error, Code::CutImpossible, "cannot make the cut")) {
                    Ok(()) => {}
                    // What the process before this one was asked for waits until this one knows what it knew.
                    Err(error) if request.asked_micros < started_micros && started.elapsed() < STARTING => {
                        tracing::debug!(cut = request.name, %error, "cannot make a cut at a past position yet");
                    }
                    Err(error) if error.class == Class::Retry => {
                        tracing::warn!(cut = request.name, %error, "cannot make a cut at a past position yet");
                        pause = PAUSE;
                    }
                    Err(error) => {
                        tracing::warn!(cut = request.name, %error, "a cut at a past position was not made");
                        requests.fail(&request.name, &error);
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
    })
}

async fn sweep(path: &Path) -> anyhow::Result<()> {
    Ok(PastCuts::of(&open_lake(&Config::load(path)?)?).sweep().await?)
}

/// Makes the cut of a request, unless the process does not know its tables yet.
async fn see_to(
    path: &Path,
    (requests, board): (&CutRequests, &StatusBoard),
    request: &PastCutRequest,
) -> anyhow::Result<()> {
    if request.until_millis.is_some_and(|until| until < SystemClock.now_micros() / 1000) {
        requests.forget(&request.name);
        return Ok(());
    }
    let config = Config::load(path)?;
    if load(&config.state_dir)?.is_none_or(|status| status.tables.is_empty()) {
        return Ok(());
    }
    let lake = open_lake(&config)?;
    if !was_made(&lake, request).await? {
        let cut = past_cut::make(&config, &lake, request, || None).await?;
        tracing::info!(cut = cut.name, lsn = %cut.lsn, tables = cut.tables.len(), "made a cut at a past position");
        board.note(Entry::of_cut(&cut));
    }
    match requests.past().contains(request) {
        true => requests.forget(&request.name),
        // It was withdrawn meanwhile.
        false => drop(lake.drop_cut(&request.name).await?),
    }
    Ok(())
}

/// Whether the process before this one has made the cut, and died before it could say so.
async fn was_made(lake: &DeltaLake, request: &PastCutRequest) -> anyhow::Result<bool> {
    let Some(cut) = lake.cut(&request.name).await? else { return Ok(false) };
    if cut.made_micros < request.asked_micros {
        let (what, why) = (format!("cannot make the cut '{}'", request.name), "there is one of that name by now");
        return Err(Error::operator(Code::CutExists, what, why, "give it another name, or drop that one").into());
    }
    if let Err(error) = PastCuts::of(lake).check_held(&cut).await {
        lake.drop_cut(&cut.name).await?;
        return Err(error.into());
    }
    Ok(true)
}
