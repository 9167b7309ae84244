//! The desk of a running pipeline at which cuts are asked for: requests are files in the state folder, and answers are
//! cuts in the lake, or the reason why there is none.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use sooner_api::{Class, Clock, Error};
use sooner_delta::DeltaLake;
use sooner_delta::cuts::Cut;
use sooner_delta::past_cuts::after_erasures;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::{mpsc, watch};

use crate::clock::SystemClock;
use crate::control::{Requests, remove};
use crate::journal::Entry;
use crate::past_cut_request::PastCutRequest;
use crate::pipeline::cutting::{CutAnswer, CutDesk, CutRequest};
use crate::status::StatusBoard;

/// How often it is looked for requests.
const INTERVAL: Duration = Duration::from_millis(250);
/// So many looks a request is offered, before it is the next one's turn.
const LOOKS_A_TURN: usize = 4;
/// After the lake could not be reached.
const PAUSE: Duration = Duration::from_secs(5);

/// Requests for cuts, as files: they reach a pipeline whether it runs or not.
#[derive(Clone, Debug)]
pub struct CutRequests {
    folder: PathBuf,
}

impl CutRequests {
    /// The requests in a state folder, which need not exist.
    pub fn new(state_dir: &Path) -> CutRequests {
        CutRequests { folder: state_dir.join("cuts") }
    }

    /// Asks for a cut; what was said of one of that name before is forgotten.
    pub fn ask(&self, request: &CutRequest) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        remove(&self.failure_path(&request.name))?;
        // Written beside and then moved in, so that a running pipeline never reads half a request.
        let beside = self.folder.join(format!("{}.asking", request.name));
        std::fs::write(&beside, serde_json::to_vec(request)?)?;
        std::fs::rename(beside, self.request_path(&request.name))
    }

    /// Asks for a cut at a position that has passed; what was said of one of that name before is forgotten.
    pub fn ask_past(&self, request: &PastCutRequest) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        remove(&self.failure_path(&request.name))?;
        let beside = self.folder.join(format!("{}.asking", request.name));
        std::fs::write(&beside, serde_json::to_vec(request)?)?;
        std::fs::rename(beside, self.past_path(&request.name))
    }

    /// The requests for cuts at positions that have passed.
    pub fn past(&self) -> Vec<PastCutRequest> {
        self.ending_in("past").iter().filter_map(|path| read(path)).collect()
    }

    /// Withdraws a request.
    pub fn withdraw(&self, name: &str) -> io::Result<()> {
        remove(&self.past_path(name))?;
        remove(&self.request_path(name))
    }

    /// Withdraws a request, and forgets why there was no cut of that name.
    pub fn dismiss(&self, name: &str) -> io::Result<()> {
        self.withdraw(name)?;
        remove(&self.failure_path(name))
    }

    /// Whether a cut of that name is asked for.
    pub fn is_asked(&self, name: &str) -> bool {
        self.request_path(name).exists() || self.past_path(name).exists()
    }

    /// Asks for a cut of these tables, or of all without any, which has what was committed before a position and before
    /// a moment, where they are named, and is kept until a time.
    pub fn ask_for(
        &self,
        name: &str,
        tables: Vec<TableName>,
        (from_lsn, from_micros): (Option<Lsn>, Option<i64>),
        until_millis: Option<i64>,
    ) -> io::Result<()> {
        self.ask(&CutRequest { name: name.to_owned(), tables, from_lsn, from_micros, until_millis })
    }

    /// Names of the cuts that are asked for.
    pub fn asked(&self) -> Vec<String> {
        let mut names: Vec<_> = ["asked", "past"].iter().flat_map(|ending| self.ending_in(ending)).collect();
        names.sort();
        names.iter().filter_map(|path| name_of(path)).collect()
    }

    /// The cuts that were not made, each with why.
    pub fn failures(&self) -> Vec<(String, Error)> {
        let named = |path: &PathBuf| Some((name_of(path)?, read(path)?));
        self.ending_in("failed").iter().filter_map(named).collect()
    }

    /// Why a cut could not be made, if that was said.
    pub fn failure(&self, name: &str) -> Option<Error> {
        read(&self.failure_path(name))
    }

    /// The request whose turn it is: one that cannot be answered yet keeps nobody waiting. Those whose cuts would not
    /// be kept any more are forgotten.
    fn pending(&self, turn: usize) -> Option<CutRequest> {
        let asked = self.ending_in("asked").iter().filter_map(|path| read(path)).collect::<Vec<CutRequest>>();
        let now_millis = SystemClock.now_micros() / 1000;
        let (expired, mut asked): (Vec<_>, Vec<_>) =
            asked.into_iter().partition(|request| request.until_millis.is_some_and(|until| until < now_millis));
        expired.iter().for_each(|request| self.forget(&request.name));
        (!asked.is_empty()).then(|| asked.swap_remove(turn % asked.len()))
    }

    fn ending_in(&self, ending: &str) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let mut found: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == ending)).collect();
        found.sort();
        found
    }

    /// Says why a cut was not made, and forgets that it was asked for.
    pub fn fail(&self, name: &str, error: &Error) {
        let told = serde_json::to_vec(error).map_err(io::Error::other);
        if let Err(error) = told.and_then(|text| std::fs::write(self.failure_path(name), text)) {
            tracing::warn!(cut = name, %error, "cannot say why a cut was not made");
        }
        self.forget(name);
    }

    /// Forgets a request that was answered.
    pub fn forget(&self, name: &str) {
        if let Err(error) = self.withdraw(name) {
            tracing::warn!(cut = name, %error, "cannot remove a request that was answered");
        }
    }

    fn past_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.past"))
    }

    fn request_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.asked"))
    }

    fn failure_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.failed"))
    }
}

