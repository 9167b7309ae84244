//! Before anything streams: every check that could show a gap, the publication before the slot, and the progress record
//! before both loops.

use std::collections::BTreeMap;

use sooner_api::{Error, ProgressRecord, ProgressStore, Result, TablePhase, TableProgress};
use sooner_delta::{LakeProgress, LakeStore};
use sooner_postgres::catalog::{self, Table};
use sooner_postgres::client::Mode;
use sooner_postgres::slot::{self, ExportedSnapshot, SystemIdentity};
use sooner_postgres::{Client, publication};
use sooner_schemas::{Lsn, TableName};

use crate::config::Config;
use crate::ledger::Ledger;

/// The oldest server that is supported.
pub const OLDEST_VERSION: u32 = 130_000;

/// What is known before the loops start.
pub struct Prepared {
    /// The tables that take part.
    pub tables: Vec<Table>,
    /// The progress record, stored.
    pub ledger: Ledger<LakeProgress>,
    /// Where the slot stands.
    pub start_lsn: Lsn,
    /// The snapshot that came with a new slot.
    pub snapshot: Option<ExportedSnapshot>,
}

/// Looks at both ends, and sets up what is missing. `resume` names tables to copy anew; `recopy` means all.
pub async fn prepare(config: &Config, lake: &LakeStore, resume: &[String], recopy: bool) -> Result<Prepared> {
    lake.probe().await?;
    let source = &config.source;
    let mut client = Client::connect(&source.connect, Mode::Sql).await?;
    if client.server_version() < OLDEST_VERSION {
        let why = format!("the server's version is {}", client.server_version() / 10_000);
        return Err(Error::operator("cannot read from this Postgres", why, "upgrade to version 13 or newer"));
    }
    let mut tables = catalog::tables(&mut client).await?;
    tables.retain(|table| source.selects(&table.relation.name));
    if tables.is_empty() {
        return Err(Error::operator(
            "there is nothing to read",
            "no table of the database fits tables and exclude of [source]",
            "correct the patterns; `sooner init` lists the tables",
        ));
    }
    let names: Vec<_> = tables.iter().map(|table| table.relation.name.clone()).collect();
    publication::ensure(&mut client, &source.publication, &names).await?;
    let identity = slot::identify(&mut Client::connect(&source.connect, Mode::Replication).await?).await?;
    let mut progress = LakeProgress::new(lake.clone(), &config.name);
    let record = progress.load().await?.filter(|_| !recopy);
    let (start_lsn, snapshot) = find_or_create_slot(config, &mut client, record.as_ref(), &identity).await?;
    let record = next_record(record, identity, &source.slot, start_lsn, &tables, resume);
    let ledger = Ledger::open(progress, record).await?;
    Ok(Prepared { tables, ledger, start_lsn, snapshot })
}

async fn find_or_create_slot(
    config: &Config,
    client: &mut Client,
    record: Option<&ProgressRecord>,
    identity: &SystemIdentity,
) -> Result<(Lsn, Option<ExportedSnapshot>)> {
    let name = &config.source.slot;
    if let Some(found) = slot::find(client, name).await? {
        // Looked at before anything is stored: whoever streams at the moment is not disturbed.
        if let Some(pid) = found.active_pid {
            return Err(Error::retry(
                format!("the slot '{name}' is in use"),
                format!("Postgres' process {pid} streams from it to somebody else"),
                "stop the other process, or give this pipeline another slot and name; it is tried again",
            ));
        }
        let confirmed = slot::check(name, &found, &config.source.connect.database)?;
        if let Some(record) = record {
            slot::check_continuity(record, identity, confirmed)?;
        }
        return Ok((confirmed, None));
    }
    if let Some(record) = record {
        return Err(Error::operator(
            format!("the slot '{name}' is gone"),
            format!(
                "the pipeline had confirmed it up to {}; changes since then cannot be read any more",
                record.confirmed_lsn
            ),
            "start with --recopy, which creates the slot and copies all tables anew",
        ));
    }
    let snapshot = slot::create(&config.source.connect, name).await?;
    tracing::info!(slot = name, lsn = %snapshot.consistent_lsn, "created the slot");
    Ok((snapshot.consistent_lsn, Some(snapshot)))
}

/// The record to start with: tables that are new, were replaced or are resumed have to be copied.
fn next_record(
    former: Option<ProgressRecord>,
    identity: SystemIdentity,
    slot: &str,
    start_lsn: Lsn,
    tables: &[Table],
    resume: &[String],
) -> ProgressRecord {
    let known = former.as_ref().map(|record| record.tables.clone()).unwrap_or_default();
    let entry = |table: &Table| {
        let name = table.relation.name.to_string();
        let same = known.get(&name).filter(|progress| progress.oid == Some(table.oid));
        let progress = same.filter(|_| !resume.contains(&name)).cloned();
        let copying = TableProgress { phase: TablePhase::Copying, reason: None, oid: Some(table.oid) };
        (name, progress.unwrap_or(copying))
    };
    ProgressRecord {
        system_id: identity.system_id,
        timeline: identity.timeline,
        slot: slot.to_owned(),
        confirmed_lsn: former.map_or(start_lsn, |record| record.confirmed_lsn.max(start_lsn)),
        tables: tables.iter().map(entry).collect::<BTreeMap<_, _>>(),
    }
}

/// The names of tables in a phase.
pub fn in_phase(record: &ProgressRecord, tables: &[Table], phase: TablePhase) -> Vec<TableName> {
    let names = tables.iter().map(|table| &table.relation.name);
    let fitting = names.filter(|name| record.tables.get(&name.to_string()).is_some_and(|table| table.phase == phase));
    fitting.cloned().collect()
}
