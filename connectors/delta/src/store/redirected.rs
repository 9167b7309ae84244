//! A store in which one folder stands for another. The log of a table's next generation lies in a folder that readers
//! do not know; whatever works on a log finds it under the usual name.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

/// A store whose folder `shown` is the folder `stored` of another store. What lies at `shown` there is not seen.
#[derive(Clone, Debug)]
pub struct Redirected {
    inner: Arc<dyn ObjectStore>,
    shown: Path,
    stored: Path,
}

impl Redirected {
    /// Shows one folder of a store in place of another.
    pub fn new(inner: Arc<dyn ObjectStore>, shown: Path, stored: Path) -> Redirected {
        Redirected { inner, shown, stored }
    }

    fn stored_path(&self, path: &Path) -> Path {
        moved(path, &self.shown, &self.stored)
    }

    fn shown_path(&self, path: &Path) -> Path {
        moved(path, &self.stored, &self.shown)
    }

    fn shown_meta(&self, meta: ObjectMeta) -> ObjectMeta {
        ObjectMeta { location: self.shown_path(&meta.location), ..meta }
    }
}

fn moved(path: &Path, from: &Path, to: &Path) -> Path {
    match path.prefix_match(from) {
        Some(rest) => to.parts().chain(rest).collect(),
        None => path.clone(),
    }
}

impl fmt::Display for Redirected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redirected({}, {} at {})", self.inner, self.shown, self.stored)
    }
}

#[async_trait]
impl ObjectStore for Redirected {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(&self.stored_path(location), payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(&self.stored_path(location), options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut result = self.inner.get_opts(&self.stored_path(location), options).await?;
        result.meta = self.shown_meta(result.meta);
        Ok(result)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(&self.stored_path(location), ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (there, here) = (self.clone(), self.clone());
        let stored = locations.map_ok(move |location| there.stored_path(&location)).boxed();
        self.inner.delete_stream(stored).map_ok(move |location| here.shown_path(&location)).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let here = self.clone();
        let stored = prefix.map(|prefix| self.stored_path(prefix));
        self.inner.list(stored.as_ref()).map_ok(move |meta| here.shown_meta(meta)).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let stored = prefix.map(|prefix| self.stored_path(prefix));
        let ListResult { common_prefixes, objects } = self.inner.list_with_delimiter(stored.as_ref()).await?;
        Ok(ListResult {
            common_prefixes: common_prefixes.iter().map(|path| self.shown_path(path)).collect(),
            objects: objects.into_iter().map(|meta| self.shown_meta(meta)).collect(),
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(&self.stored_path(from), &self.stored_path(to), options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn a_folder_stands_for_another_and_everything_else_stays() {
        let inner = Arc::new(InMemory::new());
        let store = Redirected::new(inner.clone(), Path::from("t/log"), Path::from("t/next/7/log"));
        for path in ["t/log/0", "t/data", "t/logbook"] {
            store.put(&Path::from(path), path.to_owned().into()).await.unwrap();
        }
        inner.put(&Path::from("t/log/9"), "unseen".into()).await.unwrap();
        let listed: Vec<_> = inner.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await.unwrap();
        assert_eq!(listed, ["t/data", "t/log/9", "t/logbook", "t/next/7/log/0"]);
        let shown: Vec<_> =
            store.list(Some(&Path::from("t/log"))).map_ok(|meta| meta.location).try_collect().await.unwrap();
        assert_eq!(shown, [Path::from("t/log/0")]);
        let read = store.get(&Path::from("t/log/0")).await.unwrap();
        assert_eq!(read.meta.location, Path::from("t/log/0"));
        assert_eq!(read.bytes().await.unwrap(), "t/log/0");
        store.delete(&Path::from("t/log/0")).await.unwrap();
        assert!(store.get(&Path::from("t/log/0")).await.is_err());
        assert!(inner.get(&Path::from("t/log/9")).await.is_ok());
    }
}
