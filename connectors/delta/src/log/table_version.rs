//! One version of a table, as its log has it. Immutable: a commit makes the next one of it, whoever wrote the commit.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use sooner_api::{Code, Error, Result};

use super::actions::{check_protocol, is_made_by};
use super::commit::Commit;
use super::live_files::LiveFiles;
use super::provenance::Provenance;
use crate::rows::column_mapping::{self, Mapping};
use crate::rows::columns::{LakeColumn, parse_schema_string};

/// A version of a table. The default is the table that does not exist.
#[derive(Debug, Default)]
pub struct TableVersion {
    number: Option<u64>,
    protocol: Value,
    metadata: Value,
    /// None if a column has a type that events do not have.
    columns: Option<Vec<LakeColumn>>,
    files: LiveFiles,
    txns: HashMap<String, i64>,
}

impl TableVersion {
    /// A version that was replayed from the log.
    pub fn replayed(
        number: u64,
        protocol: Value,
        metadata: Value,
        files: LiveFiles,
        txns: HashMap<String, i64>,
    ) -> TableVersion {
        let columns = columns_of(&metadata);
        TableVersion { number: Some(number), protocol, metadata, columns, files, txns }
    }

    /// The version that a commit makes of this one. What the commit does not name stays.
    pub fn apply(self, commit: Commit) -> TableVersion {
        let TableVersion { number, mut protocol, mut metadata, mut columns, mut files, mut txns } = self;
        let added: HashSet<&str> = commit.adds.iter().map(|added| added.file.key()).collect();
        for path in commit.removes.iter().filter(|path| !added.contains(path.as_str())) {
            files.remove(path);
        }
        for added in commit.adds {
            match added.id {
                Some(id) => files.insert_as(id, added.file),
                None => drop(files.insert(added.file)),
            }
        }
        if let Some(changed) = commit.metadata {
            columns = columns_of(&changed);
            metadata = changed;
        }
        protocol = commit.protocol.unwrap_or(protocol);
        txns.extend(commit.txns);
        TableVersion { number: Some(number.map_or(0, |number| number + 1)), protocol, metadata, columns, files, txns }
    }

    /// The same version with other files: those that a copy has put in place of all that were there.
    pub fn with_files(self, files: LiveFiles) -> TableVersion {
        TableVersion { files, ..self }
    }

    /// The same version, with other numbers for its files.
    pub fn renumbered(self, number: impl FnOnce(LiveFiles) -> LiveFiles) -> TableVersion {
        TableVersion { files: number(self.files), ..self }
    }

    /// Gives the live files away.
    pub fn into_files(self) -> LiveFiles {
        self.files
    }

    /// Number of the version; none before the table exists.
    pub fn number(&self) -> Option<u64> {
        self.number
    }

    /// Number of the version that comes next.
    pub fn next_number(&self) -> u64 {
        self.number.map_or(0, |number| number + 1)
    }

    /// Whether there is a table.
    pub fn exists(&self) -> bool {
        self.number.is_some()
    }

    /// Protocol action.
    pub fn protocol(&self) -> &Value {
        &self.protocol
    }

    /// The last column's number that column mapping has given; none without it.
    pub fn last_column_id(&self) -> Option<i32> {
        column_mapping::last_id(&self.metadata)
    }

    /// Where its columns come from.
    pub fn provenance(&self) -> Provenance {
        Provenance::of(&self.metadata)
    }

    /// Its column mapping, which it may get if it needs it and that is allowed.
    pub fn mapping(&self, is_allowed: bool) -> Mapping {
        Mapping { is_allowed, last_id: self.last_column_id() }
    }

    /// Metadata action.
    pub fn metadata(&self) -> &Value {
        &self.metadata
    }

    /// Columns, as far as they can be read.
    pub fn columns(&self) -> &[LakeColumn] {
        self.columns.as_deref().unwrap_or_default()
    }

    /// Live files.
    pub fn files(&self) -> &LiveFiles {
        &self.files
    }

    /// Versions by application id.
    pub fn txns(&self) -> &HashMap<String, i64> {
        &self.txns
    }

