//! Which files are worth writing again: many small ones become a large one, and one that has lost many rows is written
//! without them. Decided without I/O.
//!
//! Files are sorted into tiers by the bytes of their live rows, each tier a few times as large as the one below. A tier
//! that is full becomes one file of the next. So a row is written again once for each tier, and a table has a few
//! files in each.

use std::collections::BTreeMap;

use crate::index::key_index::FileId;
use crate::log::live_files::LiveFile;

/// Bytes below which a file belongs to the lowest tier.
const LOWEST_TIER_BYTES: u64 = 64 << 10;
/// So many files fill a tier; the next tier is so many times as large.
const FAN_IN: u64 = 8;
/// Bytes of a table that is so small that it is kept in one or two files.
const TINY_TABLE_BYTES: u64 = 64 << 10;
/// While nothing happens to a table, files below this size are kept in one or two, too.
const QUIET_BYTES: u64 = 1 << 20;
/// Where there is time, tiers above that are so many times as large as the one below, and two files fill them.
const SPARE_FACTOR: u64 = 4;
/// So many files are more than one or two.
const SMALL_FAN_IN: usize = 3;
/// Share of rows from which a file is written again for those it has lost, in percent.
const SPARSE_PERCENT: u64 = 30;
/// The same, once nothing happens to the table any more.
const IDLE_SPARSE_PERCENT: u64 = 10;
/// Rows that are written again at once, at most. Each takes 40 bytes of memory meanwhile.
const MOST_ROWS: u64 = 1 << 20;

/// The same, when somebody asks for it.
const ASKED_SPARSE_PERCENT: u64 = 5;

/// When files are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// After a commit.
    Merged,
    /// After a commit, where there is time for more than has to be done.
    Spare,
    /// While nothing happens to the table.
    Quiet,
    /// When nothing has happened to it for longer: whoever reads it now shall find it as if freshly written.
    Idle,
    /// Somebody asks for as few files as possible.
    Asked,
}

/// A file that may be written again.
struct Candidate {
    id: FileId,
    /// Of its live rows.
    bytes: u64,
    rows: u64,
    /// Share of its rows that is gone, in percent.
    lost_percent: u64,
}

/// Chooses the files that are written again next, oldest first; none if that is not worth it. Files of `target_bytes`
/// are large enough.
pub fn choose<'a>(
    files: impl Iterator<Item = (FileId, &'a LiveFile)>,
    target_bytes: u64,
    occasion: Occasion,
) -> Vec<FileId> {
    let candidates: Vec<_> = files.filter_map(|(id, file)| candidate(id, file)).collect();
    let is_tiny = candidates.iter().map(|file| file.bytes).sum::<u64>() < TINY_TABLE_BYTES;
    let mut tiers: BTreeMap<u32, Vec<&Candidate>> = BTreeMap::new();
    // Any two of them can be written again at once.
    let small = candidates.iter().filter(|file| file.bytes < target_bytes / 2 && file.rows < MOST_ROWS / 2);
    for file in small {
        tiers.entry(tier(file.bytes, occasion)).or_default().push(file);
    }
    for (tier, mut files) in tiers {
        let enough = match (occasion, tier) {
            (Occasion::Asked, _) => 2,
            (Occasion::Quiet | Occasion::Idle | Occasion::Spare, 0) => SMALL_FAN_IN,
            (Occasion::Spare, _) => 2,
            (Occasion::Merged, 0) if is_tiny => SMALL_FAN_IN,
            _ => FAN_IN as usize,
        };
        files.sort_by_key(|file| file.id);
        let group = at_once(&files, target_bytes);
        if files.len() >= enough && group.len() > 1 {
            return group;
        }
    }
    let (percent, least_bytes) = match occasion {
        Occasion::Asked => (ASKED_SPARSE_PERCENT, 0),
        Occasion::Idle => (IDLE_SPARSE_PERCENT, LOWEST_TIER_BYTES),
        _ => (SPARSE_PERCENT, LOWEST_TIER_BYTES),
    };
    let sparse = candidates.iter().filter(|file| file.lost_percent >= percent && file.rows <= MOST_ROWS);
    let sparse = sparse.filter(|file| file.bytes >= least_bytes);
    sparse.max_by_key(|file| file.lost_percent).map(|file| vec![file.id]).unwrap_or_default()
}

