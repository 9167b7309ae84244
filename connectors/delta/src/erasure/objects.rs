//! Data files below a table's folder, whichever version has them.

use std::sync::Arc;
use std::time::SystemTime;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use roaring::RoaringBitmap;
use sooner_api::{Code, Error, Result};

use crate::index::key_index::FileId;
use crate::log::live_files::LiveFile;
use crate::rows::stored_file::StoredFile;
use crate::store::errors::store_error;
use crate::store::location::TableLocation;

/// A data file below a table's folder.
#[derive(Clone, Debug)]
pub struct DataObject {
    /// Where it lies, below the table.
    pub path: Path,
    /// Its size.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// A data file that holds rows of subjects.
#[derive(Clone, Debug)]
pub struct FoundFile {
    /// The file.
    pub object: DataObject,
    /// Positions of the rows.
    pub rows: RoaringBitmap,
    /// What the last version of the table says of it; none if the file is not part of that.
    pub live: Option<(FileId, LiveFile)>,
}

impl FoundFile {
    /// Rows of subjects that readers of the last version see.
    pub fn live_rows(&self) -> u64 {
        self.live.as_ref().map_or(0, |(_, file)| (&self.rows - &file.deleted).len())
    }
}

/// Data files below a table's folder, but for the log's.
pub async fn data_objects(location: &TableLocation) -> Result<Vec<DataObject>> {
    let mut listed = location.table.list(None);
    let mut objects = Vec::new();
    while let Some(object) = listed.try_next().await.map_err(|error| store_error("cannot list a lake table", &error))? {
        let is_log = object.location.parts().any(|part| part.as_ref() == "_delta_log");
        if !is_log && object.location.extension() == Some("parquet") {
            let modified = SystemTime::from(object.last_modified);
            objects.push(DataObject { path: object.location, size: object.size, modified });
        }
    }
    Ok(objects)
}

/// Opens a data file; none if it has gone since it was listed.
pub async fn open(location: &TableLocation, object: &DataObject) -> Result<Option<StoredFile>> {
    match StoredFile::open(&location.table, &object.path, object.size, false).await {
        Ok(stored) => Ok(Some(stored)),
        Err(error) if is_gone(&location.table, &error, &object.path).await => Ok(None),
        Err(error) => Err(error),
    }
}

async fn is_gone(store: &Arc<dyn ObjectStore>, error: &Error, path: &Path) -> bool {
    error.code == Code::ObjectMissing && matches!(store.head(path).await, Err(object_store::Error::NotFound { .. }))
}
