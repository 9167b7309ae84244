//! Looks for values in all bytes of the lake, whoever wrote them and whatever refers to them: objects as they lie, and
//! the pages of Parquet files once they are unpacked. Knows nothing of tables, so that it also finds what nobody
//! thought of.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::column::page::PageReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use sha2::{Digest, Sha256};
use sooner_api::{Code, Error, Result};

use crate::store::errors::store_error;
use crate::store::lake_store::LakeStore;
use crate::store::operations::retrying;

/// Shorter values are found by chance.
pub const LEAST_BYTES: usize = 6;
/// Bytes of an object that are read at once.
const PIECE_BYTES: u64 = 8 << 20;

/// Byte strings that are looked for.
pub struct Needles(Vec<Vec<u8>>);

/// What a search has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Searched {
    /// Number of objects.
    pub objects: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Hash over the hashes of the objects, in the order of their paths.
    pub sha256: String,
    /// Each object: its hash, size and path below the lake.
    pub list: String,
    /// Objects that hold a value, below the lake.
    pub holding: Vec<String>,
    /// Parquet files whose pages could not be unpacked; their bytes as they lie were searched.
    pub unreadable: Vec<String>,
}

impl Needles {
    /// From values, as they are and as JSON and CSV have them. Those that are too short are left out.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a str>) -> Needles {
        let mut needles = Vec::new();
        for value in values.into_iter().filter(|value| value.len() >= LEAST_BYTES) {
            let quoted = serde_json::Value::from(value).to_string();
            let doubled = value.replace('"', "\"\"");
            for form in [value, json_text(&quoted), &doubled] {
                if !needles.contains(&form.as_bytes().to_vec()) {
                    needles.push(form.as_bytes().to_vec());
                }
            }
        }
        Needles(needles)
    }

    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is in some bytes.
    pub fn are_in(&self, bytes: &[u8]) -> bool {
        self.0.iter().any(|needle| contains(bytes, needle))
    }

    fn longest(&self) -> usize {
        self.0.iter().map(Vec::len).max().unwrap_or_default()
    }
}

/// A JSON string without the double quotes around it.
fn json_text(quoted: &str) -> &str {
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(quoted)
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let Some((first, rest)) = needle.split_first() else { return false };
    let mut left = bytes;
    while let Some(at) = left.iter().position(|byte| byte == first) {
        left = &left[at + 1..];
        if left.starts_with(rest) {
            return true;
        }
    }
    false
}

/// Searches all objects of a lake.
pub async fn search(lake: &LakeStore, needles: &Needles) -> Result<Searched> {
    search_folder(lake, lake.prefix(), needles).await
}

/// Searches all objects of a folder of a lake.
pub async fn search_folder(lake: &LakeStore, folder: &Path, needles: &Needles) -> Result<Searched> {
    search_objects(&lake.root(), lake.prefix(), folder, needles).await
}

/// Searches all objects of a folder; their paths are told as they are below `prefix`.
pub async fn search_objects(
    store: &Arc<dyn ObjectStore>,
    prefix: &Path,
    folder: &Path,
    needles: &Needles,
) -> Result<Searched> {
    let listed = retrying(|| async {
        let listed = store.list(Some(folder)).try_collect::<Vec<_>>().await;
        listed.map_err(|error| store_error("cannot list the lake", &error))
    });
    let mut objects = listed.await?;
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    let (mut searched, mut all) = (Searched::default(), Sha256::new());
    for object in objects {
        let Some((hash, mut holds)) = search_raw(store, &object, needles).await? else { continue };
        let path = below(prefix, &object.location);
        if !holds && object.location.extension() == Some("parquet") && !needles.is_empty() {
            match search_pages(store, &object, needles).await {
                Ok(found) => holds = found,
                Err(error) if error.code == Code::FileDamaged => searched.unreadable.push(path.clone()),
                Err(error) if error.code == Code::ObjectMissing => continue,
                Err(error) => return Err(error),
            }
        }
        searched.objects += 1;
        searched.bytes += object.size;
        all.update(format!("{hash} {path}\n"));
        searched.list += &format!("{hash} {} {path}\n", object.size);
        if holds {
            searched.holding.push(path);
        }
    }
    searched.sha256 = hex(&all.finalize());
    Ok(searched)
}

/// Path of an object below the lake.
fn below(prefix: &Path, path: &Path) -> String {
    let rest = path.as_ref().strip_prefix(prefix.as_ref()).unwrap_or(path.as_ref());
    rest.trim_start_matches('/').to_owned()
}

/// Hash of an object, and whether its bytes as they lie hold a value; none if it has gone.
async fn search_raw(
    store: &Arc<dyn ObjectStore>,
    object: &ObjectMeta,
    needles: &Needles,
) -> Result<Option<(String, bool)>> {
    let (mut hash, mut holds, mut tail) = (Sha256::new(), false, Vec::new());
    let mut at = 0;
    while at < object.size {
        let piece = match read(store, &object.location, at..(at + PIECE_BYTES).min(object.size)).await {
            Err(error) if error.code == Code::ObjectMissing => return Ok(None),
            piece => piece?,
        };
        hash.update(&piece);
        // A value may lie across two pieces.
        let from = tail.len().saturating_sub(needles.longest());
        tail.drain(..from);
        tail.extend_from_slice(&piece);
        holds = holds || needles.are_in(&tail);
        at += piece.len().max(1) as u64;
    }
    Ok(Some((hex(&hash.finalize()), holds)))
}

