//! What `sooner verify` last found of each table: a file in the state folder, which the command writes whole or not at
//! all, and the pipeline's listener reads. It has a report for each table of the pipeline at most, and a few of the
//! rows that differ: their keys and columns, never their values.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sooner_schemas::{Lsn, TableName};

/// Rows of a table that are kept as examples of what differs.
pub const MOST_EXAMPLES: usize = 20;
/// Characters of a text that are kept: of a key, or of why a table could not be verified.
const MOST_CHARACTERS: usize = 300;
/// Bytes of a file that is read: more than this is not ours.
const MOST_BYTES: u64 = 256 << 20;

/// What became of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Rows differ.
    Different,
    /// It could not be told whether some do.
    Unverified,
    /// None does.
    Equal,
}

/// How a table that differs is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repaired {
    /// The rows that differ are copied again.
    Rows,
    /// The whole table is.
    Table,
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Its key, cut short if it is long.
    pub key: String,
    /// In what: `missing` in the lake, `extra` there, or `values`.
    pub difference: String,
    /// Columns with other values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// What was found of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// What became of it.
    pub verdict: Outcome,
    /// Why it could not be verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// When, in microseconds since 1970.
    pub at_micros: i64,
    /// When its rows were found equal the last time, in microseconds since 1970.
    pub equal_micros: Option<i64>,
    /// Rows that differed when that was known the last time; none if it never was.
    pub differing: Option<u64>,
    /// Some of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<Example>,
    /// How it was asked to be repaired since it was found equal the last time; none if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repaired>,
    /// Rows of the source that were looked at.
    pub rows: u64,
    /// The lake was complete to here at least.
    pub lsn: Option<Lsn>,
    /// Version of the lake table.
    pub version: Option<u64>,
    /// How long it took, in milliseconds.
    pub millis: u64,
}

/// Reports by table.
pub type Reports = BTreeMap<TableName, Verified>;

impl Verified {
    /// The same within its bounds, with what an earlier report knows and this one does not.
    fn after(mut self, former: Option<&Verified>) -> Verified {
        self.examples.truncate(MOST_EXAMPLES);
        let texts = self.examples.iter_mut().map(|example| &mut example.key).chain(&mut self.why);
        for text in texts.filter(|text| text.chars().count() > MOST_CHARACTERS) {
            *text = text.chars().take(MOST_CHARACTERS).chain(['…']).collect();
        }
        match self.verdict {
            Outcome::Equal => (self.equal_micros, self.differing) = (Some(self.at_micros), Some(0)),
            Outcome::Different => {
                self.equal_micros = former.and_then(|former| former.equal_micros);
                self.repair = self.repair.or(former.and_then(|former| former.repair));
            }
            Outcome::Unverified => {
                self.equal_micros = former.and_then(|former| former.equal_micros);
                self.differing = former.and_then(|former| former.differing);
                self.repair = former.and_then(|former| former.repair);
            }
        }
        self
    }
}

/// The file of a state folder.
fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("verifications.json")
}

fn load(path: &Path) -> io::Result<Reports> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reports::new()),
        read => read?,
    };
    Ok(serde_json::from_slice(&text)?)
}

/// Adds reports to those of a state folder, and takes out those of tables that are not among `tables` any more. Two
/// that do so at the same time wait for each other. A file that cannot be understood is replaced.
pub fn store(state_dir: &Path, found: Reports, tables: &BTreeSet<TableName>) -> io::Result<()> {
    std::fs::create_dir_all(state_dir)?;
    let path = file(state_dir);
    let lock = File::create(path.with_extension("lock"))?;
    lock.lock()?;
    let mut reports = load(&path).unwrap_or_default();
    reports.retain(|table, _| tables.contains(table));
    for (table, report) in found {
        let report = report.after(reports.get(&table));
        reports.insert(table, report);
    }
    let beside = path.with_extension("json.new");
    std::fs::write(&beside, serde_json::to_vec(&reports)?)?;
    std::fs::rename(beside, path)
}

/// The reports of a state folder, read again when the file is another one. Clones share them.
#[derive(Clone, Debug)]
pub struct ReportsView {
    path: Arc<Path>,
    known: Arc<Mutex<(Option<Stamp>, Arc<Reports>)>>,
}

