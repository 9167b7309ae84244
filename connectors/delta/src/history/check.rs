//! Checks the chain of a history with nothing but its files, in bounded memory: it goes along the numbers window by
//! window, and reads of each file the rows of one window. First it notes the hashes that the rows have, and then makes
//! each again, of the row's values and of the hash of the row before.

use std::collections::BTreeMap;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{Array, RecordBatch};
use futures::StreamExt;
use futures::stream::BoxStream;
use roaring::RoaringBitmap;
use sooner_api::{Class, Error, Result};

use super::chain::{NO_HASH, RowHasher};
use super::checked::{Checked, Fault, Finding};
use super::columns::{ChainPlaces, LSN, ORDINAL, source_columns};
use super::windows::{Known, Window};
use crate::audit::chain::Head;
use crate::audit::digits::{hash_bytes, hex};
use crate::log::live_files::LiveFile;
use crate::log::position_names::sequence_name;
use crate::log::replay::replay;
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::fitting::{fitted, unfit};
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::location::TableLocation;

/// What can be said of a history's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no history.
    Absent,
    /// There is one, and its rows were never chained.
    Unchained,
    /// It was checked.
    Checked(Checked),
}

/// Checks the history that a pipeline keeps at a location. Rows that were erased must name one of these `erasures`, no
/// more of them than it has left where that is known; and the row that a head names must be there still.
pub async fn check(
    location: &TableLocation,
    pipeline: &str,
    erasures: &BTreeMap<String, Option<u64>>,
    head: Option<&Head>,
) -> Result<Outcome> {
    let sequence = sequence_name(pipeline);
    let version = replay(location, &[&sequence]).await?;
    if !version.exists() {
        return Ok(Outcome::Absent);
    }
    let columns = version.columns().to_vec();
    let Some(places) = ChainPlaces::of(&columns) else { return Ok(Outcome::Unchained) };
    let files = version.files().iter().map(|(_, file)| Numbered { file: file.clone(), least: None, most: None });
    let mut checking = Checking {
        location,
        hasher: RowHasher::new(&columns, places),
        columns,
        places,
        files: files.collect(),
        checked: Checked::default(),
        unchained: 0,
        stubs: BTreeMap::new(),
        last: Known { sequence: 0, hash: Some(NO_HASH) },
    };
    let done = checking.run(head, version.txns().get(&sequence).copied()).await;
    done.map_err(|error| unreadable(location, error))?;
    Ok(Outcome::Checked(checking.finish(erasures)))
}

/// A file of the history, with the least and the largest number of its live rows.
struct Numbered {
    file: LiveFile,
    least: Option<i64>,
    most: Option<i64>,
}

struct Checking<'a> {
    location: &'a TableLocation,
    columns: Vec<LakeColumn>,
    places: ChainPlaces,
    hasher: RowHasher,
    files: Vec<Numbered>,
    checked: Checked,
    /// Number of rows that are not chained.
    unchained: u64,
    /// Erasures that rows name: the first of the rows, and how many there are.
    stubs: BTreeMap<String, (i64, u64)>,
    /// The last row that was checked.
    last: Known,
}

