//! What events mean for a table before they are staged: which of them it has already, whether their columns fit, and
//! whether an event of the whole table can be put in order. All of it is decided without I/O.

use std::sync::Arc;

use sooner_api::{Code, Error, Positions, Result, Rows, Staged, Standing};
use sooner_schemas::event::EventSchema;
use sooner_schemas::evolution::{Arrival, Evolution, compare};
use sooner_schemas::{Position, TableName};

use super::event_plan::copy_again;
use crate::log::position_names::PositionNames;
use crate::rows::column_mapping::{self, Mapping};
use crate::rows::columns::{LakeColumn, columns_of, facts, reshape, widen};

/// What the columns of events mean for those of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnChange {
    /// They are the same.
    None,
    /// The table's columns are these from now on.
    Changed(Vec<LakeColumn>),
    /// The rows have to be copied again first.
    NeedsCopy(Error),
}

/// Number of leading events of a stream that the table has already. Copied rows are never repeated: they are as they
/// are at the source by now, wherever they stand in the stream.
pub fn covered_events(positions: Option<&Positions>, rows: &Rows) -> usize {
    let Some(positions) = positions else { return 0 };
    rows.events.events.partition_point(|event| !event.position.is_copied() && positions.covers_event(event.position))
}

/// Columns of a table whose rows are replaced by those of a copy.
pub fn columns_of_copy(schema: &EventSchema, mapping: Mapping) -> Result<Vec<LakeColumn>> {
    let columns = columns_of(schema)?;
    if !mapping.fits(&columns) {
        return Err(odd_names(&schema.table));
    }
    Ok(column_mapping::stored(columns, &[], mapping.last_id.filter(|_| mapping.is_allowed)))
}

fn odd_names(table: &TableName) -> Error {
    Error::operator(
        Code::TypeUnsupported,
        format!("cannot store events of {table} in the lake"),
        "columns have names with one of space , ; { } ( ) =, or names that differ in capitals only, which lake tables take \
         by column mapping alone, and that is switched off",
        "set column_mapping = true in [lake], rename the columns, or leave the table out (exclude)",
    )
}

/// Refuses events that the table has already, of partitions that are ours: somebody who held them before has just
/// committed them, and is not to be overwritten.
pub fn check_not_overtaken(table: &TableName, positions: Option<&Positions>, rows: &Rows) -> Result<()> {
    let Some(positions) = positions else { return Ok(()) };
    let overtaken = |(partition, next): &(&i32, &i64)| positions.covers_offset(**partition, **next - 1);
    let Some((partition, _)) = rows.next_offsets.iter().find(overtaken) else { return Ok(()) };
    Err(Error::retry(
        Code::CommitOvertaken,
        format!("cannot merge events of partition {partition} into the lake table {table}"),
        "a process that held the partition before has committed them meanwhile",
        "nothing; what is in the lake is read again",
    ))
}

/// Whether an event of the whole table is to be applied, given what the table is, and what it has taken of the feed;
/// false if the table was begun with this copy by whoever read other partitions.
pub fn applies_to_whole_table(
    table: &TableName,
    names: &PositionNames,
    standing: Standing,
    positions: Option<&Positions>,
    rows: &Rows,
    is_copy_start: bool,
) -> Result<bool> {
    let is_whole = names.orders_whole_table();
    if is_whole && !rows.whole.is_repeated {
        return Ok(true);
    }
    let begins = rows.next_offsets.keys().all(|partition| {
        rows.whole.opens_topic && positions.is_none_or(|positions| positions.next_offset(*partition).is_none())
    });
    let same_generation =
        names.generation().is_some() && positions.and_then(Positions::generation) == names.generation();
    match standing {
        Standing::Absent if is_copy_start && begins => return Ok(true),
        _ if is_copy_start && begins && same_generation => return Ok(false),
        _ if is_whole => return Err(half_applied(table)),
        _ => {}
    }
    Err(Error::operator(
        Code::PartitionsUnordered,
        format!("cannot truncate {table}, or copy it again"),
        "its topic's partitions are not all read here in commit order, so rows of other partitions that are older cannot \
         be told from newer ones",
        "stop the other sinks until this one has done it (it goes on by itself then); topics that Debezium writes must \
         have one partition for it",
    ))
}

fn half_applied(table: &TableName) -> Error {
    Error::operator(
        Code::PartitionsUnordered,
        format!("cannot truncate {table}, or copy it again"),
        "another sink has done so for the partitions that it read, and rows of others that are older cannot be told from \
         newer ones",
        copy_again(table),
    )
}

