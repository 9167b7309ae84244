//! Results that are stored beside tables, such as reports: objects in a folder of the lake, or of another store.

use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use sha2::{Digest, Sha256};
use sooner_api::{Code, Error, Result};
use tokio::io::AsyncReadExt;

use crate::export::hexadecimal;
use crate::lake::DeltaLake;
use crate::store::errors::store_error;
use crate::store::lake_store::LakeStore;
use crate::store::operations::{Put, discard, get, put, put_new, retrying};

/// Size of the parts in which a file is read and sent, at least.
const PART_BYTES: usize = 8 << 20;
/// Parts of one file, at most: S3 takes no more than 10,000
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>).
const MOST_PARTS: u64 = 9_000;
/// Parts that are on their way at the same time.
const PARTS_AT_ONCE: usize = 2;

/// A folder of results.
#[derive(Clone, Debug)]
pub struct ResultFolder {
    root: Arc<dyn ObjectStore>,
    folder: Path,
    url: String,
}

/// A local file, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Its size.
    pub bytes: u64,
    /// SHA-256 of its bytes, as hexadecimal digits.
    pub sha256: String,
}

impl ResultFolder {
    /// A folder of a pipeline in its lake: `_sooner/<pipeline>/<name>`.
    pub fn of_lake(lake: &DeltaLake, name: &str) -> ResultFolder {
        let names = ["_sooner", lake.pipeline(), name];
        ResultFolder {
            root: lake.store().root(),
            folder: names.iter().fold(lake.store().prefix().clone(), |folder, name| folder.join(*name)),
            url: lake.store().folder_url(&names).to_string(),
        }
    }

    /// A store of its own.
    pub fn at(store: &LakeStore) -> ResultFolder {
        ResultFolder { root: store.root(), folder: store.prefix().clone(), url: store.folder_url(&[]).to_string() }
    }

    /// A folder below this one.
    pub fn below(&self, name: &str) -> ResultFolder {
        let url = format!("{}/{name}/", self.url.trim_end_matches('/'));
        ResultFolder { root: self.root.clone(), folder: self.folder.clone().join(name), url }
    }

    /// The store, and the folder's path in it.
    pub fn place(&self) -> (&Arc<dyn ObjectStore>, &Path) {
        (&self.root, &self.folder)
    }

    /// URL of the folder.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Writes an object unless there is one of that name; whether the one that is there now is this one.
    pub async fn put_new(&self, name: &str, text: Vec<u8>) -> Result<bool> {
        let (path, text) = (self.folder.clone().join(name), Bytes::from(text));
        retrying(|| async {
            match put_new(&*self.root, &path, text.clone()).await? {
                Put::Created => Ok(true),
                // After a lost response the object that is there may be this one.
                Put::Exists => Ok(get(&*self.root, &path).await? == Some(text.clone())),
            }
        })
        .await
    }

    /// Writes an object, in place of any of that name.
    pub async fn put(&self, name: &str, text: Vec<u8>) -> Result<()> {
        put(&*self.root, &self.folder.clone().join(name), Bytes::from(text)).await
    }

    /// An object; none if there is none of that name.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        get(&*self.root, &self.folder.clone().join(name)).await
    }

    /// Names of all objects in the folder and below it, apart by `/`.
    pub async fn names(&self) -> Result<Vec<String>> {
        let listed = retrying(|| async {
            let listed = self.root.list(Some(&self.folder)).try_collect::<Vec<_>>().await;
            listed.map_err(|error| store_error(format!("cannot list {}", self.url), &error))
        });
        let below = |path: &Path| {
            let parts = path.prefix_match(&self.folder)?.map(|part| part.as_ref().to_owned());
            Some(parts.collect::<Vec<_>>().join("/"))
        };
        Ok(listed.await?.iter().filter_map(|object| below(&object.location)).collect())
    }

    /// Removes an object that nothing refers to. That it cannot be removed costs only its space.
    pub async fn discard(&self, name: &str) {
        discard(&*self.root, &self.folder.clone().join(name)).await;
    }

    /// Removes an object, whether or not it is there.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let path = self.folder.clone().join(name);
        retrying(|| async {
            match self.root.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(store_error(format!("cannot remove {path}"), &error)),
            }
        })
        .await
    }

    /// Copies a local file to the folder, in bounded memory, in place of any of that name.
    pub async fn upload(&self, name: &str, file: &FilePath) -> Result<()> {
        let path = self.folder.clone().join(name);
        retrying(|| self.send(&path, file)).await
    }

    async fn send(&self, path: &Path, file: &FilePath) -> Result<()> {
        let failed = |error: &object_store::Error| store_error(format!("cannot write {path}"), error);
        let mut file = tokio::fs::File::open(file).await.map_err(|error| unreadable(file, error))?;
        let whole = file.metadata().await.map_or(0, |metadata| metadata.len());
        let part_bytes = PART_BYTES.max(usize::try_from(whole.div_ceil(MOST_PARTS)).unwrap_or(usize::MAX));
        let part = next_part(&mut file, part_bytes).await?;
        if part.len() < part_bytes {
            return put(&*self.root, path, Bytes::from(part)).await;
        }
        let mut upload = self.root.put_multipart(path).await.map_err(|error| failed(&error))?;
        match send_parts(&mut *upload, &mut file, (part, part_bytes)).await {
            Ok(()) => upload.complete().await.map(drop).map_err(|error| failed(&error)),
            Err(error) => {
                // Parts that stay cost space, until the bucket's own rules remove them.
                let _ = upload.abort().await;
                match error {
                    Unsent::Store(error) => Err(failed(&error)),
                    Unsent::File(error) => Err(error),
                }
            }
        }
    }
}

