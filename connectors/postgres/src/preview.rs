//! What a source would find in its database if it started now: the tables that would take part, the slot, the server.
//! Only catalogs are read; nothing is created, altered or waited for.

use sooner_api::{KnownNames, Result, SlotStanding, SourceTable, SystemIdentity};
use sooner_schemas::catalog_facts::{CatalogRow, PublicationFacts};
use sooner_schemas::{Lsn, TableName};

use crate::client::{Client, Mode};
use crate::database::{check_version, identity, no_tables};
use crate::guard::{SlotLimit, usable};
use crate::inspection::{TableFilter, candidates, taking_part};
use crate::options::ConnectOptions;
use crate::{publication, slot};

/// What a source would start with.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Name of the slot.
    pub slot: &'a str,
    /// Name of the publication.
    pub publication: &'a str,
}

/// What a source would find, and what it would do first.
#[derive(Clone, Debug)]
pub struct Preview {
    /// Tables that would take part, as they will be once the publication has those that may be added to it.
    pub tables: Vec<SourceTable>,
    /// Where the slot stands; none if it does not exist, or would be replaced.
    pub slot: Option<Lsn>,
    /// Why a slot that exists would be replaced.
    pub unusable: Option<sooner_api::Error>,
    /// The server.
    pub identity: SystemIdentity,
    /// Whether the publication would be created.
    pub creates_publication: bool,
    /// Tables that would be added to the publication, or that it would be created with.
    pub published: Vec<TableName>,
}

/// Looks at a database as the start of a source does. `known` are names of tables that keep theirs.
pub async fn preview(
    connect: &ConnectOptions,
    names: Names<'_>,
    selects: &TableFilter,
    limit: &SlotLimit,
    survives_failover: Option<bool>,
    known: KnownNames,
) -> Result<Preview> {
    let mut client = Client::connect(connect, Mode::Sql).await?;
    check_version(client.server_version(), survives_failover)?;
    if let Some(kept) = &selects.kept_names {
        kept.learn(known);
    }
    let mut found = candidates(&mut client, names.publication, selects).await?;
    if !found.is_empty() && !found.iter().any(|found| found.access.owns) {
        let tables = found.iter().map(|found| &found.table.source_name);
        publication::expect(&mut client, names.publication, tables, selects.through_roots).await?;
    }
    let existing = publication::find(&mut client, names.publication).await?;
    existing.as_ref().map_or(Ok(()), |existing| existing.check(names.publication))?;
    let mut published = Vec::new();
    if existing.as_ref().is_none_or(|existing| existing.is_own) {
        for found in found.iter_mut().filter(|found| found.is_publishable()) {
            publish(&mut found.table);
            published.push(found.table.source_name.clone());
        }
    }
    let tables = taking_part(found);
    if tables.is_empty() {
        return Err(no_tables());
    }
    let (slot, unusable) = match slot::find(&mut client, names.slot).await? {
        Some(found) => usable(names.slot, &found, limit, &connect.database)?,
        None => (None, None),
    };
    let identity = identity(connect).await?;
    Ok(Preview { tables, slot, unusable, identity, creates_publication: existing.is_none(), published })
}

/// The table as it will be once it is published: by rows of the catalog that nobody has seen yet.
fn publish(table: &mut SourceTable) {
    let unseen = CatalogRow { oid: 0, version: 0 };
    table.blocked = None;
    table.facts.publication = Some(PublicationFacts { publication: unseen, members: vec![unseen] });
}

/// What a pipeline leaves in a database that goes on under other names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftBehind {
    /// Standing of the slot; none if there is none.
    pub slot: Option<SlotStanding>,
    /// There is a publication, which sooner created.
    pub publication: bool,
}

/// Looks for a slot and a publication under names that a pipeline had before.
pub async fn left_behind(connect: &ConnectOptions, names: Names<'_>) -> Result<LeftBehind> {
    let mut client = Client::connect(connect, Mode::Sql).await?;
    let slot = slot::find(&mut client, names.slot).await?.map(|found| found.standing);
    let publication = publication::find(&mut client, names.publication).await?.is_some_and(|found| found.is_own);
    Ok(LeftBehind { slot, publication })
}
