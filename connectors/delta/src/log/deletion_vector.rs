//! Deletion vectors: which rows of a data file are deleted.
//!
//! Format: <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#deletion-vector-format>

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use roaring::{RoaringBitmap, RoaringTreemap};
use serde_json::{Value, json};
use sooner_api::{Code, Error, Result};
use uuid::Uuid;

use crate::store::operations::get;

/// Magic number at the start of a serialised vector, little-endian: a portable Roaring bitmap array.
const MAGIC: u32 = 1_681_511_377;
/// Format version, which is the first byte of a file of vectors.
const FILE_VERSION: u8 = 1;

/// A serialised vector, with the number of rows that it deletes.
struct Encoded {
    bytes: Vec<u8>,
    cardinality: u64,
}

/// Gathers the vectors of one commit in a file, which has to be put before the commit. None becomes part of the log,
/// however small it is: Spark's VACUUM fails on tables with such vectors (Delta 4.4: a `MatchError`).
pub struct VectorWriter {
    file_id: Uuid,
    file: Vec<u8>,
}

/// A file of vectors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorFile {
    /// Path below the table.
    pub path: Path,
    /// Content.
    pub bytes: Bytes,
}

impl VectorWriter {
    /// Starts without a file. If one is needed it gets its name from `file_id`, so that a commit that is planned again
    /// writes over what its first plan left.
    pub fn new(file_id: Uuid) -> VectorWriter {
        VectorWriter { file_id, file: vec![FILE_VERSION] }
    }

    /// Serialises a vector and returns its descriptor for the log, which is valid once the writer is finished.
    pub fn add(&mut self, deleted: &RoaringBitmap) -> Value {
        let encoded = encode(deleted);
        let offset = self.file.len();
        self.file.extend_from_slice(&(encoded.bytes.len() as u32).to_be_bytes());
        self.file.extend_from_slice(&encoded.bytes);
        self.file.extend_from_slice(&crc32fast::hash(&encoded.bytes).to_be_bytes());
        json!({
            "storageType": "u",
            "pathOrInlineDv": z85::encode(self.file_id.as_bytes()),
            "offset": offset,
            "sizeInBytes": encoded.bytes.len(),
            "cardinality": encoded.cardinality,
        })
    }

    /// The file; none if there are no vectors.
    pub fn finish(self) -> Option<VectorFile> {
        (self.file.len() > 1).then(|| VectorFile { path: vector_path(self.file_id), bytes: self.file.into() })
    }
}

/// Reads the vector that a descriptor of the log names. A missing or damaged vector is an operator error.
pub async fn read(table: &dyn ObjectStore, descriptor: &Value) -> Result<RoaringBitmap> {
    let unreadable = |why: String| {
        let what = format!("cannot read the deletion vector {descriptor}");
        Error::operator(
            Code::FileDamaged,
            what,
            why,
            "restore the table's files, or copy the table again: `sooner resume TABLE`",
        )
    };
    let text = |name: &str| descriptor.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| descriptor.get(name).and_then(Value::as_u64).unwrap_or_default() as usize;
    let (size, vector) = (number("sizeInBytes"), text("pathOrInlineDv"));
    let bytes = match text("storageType") {
        "i" => Bytes::from(z85::decode(vector).map_err(|error| unreadable(error.to_string()))?),
        "u" => {
            let path = relative_path(vector).ok_or_else(|| unreadable("its path cannot be decoded".to_owned()))?;
            let file = get(table, &path).await?.ok_or_else(|| unreadable(format!("{path} does not exist")))?;
            let start = number("offset") + 4;
            let Some(sum) = file.get(start + size..).and_then(|rest| rest.first_chunk()) else {
                return Err(unreadable(format!("{path} ends early")));
            };
            let vector = file.slice(start..start + size);
            if crc32fast::hash(&vector) != u32::from_be_bytes(*sum) {
                return Err(unreadable(format!("{path} is damaged: its checksum is another one")));
            }
            vector
        }
        other => return Err(unreadable(format!("its storage type '{other}' is not supported"))),
    };
    decode(&bytes).ok_or_else(|| unreadable("it is not a Roaring bitmap array".to_owned()))
}

/// Path of a commit's file of vectors, below the table.
pub fn vector_path(file_id: Uuid) -> Path {
    Path::from(format!("deletion_vector_{file_id}.bin"))
}

/// Path of a file of vectors below the table, from `pathOrInlineDv`: the last 20 characters are a UUID in z85, what
/// precedes them is a folder. None if it cannot be decoded.
pub fn relative_path(text: &str) -> Option<Path> {
    let (folder, id) = text.split_at_checked(text.len().checked_sub(20)?)?;
    let id = Uuid::from_slice(&z85::decode(id).ok()?).ok()?;
    let name = format!("deletion_vector_{id}.bin");
    Some(if folder.is_empty() { Path::from(name) } else { Path::from(format!("{folder}/{name}")) })
}

/// Serialises a vector: the magic number, the number of bitmaps, then a 32-bit bitmap for each upper half of row
/// positions. Here there is always one bitmap, for the upper half zero.
fn encode(deleted: &RoaringBitmap) -> Encoded {
    let mut bytes = Vec::with_capacity(deleted.serialized_size() + 16);
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&1u64.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    let written = deleted.serialize_into(&mut bytes);
    debug_assert!(written.is_ok(), "writing to memory does not fail");
    Encoded { bytes, cardinality: deleted.len() }
}

fn decode(bytes: &[u8]) -> Option<RoaringBitmap> {
    let (magic, bitmaps) = bytes.split_first_chunk()?;
    if u32::from_le_bytes(*magic) != MAGIC {
        return None;
    }
    let all = RoaringTreemap::deserialize_from(bitmaps).ok()?;
    all.iter().map(|row| u32::try_from(row).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[tokio::test]
    async fn vectors_of_all_sizes_survive() {
        let store = InMemory::new();
        let small: RoaringBitmap = [1, 5, 70_000].into_iter().collect();
        let large: RoaringBitmap = (0..100_000).filter(|row| row % 7 == 0).collect();
        let larger: RoaringBitmap = (0..100_000).filter(|row| row % 3 == 0).collect();
        let mut writer = VectorWriter::new(Uuid::new_v4());
        let descriptors: Vec<_> = [&small, &large, &larger].into_iter().map(|vector| writer.add(vector)).collect();
        let file = writer.finish().unwrap();
        crate::store::operations::put(&store, &file.path, file.bytes).await.unwrap();
        assert_eq!(descriptors[0]["storageType"], "u");
        assert_eq!(descriptors[2]["storageType"], "u");
        for (descriptor, vector) in descriptors.iter().zip([small, large, larger]) {
            assert_eq!(read(&store, descriptor).await.unwrap(), vector);
        }
    }

    #[tokio::test]
    async fn a_vector_whose_file_is_gone_is_named() {
        let mut writer = VectorWriter::new(Uuid::new_v4());
        let descriptor = writer.add(&(0..100_000).filter(|row| row % 7 == 0).collect());
        let error = read(&InMemory::new(), &descriptor).await.unwrap_err();
        assert!(error.why.contains("does not exist"), "{error}");
    }
}
