//! The end of the chain of a table's history, which shows later that nothing was cut off.

use sooner_api::{Code, Error, Result};
use sooner_delta::DeltaLake;
use sooner_delta::audit::chain::Head;
use sooner_delta::audit::digits::hex;
use sooner_delta::history::head::end_of;
use sooner_delta::log::replay::replay;
use sooner_schemas::TableName;

/// The end of the chain of a table's history; an operator error if there is none.
pub async fn head_of(lake: &DeltaLake, table: &TableName) -> Result<Head> {
    let location = lake.history_location(table);
    let version = replay(&location, &[]).await?;
    if !version.exists() {
        return Err(no_history(table));
    }
    let Some(end) = end_of(&location, &version).await? else { return Err(not_chained(table)) };
    Ok(Head { sequence: end.sequence, hash: hex(&end.hash) })
}

/// There is no history.
pub fn no_history(table: &TableName) -> Error {
    let remedy = "give it write = [\"mirror\", \"history\"] in a [[table]] block";
    of_chain(table, "there is no history of it in the lake", remedy)
}

/// None of its rows is chained.
pub fn not_chained(table: &TableName) -> Error {
    let remedy = "set chain = true in a [[table]] block; the chain begins with the next row";
    of_chain(table, &format!("no row of the history of {table} is chained"), remedy)
}

fn of_chain(table: &TableName, why: &str, remedy: &str) -> Error {
    Error::operator(Code::CutUnproven, format!("cannot look at the chain of the history of {table}"), why, remedy)
}
