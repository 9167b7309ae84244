//! Which rows and files legal holds of subjects keep, by the values in their columns, whatever else is looked for.

use std::collections::BTreeSet;

use futures::StreamExt;
use sooner_api::Result;
use sooner_schemas::TableName;

use super::held::{HeldColumns, HeldSubject};
use crate::erasure::finding::Found;
use crate::erasure::objects::{DataObject, data_objects, open};
use crate::log::replay::replay;
use crate::rows::stored_file::READ_ROWS;
use crate::store::location::TableLocation;

/// Names of the holds that keep rows which were found of other subjects.
pub async fn holds_of_rows(
    location: &TableLocation,
    table: &TableName,
    found: &Found,
    held: &[HeldSubject],
) -> Result<BTreeSet<String>> {
    let held = concerning(held, table);
    let (columns, mut names) = (HeldColumns::of(&held, found.version.columns()), BTreeSet::new());
    for file in &found.files {
        let rows: Vec<u32> = file.rows.iter().collect();
        note_holds(location, &file.object, Some(&rows), &columns, &mut names).await?;
    }
    Ok(names)
}

/// Data files below a table's folder that have rows of a held subject, of any version or of none.
pub async fn files_of_subject(location: &TableLocation, table: &TableName, held: &HeldSubject) -> Result<Vec<String>> {
    let held = concerning(std::slice::from_ref(held), table);
    let version = replay(location, &[]).await?;
    if held.is_empty() || !version.exists() {
        return Ok(Vec::new());
    }
    let (columns, mut files) = (HeldColumns::of(&held, version.columns()), Vec::new());
    for object in data_objects(location).await? {
        let mut names = BTreeSet::new();
        note_holds(location, &object, None, &columns, &mut names).await?;
        if !names.is_empty() {
            files.push(object.path.to_string());
        }
    }
    Ok(files)
}

fn concerning(held: &[HeldSubject], table: &TableName) -> Vec<HeldSubject> {
    held.iter().filter(|held| held.subject.table.as_ref().is_none_or(|meant| meant == table)).cloned().collect()
}

/// Adds names of the holds that keep rows of a file: those at these positions, or any.
async fn note_holds(
    location: &TableLocation,
    object: &DataObject,
    rows: Option<&[u32]>,
    columns: &HeldColumns<'_>,
    holds: &mut BTreeSet<String>,
) -> Result<()> {
    let names: Vec<_> = columns.names().collect();
    let Some(stored) = open(location, object).await?.filter(|stored| stored.has_any(&names)) else { return Ok(()) };
    let mut batches = stored.batches(Some(&names), rows, READ_ROWS)?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        let found = (0..batch.num_rows()).filter_map(|row| columns.hold_of(&batch, row));
        holds.extend(found.map(|hold| columns.name(hold).to_owned()));
    }
    Ok(())
}
