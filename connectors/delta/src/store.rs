//! The object store that holds the lake: a folder on local disk or a prefix of an S3 bucket, behind `object_store`.

use std::fmt::Display;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, RetryConfig};
use sooner_api::{Class, Code, Error, Result};
use url::Url;

use crate::local_disk::LocalDisk;

/// How long the store's client may retry a single request.
const REQUEST_RETRY: Duration = Duration::from_secs(8);
/// Number of attempts at a whole operation, with growing pauses, before its error is returned.
const ATTEMPTS: u32 = 5;

/// Settings of an S3 store; they take precedence over the AWS environment variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// URL of the endpoint, for a store other than AWS.
    pub endpoint: Option<String>,
    /// AWS region; if none, the environment's, or else `us-east-1`.
    pub region: Option<String>,
    /// Access key and secret key; if none, those of the environment or the machine's identity.
    pub credentials: Option<(String, String)>,
}

/// The opened store of a lake.
#[derive(Clone, Debug)]
pub struct LakeStore {
    root: Arc<dyn ObjectStore>,
    prefix: Path,
    url: Url,
}

impl LakeStore {
    /// Opens a lake at `/a/folder` or `s3://bucket/prefix`. A local folder is created; a bucket is neither created nor
    /// contacted. A location that cannot be used is an operator error.
    pub fn open(location: &str, s3: &S3Settings) -> Result<LakeStore> {
        let unusable = |why: String| {
            Error::operator(
                Code::LakeUrlInvalid,
                format!("cannot use the lake '{location}'"),
                why,
                "write url in [lake] as a folder or as s3://bucket/prefix",
            )
        };
        if !location.contains("://") {
            return LakeStore::local(PathBuf::from(location)).map_err(|error| unusable(error.to_string()));
        }
        let url = Url::parse(location).map_err(|error| unusable(error.to_string()))?;
        match url.scheme() {
            "file" => {
                let folder = url.to_file_path().map_err(|()| unusable("it is no local path".to_owned()))?;
                LakeStore::local(folder).map_err(|error| unusable(error.to_string()))
            }
            "s3" => {
                let store = s3_store(&url, s3).map_err(|error| unusable(error.to_string()))?;
                let prefix = Path::from_url_path(url.path()).map_err(|error| unusable(error.to_string()))?;
                Ok(LakeStore { root: Arc::new(store), prefix, url })
            }
            other => Err(unusable(format!("'{other}' is not supported"))),
        }
    }

    fn local(folder: PathBuf) -> std::result::Result<LakeStore, Box<dyn std::error::Error>> {
        std::fs::create_dir_all(&folder)?;
        let folder = folder.canonicalize()?;
        let url = Url::from_directory_path(&folder).map_err(|()| "the folder has no absolute path")?;
        let root = Arc::new(LocalDisk::whole());
        Ok(LakeStore { root, prefix: Path::from_absolute_path(&folder)?, url })
    }

    /// The underlying store, whose paths start at the bucket or at `/`.
    pub fn root(&self) -> Arc<dyn ObjectStore> {
        self.root.clone()
    }

    /// Path of the lake below the root of its store.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// URL of a folder below the lake, with a trailing slash.
    pub fn folder_url(&self, parts: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(parts).push("");
        }
        url
    }

    /// Checks that the lake can be written and deleted from, and that a conditional put is honoured: of two under one
    /// name, the second must fail. Problems of the whole store, such as credentials, are operator errors here.
    pub async fn probe(&self) -> Result<()> {
        let path = self.prefix.clone().join("_sooner").join(format!("probe-{}", uuid::Uuid::new_v4()));
        let what = || format!("cannot write to the lake '{}'", self.url);
        // The name is new: if the first put finds it taken, it was our own, retried after a lost response.
        let first = try_put_new(&*self.root, &path, Bytes::from_static(b"first")).await;
        first.map_err(|error| probe_error(what(), &error))?;
        let second = try_put_new(&*self.root, &path, Bytes::from_static(b"second")).await;
        let cleaned = self.root.delete(&path).await;
        if second.map_err(|error| probe_error(what(), &error))? == Put::Created {
            return Err(Error::operator(
                Code::LakeUnsafe,
                format!("the lake '{}' cannot be used", self.url),
                "its store does not honour conditional puts (If-None-Match: *), without which two writers could \
                 overwrite each other's commits",
                "use a store that does, such as AWS S3, or a recent version of yours",
            ));
        }
        cleaned.map_err(|error| probe_error("cannot delete from the lake".to_owned(), &error))
    }
}

