//! Which data files can hold a key, by the smallest and largest values that the log tells of them. Without I/O.

use serde_json::{Map, Value};
use sooner_schemas::avro::Schema;
use sooner_schemas::wire::{Malformed, Reader, split_header};

use crate::rows::columns::LakeColumn;
use crate::rows::lake_type::{LakeType, Meaning};

/// What a file must hold to hold a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyBounds {
    /// Names of columns in statistics, with the key's values.
    values: Vec<(String, Comparable)>,
}

/// A value that compares with a file's bounds as they are written in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Comparable {
    Whole(i64),
    Text(String),
}

impl KeyBounds {
    /// Those of a key message. Columns of types whose bounds the log shortens or rounds are left out.
    pub fn of(schema: &Schema, key: &[u8], columns: &[LakeColumn]) -> Result<KeyBounds, Malformed> {
        let (_, datum) = split_header(key)?;
        let mut reader = Reader::new(datum);
        let mut values = Vec::new();
        let fields = schema.as_record().map(|record| record.fields.as_slice()).unwrap_or_default();
        for field in fields {
            let value = match Meaning::of(&field.schema) {
                Some(Meaning::Plain(LakeType::Short | LakeType::Integer | LakeType::Long)) => {
                    Comparable::Whole(reader.long()?)
                }
                Some(Meaning::Plain(LakeType::String)) => Comparable::Text(reader.string()?.to_owned()),
                _ => {
                    field.schema.skip(&mut reader)?;
                    continue;
                }
            };
            let column = columns.iter().find(|column| column.name == field.column);
            values.push((column.map_or(&*field.column, LakeColumn::stored_name).to_owned(), value));
        }
        Ok(KeyBounds { values })
    }

    /// Whether a file may hold the key, given its add action. One without statistics may.
    pub fn may_be_in(&self, add: &Map<String, Value>) -> bool {
        let statistics = add.get("stats").and_then(Value::as_str);
        let Some(statistics) = statistics.and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
            return true;
        };
        let bound = |which: &str, column: &str| statistics.get(which)?.get(column);
        self.values.iter().all(|(column, value)| {
            let (least, most) = (bound("minValues", column), bound("maxValues", column));
            least.is_none_or(|least| value.is_at_least(least)) && most.is_none_or(|most| value.is_at_most(most))
        })
    }
}

impl Comparable {
    fn is_at_least(&self, bound: &Value) -> bool {
        match self {
            Comparable::Whole(value) => bound.as_i64().is_none_or(|bound| *value >= bound),
            // Delta orders texts by their bytes, as Rust does.
            Comparable::Text(value) => bound.as_str().is_none_or(|bound| value.as_str() >= bound),
        }
    }

    fn is_at_most(&self, bound: &Value) -> bool {
        match self {
            Comparable::Whole(value) => bound.as_i64().is_none_or(|bound| *value <= bound),
            Comparable::Text(value) => bound.as_str().is_none_or(|bound| value.as_str() <= bound),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sooner_schemas::wire::{write_bytes, write_header, write_long};

    use super::*;
    use crate::rows::columns::Stored;

    fn bounds() -> KeyBounds {
        let schema = r#"{"type":"record","name":"Key","fields":[{"name":"a","type":"long"},
            {"name":"at","type":"double"},{"name":"b","type":"string"}]}"#;
        let mut key = Vec::new();
        write_header(&mut key, 1);
        write_long(&mut key, 42);
        key.extend_from_slice(&0.5f64.to_le_bytes());
        write_bytes(&mut key, b"moor");
        let column = LakeColumn {
            name: "b".into(),
            lake_type: LakeType::String,
            nullable: false,
            number: None,
            stored: Some(Stored { id: 7, name: "col-7".into() }),
            missing: None,
        };
        KeyBounds::of(&Schema::parse(schema).unwrap(), &key, &[column]).unwrap()
    }

    fn may_be_in(statistics: &Value) -> bool {
        let Value::Object(add) = json!({"stats": statistics.to_string()}) else { panic!("an object") };
        bounds().may_be_in(&add)
    }

    #[test]
    fn a_file_is_left_out_if_a_column_of_the_key_lies_outside_its_bounds() {
        assert!(may_be_in(&json!({"minValues": {"a": 42, "col-7": "m"}, "maxValues": {"a": 42, "col-7": "n"}})));
        assert!(!may_be_in(&json!({"minValues": {"a": 43}})));
        assert!(!may_be_in(&json!({"maxValues": {"a": 41}})));
        assert!(!may_be_in(&json!({"minValues": {"col-7": "n"}})));
        assert!(!may_be_in(&json!({"maxValues": {"col-7": "mo"}})));
    }

    #[test]
    fn what_the_log_does_not_tell_of_a_file_leaves_it_in() {
        assert!(may_be_in(&json!({"numRecords": 5, "minValues": {"at": 9.0}, "maxValues": {"b": "a"}})));
        assert!(bounds().may_be_in(&Map::new()));
    }
}
