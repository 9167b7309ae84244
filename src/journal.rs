//! The journal of a pipeline: what happened to it and to its tables, and what was done about it. One JSON object a line
//! in `events.jsonl` of the state folder, appended at once, so that a killed process has told everything.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sooner_api::{Code, Error, Fact, Outcome, Side, TableChange, TableState};
use sooner_delta::cuts::Cut;
use sooner_schemas::{Lsn, TableName};

/// Size at which the file is put aside as `events.1.jsonl`, in place of the one before.
pub const FILE_BYTES: u64 = 8 << 20;
/// What the first line of a file says that follows another one: where it starts.
const START: &str = "starts_at";
/// Bytes of such a line, at most.
const START_LINE_BYTES: u64 = 64;
/// Entries that are kept in memory for those who ask the running process.
const RECENT: usize = 1000;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The process began to run the pipeline.
    Started,
    /// From now on it runs with a configuration.
    Configured,
    /// Somebody asked for something through HTTP.
    Asked,
    /// It ended as it was told to.
    Stopped,
    /// It ended for an error that needs a person.
    Failed,
    /// Nothing moves, and it is tried again.
    Interrupted,
    /// It moves again.
    Recovered,
    /// A side rests, because somebody asked for it.
    Paused,
    /// It goes on, because somebody asked for it.
    Resumed,
    /// A table changed at its source.
    TableChanged,
    /// A table takes part no more.
    TableGone,
    /// Rows of a table are being copied.
    CopyStarted,
    /// All of them have been.
    CopyEnded,
    /// A table stopped until a person does something.
    Parked,
    /// A table waits for something before it can be copied.
    Waiting,
    /// A report was made, as its schedule says.
    ReportMade,
    /// A report could not be made.
    ReportFailed,
    /// A cut was made that the running process was asked for.
    CutMade,
    /// Rows were removed from a history that it keeps no longer, or a hold kept them.
    HistoryTrimmed,
    /// A history keeps more than it should, since it cannot be trimmed.
    HistoryKept,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, in microseconds since 1970.
    pub at_micros: i64,
    /// What kind of thing.
    pub kind: Kind,
    /// The table, if it concerns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableName>,
    /// How far the stream had been read, where that says something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// What happened.
    pub what: String,
    /// What is done about it, or has to be done by a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// Code of the error, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// What more is to be known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// Where entries are written. Without a folder they are only remembered.
#[derive(Debug, Default)]
pub struct Journal {
    path: Option<PathBuf>,
    recent: VecDeque<Entry>,
    is_failing: bool,
}

impl Entry {
    /// A side rests, or goes on.
    pub fn of_pause(at_micros: i64, side: Side, rests: bool) -> Entry {
        let named = match side {
            Side::Source => "source",
            Side::Sink => "sink",
        };
        match rests {
            true => Entry::new(at_micros, Kind::Paused, format!("the {named} rests, as somebody asked")),
            false => Entry::new(at_micros, Kind::Resumed, format!("the {named} goes on, as somebody asked")),
        }
    }

    /// An entry of this moment, of no table.
    pub fn new(at_micros: i64, kind: Kind, what: impl Into<String>) -> Entry {
        let (what, action) = (what.into(), String::new());
        Entry { at_micros, kind, table: None, lsn: None, what, action, code: None, details: None }
    }

    /// The process runs with these settings from now on.
    pub fn of_settings(at_micros: i64, settings: Value) -> Entry {
        let digest: String = Sha256::digest(settings.to_string()).iter().map(|byte| format!("{byte:02x}")).collect();
        let what = format!("it runs with the configuration {}", &digest[..16]);
        Entry { details: Some(settings), ..Entry::new(at_micros, Kind::Configured, what) }
    }

    /// The pipeline ended, as it was told to or for an error.
    pub fn of_end(at_micros: i64, error: Option<&Error>) -> Entry {
        match error {
            None => Entry::new(at_micros, Kind::Stopped, "it was told to"),
            Some(error) => Entry::of_error(at_micros, Kind::Failed, error),
        }
    }

    /// An error, and what to do about it.
    pub fn of_error(at_micros: i64, kind: Kind, error: &Error) -> Entry {
        Entry {
            action: error.remedy.clone(),
            code: Some(error.code),
            ..Entry::new(at_micros, kind, format!("{}: {}", error.what, error.why))
        }
    }

    /// The same, of a table.
    pub fn of_table(self, table: &TableName) -> Entry {
        Entry { table: Some(table.clone()), ..self }
    }

