//! Where one table lies.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use url::Url;

/// A table's folder in the store.
#[derive(Clone, Debug)]
pub struct TableLocation {
    /// The store from its root.
    pub root: Arc<dyn ObjectStore>,
    /// The store from the table's folder.
    pub table: Arc<dyn ObjectStore>,
    /// The folder's URL, with a slash at its end.
    pub url: Url,
}

impl TableLocation {
    /// A folder below the store's root.
    pub fn new(root: Arc<dyn ObjectStore>, folder: Path, url: Url) -> TableLocation {
        let table = Arc::new(PrefixStore::new(root.clone(), folder));
        TableLocation { root, table, url }
    }

    /// The store from the table's folder.
    pub fn store(&self) -> &dyn ObjectStore {
        &*self.table
    }
}
