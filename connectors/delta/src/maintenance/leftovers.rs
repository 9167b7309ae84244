//! Logs of generations that nothing refers to: of copies that have ended, and of those that were given up.

use object_store::path::Path;

use crate::store::location::{NEXT_GENERATIONS, TableLocation};
use crate::store::operations::discard_folder;

/// Deletes the log of a generation that readers see by now, beside the stream.
pub fn discard_generation(location: TableLocation, copy: u64) {
    tokio::spawn(async move { discard_folder(location.store(), &folder(copy)).await });
}

/// Deletes the logs of all next generations but one. Not beside the stream: a later one may begin there.
pub async fn discard_other_generations(location: &TableLocation, kept: u64) {
    let listed = location.store().list_with_delimiter(Some(&Path::from(NEXT_GENERATIONS))).await;
    let folders = listed.map(|listed| listed.common_prefixes).unwrap_or_default();
    for folder in folders.iter().filter(|found| **found != folder(kept)) {
        discard_folder(location.store(), folder).await;
    }
}

fn folder(copy: u64) -> Path {
    Path::from(NEXT_GENERATIONS).join(copy.to_string())
}
