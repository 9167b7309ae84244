//! Requests on their way: from the state folder to the source, until what they asked for is durable.

use sooner_api::{CopyAnswer, CopyRequest, EventBatch, Step};
use sooner_schemas::Lsn;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::control::Requests;

/// Requests that the source has been told.
pub struct Asking<'a> {
    requests: &'a Requests,
    source: UnboundedSender<CopyRequest>,
    told: Vec<Told>,
}

struct Told {
    request: CopyRequest,
    progress: Progress,
}

/// How far a request is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// The source works on it.
    Begun,
    /// All rows have been handed on; the next watermark stands after them.
    HandedOn,
    /// It is granted once everything before this LSN is durable.
    Until(Lsn),
}

impl<'a> Asking<'a> {
    /// Nothing has been told yet. Also returns where the source hears of it.
    pub fn new(requests: &'a Requests) -> (Asking<'a>, UnboundedReceiver<CopyRequest>) {
        let (source, heard) = unbounded_channel();
        (Asking { requests, source, told: Vec::new() }, heard)
    }

    /// Tells the source what is new.
    pub fn tell(&mut self) {
        for request in self.requests.pending() {
            if self.told.iter().all(|told| told.request != request) {
                // A source that is gone has told why itself.
                let _ = self.source.send(request.clone());
                self.told.push(Told { request, progress: Progress::Begun });
            }
        }
    }

    /// Takes note of a batch that the log has taken. Returns whether the source cannot grant a request before all
    /// tables have been inspected.
    pub fn note(&mut self, answers: Vec<CopyAnswer>, ends: Ends) -> bool {
        if let Some(end_lsn) = ends.watermark {
            let handed_on = self.told.iter_mut().filter(|told| told.progress == Progress::HandedOn);
            handed_on.for_each(|told| told.progress = Progress::Until(end_lsn));
        }
        for (table, end_lsn) in &ends.copies {
            // Whatever was asked of the table is part of its copy.
            let of_table = self.told.iter_mut().filter(|told| told.request.table == *table);
            of_table.for_each(|told| told.progress = Progress::Until(*end_lsn));
        }
        let mut is_unknown = false;
        for answer in answers {
            match answer {
                CopyAnswer::HandedOn(request) => {
                    let of_request = self.told.iter_mut().filter(|told| told.request == request);
                    of_request.for_each(|told| told.progress = Progress::HandedOn);
                }
                CopyAnswer::Refused(request, error) => {
                    tracing::error!(table = %request.table, code = %error.code, %error, "rows are not copied again");
                    self.requests.forget(std::slice::from_ref(&request));
                    self.told.retain(|told| told.request != request);
                }
                CopyAnswer::Unknown(_) => is_unknown = true,
            }
        }
        is_unknown
    }

    /// Forgets what is durable.
    pub fn grant(&mut self, durable_lsn: Lsn) {
        let is_durable = |told: &Told| matches!(told.progress, Progress::Until(lsn) if durable_lsn >= lsn);
        let granted: Vec<_> = self.told.extract_if(.., |told| is_durable(told)).map(|told| told.request).collect();
        if !granted.is_empty() {
            self.requests.forget(&granted);
        }
    }
}

/// What a batch says of the ends of copies.
#[derive(Default)]
pub struct Ends {
    /// Where whole transactions end with it; none if it says nothing of that.
    watermark: Option<Lsn>,
    /// Tables whose copies end in it, each with where that is.
    copies: Vec<(sooner_schemas::TableName, Lsn)>,
}

impl Ends {
    /// What a batch says.
    pub fn of(batch: &EventBatch) -> Ends {
        let copies = batch.steps.iter().filter_map(|step| match step {
            Step::CopyEnd { table, watermark } => Some((table.clone(), watermark.end_lsn)),
            _ => None,
        });
        Ends { watermark: batch.coverage().map(|coverage| coverage.watermark.end_lsn), copies: copies.collect() }
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, Coverage, Error};
    use sooner_schemas::TableName;
    use sooner_schemas::event::Watermark;

    use super::*;

    fn mark(lsn: u64) -> Watermark {
        Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn), commit_micros: 0 }
    }

    fn request(condition: Option<&str>) -> CopyRequest {
        CopyRequest { table: TableName::new("public", "t"), condition: condition.map(str::to_owned) }
    }

    fn complete(lsn: u64) -> Ends {
        let steps = vec![Step::Complete(Coverage::all(mark(lsn)))];
        Ends::of(&EventBatch { steps, ..EventBatch::default() })
    }

    #[test]
    fn a_request_is_told_once_and_granted_when_what_came_after_its_rows_is_durable() {
        let folder = tempfile::tempdir().unwrap();
        let requests = Requests::new(folder.path());
        let (mut asking, mut source) = Asking::new(&requests);
        let (some, bad) = (request(Some("id < 5")), request(Some("nonsense")));
        requests.ask(&some).unwrap();
        requests.ask(&bad).unwrap();
        asking.tell();
        asking.tell();
        assert_eq!([source.try_recv().unwrap(), source.try_recv().unwrap()], [some.clone(), bad.clone()]);
        assert!(source.try_recv().is_err());
        let refused = CopyAnswer::Refused(bad, Error::operator(Code::PostgresError, "w", "y", "r"));
        assert!(!asking.note(vec![CopyAnswer::HandedOn(some.clone()), refused], complete(10)));
        asking.grant(Lsn(10));
        assert_eq!(requests.pending(), [some], "that watermark came before its rows");
        asking.note(Vec::new(), complete(20));
        asking.grant(Lsn(19));
        assert_eq!(requests.pending().len(), 1);
        asking.grant(Lsn(20));
        assert!(requests.pending().is_empty());
    }

    #[test]
    fn the_end_of_a_tables_copy_grants_all_that_was_asked_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let requests = Requests::new(folder.path());
        let (mut asking, _source) = Asking::new(&requests);
        for condition in [None, Some("id < 5")] {
            requests.ask(&request(condition)).unwrap();
        }
        asking.tell();
        let steps = vec![Step::CopyEnd { table: request(None).table, watermark: mark(30) }];
        assert!(!asking.note(Vec::new(), Ends::of(&EventBatch { steps, ..EventBatch::default() })));
        asking.grant(Lsn(30));
        assert!(requests.pending().is_empty());
        assert!(asking.note(vec![CopyAnswer::Unknown(request(None))], Ends::default()));
    }
}
