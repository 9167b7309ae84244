//! A database with a slot, before and while it is read.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sooner_api::{
    Code, Database, Error, FollowedTable, Inspection, KnownNames, Positions, Result, SchemaRegistry, SourcePlan,
    SystemIdentity, failpoint,
};
use sooner_schemas::Lsn;
use tokio::runtime::Handle;

use crate::client::{Client, Mode};
use crate::encoders::EncoderFactory;
use crate::guard::{SlotLimit, is_to_be_dropped, usable};
use crate::inspection::{TableFilter, publish_eligible};
use crate::memory::ReadLimits;
use crate::options::ConnectOptions;
use crate::settings::{CopySettings, StreamSettings};
use crate::slot::{self, KNOWS_FAILOVER};
use crate::source::PostgresSource;
use crate::stream::PostgresStream;
use crate::teardown::drop_slot;
use crate::visibility::Visibility;

/// The oldest server that is supported, as `server_version_num` has it.
pub const OLDEST_VERSION: u32 = 130_000;

/// How a database is read.
#[derive(Clone)]
pub struct DatabaseSettings {
    /// How to connect.
    pub connect: ConnectOptions,
    /// Name of the slot.
    pub slot: String,
    /// Name of the publication.
    pub publication: String,
    /// Tables that take part.
    pub selects: TableFilter,
    /// Parts of tables that are copied at the same time.
    pub copy_tables_at_once: usize,
    /// How fast tables are copied at most, all together.
    pub copy_bytes_per_second: Option<u64>,
    /// What reading may take of the memory.
    pub limits: ReadLimits,
    /// How much log the slot may keep, and what happens to one that is lost.
    pub slot_limit: SlotLimit,
    /// Whether standbys follow the slot, so that it outlives a failover, which needs version 17. None to leave it as it
    /// is.
    pub survives_failover: Option<bool>,
}

impl fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseSettings").field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// A Postgres database.
pub struct PostgresDatabase<R> {
    settings: DatabaseSettings,
    encoders: Arc<EncoderFactory<R>>,
    runtime: Handle,
    /// Its slot has been read here.
    was_read: AtomicBool,
}

impl<R: SchemaRegistry> PostgresDatabase<R> {
    /// A database that nothing is asked of yet. Copies run on threads of `runtime`.
    pub fn new(settings: DatabaseSettings, encoders: Arc<EncoderFactory<R>>, runtime: Handle) -> PostgresDatabase<R> {
        PostgresDatabase { settings, encoders, runtime, was_read: AtomicBool::new(false) }
    }

    /// The slot's confirmed position, if the slot exists. One that somebody streams from is left alone; one that is to
    /// be replaced counts as none, and the error says why.
    async fn find_free_slot(&self, client: &mut Client) -> Result<(Option<Lsn>, Option<Error>)> {
        let DatabaseSettings { connect, slot: name, slot_limit: limit, survives_failover, .. } = &self.settings;
        let Some(found) = slot::find(client, name).await? else { return Ok((None, None)) };
        // Asked before anything is stored: whoever streams at the moment is not disturbed.
        if let Some(pid) = found.active_pid {
            return Err(Error::retry(
                Code::SlotInUse,
                format!("the slot '{name}' is in use"),
                format!("Postgres' process {pid} streams from it to somebody else"),
                "stop the other process, or give this pipeline another slot and name; it is tried again",
            ));
        }
        let (confirmed, unusable) = usable(name, &found, limit, &connect.database)?;
        if unusable.is_some() {
            return Ok((None, unusable));
        }
        if let Some(wanted) = survives_failover.filter(|wanted| found.survives_failover != *wanted) {
            tracing::info!(slot = name, failover = wanted, "altering the slot");
            slot::set_failover(connect, name, wanted).await?;
        }
        Ok((confirmed, None))
    }

