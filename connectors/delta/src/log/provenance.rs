//! Where a table's columns come from, as properties of the table: since which event it has them, which of them are its
//! key, which columns of the source it lacks, which are masked, and whether rows stay as they were inserted.
//!
//! Events of a topic's partitions that are behind others may be older than the table's columns, and then have former
//! ones. Columns that Postgres does not send are missing for good, which whoever reads the table should be able to see.

use serde_json::{Map, Value, json};
use sooner_schemas::avro::Schema;
use sooner_schemas::event::EventSchema;
use sooner_schemas::{Lsn, Position, Relation};

/// Property with the position of the first event that had the table's columns, as `16/B374D848 12`.
const SINCE: &str = "sooner.columnsSince";
/// Property with the names of the key's columns, as a JSON array.
const KEY: &str = "sooner.key";
/// Property that says that the key was another one before.
const KEY_CHANGED: &str = "sooner.keyChanged";
/// Property with the names of columns that are not sent, as a JSON array.
const UNSENT: &str = "sooner.columnsNotSent";

/// Property that says that changes of rows are ignored: only new rows are added.
const ON_CHANGE: &str = "sooner.onChange";
const IGNORE: &str = "ignore";

/// Property with what became of masked columns' values, by the columns' names, as a JSON object.
const MASKED: &str = "sooner.masked";

/// Where a table's columns come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Position of the first event that had them, where events may come in another order.
    pub since: Option<Position>,
    /// Columns of the table's key, in its order; none where that is not known, or the table has none.
    pub key: Vec<String>,
    /// The rows of a history have been told apart by other columns before.
    pub key_changed: bool,
    /// Columns that the source's table has, and Postgres does not send.
    pub unsent: Vec<String>,
    /// Columns that are masked, each with what became of its values.
    pub masked: Vec<(String, String)>,
    /// Rows stay as they were inserted, whatever the source does to them.
    pub ignores_changes: bool,
}

impl Provenance {
    /// What a table's metadata says; nothing of what nobody can read.
    pub fn of(metadata: &Value) -> Provenance {
        let property = |name: &str| metadata.get("configuration")?.get(name)?.as_str();
        let since = property(SINCE).and_then(|text| {
            let (lsn, ordinal) = text.split_once(' ')?;
            Some(Position { commit_lsn: lsn.parse::<Lsn>().ok()?, ordinal: ordinal.parse().ok()? })
        });
        let names = |name| property(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let masked = property(MASKED).and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
        let masked = masked.into_iter().flatten().filter_map(|(name, mask)| Some((name, mask.as_str()?.to_owned())));
        let ignores_changes = property(ON_CHANGE) == Some(IGNORE);
        let key_changed = property(KEY_CHANGED).is_some();
        Provenance {
            since,
            key: names(KEY),
            key_changed,
            unsent: names(UNSENT),
            masked: masked.collect(),
            ignores_changes,
        }
    }

    /// Where the columns of events come from, the first of which has the position `since`, if that counts. What is not
    /// known is as it was before.
    pub fn of_events(schema: &EventSchema, since: Option<Position>, former: &Provenance) -> Provenance {
        let unsent = schema.relation.as_ref().map(|relation| relation.unsent.clone()).unwrap_or_default();
        let masked = schema.relation.as_ref().map(Relation::masked_columns).unwrap_or_default();
        let key = key_of(schema).filter(|key| !key.is_empty()).unwrap_or_else(|| former.key.clone());
        let since = since.or(former.since);
        Provenance { since, key, unsent, masked, ..former.clone() }
    }

    /// The same of a history, which keeps the rows that it had under another key.
    pub fn of_history(schema: &EventSchema, former: &Provenance) -> Provenance {
        let told = Provenance::of_events(schema, None, former);
        let key = key_of(schema).unwrap_or_else(|| former.key.clone());
        let is_other = !former.key.is_empty() && key != former.key;
        Provenance { key, key_changed: former.key_changed || is_other, ..told }
    }

    /// The same, where rows stay as they were inserted, or do not.
    pub fn ignoring(self, ignores_changes: bool) -> Provenance {
        Provenance { ignores_changes, ..self }
    }

    /// Whether readers of the table are told something else by it, apart from where it begins.
    pub fn says_other_than(&self, other: &Provenance) -> bool {
        let said = |it: &Provenance| Provenance { since: None, ..it.clone() };
        said(self) != said(other)
    }

    /// Says so in a table's metadata. What is not known of the first event stays as it is there.
    pub fn set(&self, metadata: &mut Value) {
        if !metadata["configuration"].is_object() {
            metadata["configuration"] = Value::Object(Map::new());
        }
        let Some(properties) = metadata["configuration"].as_object_mut() else { return };
        if let Some(since) = self.since {
            properties.insert(SINCE.to_owned(), json!(format!("{} {}", since.commit_lsn, since.ordinal)));
        }
        if !self.key.is_empty() {
            properties.insert(KEY.to_owned(), json!(json!(self.key).to_string()));
        } else if self.key_changed {
            properties.shift_remove(KEY);
        }
        if self.key_changed {
            properties.insert(KEY_CHANGED.to_owned(), json!("true"));
        }
        match self.unsent.is_empty() {
            true => drop(properties.shift_remove(UNSENT)),
            false => drop(properties.insert(UNSENT.to_owned(), json!(json!(self.unsent).to_string()))),
        }
        match self.ignores_changes {
            true => drop(properties.insert(ON_CHANGE.to_owned(), json!(IGNORE))),
            false => drop(properties.shift_remove(ON_CHANGE)),
        }
        let masked: Map<_, _> = self.masked.iter().map(|(name, mask)| (name.clone(), json!(mask))).collect();
        match masked.is_empty() {
            true => drop(properties.shift_remove(MASKED)),
            false => drop(properties.insert(MASKED.to_owned(), json!(Value::Object(masked).to_string()))),
        }
    }
}

/// Columns of the key of events: those of their key's schema, or, for an event of the whole table, which has no key,
/// those that the table has; none where neither is known.
fn key_of(schema: &EventSchema) -> Option<Vec<String>> {
    let of_schema = schema.key.as_ref().and_then(Schema::as_record);
    let of_schema = of_schema.map(|key| key.fields.iter().map(|field| field.column.clone()).collect());
    let of_relation = schema.relation.as_ref().map(|relation| {
        let columns = relation.key.iter().filter_map(|index| relation.columns.get(*index));
        columns.map(|column| column.name.clone()).collect()
    });
    of_schema.or(of_relation)
}

#[cfg(test)]
mod tests {
    use sooner_schemas::envelope::{key_schema, value_schema};
    use sooner_schemas::{Column, ColumnType, Scalar, TableName};

