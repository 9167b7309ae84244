//! Deletion vectors: what is written is read back, and what is damaged is refused.

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use roaring::{RoaringBitmap, RoaringTreemap};
use serde_json::{Value, json};
use sooner_api::{Class, Code, Error};
use sooner_delta::log::deletion_vector::{VectorWriter, read, vector_path};
use sooner_delta::store::operations::put;
use uuid::Uuid;

/// Every other row of so many.
fn scattered(rows: u32) -> RoaringBitmap {
    (0..rows).step_by(2).collect()
}

/// Writes vectors as one commit does, and returns each one's descriptor.
async fn written(store: &InMemory, vectors: &[RoaringBitmap]) -> Vec<Value> {
    let mut writer = VectorWriter::new(Uuid::new_v4());
    let descriptors = vectors.iter().map(|vector| writer.add(vector)).collect();
    if let Some(file) = writer.finish() {
        put(store, &file.path, file.bytes).await.unwrap();
    }
    descriptors
}

/// The descriptor of a large vector, and the file that it lies in.
fn in_a_file() -> (Value, Path, Bytes) {
    let mut writer = VectorWriter::new(Uuid::new_v4());
    let descriptor = writer.add(&scattered(100_000));
    let file = writer.finish().unwrap();
    (descriptor, file.path, file.bytes)
}

async fn refused(store: &InMemory, descriptor: &Value) -> Error {
    let error = read(store, descriptor).await.unwrap_err();
    assert_eq!((error.class, error.code), (Class::Operator, Code::FileDamaged), "{error}");
    error
}

#[tokio::test]
async fn vectors_at_the_limits_are_read_back() {
    let store = InMemory::new();
    let vectors = [
        RoaringBitmap::new(),
        [0].into_iter().collect(),
        [u32::MAX].into_iter().collect(),
        [65_535, 65_536, u32::MAX - 1].into_iter().collect(),
        (0..200_000).collect(),
        scattered(1_000_000),
    ];
    let descriptors = written(&store, &vectors).await;
    for (descriptor, vector) in descriptors.iter().zip(&vectors) {
        assert_eq!(&read(&store, descriptor).await.unwrap(), vector);
        assert_eq!(descriptor["cardinality"], vector.len());
    }
}

#[test]
fn the_smallest_vector_lies_in_a_file_since_spark_cannot_vacuum_others() {
    let mut writer = VectorWriter::new(Uuid::new_v4());
    assert_eq!(writer.add(&[7].into_iter().collect())["storageType"], "u");
    assert!(writer.finish().is_some());
    assert!(VectorWriter::new(Uuid::new_v4()).finish().is_none(), "no vector needs no file");
}

#[tokio::test]
async fn a_vector_that_another_writer_put_into_the_log_is_read() {
    let vector: RoaringBitmap = [3, 70_000].into_iter().collect();
    let mut bytes = 1_681_511_377u32.to_le_bytes().to_vec();
    RoaringTreemap::from_bitmaps([(0, vector.clone())]).serialize_into(&mut bytes).unwrap();
    let size = bytes.len();
    bytes.resize(size.next_multiple_of(4), 0);
    let descriptor =
        json!({"storageType": "i", "pathOrInlineDv": z85::encode(&bytes), "sizeInBytes": size, "cardinality": 2});
    assert_eq!(read(&InMemory::new(), &descriptor).await.unwrap(), vector);
}

#[test]
fn a_file_of_vectors_is_laid_out_as_the_protocol_says() {
    let id = Uuid::new_v4();
    let mut writer = VectorWriter::new(id);
    let descriptors = [writer.add(&scattered(100_000)), writer.add(&scattered(50_000))];
    let file = writer.finish().unwrap();
    assert_eq!(file.path, vector_path(id));
    assert_eq!(file.bytes[0], 1, "the version of the format");
    let mut next = 1;
    for descriptor in descriptors {
        let number = |name: &str| descriptor[name].as_u64().unwrap() as usize;
        let (offset, size) = (number("offset"), number("sizeInBytes"));
        assert_eq!(offset, next);
        let big_endian = |at: usize| u32::from_be_bytes(file.bytes[at..at + 4].try_into().unwrap());
        assert_eq!(big_endian(offset) as usize, size);
        let vector = &file.bytes[offset + 4..offset + 4 + size];
        assert_eq!(vector[..4], 1_681_511_377u32.to_le_bytes());
        assert_eq!(big_endian(offset + 4 + size), crc32fast::hash(vector));
        next = offset + size + 8;
    }
    assert_eq!(next, file.bytes.len());
}

#[tokio::test]
async fn a_vector_below_a_folder_of_another_writer_is_found() {
    let store = InMemory::new();
    let (mut descriptor, path, bytes) = in_a_file();
    put(&store, &Path::from(format!("ab/{path}")), bytes).await.unwrap();
    refused(&store, &descriptor).await;
    let id = descriptor["pathOrInlineDv"].as_str().unwrap().to_owned();
    descriptor["pathOrInlineDv"] = json!(format!("ab{id}"));
    assert_eq!(read(&store, &descriptor).await.unwrap(), scattered(100_000));
}

#[tokio::test]
async fn a_damaged_file_of_vectors_is_refused() {
    let (descriptor, path, bytes) = in_a_file();
    for (damaged, why) in [
        (bytes.slice(..bytes.len() / 2), "ends early"),
        (Bytes::new(), "ends early"),
        (Bytes::from(vec![0; bytes.len()]), "checksum"),
        ([&bytes[..900], &[bytes[900] ^ 1], &bytes[901..]].concat().into(), "checksum"),
    ] {
        let store = InMemory::new();
        put(&store, &path, damaged).await.unwrap();
        let error = refused(&store, &descriptor).await;
        assert!(error.why.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_descriptor_that_makes_no_sense_is_refused() {
    let (descriptor, ..) = in_a_file();
    let with = |name: &str, value: Value| {
        let mut changed = descriptor.clone();
        changed[name] = value;
        changed
    };
    for odd in [
        with("storageType", json!("p")),
        with("pathOrInlineDv", json!("short")),
        with("pathOrInlineDv", json!("not in z85: \"\"\"\"\"\"\"\"")),
        json!({}),
        json!({"storageType": "i", "pathOrInlineDv": "", "sizeInBytes": 0}),
        json!({"storageType": "i", "pathOrInlineDv": "HelloWorld", "sizeInBytes": 8}),
    ] {
        refused(&InMemory::new(), &odd).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_vectors_of_a_commit_are_read_back(
        vectors in prop::collection::vec(
            (prop::collection::btree_set(any::<u32>(), 0..50), 0..20_000u32, 0..70_000u32),
            0..4,
        )
    ) {
        let bitmap = |(few, every, from): (std::collections::BTreeSet<u32>, u32, u32)| -> RoaringBitmap {
            few.into_iter().chain((from..from + every).step_by(3)).collect()
        };
        let vectors: Vec<RoaringBitmap> = vectors.into_iter().map(bitmap).collect();
        let read_back = futures::executor::block_on(async {
            let store = InMemory::new();
            let mut read_back = Vec::new();
            for descriptor in written(&store, &vectors).await {
                read_back.push(read(&store, &descriptor).await.unwrap());
            }
            read_back
        });
        prop_assert_eq!(read_back, vectors);
    }
}
