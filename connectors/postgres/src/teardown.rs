//! Removes what the pipeline has made in the database: its slot, and its publication.

use sooner_api::{Code, Error, Result};

use crate::client::{Client, quote_name, quote_text};
use crate::{publication, slot};

/// What became of one thing in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It was removed.
    Removed,
    /// It was not there.
    Absent,
    /// Somebody else made it, so it was left.
    Left,
}

/// Drops a slot. An error if somebody streams from it.
pub async fn drop_slot(client: &mut Client, name: &str) -> Result<Removal> {
    let Some(found) = slot::find(client, name).await? else { return Ok(Removal::Absent) };
    if let Some(pid) = found.active_pid {
        return Err(Error::operator(
            Code::SlotInUse,
            format!("cannot drop the slot '{name}'"),
            format!("Postgres' process {pid} streams from it"),
            "stop the pipeline, and try again",
        ));
    }
    client.query(&format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_text(name))).await?;
    Ok(Removal::Removed)
}

/// Drops a publication that sooner created.
pub async fn drop_publication(client: &mut Client, name: &str) -> Result<Removal> {
    match publication::find(client, name).await? {
        None => Ok(Removal::Absent),
        Some(found) if !found.is_own => Ok(Removal::Left),
        Some(_) => {
            client.query(&format!("DROP PUBLICATION {}", quote_name(name))).await?;
            Ok(Removal::Removed)
        }
    }
}
