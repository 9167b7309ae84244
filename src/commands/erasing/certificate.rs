//! The certificate of an erasure: what was asked for, what was done, which files were searched afterwards, and what is
//! left. It has no value of the subject, only hashes with salts of their own.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sooner_delta::erase::Erased;
use sooner_delta::erasure::search::{LEAST_BYTES, Searched};
use sooner_delta::legal_holds::HashedSubject;
use sooner_kafka::erasure::topics::{ErasedLetters, ErasedTopic};
use sooner_schemas::{Lsn, TableName};

use super::remains::Remains;
use super::reports::FoundRun;

/// What is left as evidence of an erasure.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// Its name.
    pub name: String,
    /// Pipeline of the lake's tables.
    pub pipeline: String,
    /// What wrote it.
    pub written_by: String,
    /// When the erasure began, in milliseconds since 1970.
    pub begun_millis: i64,
    /// When the search had ended, in milliseconds since 1970.
    pub ended_millis: i64,
    /// Whose rows were erased.
    pub subjects: Vec<HashedSubject>,
    /// Erasures of the same subjects that were broken off before, of which this one has done the rest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub completes: Vec<String>,
    /// Position of the source's log at which it had no rows of the subjects, and up to which the lake was complete;
    /// none if that was not waited for.
    pub complete_lsn: Option<Lsn>,
    /// Rows of the subjects that the source has nevertheless, by table.
    pub source_rows: BTreeMap<TableName, u64>,
    /// Cuts that were dropped for it.
    pub cuts_dropped: Vec<String>,
    /// What was done to tables.
    pub tables: Vec<Erased>,
    /// Topics that were searched, with what they have, and the tombstones that were written.
    pub topics: Vec<ErasedTopic>,
    /// The dead letters, if there are any.
    pub dead_letters: Option<ErasedLetters>,
    /// Open dead letters that were dropped.
    pub dead_letters_dropped: usize,
    /// Objects among reports' results that were searched.
    pub report_objects: usize,
    /// Runs of reports whose results held values.
    pub reports: Vec<FoundRun>,
    /// The search of all bytes of the lake afterwards.
    pub search: Search,
    /// What may hold values still.
    pub remains: Vec<Remains>,
    /// Nothing of the subjects was found anywhere: they were erased before, or are written otherwise.
    pub found_nothing: bool,
    /// Whether nothing that was found holds a value.
    pub clean: bool,
}

/// What was searched, and for how much.
#[derive(Clone, Debug, Serialize)]
pub struct Search {
    /// Objects of the lake, all of which were read.
    pub objects: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// SHA-256 over the hashes of the objects.
    pub sha256: String,
    /// Object of the lake that lists each object with its hash.
    pub list: String,
    /// Values that were looked for in the objects' bytes and in unpacked pages of Parquet files.
    pub values: usize,
    /// Values that are too short for that, and were looked for in their columns only.
    pub values_by_column_only: usize,
    /// Parquet files that could not be unpacked.
    pub unreadable: Vec<String>,
}

impl Search {
    /// What a search has seen that was made for so many values.
    pub fn of(searched: &Searched, values: &[&str], list: String) -> Search {
        let long = values.iter().filter(|value| value.len() >= LEAST_BYTES).count();
        Search {
            objects: searched.objects,
            bytes: searched.bytes,
            sha256: searched.sha256.clone(),
            list,
            values: long,
            values_by_column_only: values.len() - long,
            unreadable: searched.unreadable.clone(),
        }
    }
}

impl Certificate {
    /// The same, now that the search has ended, with what may hold values still.
    pub fn ended(self, remains: Vec<Remains>) -> Certificate {
        let nothing_remains = remains.iter().all(|left| !left.found);
        let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Certificate {
            ended_millis: ended.as_millis() as i64,
            found_nothing: nothing_remains && self.has_nothing(),
            clean: nothing_remains && self.search.unreadable.is_empty(),
            remains,
            ..self
        }
    }

    /// Whether nothing was erased, and nothing found that the source still has.
    fn has_nothing(&self) -> bool {
        let is_untouched = |erased: &Erased| {
            let counts = [erased.rows, erased.stubs, erased.log_entries as u64, erased.checkpoints as u64];
            erased.files_deleted.is_empty() && counts == [0; 4]
        };
        let in_letters = |letters: &ErasedLetters| letters.found.letters.is_empty();
        self.tables.iter().all(is_untouched)
            && self.topics.iter().all(|topic| topic.found.messages == 0)
            && self.dead_letters.as_ref().is_none_or(in_letters)
            && (self.reports.is_empty() && self.source_rows.is_empty() && self.completes.is_empty())
            && (self.cuts_dropped.is_empty() && self.search.unreadable.is_empty())
    }

    /// The certificate for a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for erased in &self.tables {
            let kind = if erased.is_history { "history of " } else { "" };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{kind}{}: {} rows erased that readers saw, {} files deleted, {} log entries and {} checkpoints cleaned",
                erased.table,
                erased.rows,
                erased.files_deleted.len(),
                erased.log_entries,
                erased.checkpoints
            );
            if erased.stubs > 0 {
                let _ = writeln!(text, "  {} of the rows stay in the chain without their values", erased.stubs);
            }
        }
        for topic in &self.topics {
            let (found, written) = (&topic.found, topic.tombstones_written);
            let _ = writeln!(
                text,
                "topic {}: {} messages searched, {} of {} rows found, {written} tombstones written",
                topic.topic, found.searched, found.messages, found.rows
            );
        }
        if let Some(letters) = &self.dead_letters {
            let (searched, found) = (letters.found.searched, letters.found.letters.len());
            let dropped = self.dead_letters_dropped;
            let _ = writeln!(
                text,
                "topic {}: {searched} dead letters searched, {found} found, {dropped} open ones dropped",
                letters.topic
            );
        }
        for run in self.reports.iter().filter(|run| run.erased) {
            let _ = writeln!(text, "report {}: the run {} was erased", run.report, run.run);
        }
        let _ = writeln!(text, "searched {} objects, {} bytes", self.search.objects, self.search.bytes);
        if self.search.values_by_column_only > 0 {
            let _ = writeln!(
                text,
                "{} values have less than {LEAST_BYTES} bytes: they were looked for in columns of their name only",
                self.search.values_by_column_only
            );
        }
        for left in &self.remains {
            let _ = writeln!(text, "{}", line(left));
        }
        let is_elsewhere = |left: &Remains| left.place == "topics" || left.place.starts_with("topic ");
        let is_lake_clean = self.remains.iter().all(|left| !left.found || is_elsewhere(left));
        if self.found_nothing {
            let _ = writeln!(
                text,
                "nothing of the subject was found anywhere; if it was not erased before, see that column and value are \
                 written as the lake's readers show them"
            );
        }
        let outcome = match (self.clean, is_lake_clean && self.search.unreadable.is_empty()) {
            (true, _) => "no readable byte of the subject is left in what was searched",
            (false, true) => "no readable byte of the subject is left in the lake; topics have some, see above",
            (false, false) => "something is left, see above",
        };
        let _ = writeln!(text, "{outcome}; certificate '{}'", self.name);
        text
    }
}

/// What remains somewhere, for a person.
pub fn line(left: &Remains) -> String {
    let until = left.until.as_ref().map(|until| format!(", until {until}")).unwrap_or_default();
    let verb = if left.found { "remains" } else { "may remain" };
    format!("{verb} in {}: {}{until}. To do: {}", left.place, left.why, left.to_do)
}
