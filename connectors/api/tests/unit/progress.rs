//! Laws of progress records and their changes, and the form in which they are stored.

use std::collections::BTreeMap;

use proptest::collection::btree_map;
use proptest::prelude::*;
use serde_json::json;
use sooner_api::{
    Applied, AppliedTable, Code, Error, LakePosition, Positions, ProgressChange, ProgressRecord, TableProgress,
    TableState,
};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

fn name(table: &str) -> TableName {
    TableName::new("public", table)
}

fn error() -> Error {
    Error::operator(Code::ShapeChanged, "cannot merge", "a column was dropped", "resume it")
}

fn lake(version: u64) -> LakePosition {
    LakePosition { version, positions: Some(Positions::whole(Lsn(version))), watermark: Watermark::default() }
}

fn any_state() -> impl Strategy<Value = TableState> {
    let copied = || prop_oneof![Just(None), (0..9u64).prop_map(|lsn| Some(Lsn(lsn)))];
    prop_oneof![
        Just(TableState::Copying),
        Just(TableState::Gone),
        Just(TableState::Waiting { error: error() }),
        copied().prop_map(|copied_lsn| TableState::Streaming { copied_lsn }),
        copied().prop_map(|copied_lsn| TableState::Parked { error: error(), copied_lsn }),
    ]
}

fn any_lake() -> impl Strategy<Value = Option<LakePosition>> {
    prop_oneof![Just(None), (0..9u64).prop_map(|version| Some(lake(version)))]
}

fn any_table() -> impl Strategy<Value = TableProgress> {
    let oid = prop_oneof![Just(None), (1..9u32).prop_map(Some)];
    (any_state(), oid, any_lake()).prop_map(|(state, oid, lake)| TableProgress {
        state,
        oid,
        relation: None,
        facts: None,
        lake,
        copy: None,
    })
}

fn any_tables() -> impl Strategy<Value = BTreeMap<TableName, TableProgress>> {
    btree_map("[a-d]".prop_map(|table| name(&table)), any_table(), 0..4)
}

fn any_lsn() -> impl Strategy<Value = Option<Lsn>> {
    prop_oneof![Just(None), (0..9u64).prop_map(|lsn| Some(Lsn(lsn)))]
}

fn any_change() -> impl Strategy<Value = ProgressChange> {
    (any_lsn(), any_tables()).prop_map(|(confirmed_lsn, tables)| ProgressChange {
        confirmed_lsn,
        tables,
        ..ProgressChange::default()
    })
}

fn any_record() -> impl Strategy<Value = ProgressRecord> {
    ((0..9u64).prop_map(Lsn), any_tables()).prop_map(|(confirmed_lsn, tables)| ProgressRecord {
        system_id: "7".to_owned(),
        timeline: 2,
        slot: "s".to_owned(),
        confirmed_lsn,
        tables,
        ..ProgressRecord::default()
    })
}

fn any_applied() -> impl Strategy<Value = Applied> {
    let table =
        (any_state(), any_lake()).prop_map(|(state, lake)| AppliedTable { state, lake, note: None, copy: None });
    let tables = btree_map("[a-f]".prop_map(|table| name(&table)), table, 0..4);
    (any_lsn(), tables).prop_map(|(confirmed_lsn, tables)| Applied { confirmed_lsn, tables })
}

fn after(mut record: ProgressRecord, changes: &[&ProgressChange]) -> ProgressRecord {
    for change in changes {
        record.apply((*change).clone());
    }
    record
}

