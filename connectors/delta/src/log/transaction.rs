//! One commit to be: which files are written, which rows go, and what positions are reached. Planning it against a
//! version of the table is pure, so that it can be planned again against a later one.
//!
//! A commit removes and adds files, so that every other writer's conflict check sees it; it is never a plain append,
//! which would be let through beside an OPTIMIZE, and rows would double.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use roaring::RoaringBitmap;
use serde_json::{Value, json};
use sooner_api::Committed;
use sooner_schemas::event::Watermark;
use uuid::Uuid;

use super::actions::{line, txn};
use super::commit::{AddedFile, Commit};
use super::deletion_vector::{VectorFile, VectorWriter};
pub use super::kind::Kind;
use super::live_files::LiveFile;
use super::provenance::Provenance;
use super::retention::RetentionSettings;
use super::span::Span;
use super::table_version::TableVersion;
use crate::index::key_index::FileId;
use crate::rows::columns::LakeColumn;

/// A commit to be.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Recognises the commit in the log, whatever became of the response.
    pub id: Uuid,
    /// What it does to the rows that are there.
    pub kind: Kind,
    /// Pipeline that makes a table which is new.
    pub pipeline: String,
    /// What the table is to keep.
    pub retention: RetentionSettings,
    /// The table's columns from this commit on, if they change.
    pub columns: Option<Vec<LakeColumn>>,
    /// The last column's number that was given on the way to these; none without column mapping.
    pub last_column_id: Option<i32>,
    /// Where these come from.
    pub provenance: Provenance,
    /// Files that take the place of live ones, each with the same rows at the same positions.
    pub refilled: BTreeMap<FileId, LiveFile>,
    /// New files.
    pub added: BTreeMap<FileId, LiveFile>,
    /// Rows of new files that later events superseded.
    pub superseded: BTreeMap<FileId, RoaringBitmap>,
    /// Rows of live files that go, for [`Kind::Merge`]; where rows are moved, the files go whole.
    pub removed: BTreeMap<FileId, RoaringBitmap>,
    /// Positions by application id.
    pub txns: HashMap<String, i64>,
    /// What the table is complete to, where that is known.
    pub watermark: Option<Watermark>,
    /// Which events it holds.
    pub span: Span,
}

/// A transaction against one version of the table.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it changes.
    pub commit: Commit,
    /// Text of its log entry.
    pub text: Bytes,
    /// File of deletion vectors that has to be put before the entry.
    pub vectors: Option<VectorFile>,
    /// Rows written.
    pub rows_written: u64,
    /// Rows superseded or deleted.
    pub rows_removed: u64,
}

impl Plan {
    /// What it does, but for the version that it makes.
    pub fn committed(&self) -> Committed {
        Committed { rows_written: self.rows_written, rows_removed: self.rows_removed, ..Committed::default() }
    }
}

/// Files that change, before they are written down.
#[derive(Default)]
struct Changes<'a> {
    /// Live files that go.
    removed: Vec<&'a LiveFile>,
    /// Live files that get another vector, as they are afterwards.
    shrunk: Vec<(FileId, LiveFile)>,
    rows_removed: u64,
}

impl Transaction {
    /// Plans the commit that follows `base`.
    pub fn plan(&self, base: &TableVersion, now_millis: i64) -> Plan {
        let mut writer = VectorWriter::new(self.id);
        let added = self.added_files(&mut writer);
        let rows_written =
            added.iter().filter_map(|(_, file)| Some(file.rows?.saturating_sub(file.deleted.len()))).sum();
        let changes = self.changes(base, &mut writer);
        let metadata = self.metadata(base, now_millis);
        let protocol = self.protocol(base);
        let info = self.commit_info(&added, &changes, now_millis);
        let mut text = String::new();
        line(&mut text, "commitInfo", info);
        if let Some(protocol) = &protocol {
            line(&mut text, "protocol", protocol.clone());
        }
        if let Some(metadata) = &metadata {
            line(&mut text, "metaData", metadata.clone());
        }
        for (app_id, version) in &self.txns {
            line(&mut text, "txn", txn(app_id, version.cast_unsigned(), now_millis));
        }
        let shrunk = changes.shrunk.iter().filter_map(|(id, _)| base.files().get(*id));
        let removed: Vec<_> = changes.removed.iter().copied().chain(shrunk).collect();
        for file in &removed {
            line(&mut text, "remove", file.remove_action(now_millis, self.kind.changes_data()));
        }
        let adds: Vec<_> = changes.shrunk.into_iter().chain(added).collect();
        for (_, file) in &adds {
            line(&mut text, "add", file.add_action(file.vector.as_ref(), self.kind.changes_data()));
        }
        let commit = Commit {
            id: Some(self.id),
            txns: self.txns.clone(),
            removes: removed.iter().map(|file| file.key().to_owned()).collect(),
            adds: adds.into_iter().map(|(id, file)| AddedFile { id: Some(id), file }).collect(),
            metadata,
            protocol,
        };
        Plan {
            commit,
            text: Bytes::from(text),
            vectors: writer.finish(),
            rows_written,
            rows_removed: changes.rows_removed,
        }
    }

