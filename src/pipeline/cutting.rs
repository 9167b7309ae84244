//! Cuts in the sink loop: between two transactions every table is asked for the version that is complete to there, and
//! what they answer is handed to whoever stores it. Without I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sooner_api::{Code, Coverage, Error};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::{mpsc, watch};

use super::lane::Lane;
use super::messages::Versions;

/// Somebody asks for a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutRequest {
    /// Its name.
    pub name: String,
    /// Its tables; all of the pipeline if none are named.
    pub tables: Vec<TableName>,
    /// Everything that was committed before this position is in it.
    pub from_lsn: Option<Lsn>,
    /// Everything that was committed before this moment of the server's clock is in it, in microseconds since 1970.
    #[serde(default)]
    pub from_micros: Option<i64>,
    /// Until when it is kept, in milliseconds since 1970; until it is dropped if none.
    pub until_millis: Option<i64>,
}

/// What became of a request.
#[derive(Debug)]
pub enum CutAnswer {
    /// These versions are complete to the watermark, and hold nothing that came later.
    Found(CutRequest, Watermark, BTreeMap<TableName, Versions>),
    /// It cannot be made.
    Failed(CutRequest, Error),
}

/// Why a request waits, as far as others are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// For nothing that others could do.
    None,
    /// Others read some of its tables' events.
    Others,
    /// They did, and all is read here by now.
    Alone,
}

/// Where requests for cuts come from, and answers go to.
#[derive(Clone, Debug)]
pub struct CutDesk {
    /// The request that waits.
    pub asked: watch::Receiver<Option<CutRequest>>,
    /// Told what it is to others that it waits.
    pub sharing: watch::Sender<Sharing>,
    /// Answers.
    pub answers: mpsc::UnboundedSender<CutAnswer>,
}

impl CutDesk {
    /// A desk at which nobody asks.
    pub fn closed() -> CutDesk {
        let (asked, sharing) = (watch::channel(None).1, watch::channel(Sharing::None).0);
        CutDesk { asked, sharing, answers: mpsc::unbounded_channel().0 }
    }
}

/// A cut on its way.
#[derive(Debug)]
struct Collecting {
    request: CutRequest,
    watermark: Watermark,
    waiting: BTreeSet<usize>,
    versions: BTreeMap<TableName, Versions>,
}

/// The cuts of a loop.
#[derive(Debug)]
pub struct Cutting {
    desk: CutDesk,
    current: Option<Collecting>,
    /// The request that was answered last, which may still lie on the desk.
    answered: Option<CutRequest>,
    /// Everything that was handed on is of whole transactions, up to here.
    between: Option<Coverage>,
    /// Tables that are assigned here and have no lane: they could not be opened.
    unopened: Vec<TableName>,
}

impl Cutting {
    /// Answers the requests of a desk. These tables have no lane, because they could not be opened.
    pub fn new(desk: CutDesk, unopened: Vec<TableName>) -> Cutting {
        Cutting { desk, current: None, answered: None, between: None, unopened }
    }

    /// Everything that is covered has been handed on, and nothing after it; or something after it has.
    pub fn note(&mut self, between: Option<Coverage>) {
        self.between = between;
    }

    /// Begins the cut that is asked for, if it can be made here. Returns the numbers of the lanes whose tables are to
    /// answer, which they do before they take what comes next.
    pub fn begin(&mut self, lanes: &[Lane]) -> Vec<usize> {
        let Some(between) = self.between.as_ref().filter(|between| between.watermark.end_lsn > Lsn::ZERO) else {
            return Vec::new();
        };
        let watermark = between.watermark;
        if self.current.is_some() {
            return Vec::new();
        }
        let Some(request) = self.desk.asked.borrow().clone() else {
            // Whoever asks the same again, once that was dropped, asks anew.
            self.answered = None;
            self.tell(Sharing::None);
            return Vec::new();
        };
        let is_early = request.from_lsn.is_some_and(|from| watermark.end_lsn < from)
            || request.from_micros.is_some_and(|from| watermark.commit_micros < from);
        if is_early || self.answered.as_ref() == Some(&request) {
            return Vec::new();
        }
        if is_any_of(&request, &between.uncut.shared) {
            // Tables of others may be copied: nobody is to wait for that.
            let is_copied = between.except.iter().any(|table| is_meant(&request, table));
            self.tell(if is_copied { Sharing::None } else { Sharing::Others });
            return Vec::new();
        }
        self.desk.sharing.send_if_modified(|known| {
            let was_shared = *known == Sharing::Others;
            *known = if was_shared { Sharing::Alone } else { *known };
            was_shared
        });
        match chosen(&request, lanes, between, &self.unopened) {
            Err(error) => {
                self.answer(CutAnswer::Failed(request, error));
                Vec::new()
            }
            Ok(None) => Vec::new(),
            Ok(Some(numbers)) => {
                let waiting = numbers.iter().copied().collect();
                self.current = Some(Collecting { request, watermark, waiting, versions: BTreeMap::new() });
                numbers
            }
        }
    }

