//! Requests on their way: from the state folder to the source, until what they asked for is durable.

use sooner_api::{Code, CopyAnswer, CopyRequest, EventBatch, Step};
use sooner_schemas::{Lsn, TableName};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::control::Requests;

/// Requests that the source has been told.
pub struct Asking<'a> {
    requests: &'a Requests,
    source: UnboundedSender<CopyRequest>,
    told: Vec<Told>,
    /// Requests that were granted, and could not be removed: nobody is told of them again.
    granted: Vec<CopyRequest>,
    /// Where whole transactions ended at last.
    watermark: Lsn,
    /// The source is told of whole tables, too.
    takes_whole_tables: bool,
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
    /// All rows have been handed on: a watermark beyond this LSN stands after them.
    After(Lsn),
    /// It is granted once everything before this LSN is durable.
    Until(Lsn),
}

impl<'a> Asking<'a> {
    /// Nothing has been told yet. Also returns where the source hears of it. `takes_whole_tables` is false where an
    /// attempt ends for those.
    pub fn new(requests: &'a Requests, takes_whole_tables: bool) -> (Asking<'a>, UnboundedReceiver<CopyRequest>) {
        let (source, heard) = unbounded_channel();
        let asking = Asking {
            requests,
            source,
            told: Vec::new(),
            granted: Vec::new(),
            watermark: Lsn::ZERO,
            takes_whole_tables,
        };
        (asking, heard)
    }

    /// Tells the source what is new.
    pub fn tell(&mut self) {
        let pending = self.requests.pending();
        // Who has removed one by hand may ask again.
        self.granted.retain(|request| pending.contains(request));
        for request in pending {
            let is_taken = self.takes_whole_tables || request.condition.is_some();
            let is_new = !self.granted.contains(&request) && self.told.iter().all(|told| told.request != request);
            if is_taken && is_new {
                // A source that is gone has told why itself.
                let _ = self.source.send(request.clone());
                self.requests.begin(&request);
                self.told.push(Told { request, progress: Progress::Begun });
            }
        }
    }

    /// Takes note of a batch that the log has taken.
    pub fn note(&mut self, answers: Vec<CopyAnswer>, ends: Ends) {
        self.reach(ends.watermark);
        for (table, end_lsn) in &ends.copies {
            // Whatever was asked of the table is part of its copy.
            let after = Progress::After(self.watermark.max(*end_lsn));
            self.told.iter_mut().filter(|told| told.request.table == *table).for_each(|told| told.progress = after);
        }
        // A person asks again for a table that has stopped.
        self.drop_requests(|request| ends.stopped.contains(&request.table));
        for answer in answers {
            match answer {
                CopyAnswer::HandedOn(request) => {
                    let after = Progress::After(self.watermark);
                    self.told.iter_mut().filter(|told| told.request == request).for_each(|told| told.progress = after);
                }
                CopyAnswer::Refused(request, error) => {
                    tracing::error!(table = %request.table, code = %error.code, %error, "rows are not copied again");
                    self.drop_requests(|told| *told == request);
                }
            }
        }
    }

    fn reach(&mut self, watermark: Option<Lsn>) {
        let Some(watermark) = watermark else { return };
        for told in &mut self.told {
            if matches!(told.progress, Progress::After(lsn) if watermark > lsn) {
                told.progress = Progress::Until(watermark);
            }
        }
        self.watermark = self.watermark.max(watermark);
    }

    fn drop_requests(&mut self, ends: impl Fn(&CopyRequest) -> bool) {
        let ended: Vec<_> = self.told.extract_if(.., |told| ends(&told.request)).map(|told| told.request).collect();
        self.forget(&ended);
    }

    fn forget(&mut self, ended: &[CopyRequest]) {
        if !ended.is_empty() {
            self.granted.extend(self.requests.forget(ended));
        }
    }

    /// Forgets what is durable.
    pub fn grant(&mut self, durable_lsn: Lsn) {
        let is_durable = |told: &Told| matches!(told.progress, Progress::Until(lsn) if durable_lsn >= lsn);
        let granted: Vec<_> = self.told.extract_if(.., |told| is_durable(told)).map(|told| told.request).collect();
        self.forget(&granted);
    }
}

/// What a batch says of the ends of copies.
#[derive(Default)]
pub struct Ends {
    /// Where whole transactions end with it; none if it says nothing of that.
    watermark: Option<Lsn>,
    /// Tables whose copies end in it, each with where that is.
    copies: Vec<(TableName, Lsn)>,
    /// Tables that cannot go on.
    stopped: Vec<TableName>,
}

impl Ends {
    /// What a batch says.
    pub fn of(batch: &EventBatch) -> Ends {
        let copies = batch.steps.iter().filter_map(|step| match step {
            Step::CopyEnd { table, watermark } => Some((table.clone(), watermark.end_lsn)),
            _ => None,
        });
        let stopped = batch.steps.iter().filter_map(|step| match step {
            Step::Stop { table, error } if error.code != Code::CopyNeeded => Some(table.clone()),
            _ => None,
        });
        Ends {
            watermark: batch.coverage().map(|coverage| coverage.watermark.end_lsn),
            copies: copies.collect(),
            stopped: stopped.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::{Coverage, Error};
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
        let (mut asking, mut source) = Asking::new(&requests, true);
        let (some, bad) = (request(Some("id < 5")), request(Some("nonsense")));
        requests.ask(&some).unwrap();
        requests.ask(&bad).unwrap();
        asking.tell();
        asking.tell();
        assert_eq!([source.try_recv().unwrap(), source.try_recv().unwrap()], [some.clone(), bad.clone()]);
        assert!(source.try_recv().is_err());
        let refused = CopyAnswer::Refused(bad, Error::operator(Code::PostgresError, "w", "y", "r"));
        asking.note(vec![CopyAnswer::HandedOn(some.clone()), refused], complete(10));
        // The same watermark again says nothing of them.
        asking.note(Vec::new(), complete(10));
        asking.grant(Lsn(10));
        assert_eq!(requests.pending(), [some]);
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
        let (mut asking, _source) = Asking::new(&requests, true);
        for condition in [None, Some("id < 5")] {
            requests.ask(&request(condition)).unwrap();
        }
        asking.tell();
        let steps = vec![Step::CopyEnd { table: request(None).table, watermark: mark(30) }];
        asking.note(Vec::new(), Ends::of(&EventBatch { steps, ..EventBatch::default() }));
        asking.note(Vec::new(), complete(30));
        asking.grant(Lsn(30));
        assert_eq!(requests.pending().len(), 2);
        asking.note(Vec::new(), complete(31));
        asking.grant(Lsn(31));
        assert!(requests.pending().is_empty());
    }

    #[test]
    fn a_table_that_stops_has_to_be_asked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let requests = Requests::new(folder.path());
        let (mut asking, mut source) = Asking::new(&requests, true);
        requests.ask(&request(None)).unwrap();
        asking.tell();
        source.try_recv().unwrap();
        let error = Error::operator(Code::ValueUnholdable, "w", "y", "r");
        let steps = vec![Step::Stop { table: request(None).table, error }];
        asking.note(Vec::new(), Ends::of(&EventBatch { steps, ..EventBatch::default() }));
        assert!(requests.pending().is_empty());
        requests.ask(&request(None)).unwrap();
        asking.tell();
        assert_eq!(source.try_recv().unwrap(), request(None));
    }
}