impl Checking<'_> {
    async fn run(&mut self, head: Option<&Head>, given: Option<i64>) -> Result<()> {
        self.look_at_numbers().await?;
        let mut next = self.files.iter().filter_map(|file| file.least).min();
        match next {
            Some(first) => self.count_unchained(first).await?,
            None => self.checked.unchained_before = self.unchained,
        }
        while let Some(start) = next {
            let most = self.files.iter().filter_map(|file| file.most).max().unwrap_or(start);
            let mut window = Window::new(start, most, self.last);
            let rows = self.note(&mut window).await?;
            let mut findings = window.gaps();
            findings.extend(self.recompute(&window, &rows).await?);
            findings.extend(head.and_then(|head| window.differs(head)));
            self.checked.tell(findings);
            self.last = window.last();
            next = window.following();
        }
        let known = head.map(|head| head.sequence).into_iter().chain(given).max().unwrap_or_default();
        let last = self.last.sequence;
        if known > last {
            self.checked.tell(vec![Finding { sequence: last + 1, fault: Fault::Missing { to: known } }]);
        }
        Ok(())
    }

    fn finish(mut self, erasures: &BTreeMap<String, Option<u64>>) -> Checked {
        let is_certified = |erasure: &String, rows: u64| {
            erasures.get(erasure).is_some_and(|certified| certified.is_none_or(|certified| rows <= certified))
        };
        let uncertified = self.stubs.iter().filter(|(erasure, (_, rows))| !is_certified(erasure, *rows));
        let findings = uncertified.map(|(erasure, (sequence, rows))| Finding {
            sequence: *sequence,
            fault: Fault::Uncertified { erasure: erasure.clone(), rows: *rows },
        });
        let findings = findings.collect();
        self.checked.tell(findings);
        self.checked.erased = self.stubs.into_iter().map(|(erasure, (_, rows))| (erasure, rows)).collect();
        let hash = self.last.hash.filter(|_| self.checked.rows > 0);
        self.checked.head = hash.map(|hash| Head { sequence: self.last.sequence, hash: hex(&hash) }.to_string());
        self.checked
    }

    /// Learns which numbers each file has, from its rows: statistics might have been changed, too.
    async fn look_at_numbers(&mut self) -> Result<()> {
        for at in 0..self.files.len() {
            let (mut least, mut most, mut chained) = (None, None, 0);
            let mut rows = self.rows_of(at, &[self.places.sequence], None).await?;
            while let Some((batch, live)) = rows.next().await? {
                for number in live.iter().filter_map(|row| number(&batch, 0, *row)) {
                    chained += 1;
                    least = Some(least.map_or(number, |least: i64| least.min(number)));
                    most = most.max(Some(number));
                }
                self.unchained += live.len() as u64;
            }
            self.unchained -= chained;
            self.checked.rows += chained;
            (self.files[at].least, self.files[at].most) = (least, most);
        }
        Ok(())
    }

    /// Tells the rows that are not chained apart: those from before the first of the chain, and those that came after.
    async fn count_unchained(&mut self, first: i64) -> Result<()> {
        if self.unchained == 0 {
            return Ok(());
        }
        let position = |batch: &RecordBatch, row| (number(batch, 1, row), number(batch, 2, row));
        let columns = [self.places.sequence, LSN, ORDINAL];
        let (mut start, mut after) = (None, 0);
        let begins = self.files.iter().position(|file| file.least == Some(first)).unwrap_or_default();
        let mut rows = self.rows_of(begins, &columns, None).await?;
        while let Some((batch, live)) = rows.next().await? {
            let is_first = |row: &&usize| number(&batch, 0, **row) == Some(first);
            start = live.iter().find(is_first).map(|row| position(&batch, *row)).or(start);
        }
        for at in 0..self.files.len() {
            let mut rows = self.rows_of(at, &columns, None).await?;
            while let Some((batch, live)) = rows.next().await? {
                let unchained = live.iter().filter(|row| number(&batch, 0, **row).is_none());
                after += unchained.filter(|row| Some(position(&batch, **row)) > start).count() as u64;
            }
        }
        self.checked.unchained_before = self.unchained - after;
        if after > 0 {
            self.checked.tell(vec![Finding { sequence: first, fault: Fault::Unchained { rows: after } }]);
        }
        Ok(())
    }

    /// Notes the hashes of a window's rows. Returns the positions of these rows, by the place of their file.
    async fn note(&self, window: &mut Window) -> Result<Vec<(usize, Vec<u32>)>> {
        let mut noted = Vec::new();
        for (at, file) in self.files.iter().enumerate() {
            let Some((least, most)) = file.least.zip(file.most) else { continue };
            if !window.meets(least, most) {
                continue;
            }
            let mut positions = Vec::new();
            let mut rows = self.rows_of(at, &[self.places.sequence, self.places.hash], None).await?;
            while let Some((batch, live)) = rows.next().await? {
                let hashes = batch.column(1).as_string::<i32>();
                for row in live {
                    let hash = hashes.is_valid(row).then(|| hash_bytes(hashes.value(row))).flatten();
                    if number(&batch, 0, row).is_some_and(|number| window.note(number, hash)) {
                        positions.extend(rows.position(row));
                    }
                }
            }
            if !positions.is_empty() {
                noted.push((at, positions));
            }
        }
        Ok(noted)
    }

    /// Makes the hashes of a window's rows again, and says which differ.
    async fn recompute(&mut self, window: &Window, noted: &[(usize, Vec<u32>)]) -> Result<Vec<Finding>> {
        let all: Vec<usize> = (0..self.columns.len()).collect();
        let mut findings = Vec::new();
        for (at, positions) in noted {
            let mut rows = self.rows_of(*at, &all, Some(positions)).await?;
            while let Some((batch, live)) = rows.next().await? {
                for row in live {
                    let Some(sequence) = number(&batch, self.places.sequence, row) else { continue };
                    let erasure = batch.column(self.places.erased).as_string::<i32>();
                    let is_changed = if erasure.is_null(row) {
                        window.is_changed(sequence, |previous| self.hasher.hash(previous, &batch, row))
                    } else if self.has_values(&batch, row) {
                        true
                    } else {
                        let (first, count) = self.stubs.entry(erasure.value(row).to_owned()).or_insert((sequence, 0));
                        (*first, *count) = ((*first).min(sequence), *count + 1);
                        false
                    };
                    if is_changed {
                        findings.push(Finding { sequence, fault: Fault::Changed });
                    }
                }
            }
        }
        Ok(findings)
    }

    /// Whether a row has values of its source.
    fn has_values(&self, rows: &RecordBatch, row: usize) -> bool {
        source_columns(&self.columns).any(|(place, _)| rows.column(place).is_valid(row))
    }

    /// Rows of a file with these columns: all that are live, or those at these positions.
    async fn rows_of(&self, at: usize, places: &[usize], positions: Option<&[u32]>) -> Result<FileRows> {
        let file = &self.files[at].file;
        let columns: Vec<_> = places.iter().map(|place| self.columns[*place].clone()).collect();
        let names: Vec<_> = columns.iter().map(LakeColumn::stored_name).collect();
        let stored = StoredFile::open(&self.location.table, &file.path, file.size, positions.is_some()).await?;
        let (schema, path) = (arrow_schema(&columns), file.path.clone());
        let batches = stored.batches(Some(&names), positions, READ_ROWS)?;
        let fitting =
            move |batch: Result<RecordBatch>| fitted(&batch?, &columns, &schema).map_err(|error| unfit(&path, error));
        let deleted = if positions.is_some() { RoaringBitmap::new() } else { file.deleted.clone() };
        Ok(FileRows { batches: batches.map(fitting).boxed(), deleted, first: 0, next: 0 })
    }
}

