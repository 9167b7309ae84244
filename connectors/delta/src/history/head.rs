//! Finds the end of a history's chain in the table itself: files say in their statistics how large the largest number
//! is that they hold, and the row that has it is read.

use std::cmp::Reverse;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use futures::StreamExt;
use serde_json::Value;
use sooner_api::{Code, Error, Result};

use super::chain::End;
use super::columns::{ChainPlaces, FACT_COLUMNS};
use crate::audit::digits::hash_bytes;
use crate::log::live_files::LiveFile;
use crate::log::table_version::TableVersion;
use crate::rows::columns::LakeColumn;
use crate::rows::statistics::COLUMNS;
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::location::TableLocation;

/// What statistics say of the largest number of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Largest {
    /// It has none.
    None,
    /// It is not larger than this.
    Within(i64),
    /// They do not say it.
    Unknown,
}

/// The end of the chain of a version of a history; none if no row is chained.
pub async fn end_of(location: &TableLocation, version: &TableVersion) -> Result<Option<End>> {
    let columns = version.columns();
    let Some(places) = ChainPlaces::of(columns) else { return Ok(None) };
    let mut files: Vec<_> = version.files().iter().map(|(_, file)| (most_of(file, columns, places), file)).collect();
    files.sort_by_key(|(most, _)| Reverse(*most));
    let mut end: Option<End> = None;
    for (most, file) in files {
        let is_beyond = |end: &End| matches!(most, Largest::Within(most) if most <= end.sequence);
        if most == Largest::None || end.as_ref().is_some_and(is_beyond) {
            break;
        }
        let known = end.map(|end| end.sequence);
        end = last_of(location, file, columns, places, known).await?.or(end);
    }
    Ok(end)
}

fn most_of(file: &LiveFile, columns: &[LakeColumn], places: ChainPlaces) -> Largest {
    let stats = file.add.get("stats").and_then(Value::as_str);
    let stats: Value = stats.and_then(|stats| serde_json::from_str(stats).ok()).unwrap_or_default();
    let name = columns[places.sequence].stored_name();
    if let Some(most) = stats.get("maxValues").and_then(|most| most.get(name)?.as_i64()) {
        return Largest::Within(most);
    }
    let nulls = |name: &str| stats.get("nullCount")?.get(name)?.as_u64();
    let is_covered = places.sequence < COLUMNS;
    match (nulls(name), file.rows) {
        (Some(nulls), Some(rows)) if nulls == rows => Largest::None,
        // A file that is older than the columns of the chain: it has statistics of the columns before them.
        (None, Some(_)) if is_covered && has_statistics_of_facts(columns, nulls) => Largest::None,
        _ => Largest::Unknown,
    }
}

/// Whether statistics are kept of the facts, but for arrays, of which they are not.
fn has_statistics_of_facts(columns: &[LakeColumn], nulls: impl Fn(&str) -> Option<u64>) -> bool {
    columns.iter().take(FACT_COLUMNS - 1).all(|fact| nulls(fact.stored_name()).is_some())
}

/// The row with the largest number of a file; none if it has none beyond `known`.
async fn last_of(
    location: &TableLocation,
    file: &LiveFile,
    columns: &[LakeColumn],
    places: ChainPlaces,
    known: Option<i64>,
) -> Result<Option<End>> {
    let stored = StoredFile::open(&location.table, &file.path, file.size, true).await?;
    let [sequence, hash] = [places.sequence, places.hash].map(|place| columns[place].stored_name());
    if !stored.has_any(&[sequence]) {
        return Ok(None);
    }
    let (mut last, mut first) = (None, 0u32);
    let mut batches = stored.batches(Some(&[sequence]), None, READ_ROWS)?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        let values = batch.column(0).as_primitive_opt::<Int64Type>();
        for (row, value) in (first..).zip(values.into_iter().flatten()) {
            let beyond = last.map(|(value, _)| value).max(known);
            if value.is_some() && value > beyond && !file.deleted.contains(row) {
                last = value.map(|value| (value, row));
            }
        }
        first += batch.num_rows() as u32;
    }
    let Some((number, row)) = last else { return Ok(None) };
    let mut rows = stored.batches(Some(&[hash]), Some(&[row]), 1)?;
    let text = match rows.next().await {
        Some(rows) => {
            rows?.columns().first().and_then(|hashes| Some(hashes.as_string_opt::<i32>()?.value(0).to_owned()))
        }
        None => None,
    };
    let hash = text.and_then(|text| hash_bytes(&text)).ok_or_else(|| without_hash(location, number))?;
    Ok(Some(End { sequence: number, hash }))
}

fn without_hash(location: &TableLocation, number: i64) -> Error {
    Error::operator(
        Code::FileDamaged,
        format!("cannot go on with the chain of the history at {}", location.url),
        format!("its last row, {number}, has no hash"),
        "find out who changed its files, and restore them from a former version or a backup",
    )
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;
    use sooner_schemas::TableName;

    use super::*;
    use crate::history::columns::{extended, fact_columns};

    #[test]
    fn statistics_say_which_files_can_hold_the_end() {
        let source = LakeColumn { name: "id".to_owned(), ..fact_columns().remove(1) };
        let (columns, _) = extended(&TableName::new("public", "t"), &[], &[source], true).unwrap();
        let places = ChainPlaces::of(&columns).unwrap();
        let most = |statistics: &str| {
            let file = LiveFile::written(Path::from("a"), 1, 5, 0).with_statistics(statistics);
            most_of(&file, &columns, places)
        };
        assert_eq!(most("{\"maxValues\":{\"_sequence\":9007199254740993}}"), Largest::Within(9_007_199_254_740_993));
        assert_eq!(most("{\"nullCount\":{\"_sequence\":5}}"), Largest::None);
        assert_eq!(most("{\"nullCount\":{\"_sequence\":4}}"), Largest::Unknown);
        assert_eq!(most("{\"numRecords\":5}"), Largest::Unknown);
        let facts = "\"_change_type\":0,\"_commit_lsn\":0,\"_ordinal\":0,\"_commit_time\":0";
        assert_eq!(most(&format!("{{\"nullCount\":{{{facts}}}}}")), Largest::Unknown);
        assert_eq!(most(&format!("{{\"nullCount\":{{{facts},\"_transaction_id\":0}}}}")), Largest::None);
    }
}
