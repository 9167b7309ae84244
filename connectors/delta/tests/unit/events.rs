//! Events before they are rows: their keys, what they collapse to, and which of them a table takes.

use std::sync::Arc;

use arrow_array::RecordBatch;
use sooner_api::{Class, Code, Feed, LakeTable, MemoryBudget, Positions, Rows, Staged};
use sooner_delta::log::position_names::PositionNames;
use sooner_delta::merge::event_plan::EventPlan;
use sooner_delta::merge::intake::{ColumnChange, TableColumns, compare_columns, covered_events};
use sooner_delta::merge::pending::{Found, Pending};
use sooner_delta::rows::column_mapping::Mapping;
use sooner_delta::rows::columns::{LakeColumn, arrow_schema, columns_of};
use sooner_delta::rows::reader::finish;
use sooner_schemas::encode::TupleValue;
use sooner_schemas::event::Op;
use sooner_schemas::{Column, ColumnType, Lsn, Position, Scalar};

use crate::support::{World, column, columns, encoder, events, mark, name, origin, schema, text};

const SECRET: (u64, u64) = (1, 2);

/// Types that a key may have, each with a value.
fn key_types() -> Vec<(Scalar, &'static str)> {
    vec![
        (Scalar::Bool, "t"),
        (Scalar::Int2, "-7"),
        (Scalar::Int4, "7"),
        (Scalar::Int8, "9223372036854775807"),
        (Scalar::Float4, "1.5"),
        (Scalar::Float8, "-0"),
        (Scalar::Float8, "NaN"),
        (Scalar::Decimal { precision: 10, scale: 2 }, "-1.50"),
        (Scalar::Decimal { precision: 50, scale: 2 }, "12345678901234567890123456789012345678901234.50"),
        (Scalar::Numeric, "1.500"),
        (Scalar::Text, "ä"),
        (Scalar::Bytea, "\\x00ff"),
        (Scalar::Date, "2024-02-29"),
        (Scalar::Time(3), "12:34:56.789"),
        (Scalar::Time(6), "12:34:56.789012"),
        (Scalar::Timestamp(3), "2024-02-29 01:02:03.004"),
        (Scalar::Timestamp(6), "1969-12-31 23:59:59.999999"),
        (Scalar::Timestamptz(6), "2024-02-29 01:02:03+00"),
        (Scalar::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ]
}

#[test]
fn a_key_hashes_alike_in_events_and_in_files() {
    for (scalar, value) in key_types() {
        let encoder = encoder(vec![column("b", Scalar::Text), column("k", scalar.clone())], vec![1, 0]);
        let rows = events(&encoder, |encoder, out| {
            encoder.insert(out, &origin(1, 0), &[text("b"), text(value)]).unwrap();
        });
        let plan = EventPlan::new(encoder.schema(), SECRET).unwrap();
        assert_eq!(plan.keys.columns(), ["k", "b"]);
        let (key, old) = plan.keys_of(&name(), &rows.events, 0, &mut Vec::new()).unwrap();
        assert_eq!(old, None);
        let mut builders = plan.rows.builders().unwrap();
        plan.rows.append(&rows.events.bytes[rows.events.events[0].value.clone()], &[], &mut builders).unwrap();
        let schema = arrow_schema(&columns_of(encoder.schema()).unwrap());
        let batch = RecordBatch::try_new(schema, finish(&mut builders)).unwrap();
        assert_eq!(plan.keys.hash_rows(&batch), Some(vec![key]), "{scalar:?} {value}");
        let other = EventPlan::new(encoder.schema(), (3, 4)).unwrap();
        assert_ne!(other.keys_of(&name(), &rows.events, 0, &mut Vec::new()).unwrap().0, key);
        assert!(plan.keys.same_columns(&other.keys) && plan.keys.hash_rows(&batch.project(&[0]).unwrap()).is_none());
    }
}

#[test]
fn a_list_in_a_key_is_hashed_alike_wherever_it_comes_from() {
    let columns = vec![Column::new("k", ColumnType::Array(Scalar::Text)).numbered(1)];
    let encoder = encoder(columns, vec![0]);
    let plan = EventPlan::new(encoder.schema(), SECRET).unwrap();
    let mut seen = std::collections::HashSet::new();
    for list in ["{}", "{a}", "{a,NULL}", "{NULL,a}", "{a,b}", "{ab}", "{\"\"}", "{NULL}"] {
        let rows = events(&encoder, |encoder, out| encoder.insert(out, &origin(1, 0), &[text(list)]).unwrap());
        let (key, _) = plan.keys_of(&name(), &rows.events, 0, &mut Vec::new()).unwrap();
        let mut builders = plan.rows.builders().unwrap();
        plan.rows.append(&rows.events.bytes[rows.events.events[0].value.clone()], &[], &mut builders).unwrap();
        let schema = arrow_schema(&columns_of(encoder.schema()).unwrap());
        let batch = RecordBatch::try_new(schema, finish(&mut builders)).unwrap();
        assert_eq!(plan.keys.hash_rows(&batch), Some(vec![key]), "{list}");
        assert!(seen.insert(key), "{list} is another key");
    }
}

#[test]
fn a_table_whose_rows_cannot_be_told_apart_is_refused() {
    let keyless = schema(columns(), vec![]);
    let error = EventPlan::new(&keyless, SECRET).err().unwrap();
    assert_eq!((error.class, error.code), (Class::Operator, Code::KeyMissing));
    assert!(error.why.contains("neither a primary key"), "{error}");
    let (one, same) = (schema(columns(), vec![0]), schema(columns(), vec![0]));
    let plan = EventPlan::new(&one, SECRET).unwrap();
    assert!(plan.reads(&Arc::clone(&one)) && !plan.reads(&same));
}

/// Takes a batch in as a table does.
fn push(pending: &mut Pending, plan: &EventPlan, rows: Rows) {
    let count = rows.events.events.len();
    let batch = pending.open_batch(rows);
    for index in 0..count {
        let (key, old) = plan.keys_of(&name(), pending.batch(batch), index, &mut Vec::new()).unwrap();
        pending.push(batch, index as u32, key, old);
    }
}

#[test]
fn a_row_whose_key_changes_again_and_again_leads_back_to_where_its_values_are() {
    let encoder = encoder(columns(), vec![0]);
    let plan = EventPlan::new(encoder.schema(), SECRET).unwrap();
    let mut pending = Pending::default();
    let key = |id: &'static str| [text(id), TupleValue::Null, TupleValue::Null];
    let left_out = |id: &'static str| [text(id), TupleValue::Unavailable, TupleValue::Unavailable];
    // State 0 gives `a` a value; `b` is in the lake, under the first key.
    let first = events(&encoder, |encoder, out| {
        encoder.update(out, &origin(1, 0), None, &[text("1"), text("a"), TupleValue::Unavailable]).unwrap();
        encoder.delete(out, &origin(2, 0), &key("1"), false).unwrap();
        encoder.insert_renamed(out, &origin(2, 1), &key("1"), &left_out("2")).unwrap();
    });
    let (first_key, _) = plan.keys_of(&name(), &first.events, 0, &mut Vec::new()).unwrap();
    push(&mut pending, &plan, first);
    let second = events(&encoder, |encoder, out| {
        encoder.delete(out, &origin(3, 0), &key("2"), false).unwrap();
        encoder.insert_renamed(out, &origin(3, 1), &key("2"), &left_out("3")).unwrap();
    });
    push(&mut pending, &plan, second);
    assert_eq!((pending.find(4, 1), pending.find(4, 2)), (Found::InState(0), Found::Stored(first_key)));
    let winners: Vec<_> = pending.winners().into_iter().map(|row| (row.state, pending.event(row.state).op)).collect();
    assert_eq!(winners, [(1, Op::Delete), (3, Op::Delete), (4, Op::Create)]);
    // A new row of a former key has nothing to do with it.
    let third = events(&encoder, |encoder, out| {
        encoder.insert(out, &origin(4, 0), &[text("1"), text("x"), text("y")]).unwrap();
        encoder.update(out, &origin(5, 0), None, &left_out("1")).unwrap();
    });
    push(&mut pending, &plan, third);
    assert_eq!((pending.find(6, 1), pending.find(4, 2)), (Found::InState(5), Found::Stored(first_key)));
    assert_eq!(pending.winners().len(), 3);
}

#[test]
fn memory_of_events_is_held_until_they_are_cleared() {
    let world = World::new(1);
    let plan = EventPlan::new(world.encoder.schema(), SECRET).unwrap();
    let (budget, mut pending) = (MemoryBudget::new(64 << 10), Pending::default());
    for lsn in 1..=2 {
        let before = pending.size_bytes();
        let reservation = budget.try_reserve(16 << 10).unwrap();
        push(&mut pending, &plan, Rows { reservation, ..world.inserted(lsn, [1, 2, 3], "b") });
        assert!(pending.size_bytes() > before);
    }
    assert_eq!((budget.free_bytes(), pending.winners().len()), (32 << 10, 3));
    pending.clear();
    assert_eq!((budget.free_bytes(), pending.size_bytes(), pending.is_empty()), (64 << 10, 0, true));
}

#[test]
fn a_transaction_that_was_taken_in_part_goes_on_where_it_stopped() {
    let rows = World::new(1).inserted(20, [1, 2, 3, 4], "b");
    let at = |commit_lsn, ordinal| Positions::Stream(Position { commit_lsn: Lsn(commit_lsn), ordinal });
    let covered = [at(19, 9), at(20, 0), at(20, 2), at(20, 3), at(21, 0)];
    assert_eq!(covered.map(|positions| covered_events(Some(&positions), &rows)), [0, 1, 3, 4, 4]);
}

#[test]
fn what_a_difference_of_columns_means_depends_on_what_differs() {
    let slot = PositionNames::new("shop", &Feed::Slot("s".to_owned()));
    let (id, a) = (|| column("id", Scalar::Int8).numbered(1), || column("a", Scalar::Text).numbered(2));
    let compared = |former: Vec<Column>, now: Vec<Column>| {
        let former = columns_of(&schema(former, vec![0])).unwrap();
        let known = TableColumns { columns: &former, since: None };
        compare_columns(&schema(now, vec![0]), None, known, Mapping { is_allowed: true, last_id: None }, &slot)
    };
    assert_eq!(compared(vec![id(), a()], vec![id(), a()]), Ok(ColumnChange::None));
    assert_eq!(compared(vec![id(), a().nullable()], vec![id(), a()]), Ok(ColumnChange::None));
    let Ok(ColumnChange::Changed(columns)) = compared(vec![id(), a()], vec![id(), a().nullable()]) else {
        panic!("the column may be null now")
    };
    assert!(columns[1].nullable);
    let Ok(ColumnChange::NeedsCopy(error)) = compared(vec![id()], vec![id(), a()]) else {
        panic!("older rows have a value in a column that is never null")
    };
    assert_eq!((error.class, error.code), (Class::Retry, Code::CopyNeeded));
    for (now, stored) in [
        (vec![id()], vec!["id"]),
        (vec![id(), column("z", Scalar::Text).numbered(2)], vec!["id", "a"]),
        (vec![id(), a().numbered(3).nullable()], vec!["id", "col-2"]),
    ] {
        let Ok(ColumnChange::Changed(columns)) = compared(vec![id(), a()], now.clone()) else { panic!("{now:?}") };
        assert_eq!(columns.iter().map(LakeColumn::stored_name).collect::<Vec<_>>(), stored);
    }
    for (now, why) in [
        (vec![id(), column("z", Scalar::Text)], "'a' was dropped or renamed"),
        (vec![id(), column("a", Scalar::Int4)], "from string to integer"),
        (vec![id(), a().numbered(3)], "'a' hold values"),
        (vec![column("id", Scalar::Int4), a()], "from long to integer"),
    ] {
        let Ok(ColumnChange::NeedsCopy(error)) = compared(vec![id(), a()], now) else { panic!("{why}") };
        assert_eq!((error.class, error.code), (Class::Retry, Code::CopyNeeded));
        assert!(error.why.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_table_that_refused_events_goes_on_once_they_are_discarded() {
    let world = World::new(1 << 20);
    let mut table = world.open().await;
    table.stage(world.inserted(1, [1], "first")).await.unwrap();
    table.commit(mark(1)).await.unwrap();
    let row = [text("2"), TupleValue::Null, text("x")];
    let other_key = encoder(columns(), vec![2]);
    let rows = events(&other_key, |encoder, out| encoder.insert(out, &origin(2, 0), &row).unwrap());
    let Staged::NeedsCopy(error) = table.stage(rows).await.unwrap() else { panic!("a copy is needed") };
    assert!(error.code == Code::CopyNeeded && error.why.contains("its key changed"), "{error}");
    table.discard();

    let wider = [columns(), vec![column("n", Scalar::Int8)]].concat();
    let wider = encoder(wider, vec![0]);
    let row = [text("2"), TupleValue::Null, text("x"), text("7")];
    let rows = events(&wider, |encoder, out| encoder.insert(out, &origin(2, 0), &row).unwrap());
    let Staged::NeedsCopy(error) = table.stage(rows).await.unwrap() else { panic!("a copy is needed") };
    assert_eq!(error.code, Code::CopyNeeded);
    table.discard();

    // What was left out of a row that is not there cannot be found.
    let row = [text("77"), TupleValue::Null, TupleValue::Unavailable];
    let update = world.events(|encoder, out| encoder.update(out, &origin(2, 0), None, &row).unwrap());
    table.stage(update).await.unwrap();
    let error = table.commit(mark(2)).await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Operator, Code::ValueMissing), "{error}");
    table.discard();
    table.stage(world.inserted(3, [1], "second")).await.unwrap();
    table.commit(mark(3)).await.unwrap();
    assert_eq!(world.rows().await.into_iter().collect::<Vec<_>>(), [(1, (None, "second".to_owned()))]);
}
