//! Sorted runs of entries become one segment: of a key that several have, the newest entry counts; rows of files that
//! are no longer part of the table are left out.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::{JoinHandle, spawn_blocking};
use uuid::Uuid;

use super::entries::Entry;
use super::key::KeyHash;
use super::key_index::{FileId, RowAddress};
use super::segment::{MOST_ENTRIES, Scan, Segment, SegmentWriter};

/// Segments that are read at the same time: each is an open file.
const MOST_AT_ONCE: usize = 64;
/// Pages of all of them that are in memory meanwhile.
const PAGES: usize = 2048;
/// Segments of similar size that become one.
const FAN_IN: usize = 4;
/// A segment is merged with newer ones unless it is so many times as large as they are together.
const GROWTH: u64 = 4;

/// A merge that runs.
pub struct Merging {
    /// The first of the segments that become one.
    pub first: usize,
    /// Their number.
    pub count: usize,
    /// Files whose rows are kept.
    pub live: HashSet<FileId>,
    /// Ends with the segment.
    pub task: JoinHandle<io::Result<Segment>>,
}

impl Merging {
    /// Starts to merge these segments of an index, from the one at `first` on, into one at `path`.
    pub fn start(first: usize, segments: Vec<Arc<Segment>>, live: HashSet<FileId>, path: PathBuf) -> Merging {
        let (count, kept) = (segments.len(), live.clone());
        let task = spawn_blocking(move || {
            let merged = merge(&segments.iter().map(AsRef::as_ref).collect::<Vec<_>>(), Some(&kept), &path)?;
            // Unless somebody takes it.
            merged.make_obsolete(true);
            Ok(merged)
        });
        Merging { first, count, live, task }
    }
}

/// Writes entries as a segment; of several with one key, the last one.
pub fn write_run(entries: &mut [Entry], path: &Path) -> io::Result<Segment> {
    // Stable, so that the last one of a key stays the last.
    entries.sort_by_key(|(key, _)| key >> 16);
    let mut writer = SegmentWriter::create(path, entries.len() as u64)?;
    for (at, entry) in entries.iter().enumerate() {
        if entries.get(at + 1).is_none_or(|next| next.0 >> 16 != entry.0 >> 16) {
            writer.push(*entry)?;
        }
    }
    writer.finish()
}

/// Merges segments, given from the oldest to the newest, into one at `path`. With `live`, rows of other files are left
/// out.
pub fn merge(segments: &[&Segment], live: Option<&HashSet<FileId>>, path: &Path) -> io::Result<Segment> {
    let merged = merge_into(segments, live, path);
    if merged.is_err() {
        // A part of a segment is of no use, and takes the place that may be lacking.
        let _ = std::fs::remove_file(path);
    }
    merged
}

fn merge_into(segments: &[&Segment], live: Option<&HashSet<FileId>>, path: &Path) -> io::Result<Segment> {
    if segments.len() > MOST_AT_ONCE {
        let parts = segments.chunks(MOST_AT_ONCE).map(|group| {
            // An entry of a file that is gone still stands before older ones of its key.
            let part = merge(group, None, &path.with_file_name(format!("{}.part", Uuid::new_v4())))?;
            part.make_obsolete(true);
            Ok(part)
        });
        let parts: Vec<Segment> = parts.collect::<io::Result<_>>()?;
        return merge_into(&parts.iter().collect::<Vec<_>>(), live, path);
    }
    let most = segments.iter().map(|segment| segment.len()).sum();
    let pages = PAGES / segments.len().max(1);
    let mut scans: Vec<Scan> = segments.iter().map(|segment| segment.scan(pages)).collect::<io::Result<_>>()?;
    let mut heads: BinaryHeap<Reverse<Head>> = BinaryHeap::with_capacity(scans.len());
    for age in 0..scans.len() {
        heads.extend(next_of(&mut scans, age)?);
    }
    let mut writer = SegmentWriter::create(path, most)?;
    let mut last: Option<KeyHash> = None;
    while let Some(Reverse(head)) = heads.pop() {
        heads.extend(next_of(&mut scans, head.run())?);
        let is_newest = last != Some(head.key);
        last = Some(head.key);
        if is_newest && live.is_none_or(|live| live.contains(&head.row.file)) {
            writer.push((head.key, head.row))?;
        }
    }
    writer.finish()
}

