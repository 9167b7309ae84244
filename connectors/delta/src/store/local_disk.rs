//! The local disk as a store whose puts are durable before they are reported: what the slot is confirmed for must
//! survive a loss of power, and `object_store`'s own local store leaves syncing to the kernel.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// Number of folders above a new file that may be new as well: those of a log, of a next generation, of all of them, of
/// the table, and of the schema.
const NEW_FOLDERS: usize = 5;

/// A local store that syncs each put before it returns, and each multipart upload before it is complete. Copies are not
/// synced.
#[derive(Debug)]
pub struct LocalDisk {
    inner: LocalFileSystem,
    /// Folders whose own entry in the folder above is durable.
    durable_folders: Arc<Mutex<HashSet<FolderId>>>,
}

/// A folder's path and inode: another folder may take the path.
type FolderId = (PathBuf, u64);

impl LocalDisk {
    /// A store over the whole file system, whose paths start at `/`.
    pub fn whole() -> LocalDisk {
        LocalDisk { inner: LocalFileSystem::new(), durable_folders: Arc::default() }
    }
}

impl fmt::Display for LocalDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalDisk")
    }
}

/// Makes a file durable, its entry in its folder, and the entries of folders above that may be new.
fn sync(file: &FilePath, durable_folders: &Mutex<HashSet<FolderId>>) -> std::io::Result<()> {
    let durable = || durable_folders.lock().unwrap_or_else(PoisonError::into_inner);
    File::open(file)?.sync_all()?;
    let mut below = None;
    for path in file.ancestors().skip(1).take(NEW_FOLDERS) {
        let folder = match File::open(path) {
            Ok(folder) => folder,
            // A folder that we may not open was not created by us, so it needs no sync.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(()),
            Err(error) => return Err(error),
        };
        folder.sync_all()?;
        durable().extend(below.take());
        let id = (path.to_owned(), folder.metadata()?.ino());
        if durable().contains(&id) {
            return Ok(());
        }
        below = Some(id);
    }
    Ok(())
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> object_store::Error {
    object_store::Error::Generic { store: "LocalDisk", source: Box::new(error) }
}

async fn sync_later(file: PathBuf, durable_folders: Arc<Mutex<HashSet<FolderId>>>) -> Result<()> {
    tokio::task::spawn_blocking(move || sync(&file, &durable_folders)).await.map_err(failed)?.map_err(failed)
}

/// A multipart upload whose file is durable once it is complete.
#[derive(Debug)]
struct SyncedUpload {
    inner: Box<dyn MultipartUpload>,
    file: PathBuf,
    durable_folders: Arc<Mutex<HashSet<FolderId>>>,
}

#[async_trait]
impl MultipartUpload for SyncedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let complete = self.inner.complete().await?;
        sync_later(self.file.clone(), self.durable_folders.clone()).await?;
        Ok(complete)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for LocalDisk {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let put = self.inner.put_opts(location, payload, options).await;
        // Also what is there already: it may be ours, put before a sync that failed.
        if matches!(put, Ok(_) | Err(object_store::Error::AlreadyExists { .. })) {
            let file = self.inner.path_to_filesystem(location)?;
            sync_later(file, self.durable_folders.clone()).await?;
        }
        put
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let file = self.inner.path_to_filesystem(location)?;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(SyncedUpload { inner, file, durable_folders: self.durable_folders.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