/// What tells a file from the one before it: each is written beside, and moved to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &Metadata) -> Stamp {
        Stamp { inode: file.ino(), bytes: file.len(), modified: (file.mtime(), file.mtime_nsec()) }
    }
}

impl ReportsView {
    /// The reports of a state folder, which need not have any.
    pub fn new(state_dir: &Path) -> ReportsView {
        ReportsView { path: file(state_dir).into(), known: Arc::default() }
    }

    /// The reports as they are now; the error says why they are not known.
    pub fn read(&self) -> io::Result<Arc<Reports>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(Stamp::of(&found?)),
        };
        if stamp.is_some_and(|stamp| stamp.bytes > MOST_BYTES) {
            return Err(io::Error::other("the file is too large"));
        }
        if known.0 != stamp {
            *known = (stamp, Arc::new(load(&self.path)?));
        }
        Ok(known.1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdict: Outcome, at_micros: i64) -> Verified {
        Verified {
            verdict,
            why: None,
            at_micros,
            equal_micros: None,
            differing: (verdict == Outcome::Different).then_some(3),
            examples: Vec::new(),
            repair: None,
            rows: 9,
            lsn: Some(Lsn(7)),
            version: Some(1),
            millis: 5,
        }
    }

    fn name(table: &str) -> TableName {
        TableName::new("public", table)
    }

    #[test]
    fn reports_are_kept_for_each_table_and_say_when_it_was_equal_last() {
        let folder = tempfile::tempdir().unwrap();
        let (view, both) = (ReportsView::new(folder.path()), BTreeSet::from([name("a"), name("b")]));
        assert!(view.read().unwrap().is_empty());
        let note = |table: &str, report: Verified, tables: &BTreeSet<TableName>| {
            store(folder.path(), Reports::from([(name(table), report)]), tables).unwrap();
            view.read().unwrap()
        };
        note("b", report(Outcome::Equal, 5), &both);
        let reports = note("a", report(Outcome::Equal, 10), &both);
        assert_eq!((reports[&name("a")].equal_micros, reports[&name("a")].differing), (Some(10), Some(0)));
        let reports = note("a", report(Outcome::Different, 20), &both);
        assert_eq!((reports[&name("a")].equal_micros, reports[&name("a")].differing), (Some(10), Some(3)));
        note("a", Verified { repair: Some(Repaired::Rows), ..report(Outcome::Different, 25) }, &both);
        note("a", report(Outcome::Different, 27), &both);
        let reports = note("a", report(Outcome::Unverified, 30), &both);
        let of = &reports[&name("a")];
        assert_eq!(of.repair, Some(Repaired::Rows), "it may not have helped");
        assert_eq!((of.verdict, of.equal_micros, of.differing), (Outcome::Unverified, Some(10), Some(3)), "no pass");
        assert_eq!(reports.len(), 2);
        let reports = note("a", report(Outcome::Equal, 40), &BTreeSet::from([name("a")]));
        assert_eq!(reports[&name("a")].repair, None);
        assert_eq!(
            reports.keys().collect::<Vec<_>>(),
            [&name("a")],
            "the other is not a table of the pipeline any more"
        );
    }

    #[test]
    fn a_report_is_bounded_and_a_file_of_others_is_told_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let example = Example { key: "k".repeat(5000), difference: "missing".to_owned(), columns: Vec::new() };
        let examples = vec![example; 90];
        let found = Verified { examples, why: Some("y".repeat(5000)), ..report(Outcome::Different, 1) };
        let tables = BTreeSet::from([name("a")]);
        std::fs::write(file(folder.path()), "no JSON").unwrap();
        let view = ReportsView::new(folder.path());
        assert!(view.read().is_err());
        store(folder.path(), Reports::from([(name("a"), found)]), &tables).unwrap();
        let reports = view.read().unwrap();
        let of = &reports[&name("a")];
        assert_eq!((of.examples.len(), of.examples[0].key.chars().count()), (MOST_EXAMPLES, MOST_CHARACTERS + 1));
        assert!(std::fs::metadata(file(folder.path())).unwrap().len() < 10_000);
    }
}
