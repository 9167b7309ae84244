//! The mirror: the table holds the source's rows as they are now. A row that was changed or deleted is removed by a
//! deletion vector, and its new state is in a new file.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use sooner_api::Positions;
use sooner_schemas::Lsn;
use sooner_schemas::event::Watermark;

use super::staging::Staging;
use crate::index::key_index::FileId;
use crate::log::position_names::PositionNames;
use crate::log::table_version::TableVersion;
use crate::log::transaction::{Kind, Transaction};

/// Rows of files.
pub type RowSets = BTreeMap<FileId, RoaringBitmap>;

/// The transaction that makes what is staged visible. Everything must be sealed, and no part be open. `removed` are the
/// live rows of the keys that it touches.
pub fn transaction(
    staging: &Staging,
    base: &TableVersion,
    removed: RowSets,
    names: &PositionNames,
    watermark: Watermark,
) -> Transaction {
    let removed = if staging.kind == Kind::Merge { removed } else { RowSets::new() };
    Transaction {
        id: staging.commit_id,
        kind: staging.kind,
        pipeline: names.pipeline().to_owned(),
        retention: Default::default(),
        columns: staging.columns.clone(),
        last_column_id: staging.last_column_id,
        provenance: staging.provenance.clone(),
        refilled: BTreeMap::new(),
        added: staging.parts.written().clone(),
        superseded: staging.parts.superseded().clone(),
        removed,
        txns: names.versions(&reached(staging, base, names, watermark), watermark),
        watermark: names.knows_watermark().then_some(watermark),
        span: staging.span,
    }
}

/// What the commit's positions are: those of a copy from a stream are the copy's own.
fn reached(staging: &Staging, base: &TableVersion, names: &PositionNames, watermark: Watermark) -> Positions {
    if names.is_topic() {
        return staging.positions.clone().unwrap_or_else(|| Positions::offsets(BTreeMap::new()));
    }
    if staging.is_copy() {
        return Positions::whole(watermark.commit_lsn);
    }
    let mut reached = names.recorded(base.txns()).unwrap_or(Positions::whole(Lsn::ZERO));
    if let Some(staged) = &staging.positions {
        reached.advance(staged);
    }
    reached
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use object_store::path::Path;
    use sooner_api::Feed;

    use super::*;
    use crate::log::commit::{AddedFile, Commit};
    use crate::log::live_files::LiveFile;

    fn names() -> PositionNames {
        PositionNames::new("shop", &Feed::Slot("s".into()))
    }

    fn mark(lsn: u64) -> Watermark {
        Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_micros: 0 }
    }

    /// A table with one file of five rows, of keys 0 to 4, that is at LSN 50.
    fn table() -> TableVersion {
        let mut file = LiveFile::written(Path::from("a"), 10, 5, 0);
        file.deleted = [4].into_iter().collect();
        let txns = names().versions(&Positions::whole(Lsn(50)), mark(50));
        let adds = vec![AddedFile { id: Some(1), file }];
        TableVersion::default().apply(Commit { adds, txns, ..Commit::default() })
    }

    #[test]
    fn rows_that_the_table_has_of_touched_keys_go() {
        let base = table();
        let removed = RowSets::from([(1, [1, 3].into_iter().collect())]);
        let transaction = transaction(&Staging::new(None), &base, removed.clone(), &names(), mark(60));
        assert_eq!(transaction.removed, removed);
    }

    #[test]
    fn positions_move_forward_with_what_is_staged_and_not_with_the_watermark() {
        let base = table();
        let mut staging = Staging::new(None);
        staging.note(Some(Positions::whole(Lsn(55))));
        let at = |staging: &Staging| {
            let transaction = transaction(staging, &base, RowSets::new(), &names(), mark(60));
            names().recorded(&transaction.txns).and_then(|positions| positions.commit_lsn())
        };
        assert_eq!(at(&staging), Some(Lsn(55)));
        assert_eq!(at(&Staging::new(None)), Some(Lsn(50)), "nothing was taken");
        staging.begin_copy(Vec::new(), Default::default());
        assert_eq!(at(&staging), Some(Lsn(60)), "a copy is complete to its own position");
    }

    #[test]
    fn a_copy_names_no_rows_since_all_files_go() {
        let base = table();
        let mut staging = Staging::new(None);
        staging.begin_copy(Vec::new(), Default::default());
        let removed = RowSets::from([(1, [1].into_iter().collect())]);
        let transaction = transaction(&staging, &base, removed, &names(), mark(60));
        assert!(transaction.removed.is_empty());
        assert_eq!(transaction.kind, Kind::Copy);
    }

    #[test]
    fn a_topics_commit_says_only_what_was_read() {
        let feed = Feed::Topic {
            topic: "t".into(),
            generation: None,
            partitions: 2,
            assigned: [1].into_iter().collect(),
            in_commit_order: true,
        };
        let names = PositionNames::new("shop", &feed);
        let mut staging = Staging::new(None);
        staging.note(Some(Positions::offsets(BTreeMap::from([(1, 7)]))));
        let transaction = transaction(&staging, &TableVersion::default(), RowSets::new(), &names, mark(60));
        let none_known = ("sooner/shop/t/watermark".to_owned(), 0);
        assert_eq!(transaction.txns, HashMap::from([("sooner/shop/t/1".to_owned(), 7), none_known]));
        assert!(transaction.watermark.is_none());
    }
}
