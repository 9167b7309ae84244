//! What becomes of each table, given the record that is stored and the one that a start would begin with. Without I/O.

use std::collections::BTreeMap;

use serde::Serialize;
use sooner_api::{ProgressRecord, SourceTable, TableProgress, TableState};
use sooner_schemas::TableName;

use super::settings::SettingChange;
use crate::pipeline::changes::changes_since;

/// What is done with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is new, and its rows are copied.
    Copy,
    /// It is known, and its rows are copied again.
    Recopy,
    /// It is followed no longer.
    Stop,
    /// It waits for something.
    Wait,
    /// It stops until a person resumes it.
    Park,
    /// It goes on under other settings.
    Settings,
}

/// What becomes of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedTable {
    /// What is done with it.
    pub action: Action,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What a person can do about it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
    /// Rows that are copied, as the planner estimates; none if the table was never analysed, or is not copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows_estimated: Option<u64>,
    /// Bytes of those rows at the source, without what is stored out of line; none if it is not copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_estimated: Option<u64>,
    /// What of the table stays as it is, and where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stays: Vec<String>,
    /// Settings of the table that differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<SettingChange>,
}

impl PlannedTable {
    /// This is done with a table, for this reason.
    pub fn new(action: Action, reason: impl Into<String>) -> PlannedTable {
        PlannedTable {
            action,
            reason: reason.into(),
            remedy: String::new(),
            rows_estimated: None,
            bytes_estimated: None,
            stays: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// The same, with how much is copied.
    pub fn sized(self, table: Option<&SourceTable>) -> PlannedTable {
        let copies = matches!(self.action, Action::Copy | Action::Recopy);
        let Some(table) = table.filter(|_| copies) else { return self };
        PlannedTable { rows_estimated: table.estimated_rows, bytes_estimated: Some(table.size_bytes), ..self }
    }
}

/// What becomes of the tables of which something changes. `selects` says which names the configuration names.
pub fn judge(
    former: Option<&ProgressRecord>,
    next: &ProgressRecord,
    tables: &[SourceTable],
    selects: impl Fn(&TableName) -> bool,
) -> BTreeMap<TableName, PlannedTable> {
    let changes = former.map(|former| changes_since(former, tables, next)).unwrap_or_default();
    let reason = |name: &TableName| changes.iter().find(|change| change.table == *name).map(|change| &change.what);
    let planned = next.tables.iter().filter_map(|(name, now)| {
        let was = former.and_then(|former| former.tables.get(name));
        let planned = match (was.map(|was| &was.state), &now.state) {
            (None | Some(TableState::Gone), TableState::Copying) => {
                PlannedTable::new(Action::Copy, "it takes part from now on")
            }
            (Some(TableState::Waiting { .. }), TableState::Copying) => {
                PlannedTable::new(Action::Copy, "it waited, and can be copied now")
            }
            (Some(state), TableState::Copying) => {
                let why = again(was, now, state, reason(name).map(String::as_str))?;
                PlannedTable::new(Action::Recopy, why)
            }
            (Some(TableState::Gone), TableState::Gone) | (None, TableState::Gone) => return None,
            (Some(_), TableState::Gone) if selects(name) => {
                PlannedTable::new(Action::Stop, "the database has no such table any more")
            }
            (Some(_), TableState::Gone) => {
                PlannedTable::new(Action::Stop, "tables and exclude of [source] leave it out")
            }
            (was, TableState::Waiting { error }) => stopped(Action::Wait, was, &now.state, error)?,
            (was, TableState::Parked { error, .. }) => stopped(Action::Park, was, &now.state, error)?,
            (_, TableState::Streaming { .. }) => return None,
        };
        let table = tables.iter().find(|table| table.name() == name);
        Some((name.clone(), planned.sized(table)))
    });
    planned.collect()
}

/// Why a known table is copied; none if that is on its way already.
fn again(was: Option<&TableProgress>, now: &TableProgress, state: &TableState, told: Option<&str>) -> Option<String> {
    let is_other = was.is_some_and(|was| was.oid != now.oid);
    let is_lost = was.is_some_and(|was| was.copy.is_some()) && now.copy.is_none();
    match state {
        TableState::Copying if !is_other && !is_lost => None,
        TableState::Copying => Some(told.unwrap_or("its copy, which has not ended, cannot go on").to_owned()),
        TableState::Parked { .. } => Some("somebody resumed it".to_owned()),
        _ => Some(told.unwrap_or("somebody asked for it").to_owned()),
    }
}

fn stopped(
    action: Action,
    was: Option<&TableState>,
    now: &TableState,
    error: &sooner_api::Error,
) -> Option<PlannedTable> {
    let is_known = was.is_some_and(|was| std::mem::discriminant(was) == std::mem::discriminant(now));
    let planned = PlannedTable::new(action, format!("{}: {}", error.what, error.why));
    (!is_known).then(|| PlannedTable { remedy: error.remedy.clone(), ..planned })
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, Error};
    use sooner_schemas::Relation;

    use super::*;

    fn name(table: &str) -> TableName {
        TableName::new("public", table)
    }

    fn record(states: &[(&str, TableState)]) -> ProgressRecord {
        let tables = states.iter().map(|(table, state)| (name(table), TableProgress::new(state.clone(), Some(1))));
        ProgressRecord { tables: tables.collect(), ..ProgressRecord::default() }
    }

    fn streaming() -> TableState {
        TableState::Streaming { copied_lsn: None }
    }

    #[test]
    fn each_table_is_told_what_becomes_of_it() {
        let error = Error::operator(Code::TableUnpublished, "cannot follow it", "it is not published", "publish it");
        let waiting = || TableState::Waiting { error: error.clone() };
        let parked = TableState::Parked { error: error.clone(), copied_lsn: None };
        let former = record(&[
            ("again", streaming()),
            ("copying", TableState::Copying),
            ("dropped", streaming()),
            ("excluded", streaming()),
            ("goes_on", streaming()),
            ("resumed", parked),
            ("waits", streaming()),
            ("waits_still", waiting()),
        ]);
        let next = record(&[
            ("again", TableState::Copying),
            ("copying", TableState::Copying),
            ("dropped", TableState::Gone),
            ("excluded", TableState::Gone),
            ("goes_on", streaming()),
            ("new", TableState::Copying),
            ("resumed", TableState::Copying),
            ("waits", waiting()),
            ("waits_still", waiting()),
        ]);
        let mut table = SourceTable::new(Relation::new(name("new"), Vec::new(), Vec::new()));
        (table.estimated_rows, table.size_bytes) = (Some(7), 8192);
        let planned = judge(Some(&former), &next, &[table], |table| table.table != "excluded");
        let told: Vec<_> = planned.iter().map(|(name, planned)| (name.table.as_str(), planned.action)).collect();
        let expected = [
            ("again", Action::Recopy),
            ("dropped", Action::Stop),
            ("excluded", Action::Stop),
            ("new", Action::Copy),
            ("resumed", Action::Recopy),
            ("waits", Action::Wait),
        ];
        assert_eq!(told, expected);
        assert!(planned[&name("dropped")].reason.contains("no such table"));
        assert!(planned[&name("excluded")].reason.contains("exclude"));
        assert_eq!(planned[&name("waits")].remedy, "publish it");
        assert_eq!(
            (planned[&name("new")].rows_estimated, planned[&name("new")].bytes_estimated),
            (Some(7), Some(8192))
        );
    }
}
