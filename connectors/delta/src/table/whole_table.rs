//! Events of the whole table, which stand in each partition of a topic: the start of a copy, and a TRUNCATE.

use sooner_api::{Result, Rows};

use super::DeltaTable;
use crate::merge::intake::applies_to_whole_table;

/// Whether such an event is to be applied, given what the table's log has of the feed and what is staged.
pub(super) fn applies(table: &DeltaTable, event: &Rows, is_copy_start: bool) -> Result<bool> {
    let mut taken = table.positions.clone();
    match (&mut taken, &table.staging.positions) {
        (Some(taken), Some(staged)) => taken.advance(staged),
        (None, staged) => taken.clone_from(staged),
        (Some(_), None) => {}
    }
    applies_to_whole_table(&table.name, &table.names, table.standing, taken.as_ref(), event, is_copy_start)
}