    /// Looks at the slot while nothing is read from it: between attempts, which may fail for long. One that was read
    /// here, and is beyond its limit, is given up.
    pub async fn look_at_slot(&self) {
        let looking = async {
            let DatabaseSettings { connect, slot: name, slot_limit: limit, .. } = &self.settings;
            let mut client = Client::connect(connect, Mode::Sql).await?;
            let Some(found) = slot::find(&mut client, name).await? else { return Ok(()) };
            (limit.observer)(&found.standing);
            if self.was_read.load(Ordering::Relaxed) && is_to_be_dropped(&found, limit, &connect.database) {
                drop_slot(&mut client, name).await?;
                tracing::error!(slot = name, kept = found.standing.retained_bytes, "gave the slot up");
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = looking.await {
            tracing::debug!(%error, "could not look at the slot");
        }
    }
}

/// Which server it is, and where its log ends.
pub async fn identity(connect: &ConnectOptions) -> Result<SystemIdentity> {
    let identity = slot::identify(&mut Client::connect(connect, Mode::Replication).await?).await?;
    let run = slot::run(&mut Client::connect(connect, Mode::Sql).await?).await?;
    Ok(SystemIdentity { run, ..identity })
}

/// Refuses a server that is too old, given as `server_version_num` has it, also for a slot that outlives a failover.
pub fn check_version(server_version: u32, survives_failover: Option<bool>) -> Result<()> {
    let why = format!("the server's version is {}", server_version / 10_000);
    if server_version < OLDEST_VERSION {
        let (what, remedy) = ("cannot read from this Postgres", "upgrade to version 13 or newer");
        return Err(Error::operator(Code::PostgresVersionUnsupported, what, why, remedy));
    }
    if survives_failover == Some(true) && server_version < KNOWS_FAILOVER {
        let what = "no slot can outlive a failover";
        let remedy = "take failover out of [source], or upgrade to version 17 or newer";
        return Err(Error::operator(Code::PostgresVersionUnsupported, what, why, remedy));
    }
    Ok(())
}

/// The error of a database that has none of the tables.
pub fn no_tables() -> Error {
    Error::operator(
        Code::NoTables,
        "there is nothing to read",
        "no table of the database fits tables and exclude of [source]",
        "correct the patterns; `sooner init` lists the tables",
    )
}

impl<R: SchemaRegistry> Database for PostgresDatabase<R> {
    type Source = PostgresSource<R>;
    /// The transactions that come before the slot.
    type Snapshot = Visibility;

    fn keeps_names(&self) -> bool {
        self.settings.selects.kept_names.is_some()
    }

    async fn inspect(&self, known: KnownNames) -> Result<Inspection> {
        let mut client = Client::connect(&self.settings.connect, Mode::Sql).await?;
        let DatabaseSettings { publication, selects, survives_failover, .. } = &self.settings;
        check_version(client.server_version(), *survives_failover)?;
        if let Some(kept) = &selects.kept_names {
            kept.learn(known);
        }
        let tables = publish_eligible(&mut client, publication, selects).await?;
        if tables.is_empty() {
            return Err(no_tables());
        }
        let (slot, unusable) = self.find_free_slot(&mut client).await?;
        Ok(Inspection { slot, unusable, tables })
    }

    async fn identify(&self) -> Result<SystemIdentity> {
        identity(&self.settings.connect).await
    }

    async fn create_slot(&self) -> Result<(Lsn, Visibility)> {
        let DatabaseSettings { connect, slot, slot_limit, survives_failover, .. } = &self.settings;
        let mut client = Client::connect(connect, Mode::Sql).await?;
        let found = slot::find(&mut client, slot).await?;
        if found.is_some_and(|found| is_to_be_dropped(&found, slot_limit, &connect.database)) {
            tracing::warn!(slot, "dropping the slot, which is lost or keeps too much log");
            drop_slot(&mut client, slot).await?;
        }
        let (lsn, before) = slot::create(connect, slot, *survives_failover == Some(true)).await?;
        failpoint("slot_created");
        tracing::info!(slot = self.settings.slot, %lsn, "created the slot");
        Ok((lsn, before))
    }

    async fn open(&self, plan: SourcePlan<Visibility>) -> Result<PostgresSource<R>> {
        let SourcePlan { start_lsn, snapshot: before_slot, copy, stream: follow, apart, keeps_columns, requests } =
            plan;
        let DatabaseSettings { connect, slot, slot_limit, limits, publication, selects, .. } = self.settings.clone();
        let copied = copy.iter().map(|copy| match &copy.goes_on {
            Some(goes_on) => goes_on.followed.clone(),
            None => FollowedTable { table: copy.table.clone(), written: None, covered: Positions::whole(Lsn::ZERO) },
        });
        let copied = copied.collect();
        let left_apart = apart.iter().map(|table| table.relation.oid).collect();
        let settings = StreamSettings {
            slot,
            slot_limit,
            limits,
            publication,
            selects,
            follow,
            copy: copied,
            apart,
            keeps_columns,
            start_lsn,
        };
        let run = slot::run(&mut Client::connect(&connect, Mode::Sql).await?).await?;
        let stream = PostgresStream::start(&connect, settings, self.encoders.clone()).await?;
        self.was_read.store(true, Ordering::Relaxed);
        tracing::info!(lsn = %start_lsn, copying = copy.len(), "streaming");
        let DatabaseSettings { copy_tables_at_once: workers, copy_bytes_per_second: bytes_per_second, .. } =
            self.settings;
        let copying = CopySettings {
            connect,
            workers,
            bytes_per_second,
            limits: self.settings.limits.clone(),
            apart: left_apart,
            before_slot,
            run,
            runtime: self.runtime.clone(),
        };
        PostgresSource::new(copying, self.encoders.clone(), stream, copy, start_lsn, requests).await
    }
}
