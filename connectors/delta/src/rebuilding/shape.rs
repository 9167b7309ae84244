//! What a table is like that is made of a history: as the table itself was, or, of a source that has only a history, as
//! its events are.

use sooner_api::Result;
use sooner_schemas::TableName;

use crate::lake::DeltaLake;
use crate::log::provenance::Provenance;
use crate::log::replay::{replay, replay_to};
use crate::rows::columns::LakeColumn;

/// What a table is like that is made of a history.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Its columns.
    pub columns: Vec<LakeColumn>,
    /// Where they come from; its key is the history's, where that has one.
    pub provenance: Provenance,
    /// The last number that one of its columns has in files, if they have numbers there.
    pub last_column_id: Option<i32>,
    /// About how many rows it has.
    pub rows: u64,
}

impl Shape {
    /// That of a table in the lake, at a version; the latest if none.
    pub async fn of_table(lake: &DeltaLake, table: &TableName, version: Option<u64>) -> Result<Shape> {
        let table = match version {
            Some(version) => replay_to(&lake.location(table), Some(version), &[]).await?,
            None => replay(&lake.location(table), &[]).await?,
        };
        Ok(Shape {
            columns: table.columns().to_vec(),
            provenance: table.provenance(),
            last_column_id: table.last_column_id(),
            rows: table.files().size().rows,
        })
    }

    /// That of a source's events, which have these columns and this key.
    pub fn of_events(columns: &[LakeColumn], key: Vec<String>, rows: u64) -> Shape {
        let provenance = Provenance { key, ..Provenance::default() };
        Shape { columns: columns.to_vec(), provenance, last_column_id: None, rows }
    }
}
