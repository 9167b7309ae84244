//! Whether a legal hold of a subject would find its rows: the hold knows the value by a hash alone.

use sooner_delta::DeltaLake;
use sooner_delta::erasure::subject::Subject;
use sooner_delta::legal_holds::HashedSubject;
use sooner_schemas::TableName;
use sooner_schemas::masking::ColumnRule;

use super::source::concerned;
use crate::config::Config;

/// An error if rows of a subject would not be found by a hold: no table of the lake has its column, or one has it with
/// other values.
pub async fn check_holdable(config: &Config, lake: &DeltaLake, held: &HashedSubject) -> anyhow::Result<()> {
    let (tables, masks) = (lake.tables().await?, config.tables.mask_rules());
    let subject = Subject { table: held.table.clone(), column: held.column.clone(), value: String::new() };
    let mut concerned_tables = tables.iter().filter(|table| subject.concerns(table));
    let hides = |rule: &ColumnRule| *rule != ColumnRule::Keep;
    let is_masked = |table: &&TableName| masks(table).columns.get(&subject.column).is_some_and(hides);
    if let Some(table) = concerned_tables.find(is_masked) {
        anyhow::bail!(
            "the column {} is masked in {table}, so that a hold would not find its rows. To do: hold them by another \
             column, such as the key, or hold the table",
            subject.column
        );
    }
    anyhow::ensure!(
        !concerned(lake, &tables, std::slice::from_ref(&subject)).await?.is_empty(),
        "the lake has no table with the column {}, so nothing would be held. To do: write the column as the source has \
         it, and its table as schema.table; `sooner status` has the tables",
        subject.place()
    );
    Ok(())
}
