//! A table's state from its log: replayed by deltalake, which knows all kinds of checkpoints; and new checkpoints.

use std::collections::HashMap;
use std::sync::Arc;

use deltalake_core::DeltaTable;
use deltalake_core::logstore::{StorageConfig, default_logstore};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::prefix::PrefixStore;
use serde_json::{Map, Value};
use sooner_api::{Code, Error, Result};
use url::Url;

use crate::deletion_vector;
use crate::live_files::{LiveFile, LiveFiles};

/// Where a table lies.
#[derive(Clone, Debug)]
pub struct TableLocation {
    /// The store from its root.
    pub root: Arc<dyn ObjectStore>,
    /// The store from the table's folder.
    pub table: Arc<dyn ObjectStore>,
    /// The folder's URL, with a slash at its end.
    pub url: Url,
}

/// What the log says.
pub struct TableSnapshot {
    /// Version.
    pub version: u64,
    /// Protocol action.
    pub protocol: Value,
    /// Metadata action.
    pub metadata: Value,
    /// Files.
    pub files: LiveFiles,
    /// Versions of the asked application ids.
    pub txns: HashMap<String, i64>,
}

impl TableLocation {
    /// A folder below the store's root.
    pub fn new(root: Arc<dyn ObjectStore>, folder: object_store::path::Path, url: Url) -> TableLocation {
        let table = Arc::new(PrefixStore::new(root.clone(), folder));
        TableLocation { root, table, url }
    }

    fn delta_table(&self) -> DeltaTable {
        let store = default_logstore(self.table.clone(), self.root.clone(), &self.url, &StorageConfig::default());
        DeltaTable::new(store)
    }

    /// Replays the log; none if there is no table.
    pub async fn load(&self, app_ids: &[&str]) -> Result<Option<TableSnapshot>> {
        let mut table = self.delta_table();
        let exists = table.verify_deltatable_existence().await.map_err(|error| self.failed(error))?;
        if !exists {
            return Ok(None);
        }
        table.load().await.map_err(|error| self.failed(error))?;
        let log_store = table.log_store();
        let state = table.snapshot().map_err(|error| self.failed(error))?;
        let mut txns = HashMap::new();
        for app_id in app_ids {
            let version = state.transaction_version(log_store.as_ref(), *app_id).await;
            if let Some(version) = version.map_err(|error| self.failed(error))? {
                txns.insert((*app_id).to_owned(), version);
            }
        }
        let views = state.snapshot().file_views(log_store.as_ref(), None);
        let views: Vec<_> = views.try_collect().await.map_err(|error| self.failed(error))?;
        let mut files = LiveFiles::default();
        for view in views {
            #[allow(deprecated, reason = "the whole action is needed, to write it again with another vector")]
            let add = view.add_action();
            files.insert(self.live_file(to_object(&add).map_err(|error| self.failed(error))?).await?);
        }
        Ok(Some(TableSnapshot {
            version: state.version(),
            protocol: to_value(state.protocol()).map_err(|error| self.failed(error))?,
            metadata: to_value(state.metadata()).map_err(|error| self.failed(error))?,
            files,
            txns,
        }))
    }

    /// A live file from its add action, with the rows that are gone.
    pub async fn live_file(&self, add: Map<String, Value>) -> Result<LiveFile> {
        let mut file = LiveFile::from_add(add).ok_or_else(|| self.failed("an add action lacks path or size"))?;
        if let Some(vector) = &file.vector {
            file.deleted = deletion_vector::read(&*self.table, vector).await?;
        }
        Ok(file)
    }

    /// Writes a checkpoint of a version.
    pub async fn checkpoint(&self, version: u64) -> Result<()> {
        let mut table = self.delta_table();
        table.load_version(version).await.map_err(|error| self.failed(error))?;
        deltalake_core::checkpoints::create_checkpoint(&table, None).await.map_err(|error| self.failed(error))
    }

    fn failed(&self, why: impl std::fmt::Display) -> Error {
        let why = why.to_string();
        let what = format!("cannot read the log of the lake table {}", self.url);
        let passes = ["timed out", "timeout", "onnection", "error sending request", "Generic S3 error"];
        if passes.iter().any(|sign| why.contains(sign)) {
            return Error::retry(
                Code::LakeUnreachable,
                what,
                why,
                "check that the lake's store can be reached; it is tried again",
            );
        }
        Error::operator(
            Code::LogUnreadable,
            what,
            why,
            "restore the table's log, or move the table away and let it be copied again",
        )
    }
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
