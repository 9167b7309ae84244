//! A table's version from its log: replayed by deltalake, which knows all kinds of checkpoints.

use std::collections::HashMap;
use std::fmt::Display;

use deltalake_core::DeltaTable;
use deltalake_core::logstore::{StorageConfig, default_logstore};
use futures::TryStreamExt;
use serde_json::{Map, Value};
use sooner_api::{Code, Error, Result};

use super::committer::load_file;
use super::live_files::LiveFiles;
use super::table_version::TableVersion;
use crate::store::location::TableLocation;

/// The table as deltalake sees it.
pub fn delta_table(location: &TableLocation) -> DeltaTable {
    let config = StorageConfig::default();
    DeltaTable::new(default_logstore(location.table.clone(), location.root.clone(), &location.url, &config))
}

/// Replays the log, with the versions of these application ids.
pub async fn replay(location: &TableLocation, app_ids: &[&str]) -> Result<TableVersion> {
    replay_to(location, None, app_ids).await
}

/// Replays the log up to a version, or to its end.
pub async fn replay_to(location: &TableLocation, version: Option<u64>, app_ids: &[&str]) -> Result<TableVersion> {
    let failed = |why: &dyn Display| log_error(location, why);
    let mut table = delta_table(location);
    let exists = table.verify_deltatable_existence().await.map_err(|error| failed(&error))?;
    if !exists {
        return Ok(TableVersion::default());
    }
    let loaded = match version {
        Some(version) => table.load_version(version).await,
        None => table.load().await,
    };
    loaded.map_err(|error| failed(&error))?;
    let log_store = table.log_store();
    let state = table.snapshot().map_err(|error| failed(&error))?;
    let mut txns = HashMap::new();
    for app_id in app_ids {
        let version = state.transaction_version(log_store.as_ref(), *app_id).await;
        if let Some(version) = version.map_err(|error| failed(&error))? {
            txns.insert((*app_id).to_owned(), version);
        }
    }
    let views = state.snapshot().file_views(log_store.as_ref(), None);
    let views: Vec<_> = views.try_collect().await.map_err(|error| failed(&error))?;
    let mut files = LiveFiles::default();
    for view in views {
        #[allow(deprecated, reason = "the whole action is needed, to write it again with another vector")]
        let add = view.add_action();
        files.insert(load_file(location, to_object(&add).map_err(|error| failed(&error))?).await?);
    }
    let protocol = to_value(state.protocol()).map_err(|error| failed(&error))?;
    let metadata = to_value(state.metadata()).map_err(|error| failed(&error))?;
    Ok(TableVersion::replayed(state.version(), protocol, metadata, files, txns))
}

/// An error of deltalake about a table's log.
pub fn log_error(location: &TableLocation, why: &dyn Display) -> Error {
    let why = why.to_string();
    let what = format!("cannot read the log of the lake table {}", location.url);
    let passes = ["timed out", "timeout", "onnection", "error sending request", "Generic S3 error"];
    if passes.iter().any(|sign| why.contains(sign)) {
        let remedy = "check that the lake's store can be reached; it is tried again";
        return Error::retry(Code::LakeUnreachable, what, why, remedy);
    }
    let remedy = "restore the table's log, or move the table away and let it be copied again";
    Error::operator(Code::LogUnreadable, what, why, remedy)
}

fn to_value(action: &impl serde::Serialize) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(action)?;
    if let Value::Object(fields) = &mut value {
        fields.retain(|_, field| !field.is_null());
    }
    Ok(value)
}

fn to_object(action: &impl serde::Serialize) -> serde_json::Result<Map<String, Value>> {
    match to_value(action)? {
        Value::Object(fields) => Ok(fields),
        other => Err(serde::de::Error::custom(format!("{other} is no action"))),
    }
}
