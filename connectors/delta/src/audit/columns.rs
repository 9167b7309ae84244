//! Entries of the audit trail as rows of its table, and back.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_schema::ArrowError;

use super::chain::{AuditEntry, ChainedEntry};
use crate::rows::columns::{LakeColumn, arrow_schema};
use crate::rows::lake_type::LakeType;

/// Columns of the table.
pub fn columns() -> Vec<LakeColumn> {
    let column = |name: &str, lake_type, nullable| LakeColumn {
        name: name.to_owned(),
        lake_type,
        nullable,
        number: None,
        stored: None,
        missing: None,
    };
    let text = |name, nullable| column(name, LakeType::String, nullable);
    vec![
        column("sequence", LakeType::Long, false),
        column("at", LakeType::Timestamp, false),
        text("pipeline", false),
        text("side", false),
        text("kind", false),
        text("table", true),
        text("actor", false),
        text("entry", false),
        text("previous", false),
        text("hash", false),
        text("signature", true),
        text("key_id", true),
    ]
}

/// Entries as rows.
pub fn rows_of(entries: &[ChainedEntry]) -> Result<RecordBatch, ArrowError> {
    fn texts<'e>(entries: &'e [ChainedEntry], value: impl Fn(&'e ChainedEntry) -> Option<&'e str>) -> ArrayRef {
        Arc::new(entries.iter().map(value).collect::<StringArray>())
    }
    let at = entries.iter().map(|chained| chained.entry.at_micros);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(entries.iter().map(|chained| chained.sequence))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(at).with_timezone("UTC")),
        texts(entries, |chained| Some(&chained.pipeline)),
        texts(entries, |chained| Some(&chained.entry.side)),
        texts(entries, |chained| Some(&chained.entry.kind)),
        texts(entries, |chained| chained.entry.table.as_deref()),
        texts(entries, |chained| Some(&chained.entry.actor)),
        texts(entries, |chained| Some(&chained.entry.entry)),
        texts(entries, |chained| Some(&chained.previous)),
        texts(entries, |chained| Some(&chained.hash)),
        texts(entries, |chained| chained.signature.as_deref()),
        texts(entries, |chained| chained.key_id.as_deref()),
    ];
    RecordBatch::try_new(arrow_schema(&columns()), arrays)
}

/// Rows as entries. The rows have the table's columns.
pub fn entries_of(rows: &RecordBatch) -> Vec<ChainedEntry> {
    let text = |column: usize, row: usize| {
        let texts = rows.column(column).as_string::<i32>();
        texts.is_valid(row).then(|| texts.value(row).to_owned())
    };
    let required = |column, row| text(column, row).unwrap_or_default();
    let entries = (0..rows.num_rows()).map(|row| ChainedEntry {
        sequence: rows.column(0).as_primitive::<Int64Type>().value(row),
        pipeline: required(2, row),
        entry: AuditEntry {
            at_micros: rows.column(1).as_primitive::<TimestampMicrosecondType>().value(row),
            side: required(3, row),
            kind: required(4, row),
            table: text(5, row),
            actor: required(6, row),
            entry: required(7, row),
        },
        previous: required(8, row),
        hash: required(9, row),
        signature: text(10, row),
        key_id: text(11, row),
    });
    entries.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::{NO_HASH, chained};

    #[test]
    fn entries_survive_being_rows() {
        let entry = |table: Option<&str>| AuditEntry {
            at_micros: -5,
            side: "sink".to_owned(),
            kind: "parked".to_owned(),
            table: table.map(str::to_owned),
            actor: "a".to_owned(),
            entry: "{}".to_owned(),
        };
        let mut entries = chained("shop", vec![entry(None), entry(Some("a.b"))], 4, NO_HASH.to_owned(), None);
        entries[1].signature = Some("s".to_owned());
        entries[1].key_id = Some("k".to_owned());
        assert_eq!(entries_of(&rows_of(&entries).unwrap()), entries);
    }
}
