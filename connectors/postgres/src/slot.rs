//! The replication slot: creates it with a snapshot, looks it up, and checks it before anything is read from it.
//!
//! <https://www.postgresql.org/docs/current/protocol-replication.html>

use std::pin::pin;
use std::time::Duration;

use sooner_api::{Code, Error, Result, SlotStanding, SystemIdentity};
use sooner_schemas::Lsn;
use tokio::time::timeout;

use crate::client::{Client, Mode, Row, quote_name, quote_text};
use crate::clock::now_micros;
use crate::options::ConnectOptions;
use crate::row::{number, text};
use crate::visibility::Visibility;

/// Output plugin that the slot uses.
pub const PLUGIN: &str = "pgoutput";
/// First version whose slots may outlive a failover.
pub const KNOWS_FAILOVER: u32 = 170_000;
/// Version of Postgres from which on statistics of slots are kept (`pg_stat_replication_slots`).
const KNOWS_SPILL: u32 = 140_000;
/// Slots of standbys that a slot with failover waits for before it sends anything, and that nobody holds.
///
/// <https://www.postgresql.org/docs/18/runtime-config-replication.html#GUC-SYNCHRONIZED-STANDBY-SLOTS>
const STANDBYS_MISSING: &str = "(SELECT count(*) FROM \
     unnest(string_to_array(pg_catalog.current_setting('synchronized_standby_slots', true), ',')) AS w(name) \
     WHERE trim(w.name) <> '' AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots p \
                       WHERE p.slot_name = trim(w.name) AND p.active))";
/// How long the creation of a slot may take before it is said what it waits for, and how often that is said again.
const PATIENCE: Duration = Duration::from_secs(5);

/// A slot as `pg_replication_slots` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Output plugin; none for a physical slot.
    pub plugin: Option<String>,
    /// Database that the slot belongs to.
    pub database: Option<String>,
    /// Process id of the session that streams from the slot; none if it is inactive.
    pub active_pid: Option<i32>,
    /// LSN that was confirmed last, from which the stream continues; none if the slot's creation did not finish.
    pub confirmed_flush_lsn: Option<Lsn>,
    /// The log that it keeps.
    pub standing: SlotStanding,
    /// Why the server has invalidated the slot (`invalidation_reason`, since 17); none if it has not, or does not say.
    pub invalidation: Option<String>,
    /// Standbys follow it, so that it outlives a failover (`failover`, since 17).
    pub survives_failover: bool,
}

impl Slot {
    /// Whether the server has removed something that the slot's reader needs.
    pub fn is_lost(&self) -> bool {
        self.standing.wal_status.as_deref() == Some("lost") || self.invalidation.is_some()
    }
}

/// Queries the identity of the server; needs a replication connection.
pub async fn identify(replication: &mut Client) -> Result<SystemIdentity> {
    let rows = replication.query("IDENTIFY_SYSTEM").await?;
    let row = rows.first().cloned().unwrap_or_default();
    let flushed_lsn = text(&row, 2)?.parse();
    let timeline = number(&row, 1)?;
    // The first one has no history.
    let history = match timeline {
        1 => String::new(),
        _ => history(replication, timeline).await?,
    };
    Ok(SystemIdentity {
        system_id: text(&row, 0)?.to_owned(),
        timeline,
        flushed_lsn: flushed_lsn
            .map_err(|error| crate::errors::protocol("cannot understand the server's position", error))?,
        forks: forks(&history),
        version: replication.server_version(),
        run: String::new(),
    })
}

/// Which run of the server it is, from crash to crash: it forgets its statistics when it recovers from one.
///
/// <https://www.postgresql.org/docs/current/monitoring-stats.html>
pub async fn run(client: &mut Client) -> Result<String> {
    let rows = client.query("SELECT coalesce(stats_reset::text, '') FROM pg_catalog.pg_stat_bgwriter").await?;
    Ok(text(rows.first().unwrap_or(&Vec::new()), 0)?.to_owned())
}

