//! Column mapping: columns are known to a table's files by other names than to its readers, so that they may have any
//! name, and be dropped and renamed without a file being written again. A table gets it when it first needs it.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#column-mapping>

use std::collections::HashSet;

use serde_json::{Value, json};

use super::lake_column::{LakeColumn, Stored};

/// The feature of readers and writers.
pub const FEATURE: &str = "columnMapping";
const MODE: &str = "delta.columnMapping.mode";
const LAST_ID: &str = "delta.columnMapping.maxColumnId";
const ID: &str = "delta.columnMapping.id";
const STORED_NAME: &str = "delta.columnMapping.physicalName";
/// Characters that a column's name must not contain in a table without column mapping.
const FORBIDDEN: &str = " ,;{}()\n\t=";
/// Names in files that are made up begin with this.
const MADE_UP: &str = "col-";

/// Whether a table maps columns, and may.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// It may, where it needs it. Not all readers know column mapping.
    pub is_allowed: bool,
    /// The last column's number that it has given; none where it does not map columns.
    pub last_id: Option<i32>,
}

impl Mapping {
    /// Whether a table can have columns of these names.
    pub fn fits(self, columns: &[LakeColumn]) -> bool {
        self.is_allowed || have_plain_names(columns)
    }
}

/// Columns as a table stores them from now on. `kept` are those of the files that stay, none of them where all files
/// are replaced; `last_id` is the last column's number that the table has given, none without column mapping.
pub fn stored(columns: Vec<LakeColumn>, kept: &[LakeColumn], last_id: Option<i32>) -> Vec<LakeColumn> {
    let stays = |was: &LakeColumn| columns.iter().any(|column| column.is_same(was) && column.name == was.name);
    let is_mapped = last_id.is_some() || is_used(kept);
    if !is_mapped && have_plain_names(&columns) && kept.iter().all(stays) {
        return columns;
    }
    let mut next_id = last_id.max(greatest_id(kept)).unwrap_or(0);
    let is_taken = |name: &str| kept.iter().any(|column| column.stored_name() == name);
    let stored = columns.iter().map(|column| {
        let was = kept.iter().find(|was| column.is_same(was));
        if let Some(stored) = was.and_then(|was| was.stored.clone()) {
            return stored;
        }
        next_id += 1;
        while is_taken(&made_up(next_id)) {
            next_id += 1;
        }
        let own = was.or_else(|| Some(column).filter(|column| kept.is_empty() && may_stand_in_files(column, &columns)));
        Stored { id: next_id, name: own.map_or_else(|| made_up(next_id), |own| own.name.clone()) }
    });
    let stored: Vec<_> = stored.collect();
    columns.into_iter().zip(stored).map(|(column, stored)| LakeColumn { stored: Some(stored), ..column }).collect()
}

fn made_up(id: i32) -> String {
    format!("{MADE_UP}{id}")
}

fn is_plain(name: &str) -> bool {
    !name.contains(|c| FORBIDDEN.contains(c))
}

/// Whether columns can be stored by their own names: readers do not tell capitals from small letters.
fn have_plain_names(columns: &[LakeColumn]) -> bool {
    let mut seen = HashSet::new();
    columns.iter().all(|column| is_plain(&column.name) && seen.insert(column.name.to_lowercase()))
}

fn may_stand_in_files(column: &LakeColumn, all: &[LakeColumn]) -> bool {
    let lower = column.name.to_lowercase();
    is_plain(&lower)
        && !lower.starts_with(MADE_UP)
        && all.iter().filter(|other| other.name.to_lowercase() == lower).count() == 1
}

/// The names that readers see. Of several that differ in capitals only, the first column has its own, and any other is
/// followed by `_` and its number at the source.
pub fn shown_names(columns: &[LakeColumn]) -> Vec<String> {
    let mut taken = HashSet::new();
    let first: Vec<bool> = columns.iter().map(|column| taken.insert(column.name.to_lowercase())).collect();
    let names = columns.iter().zip(first).zip(1i16..).map(|((column, is_first), place)| {
        let mut name = column.name.clone();
        while !is_first && !taken.insert(name.to_lowercase()) {
            name = format!("{name}_{}", column.number.unwrap_or(place));
        }
        name
    });
    names.collect()
}