    use super::*;

    #[test]
    fn what_is_noted_is_found_and_what_nobody_can_read_is_not() {
        let mut metadata = json!({});
        assert_eq!(Provenance::of(&metadata), Provenance::default());
        let since = Some(Position { commit_lsn: Lsn(0x16_B374_D848), ordinal: 12 });
        let key = vec!["id".to_owned(), "a b".to_owned()];
        let unsent = vec!["total".to_owned(), "a \"b\"".to_owned()];
        let masked = vec![("email".to_owned(), "hash".to_owned()), ("a \"b\"".to_owned(), "omit".to_owned())];
        let noted = Provenance { since, key: key.clone(), key_changed: true, unsent, masked, ignores_changes: true };
        noted.set(&mut metadata);
        assert_eq!(Provenance::of(&metadata), noted);
        Provenance::default().set(&mut metadata);
        assert_eq!(Provenance::of(&metadata), Provenance { since, key, key_changed: true, ..Provenance::default() });
        metadata["configuration"] = json!({SINCE: "yesterday", KEY: "id"});
        assert_eq!(Provenance::of(&metadata), Provenance::default());
    }

    fn events(key: Vec<usize>, is_of_whole_table: bool) -> EventSchema {
        let columns = ["a", "b"].map(|name| Column::new(name, ColumnType::Scalar(Scalar::Int4)));
        let relation = Relation::new(TableName::new("public", "t"), columns.to_vec(), key);
        let key = key_schema("t", &relation).filter(|_| !is_of_whole_table).map(|schema| schema.to_string());
        let value = value_schema("t", &relation).to_string();
        EventSchema::parse(relation.name, key.as_deref(), &value).unwrap()
    }

    #[test]
    fn an_event_of_the_whole_table_tells_its_key_too_and_a_history_knows_that_it_had_another() {
        let none = Provenance::default();
        let first = Provenance::of_history(&events(vec![0], true), &none);
        assert_eq!((first.key.clone(), first.key_changed), (vec!["a".to_owned()], false));
        let same = Provenance::of_history(&events(vec![0], false), &first);
        assert_eq!((&same, same.says_other_than(&first)), (&first, false));
        for other in [vec![1, 0], Vec::new()] {
            let changed = Provenance::of_history(&events(other, true), &first);
            assert!(changed.key_changed && changed.says_other_than(&first));
            assert!(Provenance::of_history(&events(vec![0], false), &changed).key_changed, "its rows are there still");
        }
        assert!(!Provenance::of_history(&events(Vec::new(), true), &none).key_changed);
    }
}
