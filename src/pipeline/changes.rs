//! What happened to tables while nobody read their database. Without I/O.

use sooner_api::{Outcome, ProgressRecord, SourceTable, TableChange, TableState};
use sooner_schemas::differences::differences;

/// What changed of tables since a record was stored, as far as that is not noticed by the stream, given the record that
/// an attempt begins with.
pub fn changes_since(stored: &ProgressRecord, tables: &[SourceTable], begun: &ProgressRecord) -> Vec<TableChange> {
    let change = |table: &SourceTable| {
        let name = table.name();
        let (now, former) = (begun.tables.get(name)?, stored.tables.get(name));
        let outcome = match now.state {
            TableState::Copying => Outcome::Copied,
            TableState::Parked { .. } | TableState::Waiting { .. } => Outcome::Waits,
            TableState::Streaming { .. } | TableState::Gone => return None,
        };
        let what = match former {
            None => vec!["it is new".to_owned()],
            Some(former) if former.oid != now.oid => vec!["it is another table of the same name".to_owned()],
            Some(former) if former.state == now.state => return None,
            Some(former) => {
                let silent = former.facts.as_ref().and_then(|facts| facts.silent_change(&table.facts));
                let shape = former.relation.as_ref().map(|written| differences(written, &table.relation));
                shape.into_iter().flatten().chain(silent).collect()
            }
        };
        let change = TableChange { table: name.clone(), lsn: None, what: what.join(", "), outcome };
        (!change.what.is_empty()).then_some(change)
    };
    tables.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sooner_api::TableProgress;
    use sooner_schemas::{Column, ColumnType, Relation, Scalar, TableName};

    use super::*;

    fn table(columns: &[&str]) -> SourceTable {
        let columns = (1..)
            .zip(columns)
            .map(|(number, name)| Column::new(*name, ColumnType::Scalar(Scalar::Int4)).numbered(number));
        SourceTable::new(Relation::new(TableName::new("public", "t"), columns.collect(), vec![0]))
    }

    fn record(state: TableState, table: &SourceTable, oid: u32) -> ProgressRecord {
        let mut progress = TableProgress::new(state, Some(oid));
        progress.relation = Some(Arc::new(table.relation.clone()));
        ProgressRecord { tables: [(table.name().clone(), progress)].into(), ..ProgressRecord::default() }
    }

    #[test]
    fn what_happened_meanwhile_is_told_unless_the_stream_tells_it() {
        let (former, now) = (table(&["id"]), table(&["id", "b"]));
        let streaming = || TableState::Streaming { copied_lsn: None };
        let told = |stored: &ProgressRecord, begun: TableState| {
            let changes = changes_since(stored, std::slice::from_ref(&now), &record(begun, &now, 7));
            changes.into_iter().map(|change| (change.what, change.outcome)).collect::<Vec<_>>()
        };
        let stored = record(streaming(), &former, 7);
        assert_eq!(told(&stored, streaming()), []);
        assert_eq!(told(&stored, TableState::Copying), [("column 'b' (integer) was added".into(), Outcome::Copied)]);
        let replaced = [("it is another table of the same name".to_owned(), Outcome::Copied)];
        assert_eq!(told(&record(streaming(), &former, 6), TableState::Copying), replaced);
        assert_eq!(told(&ProgressRecord::default(), TableState::Copying), [("it is new".into(), Outcome::Copied)]);
    }
}
