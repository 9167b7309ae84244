//! What events under another policy of values would mean for a table, before any of them comes. Without I/O.

use std::sync::Arc;

use sooner_api::{Code, Error, Feed, Result};
use sooner_schemas::Relation;
use sooner_schemas::envelope::value_schema;
use sooner_schemas::event::EventSchema;

use super::intake::{ColumnChange, TableColumns, compare_columns};
use crate::log::position_names::PositionNames;
use crate::rows::column_mapping::Mapping;
use crate::rows::columns::columns_of;

/// What events of the relation `now` mean for a table of this feed whose rows were written by `former`, both as events
/// carry them. An error means that the table would stop.
pub fn change_of_columns(former: &Relation, now: &Relation, feed: &Feed, maps_columns: bool) -> Result<ColumnChange> {
    let (was, is) = (schema_of(former)?, Arc::new(schema_of(now)?));
    let columns = columns_of(&was)?;
    let mapping = Mapping { is_allowed: maps_columns, last_id: None };
    let known = TableColumns { columns: &columns, since: None };
    compare_columns(&is, None, known, mapping, &PositionNames::new("", feed))
}

fn schema_of(relation: &Relation) -> Result<EventSchema> {
    let table = &relation.name;
    let text = value_schema("events", relation).to_string();
    EventSchema::parse(table.clone(), None, &text).map_err(|error| {
        let what = format!("cannot write events of {table}");
        Error::operator(Code::TypeUnsupported, what, error, "leave the table out (exclude)")
    })
}

#[cfg(test)]
mod tests {
    use sooner_schemas::policy::ValuePolicy;
    use sooner_schemas::{Column, ColumnType, Scalar, TableName};

    use super::*;

    fn under(policy: ValuePolicy) -> Relation {
        let columns = vec![
            Column::new("id", ColumnType::Scalar(Scalar::Int8)).numbered(1),
            Column::new("until", ColumnType::Scalar(Scalar::Date)).numbered(2),
        ];
        Relation::new(TableName::new("public", "t"), columns, vec![0]).under_policies(|_| policy)
    }

    #[test]
    fn a_policy_that_makes_texts_needs_a_copy_and_one_that_makes_null_does_not() {
        let slot = Feed::Slot("s".into());
        let judged = |now| change_of_columns(&under(ValuePolicy::Park), &under(now), &slot, true).unwrap();
        assert_eq!(judged(ValuePolicy::Park), ColumnChange::None);
        assert_eq!(judged(ValuePolicy::Clamp), ColumnChange::None);
        assert!(matches!(judged(ValuePolicy::Null), ColumnChange::Changed(_)));
        assert!(matches!(judged(ValuePolicy::Text), ColumnChange::NeedsCopy(error) if error.why.contains("until")));
    }

    #[test]
    fn a_table_behind_a_topic_stops_for_another_type() {
        let assigned = [0].into();
        let topic =
            Feed::Topic { topic: "t".into(), generation: Some(1), partitions: 1, assigned, in_commit_order: true };
        let judged = change_of_columns(&under(ValuePolicy::Park), &under(ValuePolicy::Text), &topic, true);
        assert_eq!(judged.unwrap_err().code, Code::ShapeChanged);
    }
}
