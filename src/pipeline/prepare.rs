//! Before anything streams: every check that could show a gap, the publication before the slot, and the progress record
//! before both loops.

use std::collections::BTreeMap;

use sooner_api::{Code, Error, ProgressRecord, ProgressStore, Result, TablePhase, TableProgress};
use sooner_delta::{LakeProgress, LakeStore};
use sooner_postgres::catalog::{self, Table};
use sooner_postgres::client::Mode;
use sooner_postgres::slot::{self, ExportedSnapshot, SystemIdentity};
use sooner_postgres::{Client, publication};
use sooner_schemas::{Lsn, TableName};

use crate::config::SourceConfig;
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

/// The source before anything streams.
pub struct SourceView {
    /// For SQL.
    pub client: Client,
    /// The tables that take part.
    pub tables: Vec<Table>,
}

/// Looks at the source: its version, its tables, and the publication (made if it is missing).
pub async fn look(source: &SourceConfig) -> Result<SourceView> {
    let mut client = Client::connect(&source.connect, Mode::Sql).await?;
    if client.server_version() < OLDEST_VERSION {
        let why = format!("the server's version is {}", client.server_version() / 10_000);
        return Err(Error::operator(
            Code::PostgresVersionUnsupported,
            "cannot read from this Postgres",
            why,
            "upgrade to version 13 or newer",
        ));
    }
    let mut tables = catalog::tables(&mut client).await?;
    tables.retain(|table| source.selects(&table.relation.name));
    if tables.is_empty() {
        return Err(Error::operator(
            Code::NoTables,
            "there is nothing to read",
            "no table of the database fits tables and exclude of [source]",
            "correct the patterns; `sooner init` lists the tables",
        ));
    }
    let names: Vec<_> = tables.iter().map(|table| table.relation.name.clone()).collect();
    publication::ensure(&mut client, &source.publication, &names).await?;
    Ok(SourceView { client, tables })
}

/// Which server it is, and where its log ends. Asked once it is known what was read of it: its log has got further than that.
pub async fn identify(source: &SourceConfig) -> Result<SystemIdentity> {
    slot::identify(&mut Client::connect(&source.connect, Mode::Replication).await?).await
}

/// The slot's confirmed position, if it exists. One that somebody streams from is left alone.
pub async fn find_free_slot(source: &SourceConfig, client: &mut Client) -> Result<Option<Lsn>> {
    let name = &source.slot;
    let Some(found) = slot::find(client, name).await? else { return Ok(None) };
    // Looked at before anything is stored: whoever streams at the moment is not disturbed.
    if let Some(pid) = found.active_pid {
        return Err(Error::retry(
            Code::SlotInUse,
            format!("the slot '{name}' is in use"),
            format!("Postgres' process {pid} streams from it to somebody else"),
            "stop the other process, or give this pipeline another slot and name; it is tried again",
        ));
    }
    slot::check(name, &found, &source.connect.database).map(Some)
}

/// What is wrong when a pipeline that got somewhere finds no slot.
pub fn slot_gone(name: &str, confirmed: Lsn) -> Error {
    Error::operator(
        Code::SlotGone,
        format!("the slot '{name}' is gone"),
        format!("the pipeline had confirmed it up to {confirmed}; changes since then cannot be read any more"),
        "start with --recopy, which creates the slot and copies all tables again",
    )
}

/// Looks at both ends, and sets up what is missing. `resume` names tables to copy again; `recopy` means all.
pub async fn prepare(
    pipeline: &str,
    source: &SourceConfig,
    lake: &LakeStore,
    resume: &[String],
    recopy: bool,
) -> Result<Prepared> {
    lake.probe().await?;
    let SourceView { mut client, tables } = look(source).await?;
    let mut progress = LakeProgress::new(lake.clone(), pipeline);
    let record = progress.load().await?.filter(|_| !recopy);
    let identity = identify(source).await?;
    let (start_lsn, snapshot) = find_or_create_slot(source, &mut client, record.as_ref(), &identity).await?;
    let record = next_record(record, identity, &source.slot, start_lsn, &tables, resume);
    let ledger = Ledger::open(progress, record).await?;
    Ok(Prepared { tables, ledger, start_lsn, snapshot })
}

async fn find_or_create_slot(
    source: &SourceConfig,
    client: &mut Client,
    record: Option<&ProgressRecord>,
    identity: &SystemIdentity,
) -> Result<(Lsn, Option<ExportedSnapshot>)> {
    if let Some(confirmed) = find_free_slot(source, client).await? {
        if let Some(record) = record {
            slot::check_continuity(record, &source.slot, identity, confirmed)?;
        }
        return Ok((confirmed, None));
    }
    if let Some(record) = record {
        return Err(slot_gone(&source.slot, record.confirmed_lsn));
    }
    let snapshot = slot::create(&source.connect, &source.slot).await?;
    tracing::info!(slot = source.slot, lsn = %snapshot.consistent_lsn, "created the slot");
    Ok((snapshot.consistent_lsn, Some(snapshot)))
}

/// The record to start with: tables that are new, were replaced or are resumed have to be copied.
pub fn next_record(
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
        let copying =
            TableProgress { phase: TablePhase::Copying, reason: None, oid: Some(table.oid), copied_lsn: None };
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