fn name_of(path: &Path) -> Option<String> {
    Some(path.file_stem()?.to_str()?.to_owned())
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Serves requests until the loop's side of the desk is gone. Rows that are being copied over others are in view before
/// their time, so a cut waits until they are not.
pub fn serve_cuts(state_dir: &Path, lake: DeltaLake, board: StatusBoard) -> CutDesk {
    let (requests, copies) = (CutRequests::new(state_dir), Requests::new(state_dir));
    let ((ask, asked), (answers, mut heard)) = (watch::channel(None), mpsc::unbounded_channel());
    tokio::spawn(async move {
        let mut looks = 0;
        while !ask.is_closed() {
            let wanted = if copies.pending().is_empty() { requests.pending(looks / LOOKS_A_TURN) } else { None };
            looks += 1;
            ask.send_if_modified(|known| std::mem::replace(known, wanted.clone()) != wanted);
            match tokio::time::timeout(INTERVAL, heard.recv()).await {
                Ok(Some(answer)) => {
                    // While it is stored, which may take long, nobody is to answer it once more.
                    ask.send_replace(None);
                    take(&requests, &lake, &board, answer).await;
                }
                Ok(None) => break,
                Err(_) => {}
            }
        }
    });
    CutDesk { asked, answers, ..CutDesk::closed() }
}

async fn take(requests: &CutRequests, lake: &DeltaLake, board: &StatusBoard, answer: CutAnswer) {
    let (request, watermark, versions) = match answer {
        CutAnswer::Failed(request, error) => {
            tracing::warn!(cut = request.name, %error, "a cut was not made");
            return requests.fail(&request.name, &error);
        }
        CutAnswer::Found(request, watermark, versions) => (request, watermark, versions),
    };
    let cut = Cut {
        name: request.name.clone(),
        lsn: watermark.commit_lsn,
        commit_micros: watermark.commit_micros,
        made_micros: SystemClock.now_micros(),
        until_millis: request.until_millis,
        tables: Default::default(),
    };
    loop {
        let making = async {
            let versions = after_erasures(lake, versions.clone()).await?;
            lake.make_cut(cut.clone(), versions).await
        };
        match making.await {
            Ok(cut) => {
                tracing::info!(cut = cut.name, lsn = %cut.lsn, tables = cut.tables.len(), "made a cut");
                board.note(Entry::of_cut(&cut));
                return requests.forget(&request.name);
            }
            Err(error) if error.class == Class::Retry => {
                tracing::warn!(cut = request.name, %error, "cannot store a cut yet");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => {
                tracing::warn!(cut = request.name, %error, "a cut was not made");
                return requests.fail(&request.name, &error);
            }
        }
    }
}