fn next_of(scans: &mut [Scan], run: usize) -> io::Result<Option<Reverse<Head>>> {
    let next = scans[run].next().transpose()?;
    Ok(next.map(|(key, row)| Reverse(Head { key, newest_first: Reverse(run), row })))
}

/// The next entry of one run.
struct Head {
    key: KeyHash,
    newest_first: Reverse<usize>,
    row: RowAddress,
}

impl Head {
    fn run(&self) -> usize {
        self.newest_first.0
    }

    fn order(&self) -> (KeyHash, Reverse<usize>) {
        (self.key, self.newest_first)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Head) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

/// Whether segments are small enough to become one.
pub fn fits_one(segments: &[Arc<Segment>]) -> bool {
    segments.iter().map(|segment| segment.len()).sum::<u64>() <= MOST_ENTRIES
}

/// The first of the newest segments that become one while an index is built: where there are very many of similar size.
pub fn runs_to_merge(sizes: &[u64]) -> Option<usize> {
    let last = *sizes.last()?;
    let first = sizes.iter().rposition(|size| *size > 2 * last).map_or(0, |larger| larger + 1);
    (sizes.len() - first >= MOST_AT_ONCE).then_some(first)
}

/// The first of the newest segments that are to become one: each is not much larger than those after it together.
pub fn first_to_merge(sizes: &[u64]) -> Option<usize> {
    let (mut first, mut total) = (sizes.len(), 0);
    while first > 0 && (total == 0 || sizes[first - 1] <= GROWTH * total) {
        first -= 1;
        total += sizes[first];
    }
    (sizes.len() - first >= FAN_IN).then_some(first)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::page::PageCache;
    use super::*;

    fn entries(keys: impl IntoIterator<Item = KeyHash>, file: FileId) -> Vec<Entry> {
        keys.into_iter().zip(0..).map(|(key, row)| (key, RowAddress { file, row })).collect()
    }

    fn located(segment: &Segment, keys: &[KeyHash]) -> Vec<Option<RowAddress>> {
        let mut found = vec![None; keys.len()];
        segment.locate(keys, &mut found, &PageCache::new(1 << 20)).unwrap();
        found
    }

    fn random_keys(seed: u64, count: usize) -> Vec<KeyHash> {
        let mut random = StdRng::seed_from_u64(seed);
        (0..count).map(|_| random.random()).collect()
    }

    #[test]
    fn every_key_is_found_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        for count in [0, 1, 2, 185, 186, 187, 5000, 200_000] {
            let keys = random_keys(count as u64, count);
            let segment = write_run(&mut entries(keys.clone(), 7), &folder.path().join("run")).unwrap();
            let mut sorted: Vec<_> = keys.iter().copied().zip(0u32..).collect();
            sorted.sort_unstable();
            let (asked, rows): (Vec<_>, Vec<_>) = sorted.into_iter().unzip();
            let found = located(&Segment::open(segment.path()).unwrap(), &asked);
            let expected: Vec<_> = rows.into_iter().map(|row| Some(RowAddress { file: 7, row })).collect();
            assert!(found == expected, "of {count} keys");
            let mut others = random_keys(99, 1000);
            others.sort_unstable();
            assert!(located(&segment, &others).iter().all(Option::is_none));
            assert_eq!((segment.len(), segment.scan(1).unwrap().count()), (count as u64, count));
        }
    }