async fn read(store: &Arc<dyn ObjectStore>, path: &Path, range: Range<u64>) -> Result<Bytes> {
    retrying(|| async {
        let read = store.get_range(path, range.clone()).await;
        read.map_err(|error| store_error(format!("cannot read {path}"), &error))
    })
    .await
}

/// Whether a page of a Parquet file holds a value, once it is unpacked.
async fn search_pages(store: &Arc<dyn ObjectStore>, object: &ObjectMeta, needles: &Needles) -> Result<bool> {
    let metadata = read_footer(store, object).await?;
    for group in metadata.row_groups() {
        for column in group.columns() {
            let (start, length) = column.byte_range();
            let bytes = read(store, &object.location, start..start + length).await?;
            let rows = usize::try_from(group.num_rows()).unwrap_or_default();
            let found = search_column(start, bytes, column, rows, needles);
            if found.map_err(|error| damaged(&object.location, error))? {
                return Ok(true);
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(false)
}

async fn read_footer(store: &Arc<dyn ObjectStore>, object: &ObjectMeta) -> Result<ParquetMetaData> {
    let damaged = |error: ParquetError| damaged(&object.location, error);
    let mut from = object.size.saturating_sub(64 << 10);
    loop {
        let tail = read(store, &object.location, from..object.size).await?;
        let mut reader = ParquetMetaDataReader::new();
        match reader.try_parse_sized(&tail, object.size) {
            Ok(()) => return reader.finish().map_err(damaged),
            Err(ParquetError::NeedMoreData(needed)) if from > 0 => {
                from = object.size.saturating_sub((needed as u64).max(2 * tail.len() as u64));
            }
            Err(error) => return Err(damaged(error)),
        }
    }
}

fn search_column(
    start: u64,
    bytes: Bytes,
    column: &ColumnChunkMetaData,
    rows: usize,
    needles: &Needles,
) -> ParquetResult<bool> {
    let mut pages = SerializedPageReader::new(Arc::new(Piece { start, bytes }), column, rows, None)?;
    while let Some(page) = pages.get_next_page()? {
        if needles.are_in(page.buffer()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A piece of a file, read at the positions of the whole.
struct Piece {
    start: u64,
    bytes: Bytes,
}

impl Length for Piece {
    fn len(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl ChunkReader for Piece {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let at = usize::try_from(start.saturating_sub(self.start)).unwrap_or(usize::MAX);
        Ok(self.bytes.slice(at.min(self.bytes.len())..).reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let at = usize::try_from(start.saturating_sub(self.start)).unwrap_or(usize::MAX);
        match at.checked_add(length).filter(|end| *end <= self.bytes.len()) {
            Some(end) => Ok(self.bytes.slice(at..end)),
            None => Err(ParquetError::EOF("a page ends beyond its column".to_owned())),
        }
    }
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> Error {
    let what = format!("cannot unpack {path}");
    Error::operator(Code::FileDamaged, what, why, "restore the file, or delete it if nothing refers to it")
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, RecordBatch, StringArray};
    use bytes::Bytes;

    use super::*;
    use crate::rows::data_file::DataFileWriter;
    use crate::store::lake_store::S3Settings;

    #[tokio::test]
    async fn values_are_found_as_they_lie_across_pieces_and_in_packed_pages() {
        let folder = tempfile::tempdir().unwrap();
        let lake = LakeStore::open(folder.path().to_str().unwrap(), &S3Settings::default()).unwrap();
        let put = |name: &str, bytes: Vec<u8>| {
            let path = lake.prefix().clone().join(name);
            let store = lake.root();
            async move { store.put(&path, Bytes::from(bytes).into()).await.unwrap() }
        };
        let mut across = vec![b'x'; PIECE_BYTES as usize - 4];
        across.extend_from_slice(b"jane@doe.org, and more");
        put("across.bin", across).await;
        put("json.json", br#"{"name":"Jane \"J\" Doe"}"#.to_vec()).await;
        put("nothing.json", b"jane@doe.or".to_vec()).await;
        // Repeated, so that packing hides it.
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["who is jane@doe.org? who is jane@doe.org?"; 100]));
        let rows = RecordBatch::try_from_iter([("text", texts)]).unwrap();
        let mut writer = DataFileWriter::for_rows_like(&rows).unwrap();
        writer.write(&rows).unwrap();
        put("rows.parquet", writer.finish().unwrap().bytes.to_vec()).await;
        let searched = search(&lake, &Needles::new(["jane@doe.org", "Jane \"J\" Doe", "x"])).await.unwrap();
        assert_eq!(searched.holding, ["across.bin", "json.json", "rows.parquet"]);
        assert_eq!((searched.objects, searched.list.lines().count()), (4, 4));
        assert!(Needles::new(["Jane"]).is_empty(), "that would be found by chance");
    }
}