    /// New files with the vectors of those of their rows that are superseded already; one without rows left is left
    /// out.
    fn added_files(&self, writer: &mut VectorWriter) -> Vec<(FileId, LiveFile)> {
        let files = self.added.iter().map(|(id, file)| {
            let mut file = file.clone();
            if let Some(superseded) = self.superseded.get(id) {
                file.vector = Some(writer.add(superseded));
                file.deleted = superseded.clone();
            }
            (*id, file)
        });
        files.filter(|(_, file)| !file.is_emptied_by(&RoaringBitmap::new())).collect()
    }

    fn changes<'a>(&self, base: &'a TableVersion, writer: &mut VectorWriter) -> Changes<'a> {
        let mut changes = Changes::default();
        if matches!(self.kind, Kind::Truncate | Kind::Copy) {
            for (_, file) in base.files().iter() {
                changes.rows_removed += file.rows.map_or(0, |rows| rows.saturating_sub(file.deleted.len()));
                changes.removed.push(file);
            }
            return changes;
        }
        let none = RoaringBitmap::new();
        let refilled = self.refilled.keys().map(|id| (id, self.removed.get(id).unwrap_or(&none)));
        let others = self.removed.iter().filter(|(id, _)| !self.refilled.contains_key(id));
        for (id, rows) in refilled.chain(others) {
            let Some(file) = base.files().get(*id) else { continue };
            changes.rows_removed += rows.len() - rows.intersection_len(&file.deleted);
            if self.kind.moves_files() || file.is_emptied_by(rows) {
                changes.removed.push(file);
                continue;
            }
            let mut shrunk = self.refilled.get(id).unwrap_or(file).clone();
            if !rows.is_subset(&shrunk.deleted) {
                shrunk.deleted |= rows;
                shrunk.vector = Some(writer.add(&shrunk.deleted));
            }
            changes.shrunk.push((*id, shrunk));
        }
        changes
    }

    fn commit_info(&self, added: &[(FileId, LiveFile)], changes: &Changes<'_>, now_millis: i64) -> Value {
        let inserted = added.iter().filter_map(|(_, file)| file.rows).sum::<u64>();
        let metrics = match self.kind {
            kind if kind.moves_files() => json!({
                "numAddedFiles": added.len().to_string(),
                "numRemovedFiles": changes.removed.len().to_string(),
            }),
            _ => json!({
                "numTargetRowsInserted": inserted.to_string(),
                "numTargetRowsDeleted": changes.rows_removed.to_string(),
            }),
        };
        let mut info = json!({
            "timestamp": now_millis,
            "operation": self.kind.operation(),
            "operationParameters": {},
            "operationMetrics": metrics,
            "isolationLevel": "Serializable",
            "isBlindAppend": false,
            "engineInfo": concat!("sooner/", env!("CARGO_PKG_VERSION")),
            "txnId": self.id,
        });
        if self.kind.is_asked_for() {
            info["sooner"] = json!({"erasure": true});
        }
        if let Some(watermark) = self.watermark {
            info["sooner"] = self.span.told(watermark);
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;
    use proptest::prelude::*;

    use super::*;
    use crate::log::commit::LogEntry;
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

    fn file(path: &str, rows: u64) -> LiveFile {
        LiveFile::written(Path::from(path), 10, rows, 0)
    }

    fn rows(rows: &[u32]) -> RoaringBitmap {
        rows.iter().copied().collect()
    }

    fn transaction(kind: Kind) -> Transaction {
        Transaction {
            id: Uuid::new_v4(),
            kind,
            pipeline: "shop".into(),
            retention: RetentionSettings::default(),
            columns: None,
            last_column_id: None,
            provenance: Provenance::default(),
            refilled: Default::default(),
            added: BTreeMap::new(),
            superseded: BTreeMap::new(),
            removed: BTreeMap::new(),
            txns: HashMap::from([("w".to_owned(), 5)]),
            watermark: None,
            span: Default::default(),
        }
    }

    /// A table of two files of five rows each, with their numbers.
    fn table() -> (TableVersion, FileId, FileId) {
        let mut first = transaction(Kind::Copy);
        first.columns = Some(columns());
        let empty = TableVersion::default();
        let ids = empty.files().ids();
        let (a, b) = (ids.reserve(), ids.reserve());
        first.added = BTreeMap::from([(a, file("a", 5)), (b, file("b", 5))]);
        (empty.apply_plan(&first), a, b)
    }

    impl TableVersion {
        fn apply_plan(self, transaction: &Transaction) -> TableVersion {
            let plan = transaction.plan(&self, 0);
            self.apply(plan.commit)
        }
    }

    fn live(version: &TableVersion) -> BTreeMap<String, RoaringBitmap> {
        version.files().iter().map(|(_, file)| (file.key().to_owned(), file.deleted.clone())).collect()
    }

    #[test]
    fn a_new_table_gets_protocol_and_metadata_once() {
        let mut first = transaction(Kind::Copy);
        first.columns = Some(columns());
        let plan = first.plan(&TableVersion::default(), 0);
        assert!(plan.commit.protocol.is_some() && plan.commit.metadata.is_some());
        let next = TableVersion::default().apply(plan.commit);
        let again = first.plan(&next, 0);
        assert!(again.commit.protocol.is_none() && again.commit.metadata.is_none(), "the columns are the same");
    }

    #[test]
    fn rows_of_a_live_file_go_by_a_vector_and_a_file_without_rows_goes_whole() {
        let (base, a, b) = table();
        let mut merge = transaction(Kind::Merge);
        merge.removed = BTreeMap::from([(a, rows(&[1, 3])), (b, rows(&[0, 1, 2, 3, 4]))]);
        let plan = merge.plan(&base, 0);
        assert_eq!(plan.rows_removed, 7);
        let next = base.apply(plan.commit);
        assert_eq!(live(&next), BTreeMap::from([("a".to_owned(), rows(&[1, 3]))]));
    }

    #[test]
    fn vectors_add_up_and_rows_that_are_gone_are_not_counted_again() {
        let (base, a, _) = table();
        let mut merge = transaction(Kind::Merge);
        merge.removed = BTreeMap::from([(a, rows(&[1]))]);
        let base = base.apply_plan(&merge);
        merge.removed = BTreeMap::from([(a, rows(&[1, 2]))]);
        let plan = merge.plan(&base, 0);
        assert_eq!(plan.rows_removed, 1);
        assert_eq!(live(&base.apply(plan.commit))["a"], rows(&[1, 2]));
    }

    #[test]
    fn a_new_file_whose_rows_are_all_superseded_is_never_added() {
        let (base, ..) = table();
        let mut merge = transaction(Kind::Merge);
        let (c, d) = (base.files().ids().reserve(), base.files().ids().reserve());
        merge.added = BTreeMap::from([(c, file("c", 2)), (d, file("d", 2))]);
        merge.superseded = BTreeMap::from([(c, rows(&[0, 1])), (d, rows(&[0]))]);
        let plan = merge.plan(&base, 0);
        assert_eq!(plan.rows_written, 1);
        assert_eq!(live(&base.apply(plan.commit)).get("d"), Some(&rows(&[0])));
        assert!(!String::from_utf8_lossy(&plan.text).contains("\"path\":\"c\""));
    }

    #[test]
    fn a_truncate_removes_all_files() {
        let (base, ..) = table();
        let plan = transaction(Kind::Truncate).plan(&base, 0);
        assert_eq!(plan.rows_removed, 10);
        assert!(live(&base.apply(plan.commit)).is_empty());
    }

    #[test]
    fn large_vectors_share_a_file_that_is_named_by_the_transaction() {
        let base = TableVersion::default();
        let id = base.files().ids().reserve();
        let mut first = transaction(Kind::Copy);
        first.columns = Some(columns());
        first.added = BTreeMap::from([(id, file("a", 100_000))]);
        let base = base.apply_plan(&first);
        let mut merge = transaction(Kind::Merge);
        merge.removed = BTreeMap::from([(id, (0..100_000).filter(|row| row % 7 == 0).collect())]);
        let (once, twice) = (merge.plan(&base, 0), merge.plan(&base, 1));
        assert_eq!(once.vectors, twice.vectors, "planning again writes over it");
        assert!(once.vectors.is_some_and(|file| file.path.as_ref().contains(&merge.id.to_string())));
    }

    proptest! {
        /// What we take in of our own commit is what any reader of the log sees of it.
        #[test]
        fn the_log_says_what_the_plan_says(removed in prop::collection::btree_set(0..5u32, 0..5), superseded in 0..3u32) {
            let (base, a, _) = table();
            let mut merge = transaction(Kind::Merge);
            merge.removed = BTreeMap::from([(a, removed.iter().copied().collect())]);
            let c = base.files().ids().reserve();
            merge.added = BTreeMap::from([(c, file("c", 3))]);
            merge.superseded = BTreeMap::from([(c, (0..superseded).collect())]);
            let plan = merge.plan(&base, 0);
            let entry = LogEntry::parse(&plan.text).unwrap();
            prop_assert_eq!(entry.id, Some(merge.id.to_string()));
            prop_assert_eq!(&entry.txns, &plan.commit.txns);
            prop_assert_eq!(&entry.removes, &plan.commit.removes);
            let read: Vec<_> = entry.adds.into_iter().map(|add| LiveFile::from_add(add).unwrap()).collect();
            let planned: Vec<_> = plan.commit.adds.iter().map(|added| &added.file).collect();
            prop_assert_eq!(read.len(), planned.len());
            for (read, planned) in read.iter().zip(planned) {
                prop_assert_eq!((read.key(), &read.vector, read.rows), (planned.key(), &planned.vector, planned.rows));
            }
        }
    }
}
