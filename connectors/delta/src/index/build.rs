//! Builds key indexes from the key columns of data files, several at the same time.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use roaring::RoaringBitmap;
use sooner_api::{Code, Error, Result};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::entries::Entry;
use super::key::KeyPlan;
use super::key_index::{FileId, RowAddress};
use super::table_index::TableIndex;
use crate::rows::stored_file;

/// Files that are read at the same time.
const READERS: usize = 4;
/// Keys that are sorted, and written to disk, at once.
const RUN_KEYS: usize = 512 << 10;
/// How often a build that takes long says how far it is.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A data file whose rows are to be indexed.
#[derive(Clone, Debug)]
pub struct IndexedFile {
    /// Its number.
    pub id: FileId,
    /// Path below the table.
    pub path: Path,
    /// Size in bytes.
    pub size: u64,
    /// Rows that are gone.
    pub deleted: RoaringBitmap,
}

/// Adds the live rows of files to an index. `table` names the table in messages. After an error the index lacks some.
pub async fn index_files(
    store: &Arc<dyn ObjectStore>,
    table: &str,
    keys: &KeyPlan,
    files: Vec<IndexedFile>,
    index: &mut TableIndex,
) -> Result<()> {
    let (count, places) = (files.len(), Arc::new(Semaphore::new(READERS)));
    let (sender, mut batches) = channel(2 * READERS);
    let mut readers = JoinSet::new();
    for file in files {
        let (store, table, keys) = (store.clone(), table.to_owned(), keys.clone());
        let (sender, places) = (sender.clone(), places.clone());
        readers.spawn(async move {
            // The semaphore is never closed.
            let _place = places.acquire().await.ok();
            read_keys(&store, &table, &keys, &file, &sender).await
        });
    }
    drop(sender);
    let (mut run, mut indexed, mut reported) = (Vec::new(), 0, Instant::now());
    while let Some(batch) = batches.recv().await {
        indexed += batch.len();
        run.extend(batch);
        if run.len() >= RUN_KEYS {
            index.build(std::mem::take(&mut run)).await;
        }
        if reported.elapsed() >= REPORT_INTERVAL {
            reported = Instant::now();
            tracing::info!(table, files = count, keys = indexed, "building the key index");
        }
    }
    while let Some(read) = readers.join_next().await {
        read.map_err(|panic| Error::internal("cannot build the key index", panic))??;
    }
    index.build(run).await;
    Ok(())
}

async fn read_keys(
    store: &Arc<dyn ObjectStore>,
    table: &str,
    keys: &KeyPlan,
    file: &IndexedFile,
    sender: &Sender<Vec<Entry>>,
) -> Result<()> {
    let mut next_row = 0u32;
    let columns = keys.columns();
    let mut batches =
        stored_file::open(store, &file.path, file.size, Some(&columns), None, stored_file::READ_ROWS).await?;
    while let Some(batch) = batches.next().await {
        let hashes = keys.hash_rows(&batch?).ok_or_else(|| {
            let what = format!("cannot read the key columns of {}", file.path);
            let remedy = format!("`sooner resume {table}` copies the table again");
            Error::operator(Code::FileDamaged, what, "they are missing or of another type", remedy)
        })?;
        let rows = hashes.len() as u32;
        let entries = hashes.into_iter().zip(next_row..).filter(|(_, row)| !file.deleted.contains(*row));
        let entries: Vec<Entry> = entries.map(|(key, row)| (key, RowAddress { file: file.id, row })).collect();
        next_row += rows;
        if sender.send(entries).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
