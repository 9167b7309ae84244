//! Single requests to a store: conditional puts, puts, reads and deletes; repeated where that is safe.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use sooner_api::{Class, Result};

use super::errors::{names_bucket, store_error};

/// How often an operation is tried, with growing pauses, before its error is reported.
const ATTEMPTS: u32 = 5;

/// Outcome of a conditional put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object was created.
    Created,
    /// An object of that name exists already. After a lost response it may be our own.
    Exists,
}

/// Writes an object only if none of that name exists. After an error the object may or may not have been written.
pub async fn put_new(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> Result<Put> {
    try_put_new(store, path, bytes).await.map_err(|error| store_error(format!("cannot write {path}"), &error))
}

/// The same, with the store's own error.
pub async fn try_put_new(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> object_store::Result<Put> {
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(path, bytes.into(), options).await {
        Ok(_) => Ok(Put::Created),
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Ok(Put::Exists),
        Err(error) => Err(error),
    }
}

/// Writes an object under a name that no other writer uses, replacing any that exists. Retries transient errors.
pub async fn put(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> Result<()> {
    retrying(|| async {
        let written = store.put(path, bytes.clone().into()).await;
        written.map(drop).map_err(|error| store_error(format!("cannot write {path}"), &error))
    })
    .await
}

/// Deletes an object that nothing refers to. That it cannot be deleted costs only its space.
pub async fn discard(store: &dyn ObjectStore, path: &Path) {
    if let Err(error) = store.delete(path).await {
        tracing::debug!(%path, %error, "could not delete an object that nothing refers to");
    }
}

/// Deletes all objects of a folder that nothing refers to. What cannot be deleted costs only its space.
pub async fn discard_folder(store: &dyn ObjectStore, folder: &Path) {
    let listed = store.list(Some(folder)).map_ok(|meta| meta.location).boxed();
    let deleted: object_store::Result<Vec<_>> = store.delete_stream(listed).try_collect().await;
    if let Err(error) = deleted {
        tracing::debug!(%folder, %error, "could not delete a folder that nothing refers to");
    }
}

/// Reads a whole object; none if it does not exist. Retries transient errors; a missing bucket is an error.
pub async fn get(store: &dyn ObjectStore, path: &Path) -> Result<Option<Bytes>> {
    retrying(|| async {
        let found = match store.get(path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { source, .. }) if !names_bucket(&source) => Ok(None),
            Err(error) => Err(store_error(format!("cannot read {path}"), &error)),
        }
    })
    .await
}

/// Runs an operation, and repeats it a few times with growing pauses while its error has the class `Retry`. Returns
/// any other error at once, and the error of the last attempt. The operation must be safe to repeat.
pub async fn retrying<T, F: Future<Output = Result<T>>>(mut operation: impl FnMut() -> F) -> Result<T> {
    let mut pause = Duration::from_millis(100);
    for _ in 1..ATTEMPTS {
        match operation().await {
            Err(error) if error.class == Class::Retry => {
                tracing::debug!(%error, "trying again");
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))).await;
                pause *= 3;
            }
            other => return other,
        }
    }
    operation().await
}
