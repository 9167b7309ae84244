//! Where one table lies.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use sooner_schemas::TableName;
use url::Url;

use super::folder_name::folder_name;
use super::lake_store::LakeStore;
use super::redirected::Redirected;

/// Folder of a table in which the logs of its next generations lie. Its name tells readers to leave it alone.
pub const NEXT_GENERATIONS: &str = "_sooner_next";

/// What follows a table's name in that of its history's folder.
pub const HISTORY_SUFFIX: &str = "-history";

/// What readers are told of a location: a local folder as a path, and any other as it is.
pub fn readers_path(url: &str) -> String {
    let local = Url::parse(url).ok().filter(|url| url.scheme() == "file");
    let path = local.and_then(|url| url.to_file_path().ok()).map(|path| path.display().to_string());
    path.as_deref().unwrap_or(url).trim_end_matches('/').to_owned()
}

/// What Spark is told of a location that readers are told: its scheme of S3 is that of Hadoop's file system.
pub fn sparks_path(path: &str) -> String {
    path.strip_prefix("s3://").map_or_else(|| path.to_owned(), |rest| format!("s3a://{rest}"))
}

/// A table's folder in the store.
#[derive(Clone, Debug)]
pub struct TableLocation {
    /// The store from its root.
    pub root: Arc<dyn ObjectStore>,
    /// The store from the table's folder.
    pub table: Arc<dyn ObjectStore>,
    /// The folder below the root.
    folder: Path,
    /// The folder's URL, with a slash at its end.
    pub url: Url,
    /// The log is that of a generation that nobody sees yet. The files are in the folder that it shares with others.
    pub is_next_generation: bool,
}

impl TableLocation {
    /// Where a table of a lake lies.
    pub fn of_table(lake: &LakeStore, table: &TableName) -> TableLocation {
        TableLocation::of_folder(lake, table, "")
    }

    /// Where the history of a table lies: beside it, in a folder that is no table's, since a `-` in those is followed
    /// by two digits.
    pub fn of_history(lake: &LakeStore, table: &TableName) -> TableLocation {
        TableLocation::of_folder(lake, table, HISTORY_SUFFIX)
    }

    fn of_folder(lake: &LakeStore, table: &TableName, suffix: &str) -> TableLocation {
        let (schema, table) = (folder_name(&table.schema), folder_name(&table.table) + suffix);
        let folder = lake.prefix().clone().join(schema.as_str()).join(table.as_str());
        TableLocation::new(lake.root(), folder, lake.folder_url(&[&schema, &table]))
    }

    /// A folder below the store's root.
    pub fn new(root: Arc<dyn ObjectStore>, folder: Path, url: Url) -> TableLocation {
        let table = Arc::new(PrefixStore::new(root.clone(), folder.clone()));
        TableLocation { root, table, folder, url, is_next_generation: false }
    }

    /// The same folder with another log, of a generation that nobody sees yet.
    pub fn next_generation(&self, id: u64) -> TableLocation {
        let log = |folder: Path| folder.join("_delta_log");
        let stored = log(self.folder.clone().join(NEXT_GENERATIONS).join(id.to_string()));
        let root = Arc::new(Redirected::new(self.root.clone(), log(self.folder.clone()), stored));
        let location = TableLocation::new(root, self.folder.clone(), self.url.clone());
        TableLocation { is_next_generation: true, ..location }
    }

    /// The table's folder, below the store's root.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The store from the table's folder.
    pub fn store(&self) -> &dyn ObjectStore {
        &*self.table
    }
}