    /// Whether a pipeline made the table.
    pub fn is_made_by(&self, pipeline: &str) -> bool {
        is_made_by(pipeline, &self.metadata)
    }

    /// Whether events can be merged into the table as it lies there. Copying it again helps where only its columns are
    /// in the way.
    pub fn check_mergeable(&self, table: &str) -> Result<()> {
        check_protocol(table, &self.protocol, &self.metadata)?;
        if self.exists() && self.columns.is_none() {
            return Err(Error::operator(
                Code::TableColumnsChanged,
                format!("cannot merge into the lake table {table}"),
                "it has a column of a type that events do not have: somebody changed its schema",
                format!("restore the schema, or `sooner resume {table}`, which copies the table again"),
            ));
        }
        Ok(())
    }
}

fn columns_of(metadata: &Value) -> Option<Vec<LakeColumn>> {
    parse_schema_string(metadata.get("schemaString").and_then(Value::as_str).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;
    use roaring::RoaringBitmap;

    use super::*;
    use crate::log::actions::{metadata, protocol};
    use crate::log::commit::AddedFile;
    use crate::log::live_files::LiveFile;
    use crate::rows::lake_type::LakeType;

    fn columns() -> Vec<LakeColumn> {
        vec![LakeColumn {
            name: "id".into(),
            lake_type: LakeType::Long,
            nullable: false,
            number: Some(1),
            stored: None,
            missing: None,
        }]
    }

    fn added(path: &str, deleted: &[u32]) -> AddedFile {
        let mut file = LiveFile::written(Path::from(path), 10, 5, 0);
        file.deleted = deleted.iter().copied().collect();
        AddedFile { id: None, file }
    }

    fn first() -> TableVersion {
        TableVersion::default().apply(Commit {
            adds: vec![added("a", &[]), added("b", &[1])],
            metadata: Some(metadata("shop", &columns(), 0)),
            protocol: Some(protocol()),
            txns: HashMap::from([("w".to_owned(), 3)]),
            ..Commit::default()
        })
    }

    fn paths(version: &TableVersion) -> Vec<String> {
        let mut paths: Vec<_> = version.files().iter().map(|(_, file)| file.key().to_owned()).collect();
        paths.sort();
        paths
    }

    #[test]
    fn the_first_commit_makes_version_zero() {
        let version = first();
        assert_eq!((version.number(), version.next_number()), (Some(0), 1));
        assert_eq!(version.columns(), columns());
        assert_eq!(paths(&version), ["a", "b"]);
        assert!(version.is_made_by("shop") && !version.is_made_by("other"));
        assert!(version.check_mergeable("t").is_ok());
    }

    #[test]
    fn what_a_commit_does_not_name_stays() {
        let version = first().apply(Commit { removes: vec!["a".into()], ..Commit::default() });
        assert_eq!(version.number(), Some(1));
        assert_eq!(paths(&version), ["b"]);
        assert_eq!(version.txns().get("w"), Some(&3));
        assert_eq!(version.columns(), columns());
    }

    #[test]
    fn a_file_that_is_removed_and_added_keeps_its_number_and_gets_the_new_vector() {
        let version = first();
        let id = version.files().id_of("b");
        let next =
            version.apply(Commit { removes: vec!["b".into()], adds: vec![added("b", &[1, 2])], ..Commit::default() });
        assert_eq!(next.files().id_of("b"), id);
        let expected: RoaringBitmap = [1, 2].into_iter().collect();
        assert_eq!(next.files().find("b").map(|file| &file.deleted), Some(&expected));
    }

    #[test]
    fn a_column_of_an_unknown_type_stops_merging() {
        let mut odd = metadata("shop", &columns(), 0);
        odd["schemaString"] =
            Value::from(r#"{"type":"struct","fields":[{"name":"x","type":"byte","nullable":true,"metadata":{}}]}"#);
        let version = first().apply(Commit { metadata: Some(odd), ..Commit::default() });
        assert_eq!(version.check_mergeable("t").unwrap_err().code, Code::TableColumnsChanged);
    }
}
