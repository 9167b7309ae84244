//! Looks a row up in a table: reads the table's log, then files, then what came before.

use arrow_array::{Array, RecordBatch};
use futures::StreamExt;
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use super::comparison::{differences, texts};
use super::history::{Wanted, look_back};
use super::pruning::KeyBounds;
use super::row_trace::{LakeRow, RowQuestion, RowTrace};
use super::search::{SoughtKey, find_row};
use crate::index::key::KeyPlan;
use crate::log::live_files::LiveFile;
use crate::log::position_names::PositionNames;
use crate::log::replay::replay;
use crate::log::table_version::TableVersion;
use crate::rows::columns::LakeColumn;
use crate::rows::{mark, stored_file};
use crate::store::location::TableLocation;

/// Looks for a row in the table at a location, whose positions have these names. Only reads.
pub async fn look_up(
    table: &TableName,
    location: &TableLocation,
    names: &PositionNames,
    question: &RowQuestion,
) -> Result<RowTrace> {
    let base = replay(location, &names.all()).await?;
    let Some(version) = base.number() else { return Ok(RowTrace::default()) };
    let key = sought_key(table, &base, question)?;
    let (found, search) = find_row(&location.table, base.files(), &key, question.deadline).await?;
    let wanted = match found {
        Some((file, _)) => Wanted::Arrival(file.key()),
        None => Wanted::Departure(&key),
    };
    let past = look_back(location, version, wanted, question.deadline).await?;
    let row = match found {
        Some((file, number)) => read_row(location, &base, file, number, question).await?,
        None => None,
    };
    Ok(RowTrace {
        version: Some(version),
        watermark: names.watermark(base.txns()),
        positions: names.recorded(base.txns()),
        last_commit: past.last,
        search,
        row,
        // A row that may still be there has not gone.
        commit: past.commit.filter(|_| found.is_some() || search.is_whole()),
        looked_back_to: past.looked_back_to,
    })
}

fn sought_key(table: &TableName, base: &TableVersion, question: &RowQuestion) -> Result<SoughtKey> {
    let unreadable = |why: String| Error::internal(format!("cannot look up a key of {table}"), why);
    let Some(schema) = &question.schema.key else { return Err(unreadable("the table has no key".to_owned())) };
    let plan = KeyPlan::new(table, schema, rand::random())?;
    let hash = plan.hash_message(&question.key, &mut Vec::new()).map_err(|why| unreadable(why.to_string()))?;
    let bounds = KeyBounds::of(schema, &question.key, base.columns()).map_err(|why| unreadable(why.to_string()))?;
    Ok(SoughtKey { hash, plan: plan.stored_in(base.columns()), bounds })
}

/// A row; none if it is there only because the table keeps what the source deletes.
async fn read_row(
    location: &TableLocation,
    base: &TableVersion,
    file: &LiveFile,
    number: u32,
    question: &RowQuestion,
) -> Result<Option<LakeRow>> {
    let mut batches = stored_file::open(&location.table, &file.path, file.size, None, Some(&[number]), 1).await?;
    let row: RecordBatch = batches.next().await.transpose()?.ok_or_else(|| {
        let what = format!("cannot read the data file {}", file.path);
        Error::operator(Code::FileDamaged, what, "it lacks a row that it had", "copy the table again")
    })?;
    let place = row.schema().fields().iter().position(|field| marks_deletion(base.columns(), field.name()));
    if place.is_some_and(|place| row.column(place).is_valid(0)) {
        return Ok(None);
    }
    let compared = question.row.as_ref().map(|message| differences(&question.schema, message, base.columns(), &row));
    let values = if question.with_values { texts(base.columns(), &row) } else { Vec::new() };
    Ok(Some(LakeRow { file: file.key().to_owned(), number, differences: compared.transpose()?, values }))
}

/// Whether a column of a file says which rows the source has deleted.
fn marks_deletion(columns: &[LakeColumn], in_file: &str) -> bool {
    mark::of(columns).is_some_and(|mark| mark.stored_name() == in_file)
}
