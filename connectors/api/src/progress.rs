//! The pipeline's progress record: what has been confirmed to the slot, and how each table is doing.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sooner_schemas::event::Watermark;
use sooner_schemas::{CatalogFacts, Lsn, Relation, TableName};

use crate::{
    Code, Error, KnownNames, Positions, Result, TableEffect, TableFact, TableNote, TableState, UnfinishedCopy,
};

/// What a pipeline knows about itself, beyond what its tables' logs say. It is stored before anything relies on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressRecord {
    /// Postgres' system identifier.
    pub system_id: String,
    /// Timeline of the server.
    pub timeline: u32,
    /// Version of the server as a number; zero if it is not known.
    #[serde(default)]
    pub version: u32,
    /// After a failover, until it is known that no table is further: what was written from here on is of another
    /// history than the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forked_at: Option<Lsn>,
    /// Name of the slot.
    pub slot: String,
    /// The slot has been confirmed up to here at most; zero before it was created.
    pub confirmed_lsn: Lsn,
    /// The tables that take part.
    pub tables: BTreeMap<TableName, TableProgress>,
}

/// A table's part in the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredTable", into = "StoredTable")]
pub struct TableProgress {
    /// What it is doing.
    pub state: TableState,
    /// The table's object id at the source: another one under the same name is another table.
    pub oid: Option<u32>,
    /// What it was when its events were last written; none before that.
    pub relation: Option<Arc<Relation>>,
    /// What the catalog said of it when that was last judged; none before that.
    pub facts: Option<Arc<CatalogFacts>>,
    /// What its lake table was when it was last stored; none before its first commit.
    pub lake: Option<LakePosition>,
    /// A copy that goes on. Only while it is copying.
    pub copy: Option<UnfinishedCopy>,
}

/// A lake table at the moment when progress was stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LakePosition {
    /// Table version: number of the entry in its log.
    pub version: u64,
    /// What its log says that has been taken.
    pub positions: Option<Positions>,
    /// The table is complete up to here, whether or not its last commit was that late.
    pub watermark: Watermark,
}

/// A part of a progress record that has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressChange {
    /// The new `confirmed_lsn`, if it moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_lsn: Option<Lsn>,
    /// Tables that changed, each whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tables: BTreeMap<TableName, TableProgress>,
    /// Tables that were beyond `forked_at` are copied again by now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_fork_settled: bool,
}

/// What a sink has applied since it last reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Everything before this LSN is in the lake, or belongs to tables that say otherwise; none if that has not moved.
    pub confirmed_lsn: Option<Lsn>,
    /// Tables that have changed.
    pub tables: BTreeMap<TableName, AppliedTable>,
}

/// A table as a sink has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedTable {
    /// What it is doing.
    pub state: TableState,
    /// What its lake table is; none before its first commit.
    pub lake: Option<LakePosition>,
    /// What its source said of it; none if it said nothing new.
    pub note: Option<TableNote>,
    /// The copy of it that has not ended, as far as it is durable.
    pub copy: Option<UnfinishedCopy>,
}

impl ProgressRecord {
    /// The change that a sink's report makes. What a sink does not know of its tables stays as it is.
    pub fn change_by(&self, applied: Applied) -> ProgressChange {
        let tables = applied.tables.into_iter().map(|(name, AppliedTable { state, lake, note, copy })| {
            let known = self.tables.get(&name).cloned();
            let mut known = known.unwrap_or_else(|| TableProgress::new(TableState::Copying, None));
            if let Some(note) = note {
                known.take(note);
            }
            let lake = lake.or(known.lake.clone());
            let copy = copy.filter(|_| state == TableState::Copying);
            (name, TableProgress { state, lake, copy, ..known })
        });
        ProgressChange { confirmed_lsn: applied.confirmed_lsn, tables: tables.collect(), is_fork_settled: false }
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: ProgressChange) {
        if let Some(lsn) = change.confirmed_lsn {
            self.confirmed_lsn = self.confirmed_lsn.max(lsn);
        }
        if change.is_fork_settled {
            self.forked_at = None;
        }
        self.tables.extend(change.tables);
    }