fn s3_store(url: &Url, settings: &S3Settings) -> object_store::Result<object_store::aws::AmazonS3> {
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(50), ..BackoffConfig::default() },
        max_retries: 5,
        retry_timeout: REQUEST_RETRY,
    };
    let client = ClientOptions::new()
        .with_connect_timeout(Duration::from_secs(3))
        .with_timeout(Duration::from_secs(30))
        .with_allow_http(settings.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")));
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(url.host_str().unwrap_or_default())
        .with_retry(retry)
        .with_client_options(client);
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(region) = &settings.region {
        builder = builder.with_region(region);
    } else if builder.get_config_value(&AmazonS3ConfigKey::Region).is_none() {
        builder = builder.with_region("us-east-1");
    }
    if let Some((access_key, secret_key)) = &settings.credentials {
        builder = builder.with_access_key_id(access_key).with_secret_access_key(secret_key);
    }
    builder.build()
}

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

async fn try_put_new(store: &dyn ObjectStore, path: &Path, bytes: Bytes) -> object_store::Result<Put> {
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

/// Classifies an error of a store. An error of the whole store is to be retried, because the store was usable at the
/// start; a missing or shortened object needs an operator; any other error is to be retried.
pub fn store_error(what: impl Into<String>, error: &object_store::Error) -> Error {
    let why = root_cause(error);
    if let Some((code, remedy)) = store_remedy(error, &why) {
        return Error::retry(code, what, why, remedy);
    }
    let cut_short = ["range was invalid", "InvalidRange", "range starting at"].iter().any(|sign| why.contains(sign));
    if cut_short {
        let remedy = "the file is shorter than it was: restore it, or copy the table again with `sooner resume TABLE`";
        return Error::operator(Code::FileDamaged, what, why, remedy);
    }
    if matches!(error, object_store::Error::NotFound { .. }) {
        let remedy = "restore the object; it must not be removed while the table refers to it";
        return Error::operator(Code::ObjectMissing, what, why, remedy);
    }
    Error::retry(Code::LakeUnreachable, what, why, "check that the lake's store can be reached; it is tried again")
}

/// Classifies an error at the start, where one of the whole store needs an operator: the store has never worked.
fn probe_error(what: String, error: &object_store::Error) -> Error {
    let why = root_cause(error);
    match store_remedy(error, &why) {
        Some((code, remedy)) => Error::operator(code, what, why, remedy),
        None => store_error(what, error),
    }
}

/// Code and remedy of an error that concerns the whole store; none for any other error.
fn store_remedy(error: &object_store::Error, why: &str) -> Option<(Code, &'static str)> {
    match error {
        object_store::Error::NotFound { source, .. } if names_bucket(source) => {
            Some((Code::LakeBucketMissing, "create the bucket, or correct url in [lake]"))
        }
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Some((
            Code::LakePermissionDenied,
            "check the credentials of [lake] and what they may do: list, get, put, delete",
        )),
        _ if why.contains("redential") || why.contains("169.254.") => {
            Some((Code::LakePermissionDenied, "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run under a role"))
        }
        _ if why.contains("InvalidAccessKeyId") || why.contains("SignatureDoesNotMatch") => {
            Some((Code::LakePermissionDenied, "check the credentials of [lake]"))
        }
        _ if why.contains("No space left") => {
            Some((Code::LakeDiskFull, "make space on the lake's disk; it is tried again"))
        }
        _ => None,
    }
}

fn names_bucket(source: &impl Display) -> bool {
    source.to_string().contains("NoSuchBucket")
}

/// The message of an error, followed by that of its innermost cause unless it contains it already.
fn root_cause(error: &object_store::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let (outer, inner) = (error.to_string(), cause.to_string());
    if outer.contains(&inner) { outer } else { format!("{outer}: {inner}") }
}
