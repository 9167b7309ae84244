//! Which rows of a history go: whatever happened, its table is the same as of every moment since the cut-off.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use sooner_api::{Feed, Lake};
use sooner_delta::trim::{Manner, TrimOutcome, Trims};
use sooner_delta::trimming::rule::{At, Change, EventRow, Keys, Verdict};
use sooner_delta::trimming::unsent::UnsentSets;
use sooner_delta::{Ways, WaysToWrite};

use crate::append::copy;
use crate::support::{World, name};

/// Columns of the table besides its key.
const COLUMNS: [&str; 2] = ["a", "b"];

/// A row of a history with the columns that the source left out, and a value that is in all others.
#[derive(Clone, Debug)]
struct Happened {
    row: EventRow,
    unsent: Vec<usize>,
    value: i64,
}

type View = BTreeMap<u128, [Option<i64>; 2]>;

/// What the views that people query show of rows.
fn view<'a>(rows: impl Iterator<Item = &'a Happened>) -> View {
    let mut rows: Vec<_> = rows.filter(|happened| happened.row.change != Change::Preimage).collect();
    rows.sort_by_key(|happened| happened.row.at);
    let restart = rows.iter().rposition(|happened| happened.row.change == Change::Restart);
    let mut view: BTreeMap<u128, (bool, [Option<i64>; 2])> = BTreeMap::new();
    for Happened { row, unsent, value } in rows.into_iter().skip(restart.map_or(0, |at| at + 1)) {
        let (is_there, values) = view.entry(row.key.unwrap()).or_default();
        *is_there = row.change != Change::Delete;
        for column in (0..COLUMNS.len()).filter(|column| !unsent.contains(column)) {
            values[column] = is_there.then_some(*value);
        }
    }
    view.into_iter().filter(|(_, (is_there, _))| *is_there).map(|(key, (_, values))| (key, values)).collect()
}

fn happened() -> impl Strategy<Value = (u8, u128, [bool; 2], bool)> {
    (0..20_u8, 0..4_u128, [any::<bool>(), any::<bool>()], prop::bool::weighted(0.05))
}

fn history(told: Vec<(u8, u128, [bool; 2], bool)>, sets: &mut UnsentSets, has_holds: bool) -> Vec<Happened> {
    let rows = told.into_iter().enumerate().map(|(at, (what, key, left_out, held))| {
        let change = match what {
            0 => Change::Restart,
            1..=4 => Change::Delete,
            5 | 6 => Change::Preimage,
            _ => Change::State,
        };
        let unsent: Vec<usize> = (0..2).filter(|column| change == Change::State && left_out[*column]).collect();
        let (key, held) = (Some(key).filter(|_| what != 0), (held && has_holds && what != 0).then_some(0));
        let unsent_set = sets.number_of(unsent.iter().map(|column| COLUMNS[*column]));
        let row = EventRow { change, at: (at as i64 / 2, at as i64), key, unsent: unsent_set, held };
        Happened { row, unsent, value: at as i64 }
    });
    rows.collect()
}

/// The rows that are left once those up to a cut-off are judged, those up to `since` not for the first time.
fn trimmed(rows: &[Happened], since: i64, cutoff: i64, sets: &UnsentSets) -> Vec<Happened> {
    let lsn = |happened: &&Happened| happened.row.at.0;
    let new = || rows.iter().filter(|happened| lsn(happened) > since && lsn(happened) <= cutoff);
    let restart: Option<At> =
        new().filter(|happened| happened.row.change == Change::Restart).map(|happened| happened.row.at).max();
    let mut keys = Keys::new(true, restart);
    new().for_each(|happened| keys.note(&happened.row, true));
    rows.iter().filter(|happened| lsn(happened) <= since).for_each(|happened| keys.note(&happened.row, false));
    let goes = |happened: &&Happened| lsn(happened) <= cutoff && keys.judge(&happened.row, sets) == Verdict::Goes;
    rows.iter().filter(|happened| !goes(happened)).cloned().collect()
}