    /// What a fact is worth telling by itself, whatever was before it; none if it is not.
    pub fn of_fact(at_micros: i64, fact: &Fact<'_>) -> Option<Entry> {
        Some(match fact {
            Fact::Changed(change) => Entry::of_change(at_micros, change),
            Fact::CopyBegun(table, rows) => {
                let what = match rows {
                    0 => "its rows are copied".to_owned(),
                    rows => format!("its copy goes on after {rows} rows"),
                };
                Entry::new(at_micros, Kind::CopyStarted, what).of_table(table)
            }
            Fact::Interrupted(error) => Entry::of_error(at_micros, Kind::Interrupted, error),
            Fact::ReportFailed(_, error) => Entry::of_error(at_micros, Kind::ReportFailed, error),
            _ => return None,
        })
    }

    /// A cut was made.
    pub fn of_cut(cut: &Cut) -> Entry {
        let what = format!("the cut '{}' was made, of {} tables", cut.name, cut.tables.len());
        let details = json!({ "name": cut.name, "lsn": cut.lsn, "until_millis": cut.until_millis });
        let entry = Entry::new(cut.made_micros, Kind::CutMade, what);
        Entry { lsn: Some(cut.lsn), details: Some(details), ..entry }
    }

    /// A change of a table.
    pub fn of_change(at_micros: i64, change: &TableChange) -> Entry {
        let action = match change.outcome {
            Outcome::Metadata => "the lake table follows, without a copy",
            Outcome::Copied => "its rows are copied",
            Outcome::Waits => "the table waits for a person",
        };
        Entry {
            lsn: change.lsn,
            action: action.to_owned(),
            ..Entry::new(at_micros, Kind::TableChanged, change.what.clone()).of_table(&change.table)
        }
    }

    /// What it means that a table came from one state into another; none if it is not worth telling.
    pub fn of_state(at_micros: i64, table: &TableName, was: Option<&TableState>, is: &TableState) -> Option<Entry> {
        if was.is_some_and(|was| was.name() == is.name()) {
            return None;
        }
        let entry = match is {
            TableState::Parked { error, .. } => Entry::of_error(at_micros, Kind::Parked, error),
            TableState::Waiting { error } => Entry::of_error(at_micros, Kind::Waiting, error),
            TableState::Gone => {
                let what = "it was dropped, or is not selected any more";
                Entry { action: "its lake table stays".into(), ..Entry::new(at_micros, Kind::TableGone, what) }
            }
            TableState::Streaming { .. } if was == Some(&TableState::Copying) => {
                Entry::new(at_micros, Kind::CopyEnded, "all rows are copied")
            }
            TableState::Streaming { .. } | TableState::Copying => return None,
        };
        Some(entry.of_table(table))
    }
}

impl Journal {
    /// A journal that goes on with what its folder has.
    pub fn open(state_dir: &Path) -> Journal {
        let mut recent = VecDeque::from(read(state_dir).unwrap_or_default());
        recent.drain(..recent.len().saturating_sub(RECENT));
        Journal { path: Some(path(state_dir)), recent, is_failing: false }
    }

    /// The last entries, the oldest first.
    pub fn recent(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.recent.iter()
    }

    /// Writes an entry, if there is one.
    pub fn extend(&mut self, entry: Option<Entry>) {
        if let Some(entry) = entry {
            self.write(entry);
        }
    }

