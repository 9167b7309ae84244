//! The files that rows of a checkpoint add or remove.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, Int32Array, Int64Array, RecordBatch, StringArray, StructArray};
use serde_json::Value;

/// A deletion vector as the log names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VectorName<'a> {
    /// `i` for one that is part of the log, `u` for one in a file below the table, `p` for one in a file anywhere.
    pub storage: &'a str,
    /// The vector, or the name of its file.
    pub text: &'a str,
    /// Where it begins in the file.
    pub offset: Option<i64>,
}

/// A file as an add or remove action names it: the same file with another vector is another name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileName<'a> {
    /// Path, URL-encoded as in the log.
    pub path: &'a str,
    /// Its vector, if it has one.
    pub vector: Option<VectorName<'a>>,
}

impl<'a> FileName<'a> {
    /// The file of an add or remove action; none if it has no path.
    pub fn of_action(body: &'a Value) -> Option<FileName<'a>> {
        let vector = body.get("deletionVector").filter(|vector| vector.is_object());
        let vector = vector.map(|vector| {
            let text = |name: &str| vector.get(name).and_then(Value::as_str).unwrap_or_default();
            let offset = vector.get("offset").and_then(Value::as_i64);
            VectorName { storage: text("storageType"), text: text("pathOrInlineDv"), offset }
        });
        Some(FileName { path: body.get("path")?.as_str()?, vector })
    }

    /// Name of the file of vectors below the table that the vector lies in.
    pub fn vector_file(&self) -> Option<&'a str> {
        self.vector.filter(|vector| vector.storage == "u").map(|vector| vector.text)
    }
}

/// The adds or the removes among rows of a checkpoint.
pub struct FileRows<'a> {
    record: &'a StructArray,
    path: &'a StringArray,
    vector: &'a StructArray,
    storage: &'a StringArray,
    text: &'a StringArray,
    offset: &'a Int32Array,
    deleted_at: Option<&'a Int64Array>,
}

impl<'a> FileRows<'a> {
    /// Those of a kind, `add` or `remove`; none if the rows do not have our columns.
    pub fn of(rows: &'a RecordBatch, kind: &str) -> Option<FileRows<'a>> {
        let record = rows.column_by_name(kind)?.as_struct_opt()?;
        let vector = record.column_by_name("deletionVector")?.as_struct_opt()?;
        Some(FileRows {
            record,
            path: record.column_by_name("path")?.as_string_opt()?,
            vector,
            storage: vector.column_by_name("storageType")?.as_string_opt()?,
            text: vector.column_by_name("pathOrInlineDv")?.as_string_opt()?,
            offset: vector.column_by_name("offset")?.as_primitive_opt::<Int32Type>()?,
            deleted_at: record.column_by_name("deletionTimestamp").and_then(|at| at.as_primitive_opt::<Int64Type>()),
        })
    }

    /// The file of a row; none if the row is of another kind.
    pub fn file(&self, row: usize) -> Option<FileName<'a>> {
        if self.record.is_null(row) {
            return None;
        }
        let vector = self.vector.is_valid(row).then(|| VectorName {
            storage: self.storage.value(row),
            text: self.text.value(row),
            offset: self.offset.is_valid(row).then(|| self.offset.value(row).into()),
        });
        Some(FileName { path: self.path.value(row), vector })
    }

    /// When the file was removed, in milliseconds since 1970; 0 if nobody says so.
    pub fn deleted_at_millis(&self, row: usize) -> i64 {
        self.deleted_at.filter(|at| at.is_valid(row)).map_or(0, |at| at.value(row))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::log::checkpoint_rows::of_actions;

    #[test]
    fn a_file_has_the_same_name_in_an_action_and_in_a_row() {
        let vector =
            json!({"storageType": "u", "pathOrInlineDv": "xyz", "offset": 4, "sizeInBytes": 9, "cardinality": 1});
        let inline = json!({"storageType": "i", "pathOrInlineDv": "abc", "sizeInBytes": 3, "cardinality": 1});
        let removes = [
            json!({"path": "a", "deletionTimestamp": 17, "deletionVector": vector}),
            json!({"path": "b", "deletionVector": inline}),
            json!({"path": "c"}),
        ];
        let rows = of_actions(&removes.clone().map(|body| json!({"remove": body}))).unwrap();
        let found = FileRows::of(&rows, "remove").unwrap();
        for (row, body) in removes.iter().enumerate() {
            assert_eq!(found.file(row), FileName::of_action(body), "{body}");
        }
        assert_eq!((found.deleted_at_millis(0), found.deleted_at_millis(1)), (17, 0));
        assert_eq!(found.file(0).unwrap().vector_file(), Some("xyz"));
        assert_eq!(found.file(1).unwrap().vector_file(), None);
        assert!(FileRows::of(&rows, "add").unwrap().file(0).is_none());
    }
}