/// Columns of a table, and the position of the first event that had them, where events may come in another order.
#[derive(Clone, Copy)]
pub struct TableColumns<'a> {
    /// The columns.
    pub columns: &'a [LakeColumn],
    /// The position; none if it is not known.
    pub since: Option<Position>,
}

/// Compares the columns of events, the first of which has a position `at`, with the table's. Events of a partition that
/// is behind others may be older than these.
pub fn compare_columns(
    schema: &Arc<EventSchema>,
    at: Option<Position>,
    known: TableColumns<'_>,
    mapping: Mapping,
    names: &PositionNames,
) -> Result<ColumnChange> {
    let (table, table_columns) = (&schema.table, known.columns);
    let columns = columns_of(schema)?;
    let may_be_older = names.generation().is_some();
    if may_be_older && known.since.zip(at).is_some_and(|(since, at)| at < since) {
        return check_older(table, table_columns, &columns);
    }
    let arrival = if may_be_older && known.since.is_none() { Arrival::MaybeOlder } else { Arrival::InOrder };
    // A topic's writer has the rows copied again where that is needed, before it sends the new shape.
    let fills = |column: &LakeColumn| !names.is_topic() && fills_older_rows(schema, column);
    let changed = |next: Vec<LakeColumn>| match mapping.fits(&next) {
        true => Ok(ColumnChange::Changed(column_mapping::stored(next, table_columns, mapping.last_id))),
        false => Err(odd_names(table)),
    };
    match compare(&facts(table_columns, |_| false), &facts(&columns, fills), arrival) {
        Evolution::Same => Ok(ColumnChange::None),
        Evolution::Metadata => changed(widen(table_columns, &columns)),
        Evolution::Reshaped if !names.is_topic() && !mapping.is_allowed => {
            Ok(ColumnChange::NeedsCopy(copy_needed(table, "columns were dropped or renamed")))
        }
        // Nobody else's topics say which column is which, partition by partition.
        Evolution::Reshaped if mapping.is_allowed && (may_be_older || !names.is_topic()) => {
            changed(reshape(table_columns, &columns))
        }
        Evolution::Reshaped => Err(changed_shape(table, "columns were dropped or renamed")),
        Evolution::Recopy(why) => Ok(ColumnChange::NeedsCopy(copy_needed(table, &why))),
        Evolution::Decision(what) if !names.is_topic() => Ok(ColumnChange::NeedsCopy(copy_needed(table, &what))),
        Evolution::Decision(what) => Err(changed_shape(table, &what)),
    }
}

/// Events that are older than the table's columns have their values for those that are still there.
fn check_older(table: &TableName, table_columns: &[LakeColumn], columns: &[LakeColumn]) -> Result<ColumnChange> {
    let other = columns.iter().find_map(|column| {
        let now = table_columns.iter().find(|now| now.is_same(column))?;
        (now.lake_type != column.lake_type).then_some(column)
    });
    match other {
        None => Ok(ColumnChange::None),
        Some(column) => Err(changed_shape(table, &format!("column '{}' had another type before", column.name))),
    }
}

/// What events under another key mean.
pub fn key_changed(table: &TableName, names: &PositionNames) -> Result<Staged> {
    let what = "its key changed";
    match names.is_topic() {
        true => Err(changed_shape(table, what)),
        false => Ok(Staged::NeedsCopy(copy_needed(table, what))),
    }
}

/// The reason of a table to be copied again, by itself.
pub fn copy_needed(table: &TableName, why: &str) -> Error {
    Error::retry(Code::CopyNeeded, format!("{table} is copied again"), why, "nothing")
}

/// Whether rows that are older than a column hold values in it.
fn fills_older_rows(schema: &EventSchema, column: &LakeColumn) -> bool {
    let source = schema.relation.as_ref();
    let has_default = source
        .is_some_and(|relation| relation.columns.iter().any(|known| known.name == column.name && known.has_default));
    column.missing.is_none() && (!column.nullable || has_default)
}

