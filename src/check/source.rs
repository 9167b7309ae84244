//! Preconditions of the source database.

use std::time::Instant;

use sooner_api::{Clock, Result};
use sooner_postgres::catalog_table::CatalogTable;
use sooner_postgres::client::{Mode, Row, quote_name};
use sooner_postgres::database::OLDEST_VERSION;
use sooner_postgres::inspection::candidates;
use sooner_postgres::{Client, publication, slot};

use sooner_schemas::ReplicaIdentity;

use super::{Finding, slot_limits, values};
use crate::clock::SystemClock;
use crate::config::SourceConfig;

/// Difference between the two clocks, in seconds, beyond which lag figures are useless.
const CLOCK_TOLERANCE_SECONDS: f64 = 2.0;

/// Checks connection, server settings, slot, role, publication, tables and clock of the source. If it cannot be
/// reached, that is the only finding.
pub async fn inspect(source: &SourceConfig) -> Vec<Finding> {
    let mut client = match Client::connect(&source.connect, Mode::Sql).await {
        Ok(client) => client,
        Err(error) => return vec![Finding::error("connection", &error)],
    };
    let mut findings = vec![Finding::ok("connection", format!("reached {}", source.connect.address()))];
    if let Err(error) = inspect_database(source, &mut client, &mut findings).await {
        findings.push(Finding::error("source", &error));
    }
    findings
}

async fn inspect_database(source: &SourceConfig, client: &mut Client, findings: &mut Vec<Finding>) -> Result<()> {
    findings.push(version(client));
    if client.query_value("SELECT pg_catalog.pg_is_in_recovery()").await?.as_deref() == Some("t") {
        let remedy = "connect to the primary; failover = true of [source] lets the slot outlive a failover";
        findings.push(Finding::failed("primary", "this server is a standby", remedy));
        return Ok(());
    }
    findings.push(wal_level(client).await?);
    findings.extend(slot_limits::inspect(source, client).await?);
    let slot = slot::find(client, &source.slot).await?;
    findings.push(slot_state(source, slot.as_ref()));
    if slot.is_none() {
        findings.push(free(client, "free slots", "max_replication_slots", "pg_replication_slots").await?);
    }
    findings.push(free(client, "free walsenders", "max_wal_senders", "pg_stat_replication").await?);
    findings.push(role(source, client).await?);
    let tables = candidates(client, &source.publication, &source.filter()).await?;
    if tables.is_empty() {
        let remedy = "correct tables and exclude of [source]";
        findings.push(Finding::failed("tables", "no table fits the patterns", remedy));
    }
    let (published, may_add) = published(source, client, &tables).await?;
    findings.push(published);
    findings.extend(tables.iter().map(|table| table_finding(table, may_add)));
    findings.extend(values::inspect(source, client, &tables).await?);
    findings.push(clock(client).await?);
    Ok(())
}

fn version(client: &Client) -> Finding {
    let version = client.server_version();
    let shown = format!("Postgres {}.{}", version / 10_000, version % 10_000);
    if version >= OLDEST_VERSION {
        return Finding::ok("server version", shown);
    }
    Finding::failed("server version", shown, "upgrade to version 13 or newer")
}

async fn wal_level(client: &mut Client) -> Result<Finding> {
    let level = client.query_value("SHOW wal_level").await?.unwrap_or_default();
    if level == "logical" {
        return Ok(Finding::ok("wal_level", level));
    }
    let remedy = "ALTER SYSTEM SET wal_level = logical;  then restart Postgres";
    Ok(Finding::failed("wal_level", level, remedy))
}

fn slot_state(source: &SourceConfig, found: Option<&slot::Slot>) -> Finding {
    let name = &source.slot;
    let Some(found) = found else {
        return Finding::ok("slot", format!("'{name}' does not exist yet; `sooner run` creates it"));
    };
    if let Err(error) = slot::check(name, found, &source.connect.database) {
        return Finding::error("slot", &error);
    }
    let retained = bytesize::ByteSize(found.standing.retained_bytes);
    if let Some(pid) = found.active_pid {
        let remedy = "fine if that is this pipeline; otherwise give this one a slot of its own";
        return Finding::warning(
            "slot",
            format!("'{name}' is in use by process {pid}; it keeps {retained} of log"),
            remedy,
        );
    }
    Finding::ok("slot", format!("'{name}' is free; it keeps {retained} of log"))
}

async fn free(client: &mut Client, check: &str, setting: &str, view: &str) -> Result<Finding> {
    let sql = format!("SELECT current_setting('{setting}')::int, (SELECT count(*) FROM pg_catalog.{view})");
    let row = client.query(&sql).await?.pop().unwrap_or_default();
    let (limit, used) = (number(&row, 0), number(&row, 1));
    let found = format!("{used} of {limit} used");
    if used < limit {
        return Ok(Finding::ok(check, found));
    }
    let remedy = format!("ALTER SYSTEM SET {setting} = {};  then restart Postgres", limit + 5);
    Ok(Finding::failed(check, found, remedy))
}

