//! Which results, such as those of reports, hold values of subjects: by their bytes, by the unpacked pages of Parquet
//! files, by the decoded texts in their rows, and by columns of the subjects' names, however short a value is.

use std::collections::HashSet;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use serde_json::Value;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use super::search::{LEAST_BYTES, Needles, search_objects};
use super::subject::{Subject, Wanted};
use crate::results::ResultFolder;
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::errors::store_error;
use crate::store::operations::get;

/// Events of a file that is no larger are decoded, where a value is too short to be looked for in bytes.
const MOST_DECODED: u64 = 1 << 30;

/// What a folder of results has of subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HoldingResults {
    /// Number of objects that were searched.
    pub objects: usize,
    /// Names of those that hold a value, below the folder.
    pub holding: Vec<String>,
    /// Names of Parquet files that cannot be read.
    pub unreadable: Vec<String>,
}

/// Searches a folder of results, and all below it.
pub async fn search_results(results: &ResultFolder, subjects: &[Subject]) -> Result<HoldingResults> {
    let (store, folder) = results.place();
    let needles = Needles::new(subjects.iter().map(|subject| subject.value.as_str()));
    let searched = search_objects(store, folder, folder, &needles).await?;
    let (mut holding, mut unreadable): (HashSet<_>, Vec<_>) =
        (searched.holding.into_iter().collect(), searched.unreadable);
    // A query may have taken its columns from any table.
    let anywhere: Vec<_> = subjects.iter().map(|subject| Subject { table: None, ..subject.clone() }).collect();
    let listed = store.list(Some(folder)).try_collect::<Vec<_>>().await;
    for object in listed.map_err(|error| store_error("cannot list results", &error))? {
        let name = name_below(folder, &object.location);
        if holding.contains(&name) || unreadable.contains(&name) {
            continue;
        }
        match rows_hold(store, &object, &needles, &anywhere).await {
            Ok(true) => drop(holding.insert(name)),
            Ok(false) => {}
            Err(error) if error.code == Code::ObjectMissing => {}
            Err(error) if error.code == Code::FileDamaged => unreadable.push(name),
            Err(error) => return Err(error),
        }
    }
    let mut holding: Vec<_> = holding.into_iter().collect();
    holding.sort_unstable();
    Ok(HoldingResults { objects: searched.objects, holding, unreadable })
}

fn name_below(folder: &Path, path: &Path) -> String {
    let rest = path.as_ref().strip_prefix(folder.as_ref()).unwrap_or(path.as_ref());
    rest.trim_start_matches('/').to_owned()
}

/// Whether the decoded rows of a result hold a value.
async fn rows_hold(
    store: &Arc<dyn ObjectStore>,
    object: &ObjectMeta,
    needles: &Needles,
    subjects: &[Subject],
) -> Result<bool> {
    match object.location.extension() {
        Some("jsonl") if object.size > MOST_DECODED => {
            let why = "it is too large to be decoded";
            Err(Error::operator(Code::FileDamaged, format!("cannot search {}", object.location), why, "delete it"))
        }
        Some("jsonl") if subjects.iter().any(|subject| subject.value.len() < LEAST_BYTES) => {
            let text = get(&**store, &object.location).await?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&text).lines().any(|line| event_holds(line, subjects)))
        }
        Some("csv") => {
            let text = get(&**store, &object.location).await?.unwrap_or_default();
            Ok(csv_holds(&String::from_utf8_lossy(&text), subjects))
        }
        Some("parquet") => {
            let wanted = Wanted::of(subjects, &TableName::new("", ""), &[]);
            let stored = StoredFile::open(store, &object.location, object.size, false).await?;
            let mut batches = stored.batches(None, None, READ_ROWS)?;
            while let Some(batch) = batches.next().await {
                let batch = batch?;
                if wanted.matches(&batch).contains(&true) || texts_hold(&batch, needles) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Ok(false),
    }
}

fn texts_hold(rows: &RecordBatch, needles: &Needles) -> bool {
    rows.columns().iter().any(|column| match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().flatten().any(|text| needles.are_in(text.as_bytes())),
        DataType::LargeUtf8 => column.as_string::<i64>().iter().flatten().any(|text| needles.are_in(text.as_bytes())),
        _ => false,
    })
}

