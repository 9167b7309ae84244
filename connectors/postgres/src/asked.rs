//! What somebody has asked a running source for, and what became of it.

use std::collections::HashSet;

use sooner_api::{Code, CopyAnswer, CopyRequest, Error};
use tokio::sync::mpsc::UnboundedReceiver;

/// Requests on their way.
pub struct Asked {
    /// Tables, by object id, that took no part at the start: nobody takes their rows before all have been inspected.
    pub apart: HashSet<u32>,
    requests: UnboundedReceiver<CopyRequest>,
    /// Requests that wait until their table is not copied.
    waiting: Vec<CopyRequest>,
    answers: Vec<CopyAnswer>,
}

impl Asked {
    /// Nothing has been asked yet.
    pub fn new(apart: HashSet<u32>, requests: UnboundedReceiver<CopyRequest>) -> Asked {
        Asked { apart, requests, waiting: Vec::new(), answers: Vec::new() }
    }

    /// Takes what is new, and what waited.
    pub fn take(&mut self) -> Vec<CopyRequest> {
        let new = std::iter::from_fn(|| self.requests.try_recv().ok());
        std::mem::take(&mut self.waiting).into_iter().chain(new).collect()
    }

    /// A request waits.
    pub fn put_off(&mut self, request: CopyRequest) {
        self.waiting.push(request);
    }

    /// Says what became of a request.
    pub fn answer(&mut self, answer: CopyAnswer) {
        self.answers.push(answer);
    }

    /// Rows can only be copied over those of a table that is followed.
    pub fn refuse(&mut self, request: CopyRequest) {
        let table = &request.table;
        let error = Error::operator(
            Code::TableNotFollowed,
            format!("cannot copy rows of {table}"),
            "it is not followed at the moment: it is parked, or waits",
            format!("`sooner status` says why; `sooner resume {table}` copies all of it"),
        );
        self.answers.push(CopyAnswer::Refused(request, error));
    }

    /// What became of requests, since this was last asked.
    pub fn take_answers(&mut self) -> Vec<CopyAnswer> {
        std::mem::take(&mut self.answers)
    }

    /// Whether something has become of a request.
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }
}