    #[test]
    fn keys_that_do_not_lie_evenly_are_found_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let keys: Vec<KeyHash> = (0..3000u128).map(|key| key << 20 | KeyHash::MAX << 100).collect();
        let segment = write_run(&mut entries(keys.clone(), 1), &folder.path().join("run")).unwrap();
        assert!(located(&segment, &keys).iter().all(Option::is_some));
    }

    #[test]
    fn an_entry_takes_at_most_24_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let segment = write_run(&mut entries(random_keys(1, 300_000), 1), &folder.path().join("run")).unwrap();
        let bytes = std::fs::metadata(segment.path()).unwrap().len();
        assert!(bytes <= 24 * 300_000, "{} bytes a key", bytes as f64 / 300_000.0);
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let mut keys = random_keys(3, 2000);
        let path = folder.path().join("run");
        drop(write_run(&mut entries(keys.clone(), 1), &path).unwrap());
        keys.sort_unstable();
        let good = std::fs::read(&path).unwrap();
        let expected = located(&Segment::open(&path).unwrap(), &keys);
        for at in (0..good.len()).step_by(97) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            let Ok(segment) = Segment::open(&path) else { continue };
            let mut found = vec![None; keys.len()];
            let read = segment.locate(&keys, &mut found, &PageCache::new(1 << 20));
            assert!(read.is_err() || found == expected, "byte {at} was changed, and nobody noticed");
        }
        for length in [0, 10, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(Segment::open(&path).is_err(), "{length} of {} bytes", good.len());
        }
    }

    #[test]
    fn a_segment_that_is_obsolete_is_readable_until_nobody_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let segment = write_run(&mut entries([5], 1), &path).unwrap();
        segment.make_obsolete(true);
        assert!(located(&segment, &[5])[0].is_some() && path.exists());
        drop(segment);
        assert!(!path.exists());
    }

    #[test]
    fn while_an_index_is_built_very_many_runs_of_similar_size_become_one() {
        assert_eq!(runs_to_merge(&[]), None);
        assert_eq!(runs_to_merge(&[10; MOST_AT_ONCE - 1]), None);
        let mut sizes = vec![5000, 5000];
        sizes.extend([10; MOST_AT_ONCE]);
        assert_eq!(runs_to_merge(&sizes), Some(2));
        sizes.push(7);
        assert_eq!(runs_to_merge(&sizes), Some(2), "the last one may be smaller");
    }

    #[test]
    fn more_segments_than_may_be_open_are_merged_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let run = |number: u32| {
            // Each has the keys of the one before, but for the lowest, and one more.
            let keys = (u128::from(number)..u128::from(number) + 50).map(|key| key << 100);
            let mut run: Vec<Entry> = keys.map(|key| (key, RowAddress { file: number, row: 7 })).collect();
            write_run(&mut run, &folder.path().join(number.to_string())).unwrap()
        };
        let count = 3 * MOST_AT_ONCE as u32 + 5;
        let segments: Vec<Segment> = (0..count).map(run).collect();
        let live: HashSet<FileId> = (0..count).filter(|file| *file != 40).collect();
        let path = folder.path().join("all.segment");
        let all = merge(&segments.iter().collect::<Vec<_>>(), Some(&live), &path).unwrap();
        let files: Vec<_> = all.scan(1).unwrap().map(|entry| entry.unwrap().1.file).collect();
        let mut expected: Vec<_> = (0..count).filter(|file| *file != 40).collect();
        expected.extend([count - 1; 49]);
        assert_eq!(files, expected, "of each key the newest, and none where that one is gone");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), segments.len() + 1, "nothing else is left");
    }

    proptest! {
        #[test]
        fn the_newest_entry_of_a_live_file_counts(runs in prop::collection::vec(
            prop::collection::vec((0..60u128, 0..5u32), 0..40), 1..5)
        ) {
            let folder = tempfile::tempdir().unwrap();
            let live: HashSet<FileId> = [0, 1, 2, 3].into();
            let (mut model, mut segments) = (BTreeMap::new(), Vec::new());
            for (number, run) in runs.iter().enumerate() {
                let mut run: Vec<Entry> =
                    run.iter().zip(0..).map(|((key, file), row)| (key << 100, RowAddress { file: *file, row })).collect();
                model.extend(run.iter().copied());
                segments.push(write_run(&mut run, &folder.path().join(number.to_string())).unwrap());
            }
            let merged = merge(&segments.iter().collect::<Vec<_>>(), Some(&live), &folder.path().join("all")).unwrap();
            model.retain(|_, row: &mut RowAddress| live.contains(&row.file));
            let all: Vec<Entry> = merged.scan(3).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