/// The error of a table whose events no longer fit it.
pub fn changed_shape(table: &TableName, what: &str) -> Error {
    Error::operator(
        Code::ShapeChanged,
        format!("cannot merge {table} into the lake"),
        format!("the table's shape changed: {what}"),
        format!("{} in its new shape", copy_again(table)),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sooner_api::{Feed, WholeTable};
    use sooner_schemas::event::{Event, Op, TableEvents};
    use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar};

    use super::*;

    const MAPPING: Mapping = Mapping { is_allowed: true, last_id: None };

    fn table() -> TableName {
        TableName::new("public", "t")
    }

    fn schema(columns: Vec<Column>) -> Arc<EventSchema> {
        let relation = Relation::new(table(), columns, vec![0]);
        let value = sooner_schemas::envelope::value_schema("t", &relation).to_string();
        Arc::new(EventSchema::parse(table(), None, &value).unwrap())
    }

    fn id() -> Column {
        Column::new("id", ColumnType::Scalar(Scalar::Int8)).numbered(1)
    }

    fn note() -> Column {
        Column::new("note", ColumnType::Scalar(Scalar::Text)).numbered(2).nullable()
    }

    fn slot() -> PositionNames {
        PositionNames::new("shop", &Feed::Slot("s".into()))
    }

    fn known(columns: &[LakeColumn]) -> TableColumns<'_> {
        TableColumns { columns, since: None }
    }

    fn topic(assigned: &[i32], generation: Option<i64>) -> PositionNames {
        let assigned = assigned.iter().copied().collect();
        let feed = Feed::Topic { topic: "t".into(), generation, partitions: 2, assigned, in_commit_order: true };
        PositionNames::new("shop", &feed)
    }

    fn rows(lsns: &[u64], next_offsets: &[(i32, i64)]) -> Rows {
        let mut events = TableEvents::new(schema(vec![id()]));
        let event = |lsn: &u64| Event {
            position: Position { commit_lsn: Lsn(*lsn), ordinal: 0 },
            op: Op::Update,
            key: 0..0,
            value: 0..0,
            unavailable: Box::default(),
            old_key: None,
        };
        events.events.extend(lsns.iter().map(event));
        Rows { next_offsets: next_offsets.iter().copied().collect(), ..Rows::new(events) }
    }

    #[test]
    fn events_that_the_table_has_are_dropped() {
        let rows = rows(&[10, 20, 20, 30], &[]);
        assert_eq!(covered_events(Some(&Positions::whole(Lsn(20))), &rows), 3);
        assert_eq!(covered_events(Some(&Positions::whole(Lsn(5))), &rows), 0);
        assert_eq!(covered_events(None, &rows), 0);
        let mut copied = self::rows(&[10, 10], &[]);
        copied.events.events.iter_mut().for_each(|event| event.position.ordinal = Position::FIRST_COPIED);
        assert_eq!(covered_events(Some(&Positions::whole(Lsn(20))), &copied), 0);
    }

    #[test]
    fn events_of_a_partition_that_somebody_else_committed_are_refused() {
        let positions = Positions::offsets(BTreeMap::from([(0, 7)]));
        let check = |next: i64| check_not_overtaken(&table(), Some(&positions), &rows(&[1], &[(0, next)]));
        assert!(check(8).is_ok());
        assert_eq!(check(7).unwrap_err().code, Code::CommitOvertaken);
        assert!(check_not_overtaken(&table(), None, &rows(&[1], &[(0, 1)])).is_ok());
    }

    #[test]
    fn a_truncate_needs_all_partitions() {
        let applies = |names: &PositionNames, standing, start| {
            applies_to_whole_table(&table(), names, standing, None, &rows(&[1], &[(0, 5)]), start)
        };
        assert_eq!(applies(&slot(), Standing::Follows, false), Ok(true));
        assert_eq!(applies(&topic(&[0, 1], None), Standing::Follows, false), Ok(true));
        for (standing, is_start) in [(Standing::Follows, false), (Standing::Absent, false), (Standing::Absent, true)] {
            let refused = applies(&topic(&[0], None), standing, is_start).unwrap_err();
            assert_eq!(refused.code, Code::PartitionsUnordered);
        }
        let names = topic(&[0], None);
        let begins = applies_to_whole_table(&table(), &names, Standing::Absent, None, &opening(&[(0, 1)]), true);
        assert_eq!(begins, Ok(true), "the topic begins with it");
    }

    fn opening(next_offsets: &[(i32, i64)]) -> Rows {
        let whole = WholeTable { opens_topic: true, ..WholeTable::default() };
        Rows { whole, ..rows(&[1], next_offsets) }
    }

    #[test]
    fn a_copy_that_another_sink_has_begun_is_joined() {
        let begun = Positions::Topic { generation: Some(5), next_offsets: BTreeMap::from([(1, 1)]) };
        let joined = |names: &PositionNames, start: &Rows, is_start| {
            applies_to_whole_table(&table(), names, Standing::Follows, Some(&begun), start, is_start)
        };
        let start = opening(&[(0, 1)]);
        assert_eq!(joined(&topic(&[0], Some(5)), &start, true), Ok(false));
        assert!(joined(&topic(&[0], Some(5)), &start, false).is_err(), "a truncate is none");
        assert!(joined(&topic(&[0], Some(6)), &start, true).is_err(), "of another generation");
        assert!(joined(&topic(&[0], Some(5)), &rows(&[1], &[(0, 1)]), true).is_err(), "rows came before it elsewhere");
        assert!(joined(&topic(&[1], Some(5)), &opening(&[(1, 1)]), true).is_err(), "it was read before");
    }

    #[test]
    fn whoever_reads_all_partitions_in_the_end_removes_no_rows_that_came_after_the_same_start() {
        let begun = Positions::Topic { generation: Some(5), next_offsets: BTreeMap::from([(1, 70)]) };
        let names = topic(&[0, 1], Some(5));
        let repeated = |rows: Rows| Rows { whole: WholeTable { is_repeated: true, ..rows.whole }, ..rows };
        let applied = |rows: &Rows, is_start| {
            applies_to_whole_table(&table(), &names, Standing::Follows, Some(&begun), rows, is_start)
        };
        assert_eq!(applied(&repeated(opening(&[(0, 1)])), true), Ok(false));
        for (rows, is_start) in [(rows(&[1], &[(0, 9)]), true), (rows(&[1], &[(0, 9)]), false)] {
            let refused = applied(&repeated(rows), is_start).unwrap_err();
            assert!(refused.remedy.contains("sooner resume"), "{refused}");
        }
        assert_eq!(applied(&rows(&[1], &[(0, 9), (1, 71)]), true), Ok(true));
    }

    #[test]
    fn an_added_column_widens_and_one_with_a_default_needs_a_copy_from_a_stream() {
        let before = columns_of(&schema(vec![id()])).unwrap();
        let wide = schema(vec![id(), note()]);
        assert!(matches!(compare_columns(&wide, None, known(&before), MAPPING, &slot()), Ok(ColumnChange::Changed(_))));
        let filled = schema(vec![id(), Column { has_default: true, ..note() }]);
        assert!(matches!(
            compare_columns(&filled, None, known(&before), MAPPING, &slot()),
            Ok(ColumnChange::NeedsCopy(_))
        ));
        let from_topic = compare_columns(&filled, None, known(&before), MAPPING, &topic(&[0, 1], Some(5)));
        assert!(matches!(from_topic, Ok(ColumnChange::Changed(_))), "its writer has copied it");
    }

    #[test]
    fn events_before_the_one_that_brought_the_tables_columns_are_of_former_ones() {
        let columns = columns_of(&schema(vec![id(), Column { name: "text".to_owned(), ..note() }])).unwrap();
        let at = |lsn| Some(Position { commit_lsn: Lsn(lsn), ordinal: 3 });
        let compared = |events: Vec<Column>, lsn| {
            let known = TableColumns { columns: &columns, since: at(50) };
            compare_columns(&schema(events), at(lsn), known, MAPPING, &topic(&[0], Some(5)))
        };
        for former in [vec![id()], vec![id(), note()], vec![id(), note(), Column { number: Some(3), ..note() }]] {
            assert_eq!(compared(former.clone(), 49), Ok(ColumnChange::None));
            let Ok(ColumnChange::Changed(changed)) = compared(former.clone(), 51) else { panic!("{former:?}") };
            assert_eq!(changed.len(), former.len());
        }
        let retyped = Column { column_type: ColumnType::Scalar(Scalar::Int8), ..note() };
        assert_eq!(compared(vec![id(), retyped], 49).unwrap_err().code, Code::ShapeChanged);
    }

    #[test]
    fn a_dropped_column_is_metadata_or_stops_the_table_unless_the_events_may_be_older() {
        let before = columns_of(&schema(vec![id(), note()])).unwrap();
        let narrow = schema(vec![id()]);
        let from_slot = compare_columns(&narrow, None, known(&before), MAPPING, &slot());
        assert!(matches!(from_slot, Ok(ColumnChange::Changed(columns)) if columns.len() == 1));
        let forbidden =
            compare_columns(&narrow, None, known(&before), Mapping { is_allowed: false, ..MAPPING }, &slot());
        assert!(matches!(forbidden, Ok(ColumnChange::NeedsCopy(_))));
        let of_others = compare_columns(&narrow, None, known(&before), MAPPING, &topic(&[0], None));
        assert_eq!(of_others.unwrap_err().code, Code::ShapeChanged, "nobody copies it again");
        assert_eq!(
            compare_columns(&narrow, None, known(&before), MAPPING, &topic(&[0], Some(5))),
            Ok(ColumnChange::None)
        );
    }
}
