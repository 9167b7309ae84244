//! Which checkpoint a table has, by the hint that its writers leave.
//!
//! <https://github.com/delta-io/delta/blob/master/PROTOCOL.md#last-checkpoint-file>

use bytes::Bytes;
use object_store::path::Path;
use serde_json::{Value, json};
use sooner_api::Result;

use crate::store::location::TableLocation;
use crate::store::operations::{get, put};

/// A checkpoint in the classic format: one file, or several parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassicCheckpoint {
    /// Version of the table.
    pub version: u64,
    /// Number of its parts, where it has several.
    pub parts: Option<u64>,
}

/// What the hint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastCheckpoint {
    /// There is no hint, or nobody can read it.
    Unknown,
    /// A checkpoint of the classic format.
    Classic(ClassicCheckpoint),
    /// One of version 2, which lies in several files of other names.
    Other(u64),
}

impl LastCheckpoint {
    /// Reads the hint of a table.
    pub async fn read(location: &TableLocation) -> Result<LastCheckpoint> {
        Ok(get(location.store(), &hint_path()).await?.map_or(LastCheckpoint::Unknown, |text| parse(&text)))
    }

    /// Version of the checkpoint; none if it is not known.
    pub fn version(&self) -> Option<u64> {
        match self {
            LastCheckpoint::Unknown => None,
            LastCheckpoint::Classic(checkpoint) => Some(checkpoint.version),
            LastCheckpoint::Other(version) => Some(*version),
        }
    }
}

impl ClassicCheckpoint {
    /// Where the only file of a checkpoint of a version lies, below the table.
    pub fn path(version: u64) -> Path {
        Path::from(format!("_delta_log/{version:020}.checkpoint.parquet"))
    }

    /// Where its files lie, below the table.
    pub fn paths(&self) -> Vec<Path> {
        let ClassicCheckpoint { version, parts } = self;
        match parts {
            None => vec![ClassicCheckpoint::path(*version)],
            Some(parts) => (1..=*parts)
                .map(|part| Path::from(format!("_delta_log/{version:020}.checkpoint.{part:010}.{parts:010}.parquet")))
                .collect(),
        }
    }
}

/// Leaves the hint: a checkpoint of `version` in one file of `bytes` with so many rows, `adds` of them live files.
pub async fn put_hint(location: &TableLocation, version: u64, rows: u64, adds: u64, bytes: u64) -> Result<()> {
    let hint = json!({"version": version, "size": rows, "sizeInBytes": bytes, "numOfAddFiles": adds});
    put(location.store(), &hint_path(), Bytes::from(hint.to_string())).await
}

fn hint_path() -> Path {
    Path::from("_delta_log/_last_checkpoint")
}

fn parse(text: &[u8]) -> LastCheckpoint {
    let hint: Value = serde_json::from_slice(text).unwrap_or_default();
    let number = |name: &str| hint.get(name).and_then(Value::as_u64);
    match (number("version"), hint.get("v2Checkpoint").is_some_and(|v2| !v2.is_null())) {
        (None, _) => LastCheckpoint::Unknown,
        (Some(version), true) => LastCheckpoint::Other(version),
        (Some(version), false) => LastCheckpoint::Classic(ClassicCheckpoint { version, parts: number("parts") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_of_all_kinds_are_told_apart() {
        let single = ClassicCheckpoint { version: 12, parts: None };
        assert_eq!(parse(br#"{"version":12,"size":3}"#), LastCheckpoint::Classic(single));
        let parts = ClassicCheckpoint { version: 12, parts: Some(2) };
        assert_eq!(parse(br#"{"version":12,"size":3,"parts":2}"#), LastCheckpoint::Classic(parts));
        let second = "_delta_log/00000000000000000012.checkpoint.0000000002.0000000002.parquet";
        assert_eq!(parts.paths()[1].as_ref(), second);
        assert_eq!(parse(br#"{"version":12,"v2Checkpoint":{"path":"x"}}"#), LastCheckpoint::Other(12));
        assert_eq!(parse(b"{"), LastCheckpoint::Unknown);
    }
}