async fn role(source: &SourceConfig, client: &mut Client) -> Result<Finding> {
    let user = &source.connect.user;
    // At Amazon RDS, members of a role may replicate; nobody can have the attribute.
    let sql = "SELECT (SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) \
                   OR coalesce(pg_catalog.bool_or(pg_catalog.pg_has_role(current_user, oid, 'MEMBER')), false), \
                   count(*) > 0 \
               FROM pg_catalog.pg_roles WHERE rolname = 'rds_replication'";
    let row = client.query(sql).await?.pop().unwrap_or_default();
    let is_true = |column: usize| row.get(column).is_some_and(|value| value.as_deref() == Some("t"));
    if is_true(0) {
        return Ok(Finding::ok("role", format!("'{user}' may replicate")));
    }
    let remedy = match is_true(1) {
        true => format!("GRANT rds_replication TO {};", quote_name(user)),
        false => format!("ALTER ROLE {} REPLICATION;", quote_name(user)),
    };
    Ok(Finding::failed("role", format!("'{user}' lacks REPLICATION"), remedy))
}

/// The publication, and whether `sooner run` adds tables to it, or creates it.
async fn published(source: &SourceConfig, client: &mut Client, tables: &[CatalogTable]) -> Result<(Finding, bool)> {
    let (name, check) = (&source.publication, "publication");
    let Some(found) = publication::find(client, name).await? else {
        let sql = "SELECT has_database_privilege(current_database(), 'CREATE')";
        if client.query_value(sql).await?.as_deref() == Some("t") {
            let found = format!("'{name}' does not exist yet; `sooner run` creates it");
            return Ok((Finding::ok(check, found), true));
        }
        let publishable = tables.iter().filter(|found| found.access.owns).map(|found| found.table.name().clone());
        let remedy =
            format!("{};", publication::create_statement(name, &publishable.collect::<Vec<_>>(), source.through_roots));
        let found = format!("'{name}' does not exist, and the role may not create it");
        return Ok((Finding::failed(check, found, remedy), false));
    };
    if let Err(error) = found.check(name) {
        return Ok((Finding::error(check, &error), false));
    }
    let carried = tables.iter().filter(|found| found.table.facts.publication.is_some()).count();
    Ok((Finding::ok(check, format!("'{name}' carries {carried} of {} tables", tables.len())), found.is_own))
}

fn table_finding(found: &CatalogTable, may_add: bool) -> Finding {
    let (table, check) = (&found.table, found.table.name().to_string());
    if found.access.of_extension {
        return Finding::ok(check, "left out: an extension made it");
    }
    if let Some(error) = &table.blocked
        && !(may_add && found.is_publishable())
    {
        return Finding::failed(check, format!("it waits, and the others go on: {}", error.why), error.remedy.clone());
    }
    if table.relation.key.is_empty() {
        let quoted = publication::quote_table(table.name());
        let remedy = format!("ALTER TABLE {quoted} ADD PRIMARY KEY (…);  or exclude it");
        return Finding::failed(check, "it has neither a primary key nor a replica identity index", remedy);
    }
    let key: Vec<_> = table.relation.key.iter().map(|&index| table.relation.columns[index].name.as_str()).collect();
    let identity = match table.relation.identity {
        ReplicaIdentity::Full => ", whole old rows are logged",
        _ => "",
    };
    let unsent = match table.relation.unsent.is_empty() {
        true => String::new(),
        false => format!("; Postgres does not send {}", table.relation.unsent.join(", ")),
    };
    Finding::ok(check, format!("key ({}){identity}{unsent}", key.join(", ")))
}

async fn clock(client: &mut Client) -> Result<Finding> {
    let asked = Instant::now();
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let theirs: i64 = client.query_value(sql).await?.and_then(|text| text.parse().ok()).unwrap_or_default();
    let half_way = asked.elapsed().as_micros() as i64 / 2;
    let seconds = (SystemClock.now_micros() - half_way - theirs) as f64 / 1e6;
    let finding = format!("{:.3} s apart", seconds.abs());
    if seconds.abs() <= CLOCK_TOLERANCE_SECONDS {
        return Ok(Finding::ok("clocks", finding));
    }
    Ok(Finding::warning("clocks", finding, "synchronise both machines by NTP; until then lag in seconds is wrong"))
}

fn number(row: &Row, index: usize) -> i64 {
    row.get(index).cloned().flatten().and_then(|text| text.parse().ok()).unwrap_or_default()
}