    /// Names by which tables are known that are there, but for one that waits because its name is another one's.
    pub fn known_names(&self) -> KnownNames {
        let is_known = |state: &TableState| match state {
            TableState::Waiting { error } => error.code != Code::NameTaken,
            state => *state != TableState::Gone,
        };
        let there = self.tables.iter().filter(|(_, progress)| is_known(&progress.state));
        there.filter_map(|(name, progress)| Some((progress.oid?, name.clone()))).collect()
    }

    /// A table's state; copying for one that is not known.
    pub fn state(&self, table: &TableName) -> TableState {
        self.tables.get(table).map_or(TableState::Copying, |progress| progress.state.clone())
    }
}

impl ProgressChange {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.confirmed_lsn.is_none() && self.tables.is_empty() && !self.is_fork_settled
    }
}

impl TableProgress {
    /// A table in this state, of which nothing else is known.
    pub fn new(state: TableState, oid: Option<u32>) -> TableProgress {
        TableProgress { state, oid, relation: None, facts: None, lake: None, copy: None }
    }

    /// Lets something happen to the table; returns what follows. A copy goes on only if nothing else begins or ends.
    pub fn step(&mut self, fact: TableFact) -> Vec<TableEffect> {
        let goes_on = !matches!(fact, TableFact::CopyNeeded | TableFact::CopyBegun);
        let (next, effects) = self.state.step(fact);
        self.state = next;
        self.copy.take_if(|_| !goes_on || self.state != TableState::Copying);
        effects
    }

    /// Takes in what the table's source says of it.
    pub fn take(&mut self, note: TableNote) {
        let TableNote { relation, facts, .. } = note;
        self.facts = Some(facts);
        self.relation = relation.or(self.relation.take());
    }
}

/// Keeps the progress record, one version after the other.
pub trait ProgressStore: Send {
    /// The last record saved under this pipeline's name; none if there was none.
    fn load(&mut self) -> impl Future<Output = Result<Option<ProgressRecord>>> + Send;

    /// Saves a whole record. Fails if somebody else saved since this store last loaded or saved: then a second process
    /// runs this pipeline.
    fn save(&mut self, record: &ProgressRecord) -> impl Future<Output = Result<()>> + Send;

    /// Saves what has changed since the record that this store last loaded or saved, under the same condition. It costs
    /// what the change costs, not what the record does.
    fn save_change(&mut self, change: &ProgressChange) -> impl Future<Output = Result<()>> + Send;
}