/// What the schema in a table's log says of a column's place in files.
pub fn field_metadata(stored: &Stored) -> [(&'static str, Value); 2] {
    [(ID, json!(stored.id)), (STORED_NAME, json!(stored.name))]
}

/// How a column stands in files, as the schema in a table's log says; none without column mapping.
pub fn parse_field_metadata(metadata: &Value) -> Option<Stored> {
    let id = metadata.get(ID)?.as_i64().and_then(|id| i32::try_from(id).ok())?;
    Some(Stored { id, name: metadata.get(STORED_NAME)?.as_str()?.to_owned() })
}

/// Whether any of these columns is stored by another name.
pub fn is_used(columns: &[LakeColumn]) -> bool {
    columns.iter().any(|column| column.stored.is_some())
}

/// The greatest number of these columns; none without column mapping.
pub fn greatest_id(columns: &[LakeColumn]) -> Option<i32> {
    columns.iter().filter_map(|column| Some(column.stored.as_ref()?.id)).max()
}

/// Says in a table's metadata that its columns are stored by other names, if they are. `given` is the last number that
/// was given, maybe to a column that is gone already.
pub fn set(metadata: &mut Value, columns: &[LakeColumn], former: &Value, given: Option<i32>) {
    let last = greatest_id(columns).max(last_id(former)).max(given);
    let Some(last) = last.filter(|_| is_used(columns)) else { return };
    metadata["configuration"][MODE] = json!("name");
    metadata["configuration"][LAST_ID] = json!(last.to_string());
}

/// The last column's number that a table has given; none without column mapping.
pub fn last_id(metadata: &Value) -> Option<i32> {
    let property = |name: &str| metadata.get("configuration")?.get(name)?.as_str();
    property(MODE).filter(|mode| *mode != "none")?;
    Some(property(LAST_ID).and_then(|id| id.parse().ok()).unwrap_or(0))
}

/// Whether a table's files know columns by numbers, which we do not.
pub fn is_by_number(metadata: &Value) -> bool {
    metadata.get("configuration").and_then(|all| all.get(MODE)).and_then(Value::as_str) == Some("id")
}

/// Whether a protocol has column mapping.
pub fn has_feature(protocol: &Value) -> bool {
    let features = protocol.get("readerFeatures").and_then(Value::as_array);
    features.is_some_and(|features| features.iter().any(|known| known == FEATURE))
}

/// A protocol with column mapping added to it.
pub fn with_feature(protocol: &Value) -> Value {
    let mut protocol = protocol.clone();
    for list in ["readerFeatures", "writerFeatures"] {
        let features = protocol[list].as_array_mut();
        match features {
            Some(features) if features.iter().all(|known| known != FEATURE) => features.push(json!(FEATURE)),
            Some(_) => {}
            None => protocol[list] = json!([FEATURE]),
        }
    }
    protocol
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::lake_type::LakeType;

    fn column(name: &str, number: i16) -> LakeColumn {
        LakeColumn {
            name: name.to_owned(),
            lake_type: LakeType::Long,
            nullable: true,
            number: Some(number),
            stored: None,
            missing: None,
        }
    }

    fn names(columns: &[LakeColumn]) -> Vec<(&str, &str)> {
        columns.iter().map(|column| (column.name.as_str(), column.stored_name())).collect()
    }

    #[test]
    fn plain_columns_are_stored_by_their_own_names() {
        let plain = vec![column("a", 1), column("b.c", 2), column("ü-%", 3)];
        assert_eq!(stored(plain.clone(), &[], None), plain);
        assert_eq!(stored(plain.clone(), &plain[..2], None), plain, "one was added");
    }

    #[test]
    fn odd_names_are_made_up_in_files_and_plain_ones_beside_them_are_kept() {
        let odd = stored(vec![column("a", 1), column("b c", 2), column("x", 3), column("X", 4)], &[], None);
        assert_eq!(names(&odd), [("a", "a"), ("b c", "col-2"), ("x", "col-3"), ("X", "col-4")]);
        assert_eq!(shown_names(&odd), ["a", "b c", "x", "X_4"]);
    }

    #[test]
    fn a_shown_name_that_is_taken_gets_another() {
        let odd = [column("x", 1), column("X", 2), column("x_2", 3)];
        assert_eq!(shown_names(&odd), ["x", "X_2_2", "x_2"]);
    }

    #[test]
    fn columns_that_are_dropped_renamed_and_added_again_keep_or_lose_what_files_hold() {
        let before = [column("id", 1), column("a", 2), column("b", 3)];
        let renamed = stored(vec![column("id", 1), column("z", 2), column("b", 3)], &before, None);
        assert_eq!(names(&renamed), [("id", "id"), ("z", "a"), ("b", "b")]);
        let again = stored(vec![column("id", 1), column("z", 2), column("b", 4)], &renamed, Some(3));
        assert_eq!(names(&again), [("id", "id"), ("z", "a"), ("b", "col-4")]);
        assert_eq!(again[1].stored, renamed[1].stored);
    }

    #[test]
    fn a_table_that_maps_columns_maps_those_that_are_added() {
        let dropped = stored(vec![column("id", 1)], &[column("id", 1), column("x", 2)], None);
        let added = stored(vec![column("id", 1), column("d", 3)], &dropped, None);
        assert_eq!(names(&added), [("id", "id"), ("d", "col-2")]);
        let again = stored(vec![column("id", 1), column("e", 4)], &dropped, Some(2));
        assert_eq!(names(&again), [("id", "id"), ("e", "col-3")], "number 2 was given to a column that is gone");
    }

    #[test]
    fn swapped_names_stay_with_their_values() {
        let before = [column("a", 1), column("b", 2)];
        let swapped = stored(vec![column("b", 1), column("a", 2)], &before, None);
        assert_eq!(names(&swapped), [("b", "a"), ("a", "b")]);
    }

    #[test]
    fn metadata_remembers_the_last_number() {
        let mut metadata = json!({"configuration": {}});
        set(&mut metadata, &[column("a", 1)], &json!({}), None);
        assert_eq!(last_id(&metadata), None);
        let columns = stored(vec![column("a b", 1)], &[], Some(8));
        set(&mut metadata, &columns, &json!({}), None);
        assert_eq!(last_id(&metadata), Some(9));
        set(&mut metadata, &columns, &json!({}), Some(12));
        assert_eq!(last_id(&metadata), Some(12), "a column with that number is gone already");
        assert!(!is_by_number(&metadata));
    }
}
