//! What a transaction declares of the table besides rows: its metadata and its protocol, where they change.

use serde_json::Value;
use sooner_schemas::event::Watermark;

use super::actions;
use super::table_version::TableVersion;
use super::transaction::{Kind, Transaction};
use crate::rows::column_mapping;

impl Transaction {
    /// It ends the copy of the whole table that is complete to a watermark, if it has this number.
    pub fn end_copy(&mut self, copy: Option<(String, i64)>, watermark: Watermark) {
        if let Some(copy) = copy {
            self.txns.extend([copy]);
            self.span.end_copy(watermark);
        }
    }

    /// The table's metadata, if that changes.
    pub(super) fn metadata(&self, base: &TableVersion, now_millis: i64) -> Option<Value> {
        let changed = self.metadata_of_columns(base, now_millis);
        if changed.is_none() && (!base.exists() || self.kind == Kind::Rearrange) {
            return None;
        }
        let mut metadata = changed.unwrap_or_else(|| base.metadata().clone());
        if let Some(columns) = &self.columns {
            column_mapping::set(&mut metadata, columns, base.metadata(), self.last_column_id);
            self.provenance.set(&mut metadata);
        }
        self.retention.set(&mut metadata, !base.exists());
        if let Kind::Trim(horizon) = self.kind {
            horizon.set(&mut metadata);
        }
        (metadata != *base.metadata()).then(|| actions::completed(metadata))
    }

    /// A table that is new gets its id here, once for the log and for what follows.
    fn metadata_of_columns(&self, base: &TableVersion, now_millis: i64) -> Option<Value> {
        let columns = self.columns.as_ref()?;
        if !base.exists() {
            return Some(actions::metadata(&self.pipeline, columns, now_millis));
        }
        if self.kind == Kind::Copy {
            return Some(actions::of_copy(base.metadata(), &self.pipeline, columns, now_millis));
        }
        (columns.as_slice() != base.columns()).then(|| actions::with_columns(base.metadata(), columns))
    }

    /// The table's protocol, if that changes. A table that is new gets ours, and one that is copied because others made
    /// of it what we do not write; one whose columns are stored by other names for the first time gets that feature.
    pub(super) fn protocol(&self, base: &TableVersion) -> Option<Value> {
        let maps = self.columns.as_ref().is_some_and(|columns| column_mapping::is_used(columns));
        // Not all readers know column mapping: a copy that does without it gives the feature back.
        let is_odd = || base.check_mergeable("").is_err() || (!maps && column_mapping::has_feature(base.protocol()));
        let is_ours = !base.exists() || (self.kind == Kind::Copy && is_odd());
        let protocol = if is_ours { actions::protocol() } else { base.protocol().clone() };
        let protocol = if maps { column_mapping::with_feature(&protocol) } else { protocol };
        (is_ours || protocol != *base.protocol()).then_some(protocol)
    }
}