/// A file whose number of rows is known.
fn candidate(id: FileId, file: &LiveFile) -> Option<Candidate> {
    let all = file.rows.filter(|rows| *rows > 0)?;
    let rows = all.saturating_sub(file.deleted.len());
    let bytes = (u128::from(file.size) * u128::from(rows) / u128::from(all)) as u64;
    Some(Candidate { id, bytes, rows, lost_percent: (all - rows) * 100 / all })
}

/// Number of the tier of a file, from 0; in quiet times, all files that are small make up one, and later, or where
/// somebody asks, all do.
fn tier(bytes: u64, occasion: Occasion) -> u32 {
    let (lowest_bytes, factor) = match occasion {
        Occasion::Asked | Occasion::Idle => return 0,
        Occasion::Quiet if bytes < QUIET_BYTES => return 0,
        Occasion::Spare => (QUIET_BYTES, SPARE_FACTOR),
        Occasion::Merged | Occasion::Quiet => (LOWEST_TIER_BYTES, FAN_IN),
    };
    (bytes / lowest_bytes).checked_ilog(factor).map_or(0, |tier| tier + 1)
}

/// As many of these files as may be written again at once.
fn at_once(files: &[&Candidate], target_bytes: u64) -> Vec<FileId> {
    let (mut bytes, mut rows) = (0, 0);
    let fits = |file: &&&Candidate| {
        bytes += file.bytes;
        rows += file.rows;
        bytes <= target_bytes && rows <= MOST_ROWS
    };
    files.iter().take_while(fits).map(|file| file.id).collect()
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::Occasion::{Asked, Idle, Merged, Quiet, Spare};
    use super::*;

    const TARGET: u64 = 32 << 20;

    fn file(size: u64, rows: u64, lost: u32) -> LiveFile {
        let mut file = LiveFile::written(Path::from("x"), size, rows, 0);
        file.deleted.insert_range(0..lost);
        file
    }

    fn chosen(files: &[LiveFile], occasion: Occasion) -> Vec<FileId> {
        choose((0..).zip(files), TARGET, occasion)
    }

    #[test]
    fn whoever_asks_gets_as_few_files_as_possible_without_the_rows_that_are_gone() {
        let files = [file(1 << 10, 10, 0), file(20 << 20, 1000, 20), file(9 << 20, 1000, 0), file(25 << 20, 1000, 90)];
        assert_eq!(chosen(&files, Asked), [0, 2]);
        assert_eq!(chosen(&files[3..], Asked), [0]);
        assert!(chosen(&files[1..2], Asked).is_empty());
    }

    #[test]
    fn a_tiny_table_is_kept_in_one_or_two_files() {
        let tiny = file(2000, 10, 0);
        assert_eq!(chosen(&[tiny.clone(), tiny.clone()], Merged), [] as [FileId; 0]);
        assert_eq!(chosen(&[tiny.clone(), tiny.clone(), tiny.clone()], Merged), [0, 1, 2]);
        assert!(chosen(&[tiny.clone(), tiny], Quiet).is_empty(), "that would not be worth it");
    }

    #[test]
    fn files_that_quiet_times_leave_are_one_or_two_small_ones() {
        let small = file(40 << 10, 100, 0);
        let files = [small.clone(), file(5 << 20, 100, 0), small.clone(), small];
        assert!(chosen(&files, Merged).is_empty());
        assert_eq!(chosen(&files, Quiet), [0, 2, 3]);
    }

    #[test]
    fn a_table_that_is_left_alone_becomes_one_of_few_files_that_have_lost_few_rows() {
        let tiers = [file(30 << 10, 100, 0), file(2 << 20, 100, 0), file(9 << 20, 1000, 0)];
        let whole = file(20 << 20, 1000, 50);
        let mut files = vec![whole.clone(), file(20 << 20, 1000, 150)];
        files.extend(tiers);
        assert!(chosen(&files, Quiet).is_empty());
        assert_eq!(chosen(&files, Idle), [2, 3, 4]);
        assert_eq!(chosen(&files[..2], Idle), [1]);
        assert!(chosen(&[whole.clone(), file(11 << 20, 900, 0), file(30 << 10, 10, 0)], Idle).is_empty());
    }

    #[test]
    fn where_there_is_time_three_small_files_become_one_and_of_larger_ones_two_of_a_size_do() {
        let small = [file(900 << 10, 9000, 0), file(100 << 10, 1000, 0), file(2 << 10, 10, 0)];
        assert!(chosen(&small[..2], Spare).is_empty());
        assert_eq!(chosen(&small, Spare), [0, 1, 2]);
        assert!(chosen(&small, Merged).is_empty());
        assert_eq!(chosen(&[file(1 << 20, 9000, 0), file(3 << 20, 9000, 0)], Spare), [0, 1]);
        assert!(chosen(&[file(1 << 20, 9000, 0), file(5 << 20, 9000, 0)], Spare).is_empty());
        assert!(chosen(&[file(20 << 20, 9000, 0), file(20 << 20, 9000, 0)], Spare).is_empty());
    }

    #[test]
    fn eight_files_of_a_size_become_one_and_larger_ones_are_left_alone() {
        let small = file(10 << 10, 100, 0);
        let mut files = vec![file(20 << 20, 1000, 0), file(5 << 20, 1000, 0)];
        files.extend(std::iter::repeat_n(small.clone(), 7));
        assert!(chosen(&files, Merged).is_empty());
        files.push(small);
        assert_eq!(chosen(&files, Merged), [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn the_live_rows_of_a_file_decide_where_it_belongs() {
        let mut files = vec![file(60 << 10, 100, 0); 7];
        files.push(file(10 << 20, 1000, 999));
        assert_eq!(chosen(&files, Merged).len(), 8);
    }

    #[test]
    fn a_file_that_has_lost_many_rows_is_written_again_alone() {
        let files = [file(20 << 20, 1000, 200), file(20 << 20, 1000, 350), file(20 << 20, 1000, 300)];
        assert_eq!(chosen(&files, Merged), [1]);
        assert!(chosen(&files[..1], Merged).is_empty());
    }

    #[test]
    fn no_more_is_written_at_once_than_a_file_may_hold() {
        let files = vec![file(7 << 20, 1000, 0); 9];
        assert_eq!(chosen(&files, Merged), [0, 1, 2, 3], "28 of 32 MiB");
        let many_rows = vec![file(1 << 20, 400_000, 0); 9];
        assert_eq!(chosen(&many_rows, Merged), [0, 1]);
        assert!(chosen(&[file(20 << 20, 2_000_000, 700_000)], Merged).is_empty());
    }

    #[test]
    fn a_file_of_many_rows_is_in_nobodys_way() {
        let mut files = vec![file(1 << 20, 600_000, 0)];
        files.extend(std::iter::repeat_n(file(1 << 20, 1000, 0), 8));
        assert_eq!(chosen(&files, Merged), [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn files_whose_rows_nobody_counts_and_files_that_are_large_are_left_alone() {
        let mut unknown = file(1000, 10, 0);
        unknown.rows = None;
        assert!(chosen(&vec![unknown; 20], Quiet).is_empty());
        assert!(chosen(&vec![file(20 << 20, 1000, 0); 20], Quiet).is_empty());
    }

    #[test]
    fn whatever_is_committed_a_table_has_few_files_and_a_row_is_written_again_a_few_times() {
        let mut files: Vec<(FileId, LiveFile)> = Vec::new();
        let mut rewritten = 0;
        for id in 0..20_000 {
            files.push((id, file(4 << 10, 10, 0)));
            loop {
                let group = choose(files.iter().map(|(id, file)| (*id, file)), TARGET, Merged);
                if group.is_empty() {
                    break;
                }
                let (merged, kept): (Vec<_>, Vec<_>) = files.into_iter().partition(|(id, _)| group.contains(id));
                let sum = |of: fn(&LiveFile) -> u64| merged.iter().map(|(_, file)| of(file)).sum::<u64>();
                let rows = sum(|file| file.rows.unwrap_or(0));
                rewritten += rows;
                files = kept;
                files.push((group[0], file(sum(|file| file.size), rows, 0)));
            }
            assert!(files.len() < 40, "{} files after {id} commits", files.len());
        }
        assert!(rewritten < 6 * 200_000, "each row was written again {} times", rewritten as f64 / 200_000.0);
    }
}
