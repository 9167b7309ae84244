//! The progress record in the lake: `_sooner/<pipeline>/<version>.json`, each version written by a conditional put.
//!
//! This fences two processes that run the same pipeline: the one that saves second finds its version taken.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use sooner_api::{Code, Error, ProgressRecord, ProgressStore, Result};

use crate::store::{LakeStore, Put, get, put_new, retrying, store_error};

/// Number of versions that are kept, for an operator to inspect.
const KEPT_VERSIONS: u64 = 10;

/// Progress store of one pipeline in the lake. `save` returns once the store has the record, and fails
/// with a retryable error if another process has saved since this one last loaded or saved.
pub struct LakeProgress {
    store: LakeStore,
    folder: Path,
    pipeline: String,
    version: u64,
}

impl LakeProgress {
    /// Creates the store of a pipeline's progress in a lake; reads and writes nothing yet.
    pub fn new(store: LakeStore, pipeline: &str) -> LakeProgress {
        let folder = store.prefix().clone().join("_sooner").join(pipeline);
        LakeProgress { store, folder, pipeline: pipeline.to_owned(), version: 0 }
    }

    fn path(&self, version: u64) -> Path {
        self.folder.clone().join(format!("{version:020}.json"))
    }

    async fn newest(&self) -> Result<Option<u64>> {
        retrying(|| async {
            let root = self.store.root();
            let listed = root.list(Some(&self.folder)).try_collect::<Vec<_>>().await;
            let objects = listed.map_err(|error| store_error("cannot list the lake", &error))?;
            let versions = objects
                .iter()
                .filter_map(|object| object.location.filename()?.strip_suffix(".json")?.parse::<u64>().ok());
            Ok(versions.max())
        })
        .await
    }

    fn second_process(&self) -> Error {
        Error::retry(
            Code::PipelineTakenOver,
            format!("this process no longer runs the pipeline '{}'", self.pipeline),
            "another process of the same name has taken it over",
            "stop one of the two, or give it another name; this one waits until the slot is free",
        )
    }
}

impl ProgressStore for LakeProgress {
    async fn load(&mut self) -> Result<Option<ProgressRecord>> {
        let Some(version) = self.newest().await? else {
            return Ok(None);
        };
        self.version = version;
        let path = self.path(version);
        let Some(bytes) = get(&*self.store.root(), &path).await? else {
            return Err(Error::retry(
                Code::ProgressMissing,
                format!("cannot read {path}"),
                "it was removed just now",
                "it is tried again",
            ));
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let remedy = "restore it from a former version; or remove the folder and start with --recopy";
            Error::operator(Code::ProgressUnreadable, format!("cannot understand {path}"), error, remedy)
        })
    }

    async fn save(&mut self, record: &ProgressRecord) -> Result<()> {
        let text = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::fatal(Code::Internal, "cannot write the progress record", error, "report this"))?;
        let text = Bytes::from(text);
        let version = self.version + 1;
        let path = self.path(version);
        let root = self.store.root();
        let saved = retrying(|| async {
            match put_new(&*root, &path, text.clone()).await? {
                Put::Created => Ok(true),
                // After a lost response, the record that is found may be this one.
                Put::Exists => match get(&*root, &path).await? {
                    Some(found) => Ok(found == text),
                    None => Err(Error::retry(
                        Code::CommitUndecided,
                        format!("cannot write {path}"),
                        "it is neither there nor free",
                        "nothing",
                    )),
                },
            }
        });
        if !saved.await? {
            return Err(self.second_process());
        }
        self.version = version;
        if let Some(old) = version.checked_sub(KEPT_VERSIONS) {
            // An old version that cannot be deleted is only history and does no harm.
            let _ = root.delete(&self.path(old)).await;
        }
        Ok(())
    }
}