/// Rows of a file, batch by batch.
struct FileRows {
    batches: BoxStream<'static, Result<RecordBatch>>,
    deleted: RoaringBitmap,
    /// Position of the last batch's first row, and of the row behind it, where all rows are read.
    first: u32,
    next: u32,
}

impl FileRows {
    /// The next batch, and which of its rows are live.
    async fn next(&mut self) -> Result<Option<(RecordBatch, Vec<usize>)>> {
        let Some(batch) = self.batches.next().await.transpose()? else { return Ok(None) };
        (self.first, self.next) = (self.next, self.next + batch.num_rows() as u32);
        let live = (self.first..self.next).zip(0..).filter(|(row, _)| !self.deleted.contains(*row));
        let live = live.map(|(_, row)| row).collect();
        Ok(Some((batch, live)))
    }

    /// Position in the file of a row of the last batch.
    fn position(&self, row: usize) -> Option<u32> {
        u32::try_from(row).ok().map(|row| self.first + row)
    }
}

/// A row's value in a column of whole numbers.
fn number(rows: &RecordBatch, column: usize, row: usize) -> Option<i64> {
    let numbers = rows.column(column).as_primitive_opt::<Int64Type>()?;
    numbers.is_valid(row).then(|| numbers.value(row))
}

/// The same error, with what to do about a history that nobody can copy again.
fn unreadable(location: &TableLocation, error: Error) -> Error {
    if error.class == Class::Retry {
        return error;
    }
    Error::operator(
        error.code,
        format!("cannot check the history at {}", location.url),
        format!("{}: {}", error.what, error.why),
        "find out who changed its files, and restore them from a former version or a backup",
    )
}