/// Whether an event in Debezium's envelope has a value in its column, before or after.
fn event_holds(line: &str, subjects: &[Subject]) -> bool {
    let event: Value = serde_json::from_str(line).unwrap_or_default();
    let is_value = |value: &Value, wanted: &str| match value {
        Value::String(text) => text == wanted,
        Value::Null => false,
        other => {
            let text = other.to_string();
            text == wanted
        }
    };
    let rows = [&event["before"], &event["after"]];
    subjects.iter().any(|subject| rows.iter().any(|row| is_value(&row[&subject.column], &subject.value)))
}

/// Whether a row of texts apart by commas has a value in its column.
fn csv_holds(text: &str, subjects: &[Subject]) -> bool {
    let mut rows = csv_rows(text).into_iter();
    let names = rows.next().unwrap_or_default();
    let at = |subject: &Subject| names.iter().position(|name| *name == subject.column);
    let wanted: Vec<_> = subjects.iter().filter_map(|subject| Some((at(subject)?, &subject.value))).collect();
    rows.any(|row| wanted.iter().any(|(at, value)| row.get(*at) == Some(value)))
}

/// Rows of RFC 4180: values in double quotes may have commas and line feeds, and a double quote twice.
fn csv_rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut value) = (Vec::new(), Vec::new(), String::new());
    let (mut chars, mut is_quoted) = (text.chars().peekable(), false);
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted && chars.next_if_eq(&'"').is_some() => value.push('"'),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => row.push(std::mem::take(&mut value)),
            '\r' if !is_quoted => {}
            '\n' if !is_quoted => {
                row.push(std::mem::take(&mut value));
                rows.push(std::mem::take(&mut row));
            }
            c => value.push(c),
        }
    }
    if !value.is_empty() || !row.is_empty() {
        row.push(value);
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int32Array, StringArray};

    use super::*;
    use crate::rows::data_file::DataFileWriter;
    use crate::store::lake_store::{LakeStore, S3Settings};

    #[tokio::test]
    async fn results_hold_values_in_texts_and_short_ones_in_columns_of_their_name() {
        let folder = tempfile::tempdir().unwrap();
        let store = LakeStore::open(folder.path().to_str().unwrap(), &S3Settings::default()).unwrap();
        let results = ResultFolder::at(&store).below("daily");
        let parquet = |ids: Vec<i32>, texts: Vec<&str>| {
            let columns: [(&str, ArrayRef); 2] =
                [("id", Arc::new(Int32Array::from(ids))), ("note", Arc::new(StringArray::from(texts)))];
            let rows = RecordBatch::try_from_iter(columns).unwrap();
            let mut writer = DataFileWriter::for_rows_like(&rows).unwrap();
            writer.write(&rows).unwrap();
            writer.finish().unwrap().bytes.to_vec()
        };
        let files = [
            ("text.parquet", parquet(vec![1], vec!["of jane@doe.org, and more"])),
            ("short.parquet", parquet(vec![77, 7], vec!["x", "y"])),
            ("none.parquet", parquet(vec![77], vec!["7"])),
            ("short.csv", b"note,id\n\"a, \"\"b\"\"\n\",7\n".to_vec()),
            ("short.jsonl", b"{\"before\":null,\"after\":{\"id\":7}}\n".to_vec()),
            ("none.jsonl", b"{\"before\":null,\"after\":{\"id\":77}}\n".to_vec()),
            ("none.csv", b"id,note\n77,7\n".to_vec()),
            ("quoted.csv", b"id,name\n1,\"Jane \"\"J\"\" Doe\"\n".to_vec()),
            ("broken.parquet", b"PAR1 no PAR1".to_vec()),
        ];
        for (name, bytes) in files {
            results.below("run").put(name, bytes).await.unwrap();
        }
        let subjects = ["public.t.id=7", "email=jane@doe.org", "name=Jane \"J\" Doe"].map(|text| text.parse().unwrap());
        let found = search_results(&results, &subjects).await.unwrap();
        let names = ["quoted.csv", "short.csv", "short.jsonl", "short.parquet", "text.parquet"]
            .map(|name| format!("run/{name}"));
        assert_eq!((found.objects, found.holding.as_slice()), (9, names.as_slice()));
        assert_eq!(found.unreadable, ["run/broken.parquet"]);
    }
}
