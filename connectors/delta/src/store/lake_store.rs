//! The object store that holds the lake: a folder on local disk or a prefix of an S3 bucket, behind `object_store`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt, RetryConfig};
use sooner_api::{Code, Error, Result};
use url::Url;

use super::errors::probe_error;
use super::local_disk::LocalDisk;
use super::operations::{Put, try_put_new};

/// How long the store's client may retry a single request.
const REQUEST_RETRY: Duration = Duration::from_secs(8);

/// Settings of an S3 store; they take precedence over the AWS environment variables.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// URL of the endpoint, for a store other than AWS.
    pub endpoint: Option<String>,
    /// AWS region; if none, the environment's, or else `us-east-1`.
    pub region: Option<String>,
    /// Access key and secret key; if none, those of the environment or the machine's identity.
    pub credentials: Option<(String, String)>,
}

impl std::fmt::Debug for S3Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let S3Settings { endpoint, region, .. } = self;
        f.debug_struct("S3Settings").field("endpoint", endpoint).field("region", region).finish_non_exhaustive()
    }
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