proptest! {
    #[test]
    fn a_change_that_is_applied_twice_is_applied_once(record in any_record(), change in any_change()) {
        prop_assert_eq!(after(record.clone(), &[&change, &change]), after(record, &[&change]));
    }

    #[test]
    fn what_has_been_confirmed_never_moves_back(record in any_record(), change in any_change()) {
        let changed = after(record.clone(), &[&change]);
        prop_assert!(changed.confirmed_lsn >= record.confirmed_lsn);
        prop_assert!(change.confirmed_lsn.is_none_or(|lsn| changed.confirmed_lsn >= lsn));
        prop_assert!([Some(record.confirmed_lsn), change.confirmed_lsn].contains(&Some(changed.confirmed_lsn)));
    }

    #[test]
    fn changes_of_different_tables_may_come_in_any_order(
        record in any_record(), a in any_change(), mut b in any_change()
    ) {
        b.tables.retain(|table, _| !a.tables.contains_key(table));
        prop_assert_eq!(after(record.clone(), &[&a, &b]), after(record, &[&b, &a]));
    }

    #[test]
    fn of_two_changes_of_a_table_the_later_stays(record in any_record(), a in any_change(), b in any_change()) {
        let changed = after(record.clone(), &[&a, &b]);
        for (table, progress) in &changed.tables {
            let last = b.tables.get(table).or(a.tables.get(table)).or(record.tables.get(table));
            prop_assert_eq!(Some(progress), last);
        }
        let named = [&record.tables, &a.tables, &b.tables].into_iter().flat_map(|tables| tables.keys());
        for table in named {
            prop_assert!(changed.tables.contains_key(table), "{} is lost", table);
        }
    }

    #[test]
    fn an_empty_change_changes_nothing(record in any_record()) {
        let empty = ProgressChange::default();
        prop_assert!(empty.is_empty());
        prop_assert_eq!(after(record.clone(), &[&empty]), record.clone());
        prop_assert!(record.change_by(Applied::default()).is_empty());
    }

    #[test]
    fn a_report_changes_state_and_lake_and_nothing_else(record in any_record(), applied in any_applied()) {
        let changed = after(record.clone(), &[&record.change_by(applied.clone())]);
        for (table, progress) in &changed.tables {
            let known = record.tables.get(table);
            prop_assert_eq!(progress.oid, known.and_then(|known| known.oid));
            let Some(reported) = applied.tables.get(table) else {
                prop_assert_eq!(Some(progress), known);
                continue;
            };
            prop_assert_eq!(&progress.state, &reported.state);
            prop_assert_eq!(changed.state(table), reported.state.clone());
            let lake = reported.lake.as_ref().or(known.and_then(|known| known.lake.as_ref()));
            prop_assert_eq!(progress.lake.as_ref(), lake);
        }
        prop_assert!(applied.tables.keys().all(|table| changed.tables.contains_key(table)));
    }

    #[test]
    fn records_and_changes_survive_json(record in any_record(), change in any_change()) {
        let stored = serde_json::to_string(&record).unwrap();
        prop_assert_eq!(serde_json::from_str::<ProgressRecord>(&stored).unwrap(), record);
        let stored = serde_json::to_string(&change).unwrap();
        prop_assert_eq!(serde_json::from_str::<ProgressChange>(&stored).unwrap(), change);
    }

    #[test]
    fn a_state_is_stored_under_the_name_that_people_see(state in any_state()) {
        let stored = serde_json::to_value(&state).unwrap();
        prop_assert_eq!(stored["phase"].as_str(), Some(state.name()));
        prop_assert_eq!(serde_json::from_value::<TableState>(stored).unwrap(), state.clone());
        let progress = serde_json::to_value(TableProgress::new(state.clone(), None)).unwrap();
        prop_assert_eq!(progress["phase"].as_str(), Some(state.name()));
    }
}

#[test]
fn a_change_names_only_what_changed() {
    assert_eq!(serde_json::to_value(ProgressChange::default()).unwrap(), json!({}));
    let table = TableProgress::new(TableState::Streaming { copied_lsn: Some(Lsn(16)) }, Some(5));
    let change = ProgressChange {
        confirmed_lsn: Some(Lsn(32)),
        tables: BTreeMap::from([(name("t"), table)]),
        ..ProgressChange::default()
    };
    let expected = json!({
        "confirmed_lsn": "0/20",
        "tables": {"public.t": {"phase": "streaming", "copied_lsn": "0/10", "oid": 5}},
    });
    assert_eq!(serde_json::to_value(&change).unwrap(), expected);
    assert!(!change.is_empty());
}

#[test]
fn an_unknown_table_is_copied() {
    let record = ProgressRecord::default();
    assert_eq!(record.state(&name("new")), TableState::Copying);
    let table = AppliedTable { state: TableState::Gone, lake: Some(lake(3)), note: None, copy: None };
    let applied = Applied { confirmed_lsn: None, tables: BTreeMap::from([(name("new"), table)]) };
    let change = record.change_by(applied);
    let expected = TableProgress { lake: Some(lake(3)), ..TableProgress::new(TableState::Gone, None) };
    assert_eq!(change.tables, BTreeMap::from([(name("new"), expected)]));
}

#[test]
fn a_table_that_stopped_without_a_stored_reason_still_says_what_to_do() {
    for phase in ["parked", "waiting"] {
        let progress: TableProgress = serde_json::from_value(json!({"phase": phase})).unwrap();
        let error = progress.state.error().unwrap();
        assert_eq!(error.code, Code::Unknown);
        assert!(error.remedy.contains("sooner resume"), "{error}");
    }
    // A whole error outweighs the text of earlier versions.
    let both = json!({"phase": "parked", "reason": "old", "error": error()});
    let progress: TableProgress = serde_json::from_value(both).unwrap();
    assert_eq!(progress.state.error(), Some(&error()));
    assert!(serde_json::from_value::<TableProgress>(json!({"phase": "sleeping"})).is_err());
    assert!(serde_json::from_value::<TableProgress>(json!({"copied_lsn": "0/1"})).is_err());
}
