//! Cuts in the sink loop: between two transactions every table is asked for the version that is complete to there, and
//! what they answer is handed to whoever stores it. Without I/O.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sooner_api::{Code, Coverage, CutStanding, Error};
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

/// Where requests for cuts come from, and answers go to.
#[derive(Clone, Debug)]
pub struct CutDesk {
    /// The request that waits.
    pub asked: watch::Receiver<Option<CutRequest>>,
    /// Told whether it waits because others read some of the tables' events.
    pub shared: watch::Sender<bool>,
    /// Answers.
    pub answers: mpsc::UnboundedSender<CutAnswer>,
}

impl CutDesk {
    /// A desk at which nobody asks.
    pub fn closed() -> CutDesk {
        let (asked, shared) = (watch::channel(None).1, watch::channel(false).0);
        CutDesk { asked, shared, answers: mpsc::unbounded_channel().0 }
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
            self.tell_shared(false);
            return Vec::new();
        };
        let is_early = request.from_lsn.is_some_and(|from| watermark.end_lsn < from)
            || request.from_micros.is_some_and(|from| watermark.commit_micros < from);
        if is_early || self.answered.as_ref() == Some(&request) {
            return Vec::new();
        }
        let chosen = chosen(&request, lanes, between, &self.unopened);
        let is_shared = between.cut == CutStanding::Shared;
        match chosen {
            _ if is_shared => {
                // Tables of others may be copied: nobody is to wait for that.
                let is_copied = |table: &TableName| request.tables.is_empty() || request.tables.contains(table);
                self.tell_shared(!between.except.iter().any(is_copied));
                Vec::new()
            }
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

    fn tell_shared(&self, is_shared: bool) {
        self.desk.shared.send_if_modified(|known| std::mem::replace(known, is_shared) != is_shared);
    }

    fn answer(&mut self, answer: CutAnswer) {
        self.tell_shared(false);
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
    let is_meant = |table: &&TableName| request.tables.is_empty() || request.tables.contains(table);
    if let Some(table) = unopened.iter().find(is_meant) {
        return Err(parked(&request.name, table));
    }
    let mut numbers = Vec::new();
    for (number, lane) in lanes.iter().enumerate() {
        if !is_meant(&&lane.name) {
            continue;
        }
        if lane.error().is_some() {
            return Err(parked(&request.name, &lane.name));
        }
        if between.cut != CutStanding::Whole
            || !lane.follows_stream()
            || !between.applies_to(&lane.name)
            || lane.is_beyond(between.watermark)
        {
            return Ok(None);
        }
        numbers.push(number);
    }
    let is_known = |table: &&TableName| lanes.iter().any(|lane| lane.name == **table);
    match request.tables.iter().find(|table| !is_known(table)) {
        Some(table) => Err(unknown(&request.name, table)),
        None => Ok(Some(numbers)),
    }
}

fn failed(name: &str, why: String, remedy: impl Into<String>) -> Error {
    Error::operator(Code::CutImpossible, format!("cannot make the cut '{name}'"), why, remedy)
}

fn parked(name: &str, table: &TableName) -> Error {
    let remedy =
        format!("see `sooner status` for the reason; then `sooner resume {table}`, or leave it out by --tables");
    failed(name, format!("{table} is parked, so that it is complete to no position"), remedy)
}

fn unknown(name: &str, table: &TableName) -> Error {
    failed(name, format!("this pipeline has no table {table} in the lake"), "see `sooner status` for its tables")
}

fn unordered(name: &str, table: &TableName) -> Error {
    let remedy = "read its table from a slot, or through topics that sooner writes: those of others have no positions";
    failed(name, format!("the events of {table} are not read in commit order"), remedy)
}

#[cfg(test)]
mod tests {
    use sooner_api::{TableFact, TableState};

    use super::*;

    fn mark(lsn: u64) -> Watermark {
        Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_micros: 0 }
    }

    fn lane(name: &str) -> Lane {
        Lane::new(TableName::new("public", name), TableState::Streaming { copied_lsn: None }, Watermark::default())
    }

    fn desk() -> (watch::Sender<Option<CutRequest>>, mpsc::UnboundedReceiver<CutAnswer>, Cutting) {
        let ((ask, asked), (answers, heard)) = (watch::channel(None), mpsc::unbounded_channel());
        (ask, heard, Cutting::new(CutDesk { asked, answers, ..CutDesk::closed() }, Vec::new()))
    }

    fn request(tables: &[&str]) -> CutRequest {
        let tables = tables.iter().map(|table| TableName::new("public", *table)).collect();
        CutRequest { name: "q3".to_owned(), tables, from_lsn: None, from_micros: None, until_millis: None }
    }

    #[test]
    fn a_cut_is_made_between_transactions_once_all_tables_have_answered() {
        let (ask, mut heard, mut cutting) = desk();
        let lanes = [lane("a"), lane("b")];
        ask.send_replace(Some(request(&[])));
        cutting.note(None);
        assert!(cutting.begin(&lanes).is_empty(), "inside a transaction");
        cutting.note(Some(Coverage::all(mark(20))));
        assert_eq!(cutting.begin(&lanes), [0, 1]);
        assert!(cutting.begin(&lanes).is_empty(), "it is on its way");
        cutting.note(None);
        cutting.hear(1, &lanes[1].name, mark(20), Some((Some(7), None)));
        assert!(heard.try_recv().is_err());
        cutting.hear(0, &lanes[0].name, mark(20), Some((Some(3), Some(2))));
        let Ok(CutAnswer::Found(_, watermark, versions)) = heard.try_recv() else { panic!("no answer") };
        assert_eq!((watermark, versions.len(), versions[&lanes[0].name]), (mark(20), 2, (Some(3), Some(2))));
        cutting.note(Some(Coverage::all(mark(30))));
        assert!(cutting.begin(&lanes).is_empty(), "it is answered once");
        ask.send_replace(None);
        assert!(cutting.begin(&lanes).is_empty());
        ask.send_replace(Some(request(&[])));
        assert_eq!(cutting.begin(&lanes), [0, 1], "it was dropped, and is asked for again");
    }

    #[test]
    fn a_cut_waits_for_copies_and_for_its_position_and_fails_for_what_needs_a_person() {
        let (ask, mut heard, mut cutting) = desk();
        let mut lanes = [lane("a"), lane("b")];
        cutting.note(Some(Coverage::all(mark(20))));
        ask.send_replace(Some(CutRequest { from_lsn: Some(Lsn(29)), ..request(&[]) }));
        assert!(cutting.begin(&lanes).is_empty());
        ask.send_replace(Some(CutRequest { from_micros: Some(1), ..request(&[]) }));
        assert!(cutting.begin(&lanes).is_empty(), "what is read is older");
        ask.send_replace(Some(request(&[])));
        lanes[0].begin_copy();
        lanes[0].step(TableFact::CopyBegun);
        assert!(cutting.begin(&lanes).is_empty() && heard.try_recv().is_err());
        ask.send_replace(Some(request(&["b"])));
        assert_eq!(cutting.begin(&lanes), [1], "that one is not copied");
        cutting.hear(1, &lanes[1].name, mark(20), None);
        assert_eq!(cutting.begin(&lanes), [1], "it stopped meanwhile, and is asked again");
        cutting.refuse(&lanes[1].name, mark(20));
        assert!(matches!(heard.try_recv(), Ok(CutAnswer::Failed(..))));
        ask.send_replace(Some(request(&["c"])));
        assert!(cutting.begin(&lanes).is_empty() && matches!(heard.try_recv(), Ok(CutAnswer::Failed(..))));
        lanes[1].step(TableFact::Failed(Error::operator(Code::ShapeChanged, "w", "y", "r")));
        ask.send_replace(Some(request(&["b", "b"])));
        assert!(cutting.begin(&lanes).is_empty() && matches!(heard.try_recv(), Ok(CutAnswer::Failed(..))));
    }

    #[test]
    fn a_cut_waits_until_what_is_read_again_has_passed_what_every_table_holds() {
        let (ask, _heard, mut cutting) = desk();
        let mut ahead = lane("ahead");
        ahead.note_reached(Lsn(30));
        let lanes = [lane("a"), ahead];
        ask.send_replace(Some(request(&[])));
        cutting.note(Some(Coverage::all(mark(20))));
        assert!(cutting.begin(&lanes).is_empty(), "one of them holds what comes after it");
        ask.send_replace(Some(request(&["a"])));
        assert_eq!(cutting.begin(&lanes), [0], "the other alone");
        cutting.hear(0, &lanes[0].name, mark(20), Some((Some(7), None)));
        ask.send_replace(Some(request(&[])));
        cutting.note(Some(Coverage::all(mark(30))));
        assert_eq!(cutting.begin(&lanes), [0, 1]);
    }

    #[test]
    fn a_cut_waits_for_a_table_whose_last_events_stand_in_a_topic_that_is_not_read_yet() {
        let (ask, _heard, mut cutting) = desk();
        let lanes = [lane("a"), lane("b")];
        let elsewhere = vec![lanes[1].name.clone()];
        ask.send_replace(Some(request(&[])));
        cutting.note(Some(Coverage { elsewhere: elsewhere.clone(), ..Coverage::all(mark(20)) }));
        assert!(cutting.begin(&lanes).is_empty());
        cutting.note(Some(Coverage::all(mark(30))));
        assert_eq!(cutting.begin(&lanes), [0, 1]);
    }

    #[test]
    fn what_a_table_answers_to_a_former_question_is_no_answer() {
        let (ask, mut heard, mut cutting) = desk();
        let lanes = [lane("a")];
        ask.send_replace(Some(request(&[])));
        cutting.note(Some(Coverage::all(mark(20))));
        assert_eq!(cutting.begin(&lanes), [0]);
        cutting.hear(0, &lanes[0].name, mark(20), None);
        cutting.note(Some(Coverage::all(mark(30))));
        assert_eq!(cutting.begin(&lanes), [0]);
        cutting.hear(0, &lanes[0].name, mark(20), Some((Some(1), None)));
        cutting.refuse(&lanes[0].name, mark(20));
        assert!(heard.try_recv().is_err());
        cutting.hear(0, &lanes[0].name, mark(30), Some((Some(2), None)));
        assert!(matches!(heard.try_recv(), Ok(CutAnswer::Found(..))));
    }
}