/// The file that says where earlier timelines end; empty if the server has not got it.
async fn history(replication: &mut Client, timeline: u32) -> Result<String> {
    match replication.query(&format!("TIMELINE_HISTORY {timeline}")).await {
        Ok(rows) => Ok(rows.first().map(|row| text(row, 1).map(str::to_owned)).transpose()?.unwrap_or_default()),
        // Some services let nobody ask; without it, only the same timeline goes on.
        Err(error) if error.why.contains("SQLSTATE") => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Earlier timelines, each with where it ends: lines of number, LSN and reason.
fn forks(history: &str) -> Vec<(u32, Lsn)> {
    let fork = |line: &str| {
        let mut fields = line.split_whitespace();
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    history.lines().filter_map(fork).collect()
}

/// Looks up a slot by name; none if it does not exist.
pub async fn find(client: &mut Client, name: &str) -> Result<Option<Slot>> {
    let (invalidation, failover) = match client.server_version() >= KNOWS_FAILOVER {
        true => ("invalidation_reason", "failover"),
        false => ("NULL", "false"),
    };
    let spilled = match client.server_version() >= KNOWS_SPILL {
        true => "(SELECT spill_bytes FROM pg_catalog.pg_stat_replication_slots s WHERE s.slot_name = r.slot_name)",
        false => "NULL",
    };
    let asked_micros = now_micros();
    let rows = client
        .query(&format!(
            "SELECT plugin, database, active_pid, confirmed_flush_lsn, wal_status, \
                    CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0 ELSE coalesce(\
                        pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn), 0)::bigint END, \
                    {invalidation}, {failover}, safe_wal_size, \
                    CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0 ELSE coalesce(\
                        pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint END, \
                    {spilled}, (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint, CASE WHEN {failover} THEN {STANDBYS_MISSING} ELSE 0 END \
             FROM pg_catalog.pg_replication_slots r WHERE slot_name = {}",
            quote_text(name)
        ))
        .await?;
    let answered_micros = now_micros();
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let optional = |index: usize| row.get(index).and_then(Clone::clone);
    Ok(Some(Slot {
        plugin: optional(0),
        database: optional(1),
        active_pid: optional(2).and_then(|pid| pid.parse().ok()),
        confirmed_flush_lsn: optional(3).and_then(|lsn| lsn.parse().ok()),
        standing: SlotStanding {
            retained_bytes: number::<i64>(row, 5)?.max(0).unsigned_abs(),
            unconfirmed_bytes: number::<i64>(row, 9)?.max(0).unsigned_abs(),
            safe_bytes: optional(8).and_then(|bytes| bytes.parse().ok()),
            wal_status: optional(4),
            spilled_bytes: optional(10).and_then(|bytes| bytes.parse().ok()),
            // The answer was given about half-way.
            clock_ahead_micros: Some(number::<i64>(row, 11)? - (asked_micros + answered_micros) / 2),
            standbys_missing: number(row, 12)?,
        },
        invalidation: optional(6),
        survives_failover: text(row, 7)? == "t",
    }))
}

/// Creates the pipeline's slot; returns its position, and the transactions that come before it, which its stream does
/// not have.
pub async fn create(options: &ConnectOptions, name: &str, survives_failover: bool) -> Result<(Lsn, Visibility)> {
    let mut holder = Client::connect(options, Mode::Replication).await?;
    let how = if survives_failover { "(SNAPSHOT 'export', FAILOVER)" } else { "EXPORT_SNAPSHOT" };
    let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL {PLUGIN} {how}", quote_name(name));
    let rows = {
        let mut creating = pin!(holder.query(&command));
        loop {
            match timeout(PATIENCE, &mut creating).await {
                Ok(rows) => break rows?,
                Err(_) => name_blockers(options).await,
            }
        }
    };
    let row = rows.first().cloned().unwrap_or_default();
    let consistent_lsn = text(&row, 1)?
        .parse()
        .map_err(|error| crate::errors::protocol("cannot understand the new slot's position", error))?;
    // The snapshot is there as long as the connection that exported it is idle.
    let mut client = Client::connect(options, Mode::Sql).await?;
    client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    client.query(&format!("SET TRANSACTION SNAPSHOT {}", quote_text(text(&row, 2)?))).await?;
    let before = client.query_value("SELECT pg_catalog.pg_current_snapshot()").await?;
    Ok((consistent_lsn, Visibility::parse(before.as_deref().unwrap_or_default())?))
}

/// Lets standbys follow a slot that exists, or not any more, as `survives_failover` says. Nobody may stream from it.
pub async fn set_failover(options: &ConnectOptions, name: &str, survives_failover: bool) -> Result<()> {
    let mut client = Client::connect(options, Mode::Replication).await?;
    let command = format!("ALTER_REPLICATION_SLOT {} (FAILOVER {survives_failover})", quote_name(name));
    client.query(&command).await.map(drop)
}

/// A slot is only created once all transactions that run have ended: says which ones that are.
async fn name_blockers(options: &ConnectOptions) {
    match blockers(options).await {
        Ok(blockers) => {
            for [pid, user, application, begun] in blockers {
                tracing::warn!(
                    pid,
                    user,
                    application,
                    begun,
                    "copying waits until a transaction of this process has ended"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "copying waits until all transactions that run have ended"),
    }
}

/// Process id, user, application and time of the transactions that the creation of a slot waits for.
async fn blockers(options: &ConnectOptions) -> Result<Vec<[String; 4]>> {
    let mut client = Client::connect(options, Mode::Sql).await?;
    let sql = "SELECT DISTINCT b.pid, b.usename, b.application_name, b.xact_start \
               FROM pg_catalog.pg_stat_activity w \
               CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(w.pid)) AS blocking (pid) \
               JOIN pg_catalog.pg_stat_activity b ON b.pid = blocking.pid \
               WHERE w.backend_type = 'walsender' AND w.datname = current_database()";
    let rows = client.query(sql).await?;
    let column = |row: &Row, index: usize| row.get(index).and_then(Clone::clone).unwrap_or_default();
    Ok(rows.iter().map(|row| [0, 1, 2, 3].map(|index| column(row, index))).collect())
}

/// The error of a slot that makes the server keep more log than max_retained_wal.
pub fn keeps_too_much(name: &str, slot: &Slot) -> Error {
    Error::operator(
        Code::SlotUnusable,
        format!("the slot '{name}' cannot be used"),
        format!(
            "it makes Postgres keep {} bytes of log, which is more than max_retained_wal",
            slot.standing.retained_bytes
        ),
        "raise max_retained_wal of [source], or start with --recopy, which copies all tables again",
    )
}

/// Checks that an existing slot can be streamed from: its plugin is pgoutput, it belongs to `database`, and no log
/// that it needs was removed. Returns its confirmed LSN; otherwise the error needs the operator.
pub fn check(name: &str, slot: &Slot, database: &str) -> Result<Lsn> {
    let unusable = |why: String, remedy: String| {
        Error::operator(Code::SlotUnusable, format!("the slot '{name}' cannot be used"), why, remedy)
    };
    let drop = format!("SELECT pg_drop_replication_slot({})", quote_text(name));
    match slot.plugin.as_deref() {
        Some(PLUGIN) => {}
        Some(other) => {
            let why = format!("its output plugin is '{other}', not '{PLUGIN}'");
            return Err(unusable(why, format!("choose another slot name, or, if nobody needs it, {drop}")));
        }
        None => {
            return Err(unusable("it is a physical slot".to_owned(), "choose another slot name".to_owned()));
        }
    }
    if slot.database.as_deref() != Some(database) {
        let why = format!("it belongs to the database '{}'", slot.database.as_deref().unwrap_or("?"));
        return Err(unusable(why, "choose another slot name".to_owned()));
    }
    if slot.is_lost() {
        let why = match slot.invalidation.as_deref() {
            Some("idle_timeout") => "it was not used for longer than idle_replication_slot_timeout".to_owned(),
            Some("wal_level_insufficient") => "wal_level was set below logical".to_owned(),
            Some("rows_removed") => "Postgres has removed rows of its catalog that it needed".to_owned(),
            None | Some("wal_removed") => {
                "Postgres has removed log that it needed (max_slot_wal_keep_size), so changes are lost to it".to_owned()
            }
            Some(other) => format!("Postgres has invalidated it ({other}), so changes are lost to it"),
        };
        let remedy = format!(
            "{drop}; then start with --recopy, which copies all tables again. when_slot_is_lost = \"copy\" of [source] \
             does so by itself"
        );
        return Err(unusable(why, remedy));
    }
    slot.confirmed_flush_lsn.ok_or_else(|| {
        unusable(
            "it has no confirmed position; its creation did not finish".to_owned(),
            format!("{drop}; then start again"),
        )
    })
}