/// The stored form: flat, and as earlier versions wrote it, which kept only a text of why a table was parked.
#[derive(Clone, Serialize, Deserialize)]
struct StoredTable {
    phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Error>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copied_lsn: Option<Lsn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    oid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    relation: Option<Arc<Relation>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    facts: Option<Arc<CatalogFacts>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lake: Option<LakePosition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copy: Option<UnfinishedCopy>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Phase {
    Waiting,
    Copying,
    Streaming,
    Parked,
    Gone,
}

impl From<StoredTable> for TableProgress {
    fn from(stored: StoredTable) -> TableProgress {
        let StoredTable { phase, reason, error, copied_lsn, oid, relation, facts, lake, copy } = stored;
        let error = || {
            error.unwrap_or_else(|| {
                let why = reason.unwrap_or_else(|| "an earlier version of sooner stored no reason".to_owned());
                Error::operator(Code::Unknown, "the table stopped", why, "`sooner resume` copies the table again")
            })
        };
        let state = match phase {
            Phase::Waiting => TableState::Waiting { error: error() },
            Phase::Copying => TableState::Copying,
            Phase::Streaming => TableState::Streaming { copied_lsn },
            Phase::Parked => TableState::Parked { error: error(), copied_lsn },
            Phase::Gone => TableState::Gone,
        };
        TableProgress { state, oid, relation, facts, lake, copy }
    }
}

impl From<TableProgress> for StoredTable {
    fn from(progress: TableProgress) -> StoredTable {
        let TableProgress { state, oid, relation, facts, lake, copy } = progress;
        let phase = match &state {
            TableState::Waiting { .. } => Phase::Waiting,
            TableState::Copying => Phase::Copying,
            TableState::Streaming { .. } => Phase::Streaming,
            TableState::Parked { .. } => Phase::Parked,
            TableState::Gone => Phase::Gone,
        };
        let (error, copied_lsn) = (state.error().cloned(), state.copied_lsn());
        StoredTable { phase, reason: None, error, copied_lsn, oid, relation, facts, lake, copy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ProgressRecord {
        let error = Error::operator(Code::ShapeChanged, "cannot merge", "a column was dropped", "resume it");
        let parked = TableState::Parked { error, copied_lsn: Some(Lsn(3)) };
        let lake = LakePosition {
            version: 7,
            positions: Some(Positions::whole(Lsn(90))),
            watermark: Watermark { commit_lsn: Lsn(95), end_lsn: Lsn(96), commit_micros: 5 },
        };
        let streaming = TableProgress {
            state: TableState::Streaming { copied_lsn: None },
            oid: Some(16_384),
            relation: None,
            facts: None,
            lake: Some(lake),
            copy: None,
        };
        let tables = BTreeMap::from([
            (TableName::new("public", "orders"), streaming),
            (TableName::new("odd.schema", "t"), TableProgress::new(parked, None)),
        ]);
        let record =
            ProgressRecord { system_id: "7".into(), timeline: 1, slot: "s".into(), ..ProgressRecord::default() };
        ProgressRecord { confirmed_lsn: Lsn(100), tables, ..record }
    }

    #[test]
    fn a_record_survives_json_also_with_a_dot_in_a_schemas_name() {
        let text = serde_json::to_string(&record()).unwrap();
        assert_eq!(serde_json::from_str::<ProgressRecord>(&text).unwrap(), record());
    }

    #[test]
    fn a_record_of_an_earlier_version_is_read() {
        let text = r#"{"phase": "parked", "reason": "its key changed", "oid": 5}"#;
        let table: TableProgress = serde_json::from_str(text).unwrap();
        assert_eq!(table.state.error().map(|error| error.why.as_str()), Some("its key changed"));
        assert_eq!(table.oid, Some(5));
        let text = r#"{"phase": "streaming", "copied_lsn": "0/10"}"#;
        let table: TableProgress = serde_json::from_str(text).unwrap();
        assert_eq!(table.state, TableState::Streaming { copied_lsn: Some(Lsn(16)) });
    }

    #[test]
    fn what_a_sink_does_not_know_of_a_table_stays() {
        let name = TableName::new("public", "orders");
        let table = AppliedTable { state: TableState::Copying, lake: None, note: None, copy: None };
        let applied = Applied { confirmed_lsn: None, tables: BTreeMap::from([(name.clone(), table)]) };
        let change = record().change_by(applied);
        let expected = TableProgress { state: TableState::Copying, ..record().tables[&name].clone() };
        assert_eq!(change.tables[&name], expected);
    }

    #[test]
    fn a_change_replaces_what_it_names_and_moves_forward_only() {
        let mut changed = record();
        let name = TableName::new("public", "orders");
        let gone = TableProgress::new(TableState::Gone, None);
        let tables = BTreeMap::from([(name.clone(), gone.clone())]);
        let change = ProgressChange { confirmed_lsn: Some(Lsn(50)), tables, ..ProgressChange::default() };
        changed.apply(change);
        assert_eq!(changed.confirmed_lsn, Lsn(100));
        assert_eq!(changed.tables[&name], gone);
        assert_eq!(changed.tables.len(), 2);
    }
}
