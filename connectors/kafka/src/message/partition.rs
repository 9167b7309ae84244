//! Chooses an event's partition by its key, as Java clients do.
//!
//! Reference: `org.apache.kafka.common.utils.Utils.murmur2`, and the default partitioner's
//! `toPositive(murmur2(key)) % partitions`.

use sooner_schemas::avro::Schema;
use sooner_schemas::wire::{Malformed, Reader, split_header};

/// Partition of a key message, or of the column values that [`column_bytes`] returns.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    hash_of(key) % partitions.max(1)
}

/// Hash of a key message, never negative: its partition is the remainder by the number of partitions.
pub fn hash_of(key: &[u8]) -> i32 {
    (murmur2(key) & 0x7FFF_FFFF) as i32
}

/// Avro values of some of a key's columns, concatenated in the order of `columns`. Fails if the key message is
/// malformed.
pub fn column_bytes(schema: &Schema, key: &[u8], columns: &[String]) -> Result<Vec<u8>, Malformed> {
    let (_, datum) = split_header(key)?;
    let mut reader = Reader::new(datum);
    let mut found: Vec<&[u8]> = vec![&[]; columns.len()];
    let fields = schema.as_record().map(|record| record.fields.as_slice()).unwrap_or_default();
    for field in fields {
        let before = reader.rest();
        field.schema.skip(&mut reader)?;
        let value = &before[..before.len() - reader.rest().len()];
        if let Some(index) = columns.iter().position(|column| *column == field.column) {
            found[index] = value;
        }
    }
    Ok(found.concat())
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5BD1_E995;
    let mut hash = 0x9747_B28C ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected hashes are those of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_are_those_of_java_clients() {
        let known: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in known {
            assert_eq!(murmur2(text.as_bytes()).cast_signed(), hash, "{text}");
        }
    }

    #[test]
    fn columns_of_the_key_are_found_in_their_order() {
        let schema =
            r#"{"type":"record","name":"Key","fields":[{"name":"a","type":"string"},{"name":"b","type":"long"}]}"#;
        let schema = Schema::parse(schema).unwrap();
        let key = [0, 0, 0, 0, 1, 4, b'x', b'y', 6];
        assert_eq!(column_bytes(&schema, &key, &["b".into(), "a".into()]), Ok(vec![6, 4, b'x', b'y']));
        assert_eq!(column_bytes(&schema, &key, &["b".into()]), Ok(vec![6]));
        assert_eq!(column_bytes(&schema, &key[..6], &["b".into()]), Err(Malformed::Truncated));
    }
}