fn places(rows: &[Happened]) -> BTreeSet<At> {
    rows.iter().map(|happened| happened.row.at).collect()
}

/// Places of states: whether a delete is left from which nothing is known makes no difference.
fn states(rows: &[Happened]) -> BTreeSet<At> {
    let states = rows.iter().filter(|happened| happened.row.change == Change::State);
    states.map(|happened| happened.row.at).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn a_table_is_the_same_as_of_every_moment_since_the_cut_off(
        told in vec(happened(), 1..60),
        cutoffs in (0..30_i64, 0..30_i64),
        later in vec(any::<bool>(), 60),
        has_holds: bool,
    ) {
        let mut sets = UnsentSets::default();
        let all = history(told, &mut sets, has_holds);
        let (first, second) = (cutoffs.0.min(cutoffs.1), cutoffs.0.max(cutoffs.1));
        let once = trimmed(&all, -1, first, &sets);
        let twice = match has_holds {
            true => trimmed(&once, -1, second, &sets),
            false => trimmed(&once, first, second, &sets),
        };
        for (cutoff, left) in [(first, &once), (second, &twice)] {
            // As of each position, and of each time: clocks need not go with positions.
            for end in cutoff..=31 {
                let visible = |happened: &&Happened| happened.row.at.0 <= end;
                prop_assert_eq!(view(left.iter().filter(visible)), view(all.iter().filter(visible)), "up to {}", end);
            }
            let visible = |happened: &&Happened| happened.row.at.0 <= cutoff || later[happened.value as usize];
            prop_assert_eq!(view(left.iter().filter(visible)), view(all.iter().filter(visible)));
        }
        let held = all.iter().filter(|happened| happened.row.held.is_some());
        prop_assert!(held.map(|happened| happened.row.at).all(|at| places(&twice).contains(&at)));
        // No more is left than what is known at the cut-off: a row for each value of each key, and where it began.
        if !has_holds {
            prop_assert_eq!(states(&twice), states(&trimmed(&all, -1, second, &sets)), "in steps as at once");
            let old = twice.iter().filter(|happened| happened.row.at.0 <= second);
            prop_assert!(old.count() <= 1 + 4 * (1 + COLUMNS.len()));
        }
    }
}

#[test]
fn of_a_table_without_a_key_every_row_goes_that_is_not_held() {
    let (sets, keys) = (UnsentSets::default(), Keys::new(false, None));
    for change in [Change::State, Change::Delete, Change::Restart, Change::Preimage] {
        let row = EventRow { change, at: (1, 1), key: None, unsent: 0, held: None };
        assert_eq!(keys.judge(&row, &sets), Verdict::Goes);
        assert_eq!(keys.judge(&EventRow { held: Some(3), ..row }, &sets), Verdict::Held(3));
    }
}

#[tokio::test]
async fn what_was_before_a_copy_stays_while_it_is_not_known_whether_that_ended() {
    let world = World::new(1 << 20);
    let ways = Ways { mirror: false, history: true, ..Ways::default() };
    let lake = world.lake().with_ways(WaysToWrite::new(move |_| ways));
    let mut table = lake.open(&name(), &Feed::Slot("s".to_owned())).await.unwrap();
    copy(&world, &mut table, 5, &[1, 2, 3], "first").await;
    copy(&world, &mut table, 10, &[1], "second").await;
    // A row that was copied again; then those that were not, and the start of the copy that they came with.
    for (doubts_copies, rows) in [(true, 1), (false, 3)] {
        let manner = Manner { doubts_copies, judges_all: true, is_dry: false };
        let trimmed = Trims::of(&lake).trim(&name(), Duration::ZERO, manner).await.unwrap();
        let Some(TrimOutcome::Trimmed(trimmed)) = trimmed else { panic!("{trimmed:?}") };
        assert_eq!(trimmed.rows, rows, "in doubt: {doubts_copies}");
    }
}
