//! Rows of a history as events in Debezium's envelope, one JSON object each.
//!
//! An update whose former row is known has two rows at one position, which are one event. `source.lsn` is the LSN of
//! the transaction's commit, and `source.sequence` the event's position; times are those of the commit, so that the
//! same range is always written alike. What topics say in headers stands in `headers`, under the same names: values
//! that Postgres left out, which `after` has Debezium's placeholder for, and the start of a copy.

use arrow_array::RecordBatch;
use serde_json::{Map, Value, json};
use sooner_api::Result;
use sooner_schemas::TableName;
use sooner_schemas::event::Op;
use sooner_schemas::value::PLACEHOLDER;

use super::facts::{FactColumns, RowFacts};
use super::value_json::value_json;
use crate::history::change_type::ChangeType;
use crate::history::columns::source_columns;
use crate::rows::columns::LakeColumn;

/// Where events come from, as their source block says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Prefix of topics, or the pipeline.
    pub name: String,
    /// Database; empty if it is not known.
    pub database: String,
    /// Table.
    pub table: TableName,
}

/// Makes events of rows in commit order.
pub struct Envelopes {
    origin: Origin,
    /// Columns of the source, each with its place among those of the rows.
    columns: Vec<(usize, String)>,
    /// The former row of an update, until the row that it became is there.
    before: Option<(RowFacts, Value)>,
}

impl Envelopes {
    /// Of rows with these columns.
    pub fn new(origin: Origin, columns: &[LakeColumn]) -> Envelopes {
        let columns = source_columns(columns).map(|(place, column)| (place, column.name.clone())).collect();
        Envelopes { origin, columns, before: None }
    }

    /// The event that a row completes; none for the former row of an update, whose other row comes next.
    pub fn take(&mut self, rows: &RecordBatch, facts: &FactColumns, row: usize) -> Result<Option<Value>> {
        let at = facts.at(row)?;
        if at.change == ChangeType::Preimage {
            self.before = Some((at, self.image(rows, row, &[])));
            return Ok(None);
        }
        let before = self.before.take().filter(|(before, _)| before.position == at.position).map(|(_, image)| image);
        let unchanged = facts.unchanged(row);
        let (before, after) = match at.change.op() {
            Op::Delete => (self.image(rows, row, &[]), Value::Null),
            Op::Truncate | Op::CopyStart => (Value::Null, Value::Null),
            _ => (before.unwrap_or_default(), self.image(rows, row, &unchanged)),
        };
        Ok(Some(self.envelope(&at, before, after, &unchanged)))
    }

    fn envelope(&self, at: &RowFacts, before: Value, after: Value, unchanged: &[String]) -> Value {
        let Origin { name, database, table } = &self.origin;
        let (lsn, millis) = (at.position.commit_lsn, at.commit_micros.div_euclid(1000));
        let mut headers = json!({"sooner.commit_lsn": lsn, "sooner.ordinal": at.position.ordinal.to_string()});
        if !unchanged.is_empty() {
            headers["sooner.unavailable"] = json!(unchanged.join(","));
        }
        if at.change == ChangeType::SnapshotStart {
            headers["sooner.copy"] = json!("start");
        }
        json!({
            "before": before,
            "after": after,
            "source": {
                "version": env!("CARGO_PKG_VERSION"),
                "connector": "postgresql",
                "name": name,
                "ts_ms": millis,
                "ts_us": at.commit_micros,
                "snapshot": if at.position.is_copied() { "true" } else { "false" },
                "db": database,
                "sequence": format!("[\"{}\",\"{}\"]", lsn.0, at.position.ordinal),
                "schema": table.schema,
                "table": table.table,
                "txId": at.transaction,
                "lsn": lsn.0,
            },
            "op": at.change.op().code(),
            "ts_ms": millis,
            "headers": headers,
        })
    }

    fn image(&self, rows: &RecordBatch, row: usize, unchanged: &[String]) -> Value {
        let values = self.columns.iter().map(|(place, name)| {
            let value = match unchanged.contains(name) {
                true => json!(String::from_utf8_lossy(PLACEHOLDER)),
                false => value_json(rows.column(*place).as_ref(), row),
            };
            (name.clone(), value)
        });
        Value::Object(values.collect::<Map<_, _>>())
    }
}