    /// Writes an entry, unless it only says of its table, or of the pipeline, again what the one before said. A failure
    /// to write is logged, and no reason to stop.
    pub fn write(&mut self, entry: Entry) {
        let before = self.recent.iter().rev().find(|before| before.table == entry.table);
        let says_same =
            |before: &Entry| (before.kind, &before.what, before.lsn) == (entry.kind, &entry.what, entry.lsn);
        let may_repeat = matches!(entry.kind, Kind::Started | Kind::Asked);
        if !may_repeat && before.is_some_and(says_same) {
            return;
        }
        let written = self.path.as_deref().map_or(Ok(()), |path| append(path, &entry));
        if let Err(error) = &written
            && !self.is_failing
        {
            tracing::warn!(%error, "cannot write to the journal of events");
        }
        self.is_failing = written.is_err();
        self.recent.push_back(entry);
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("events.jsonl")
}

fn former_path(path: &Path) -> PathBuf {
    path.with_file_name("events.1.jsonl")
}

fn append(path: &Path, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    let length = file.metadata()?.len();
    if length >= FILE_BYTES {
        let start = json!({START: start_of(path)? + length});
        std::fs::rename(path, former_path(path))?;
        file = OpenOptions::new().append(true).create(true).open(path)?;
        line.splice(0..0, format!("{start}\n").into_bytes());
    } else if length > 0 && !ends_with_line(path)? {
        // A process died in the middle of a line.
        line.insert(0, b'\n');
    }
    file.write_all(&line)
}

/// Where a journal's newer file starts, counted in bytes of all that was written to the journal: its first line says
/// so, unless it is the first file of its journal, or was begun by a version that did not write that.
pub fn start_of(path: &Path) -> io::Result<u64> {
    let mut first = Vec::new();
    match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => drop(BufReader::new(opened?).take(START_LINE_BYTES).read_until(b'\n', &mut first)?),
    }
    let said = serde_json::from_slice::<Value>(&first).ok().and_then(|line| line.get(START)?.as_u64());
    let former = || std::fs::metadata(former_path(path)).map_or(0, |former| former.len());
    Ok(said.unwrap_or_else(former))
}

/// The files of the journal in a state folder, the older one first.
pub fn files(state_dir: &Path) -> [PathBuf; 2] {
    let path = path(state_dir);
    [former_path(&path), path]
}

fn ends_with_line(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open(path)?;
    let mut last = [0];
    file.read_exact_at(&mut last, file.metadata()?.len().saturating_sub(1))?;
    Ok(last == *b"\n")
}

/// All entries that the folder has, the oldest first; none if there is no journal. A line that was not written whole is
/// left out.
pub fn read(state_dir: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for path in files(state_dir) {
        let file = match std::fs::File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        for line in BufReader::new(file).split(b'\n') {
            entries.extend(serde_json::from_slice::<Entry>(&line?).ok());
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, what: &str) -> Entry {
        Entry::new(1, kind, what)
    }

    #[test]
    fn what_was_written_is_read_whole_lines_only_and_what_repeats_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
        let mut journal = Journal::open(folder.path());
        let (started, interrupted) = (entry(Kind::Started, "a"), entry(Kind::Interrupted, "no server"));
        for entry in [&started, &interrupted, &interrupted, &started] {
            journal.write(entry.clone());
        }
        let told = [started.clone(), interrupted, started.clone()];
        assert_eq!(read(folder.path()).unwrap(), told);
        // A process that died while it wrote leaves a part of a line, which ends with the next one.
        let torn =
            OpenOptions::new().append(true).open(path(folder.path())).and_then(|mut file| file.write_all(b"{\"at"));
        torn.unwrap();
        let mut again = Journal::open(folder.path());
        assert_eq!(again.recent().count(), 3);
        again.write(entry(Kind::Stopped, "b"));
        assert_eq!(read(folder.path()).unwrap().last(), Some(&entry(Kind::Stopped, "b")));
        assert_eq!(read(folder.path()).unwrap().len(), 4);
    }

    #[test]
    fn a_full_journal_is_put_aside_and_still_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(path(folder.path()), vec![b'\n'; FILE_BYTES as usize]).unwrap();
        let mut journal = Journal::open(folder.path());
        journal.write(entry(Kind::Started, "a"));
        assert!(former_path(&path(folder.path())).exists());
        assert_eq!(read(folder.path()).unwrap(), [entry(Kind::Started, "a")]);
    }

    #[test]
    fn a_table_that_parks_is_told_with_its_remedy_and_one_that_stays_as_it_was_is_not() {
        let table = TableName::new("public", "t");
        let error = Error::operator(Code::ShapeChanged, "cannot follow", "no key", "give it one");
        let parked = TableState::Parked { error, copied_lsn: None };
        let told = Entry::of_state(5, &table, Some(&TableState::Copying), &parked).unwrap();
        assert_eq!(
            (told.kind, told.action.as_str(), told.code),
            (Kind::Parked, "give it one", Some(Code::ShapeChanged))
        );
        assert_eq!(Entry::of_state(5, &table, Some(&parked), &parked), None);
        let streaming = TableState::Streaming { copied_lsn: None };
        assert_eq!(Entry::of_state(5, &table, None, &streaming), None, "it went on after a restart");
        assert_eq!(Entry::of_state(5, &table, Some(&TableState::Copying), &streaming).unwrap().kind, Kind::CopyEnded);
    }
}