/// Why parts of a file were not sent.
enum Unsent {
    Store(object_store::Error),
    File(Error),
}

/// Sends a file's parts, of which the first is read, some at the same time.
async fn send_parts(
    upload: &mut dyn MultipartUpload,
    file: &mut tokio::fs::File,
    (mut part, part_bytes): (Vec<u8>, usize),
) -> std::result::Result<(), Unsent> {
    let mut sending = FuturesUnordered::new();
    while !part.is_empty() {
        sending.push(upload.put_part(Bytes::from(part).into()));
        if sending.len() >= PARTS_AT_ONCE
            && let Some(sent) = sending.next().await
        {
            sent.map_err(Unsent::Store)?;
        }
        part = next_part(file, part_bytes).await.map_err(Unsent::File)?;
    }
    while let Some(sent) = sending.next().await {
        sent.map_err(Unsent::Store)?;
    }
    Ok(())
}

/// Size and hash of a local file.
pub async fn measure(path: &FilePath) -> Result<Measured> {
    let mut file = tokio::fs::File::open(path).await.map_err(|error| unreadable(path, error))?;
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    loop {
        let part = next_part(&mut file, PART_BYTES).await?;
        if part.is_empty() {
            return Ok(Measured { bytes, sha256: hexadecimal(&hash.finalize()) });
        }
        hash.update(&part);
        bytes += part.len() as u64;
    }
}

async fn next_part(file: &mut tokio::fs::File, bytes: usize) -> Result<Vec<u8>> {
    let mut part = Vec::new();
    let read = file.take(bytes as u64).read_to_end(&mut part).await;
    read.map_err(|error| Error::retry(Code::ReportFailed, "cannot read a result", error, "nothing"))?;
    Ok(part)
}

fn unreadable(path: &FilePath, error: std::io::Error) -> Error {
    let remedy = "see that nobody removes files of the state folder";
    Error::retry(Code::ReportFailed, format!("cannot read {}", path.display()), error, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::lake_store::S3Settings;

    #[tokio::test]
    async fn results_are_put_once_and_files_of_any_size_arrive_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let store = LakeStore::open(&folder.path().join("results").display().to_string(), &S3Settings::default());
        let results = ResultFolder::at(&store.unwrap()).below("daily");
        assert_eq!(results.names().await.unwrap(), Vec::<String>::new());
        assert!(results.put_new("manifest.json", b"one".to_vec()).await.unwrap());
        assert!(results.put_new("manifest.json", b"one".to_vec()).await.unwrap(), "it is this one");
        assert!(!results.put_new("manifest.json", b"two".to_vec()).await.unwrap());
        assert_eq!(results.get("manifest.json").await.unwrap().as_deref(), Some(&b"one"[..]));
        for bytes in [0, 3, PART_BYTES, 2 * PART_BYTES + 5] {
            let (file, content) = (folder.path().join("file"), vec![7; bytes]);
            std::fs::write(&file, &content).unwrap();
            results.below("run").upload("part", &file).await.unwrap();
            let stored = results.get("run").await.unwrap();
            assert_eq!(stored, None, "it is a folder");
            assert!(results.below("run").get("part").await.unwrap().is_some_and(|stored| stored == content));
            let measured = measure(&file).await.unwrap();
            let expected = hexadecimal(&Sha256::digest(&content));
            assert_eq!(measured, Measured { bytes: bytes as u64, sha256: expected });
        }
        let mut names = results.names().await.unwrap();
        names.sort();
        assert_eq!(names, ["manifest.json", "run/part"]);
        results.below("run").discard("part").await;
        assert_eq!(results.names().await.unwrap(), ["manifest.json"]);
    }
}