    /// A table answers what it was asked at a watermark. Without versions, it has stopped meanwhile, and the cut is
    /// begun again when it can be.
    pub fn hear(&mut self, number: usize, table: &TableName, at: Watermark, versions: Option<Versions>) {
        let Some(current) = self.current.as_mut().filter(|current| current.watermark == at) else { return };
        if !current.waiting.remove(&number) {
            return;
        }
        let Some(versions) = versions else {
            self.current = None;
            return;
        };
        current.versions.insert(table.clone(), versions);
        if let Some(Collecting { request, watermark, versions, .. }) =
            self.current.take_if(|current| current.waiting.is_empty())
        {
            self.answer(CutAnswer::Found(request, watermark, versions));
        }
    }

    /// A table answers, asked at a watermark, that its partitions are not all read here.
    pub fn refuse(&mut self, table: &TableName, at: Watermark) {
        let Some(Collecting { request, .. }) = self.current.take_if(|current| current.watermark == at) else { return };
        let error = unordered(&request.name, table);
        self.answer(CutAnswer::Failed(request, error));
    }

    fn tell(&self, sharing: Sharing) {
        self.desk.sharing.send_if_modified(|known| std::mem::replace(known, sharing) != sharing);
    }

    fn answer(&mut self, answer: CutAnswer) {
        self.tell(Sharing::None);
        let (CutAnswer::Found(request, ..) | CutAnswer::Failed(request, _)) = &answer;
        self.answered = Some(request.clone());
        // Nobody listens any more only when the pipeline ends; the request is answered by the next one then.
        let _ = self.desk.answers.send(answer);
    }
}

/// Lanes of the tables of a request; none while one of them is being copied, is not covered since it goes over to
/// another topic, or is beyond the watermark: what is read again after a break is in the table already, with what came
/// after it.
fn chosen(
    request: &CutRequest,
    lanes: &[Lane],
    between: &Coverage,
    unopened: &[TableName],
) -> Result<Option<Vec<usize>>, Error> {
    if let Some(table) = unopened.iter().find(|table| is_meant(request, table)) {
        return Err(parked(&request.name, table));
    }
    let mut numbers = Vec::new();
    for (number, lane) in lanes.iter().enumerate().filter(|(_, lane)| is_meant(request, &lane.name)) {
        if between.gone.binary_search(&lane.name).is_ok() && request.tables.is_empty() {
            continue;
        }
        if lane.error().is_some() || between.stopped.binary_search(&lane.name).is_ok() {
            return Err(parked(&request.name, &lane.name));
        }
        if between.gone.binary_search(&lane.name).is_ok() {
            return Err(gone(&request.name, &lane.name));
        }
        if !lane.follows_stream() || !between.applies_to(&lane.name) || lane.is_beyond(between.watermark) {
            return Ok(None);
        }
        numbers.push(number);
    }
    if is_any_of(request, &between.uncut.ahead) {
        return Ok(None);
    }
    let is_known = |table: &&TableName| lanes.iter().any(|lane| lane.name == **table);
    match request.tables.iter().find(|table| !is_known(table)) {
        Some(table) => Err(unknown(&request.name, table)),
        None => Ok(Some(numbers)),
    }
}

fn is_meant(request: &CutRequest, table: &TableName) -> bool {
    request.tables.is_empty() || request.tables.contains(table)
}

fn is_any_of(request: &CutRequest, tables: &BTreeSet<TableName>) -> bool {
    match request.tables.as_slice() {
        [] => !tables.is_empty(),
        named => named.iter().any(|table| tables.contains(table)),
    }
}

/// The error of a request for which others rested, to no end.
pub fn not_alone(name: &str) -> Error {
    let why = "other processes read some of its tables' events, though they were asked to rest, or nobody reads them";
    let remedy = "see that all sinks are of this version and their clocks agree, or stop the others meanwhile";
    failed(name, why.to_owned(), remedy)
}

/// The error of a request that took too long while others rested.
pub fn too_slow(name: &str) -> Error {
    let why = "one sink alone did not get to a position that all of its tables have, while the others rested";
    failed(name, why.to_owned(), "see `sooner status` for what is behind, and ask again when it is not")
}

fn failed(name: &str, why: String, remedy: impl Into<String>) -> Error {
    Error::operator(Code::CutImpossible, format!("cannot make the cut '{name}'"), why, remedy)
}

fn parked(name: &str, table: &TableName) -> Error {
    let remedy =
        format!("see `sooner status` for the reason; then `sooner resume {table}`, or leave it out by --tables");
    failed(name, format!("{table} is parked, so that it is complete to no position"), remedy)
}

fn gone(name: &str, table: &TableName) -> Error {
    let why = format!("{table} is no longer part of the pipeline, so that it is complete to no position");
    failed(name, why, "leave it out by --tables, or read its last version")
}

fn unknown(name: &str, table: &TableName) -> Error {
    failed(name, format!("this pipeline has no table {table} in the lake"), "see `sooner status` for its tables")
}

fn unordered(name: &str, table: &TableName) -> Error {
    let remedy = "read its table from a slot, or through topics that sooner writes: those of others have no positions";
    failed(name, format!("the events of {table} are not read in commit order"), remedy)
}
