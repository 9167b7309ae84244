//! Looks through the key columns of data files for one key: the newest files first, several at a time, until the row is
//! found or time is up.

use std::sync::Arc;
use std::time::Instant;

use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use roaring::RoaringBitmap;
use serde_json::Value;
use sooner_api::{Code, Error, Result};

use super::pruning::KeyBounds;
use super::row_trace::SearchExtent;
use crate::index::key::{KeyHash, KeyPlan};
use crate::log::live_files::{LiveFile, LiveFiles};
use crate::rows::stored_file::{self, READ_ROWS};

/// Files that are read at the same time.
const READERS: usize = 4;

/// A key, and how it is recognised in data files.
pub struct SoughtKey {
    /// The key's hash.
    pub hash: KeyHash,
    /// How keys in files are hashed.
    pub plan: KeyPlan,
    /// What leaves files out.
    pub bounds: KeyBounds,
}

/// The live row of a key, with its file, and how many files were searched for it.
pub async fn find_row<'a>(
    store: &Arc<dyn ObjectStore>,
    files: &'a LiveFiles,
    key: &SoughtKey,
    deadline: Instant,
) -> Result<(Option<(&'a LiveFile, u32)>, SearchExtent)> {
    let mut candidates: Vec<&LiveFile> =
        files.iter().map(|(_, file)| file).filter(|file| key.bounds.may_be_in(&file.add)).collect();
    // Who asks why a row is old has often just changed it.
    candidates.sort_by_key(|file| std::cmp::Reverse(file.add.get("modificationTime").and_then(Value::as_i64)));
    let mut extent =
        SearchExtent { files: files.iter().count(), candidates: candidates.len(), ..SearchExtent::default() };
    let searches = candidates.into_iter().map(async |file| {
        let rows = rows_of(store, &file.path, file.size, key, None).await?;
        Ok::<_, Error>(rows.into_iter().find(|row| !file.deleted.contains(*row)).map(|row| (file, row)))
    });
    let mut searches = futures::stream::iter(searches).buffer_unordered(READERS);
    loop {
        match tokio::time::timeout_at(deadline.into(), searches.next()).await {
            Ok(Some(found)) => {
                extent.read += 1;
                if let Some(found) = found? {
                    return Ok((Some(found), extent));
                }
            }
            Ok(None) | Err(_) => return Ok((None, extent)),
        }
    }
}

/// Positions of the rows of a file that have a key: of all its rows, or of those at the ascending positions `among`.
pub async fn rows_of(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    size: u64,
    key: &SoughtKey,
    among: Option<&RoaringBitmap>,
) -> Result<Vec<u32>> {
    let columns = key.plan.columns();
    let positions: Option<Vec<u32>> = among.map(|rows| rows.iter().collect());
    let mut batches = stored_file::open(store, path, size, Some(&columns), positions.as_deref(), READ_ROWS).await?;
    let (mut found, mut read) = (Vec::new(), 0);
    while let Some(batch) = batches.next().await {
        let hashes = key.plan.hash_rows(&batch?).ok_or_else(|| {
            let what = format!("cannot read the key columns of {path}");
            Error::operator(Code::FileDamaged, what, "they are missing or of another type", "copy the table again")
        })?;
        let rows = hashes.len();
        for (at, _) in hashes.into_iter().enumerate().filter(|(_, hash)| *hash == key.hash) {
            let position = positions.as_ref().map_or(Some((read + at) as u32), |rows| rows.get(read + at).copied());
            found.extend(position);
        }
        read += rows;
    }
    Ok(found)
}
