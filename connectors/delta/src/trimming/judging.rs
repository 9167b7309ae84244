//! Judges the rows of a history's files, part by part of its keys, so that few of them are in memory at once.

use std::collections::BTreeMap;

use futures::StreamExt;
use roaring::RoaringBitmap;
use sooner_api::Result;

use super::event_rows::EventColumns;
use super::reach::{OldFile, Reach};
use super::rule::{At, EventRow, Key, Keys, Verdict};
use super::unsent::UnsentSets;
use crate::index::key_index::FileId;
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::location::TableLocation;

/// What goes of a history.
#[derive(Debug, Default)]
pub struct Judged {
    /// Rows of files.
    pub goes: BTreeMap<FileId, RoaringBitmap>,
    /// Rows that would go, by the names of the holds that keep them.
    pub held: BTreeMap<String, u64>,
    /// LSN of the last event that was judged, and the latest commit time among them, in microseconds since 1970.
    pub last: Option<(i64, i64)>,
}

/// What is known of the rows that are judged for the first time.
#[derive(Clone, Copy, Debug, Default)]
struct NewRows {
    count: u64,
    restarted: Option<At>,
    last: Option<(i64, i64)>,
}

/// A history whose rows are judged.
pub struct Judging<'a> {
    /// Where it lies.
    pub location: &'a TableLocation,
    /// How its rows are read.
    pub columns: &'a EventColumns<'a>,
    /// How far it is judged.
    pub reach: &'a Reach,
    /// Rows of subjects may be held.
    pub has_holds: bool,
}

impl Judging<'_> {
    /// Judges the rows, so many keys at once.
    pub async fn run(&self, keys_at_once: u64) -> Result<Judged> {
        let mut since = self.reach.judged;
        let mut new = self.new_rows(since).await?;
        if new.restarted.is_some() && since.is_some() && self.has_holds {
            // Also rows go that stayed because they were known, and it has to be known of each key whether it is held.
            since = None;
            new = self.new_rows(None).await?;
        }
        let mut judged = Judged { last: new.last, ..Judged::default() };
        let parts = if self.columns.are_keyed() { new.count.div_ceil(keys_at_once.max(1)).max(1) } else { 1 };
        let mut sets = UnsentSets::default();
        for part in 0..parts {
            let mine = |key: Option<Key>| key.map_or(0, |key| (key % u128::from(parts)) as u64) == part;
            let mut keys = Keys::new(self.columns.are_keyed(), new.restarted);
            if self.columns.are_keyed() {
                self.note(&mut keys, &mut sets, since, &mine).await?;
            }
            self.judge(&keys, &mut sets, &mut judged, &mine).await?;
        }
        judged.goes.retain(|_, rows| !rows.is_empty());
        Ok(judged)
    }

    fn is_new(&self, lsn: i64, since: Option<i64>) -> bool {
        lsn < self.reach.before && since.is_none_or(|since| lsn > since)
    }

    /// Files that have rows which are judged for the first time.
    fn new_files(&self, since: Option<i64>) -> impl Iterator<Item = &OldFile> {
        self.reach.files.iter().filter(move |file| since.is_none_or(|since| file.most > since))
    }

    async fn new_rows(&self, since: Option<i64>) -> Result<NewRows> {
        let mut new = NewRows::default();
        for OldFile { file, .. } in self.new_files(since) {
            let stored = StoredFile::open(&self.location.table, &file.path, file.size, false).await?;
            let mut batches = stored.batches(Some(&self.columns.of_moments()), None, READ_ROWS)?;
            while let Some(batch) = batches.next().await {
                let moments = self.columns.moments(file, &batch?)?;
                for moment in moments.iter().filter(|moment| self.is_new(moment.lsn, since)) {
                    new.count += 1;
                    new.restarted = new.restarted.max(moment.restart.map(|ordinal| (moment.lsn, ordinal)));
                    let micros = moment.micros.unwrap_or(i64::MIN);
                    let (lsn, latest) = new.last.unwrap_or((moment.lsn, micros));
                    new.last = Some((lsn.max(moment.lsn), latest.max(micros)));
                }
                tokio::task::yield_now().await;
            }
        }
        Ok(new)
    }

    /// Takes note of the new rows of a part of the keys, and then of what was judged already of these keys.
    async fn note(
        &self,
        keys: &mut Keys,
        sets: &mut UnsentSets,
        since: Option<i64>,
        mine: &impl Fn(Option<Key>) -> bool,
    ) -> Result<()> {
        for file in self.new_files(since) {
            let note = |_, row: &EventRow, _: &UnsentSets| {
                if mine(row.key) && self.is_new(row.at.0, since) {
                    keys.note(row, true);
                }
            };
            self.each(file, sets, note).await?;
        }
        let Some(since) = since.filter(|_| !keys.is_empty()) else { return Ok(()) };
        for file in &self.reach.files {
            let note = |_, row: &EventRow, _: &UnsentSets| {
                if mine(row.key) && row.at.0 <= since {
                    keys.note(row, false);
                }
            };
            self.each(file, sets, note).await?;
        }
        Ok(())
    }

    async fn judge(
        &self,
        keys: &Keys,
        sets: &mut UnsentSets,
        judged: &mut Judged,
        mine: &impl Fn(Option<Key>) -> bool,
    ) -> Result<()> {
        let Judged { goes, held, .. } = judged;
        for file in &self.reach.files {
            let goes = goes.entry(file.id).or_default();
            let judge = |place: u32, row: &EventRow, sets: &UnsentSets| {
                if !mine(row.key) || row.at.0 >= self.reach.before {
                    return;
                }
                match keys.judge(row, sets) {
                    Verdict::Stays => {}
                    Verdict::Goes => drop(goes.insert(place)),
                    Verdict::Held(hold) => *held.entry(self.columns.hold(hold).to_owned()).or_default() += 1,
                }
            };
            self.each(file, sets, judge).await?;
        }
        Ok(())
    }

    /// Hands each live row of a file to `take`, with its place in the file.
    async fn each(
        &self,
        OldFile { file, .. }: &OldFile,
        sets: &mut UnsentSets,
        mut take: impl FnMut(u32, &EventRow, &UnsentSets),
    ) -> Result<()> {
        let stored = StoredFile::open(&self.location.table, &file.path, file.size, false).await?;
        let mut batches = stored.batches(Some(&self.columns.names()), None, READ_ROWS)?;
        let mut first = 0;
        while let Some(batch) = batches.next().await {
            let rows = self.columns.rows(file, &batch?, sets)?;
            for (place, row) in (first..).zip(&rows) {
                if !file.deleted.contains(place) {
                    take(place, row, sets);
                }
            }
            first += rows.len() as u32;
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}
