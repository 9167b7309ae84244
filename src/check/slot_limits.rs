//! Settings of the server that end a slot, or hold commits up for it.

use sooner_api::Result;
use sooner_postgres::Client;
use sooner_postgres::slot::KNOWS_FAILOVER;

use super::Finding;
use crate::config::SourceConfig;

/// Findings of what may become of the slot.
pub async fn inspect(source: &SourceConfig, client: &mut Client) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    findings.push(log_limit(source, &setting(client, "max_slot_wal_keep_size").await?.unwrap_or_default()));
    let idle = setting(client, "idle_replication_slot_timeout").await?;
    findings.extend(idle.filter(|limit| limit != "0").map(|limit| idle_limit(source, &limit)));
    if source.failover == Some(true) && client.server_version() < KNOWS_FAILOVER {
        let remedy = "take failover out of [source], or upgrade to version 17 or newer";
        findings.push(Finding::failed("failover", "slots outlive a failover since version 17 only", remedy));
    }
    if setting(client, "synchronous_standby_names").await?.is_some_and(|names| names.contains('*')) {
        let remedy = "name the standbys there: ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (standby)'";
        findings.push(Finding::warning("standbys", "synchronous_standby_names takes sooner for a standby", remedy));
    }
    Ok(findings)
}

/// A setting as a person writes it; none if this version does not have it.
async fn setting(client: &mut Client, name: &str) -> Result<Option<String>> {
    client.query_value(&format!("SELECT pg_catalog.current_setting('{name}', true)")).await
}

fn log_limit(source: &SourceConfig, server_limit: &str) -> Finding {
    let check = "slot's log";
    match (server_limit, source.max_retained_wal) {
        ("-1", None) => {
            let remedy = "set max_retained_wal of [source]: it warns early, and with when_slot_is_lost = \"copy\" gives the \
                          slot up rather than fill the database's disk";
            Finding::warning(check, "nothing limits how much log the slot may keep", remedy)
        }
        ("-1", Some(limit)) => Finding::ok(check, format!("it may keep {}", bytesize::ByteSize(limit as u64))),
        (limit, _) if source.copies_when_slot_is_lost => Finding::ok(
            check,
            format!("beyond {limit} (max_slot_wal_keep_size) it is lost, and all tables are copied again"),
        ),
        (limit, _) => {
            let remedy = "leave room for the longest time that sooner, or the lake, may be away; when_slot_is_lost = \"copy\" \
                          of [source] copies all tables again by itself";
            Finding::warning(check, format!("beyond {limit} (max_slot_wal_keep_size) the slot is lost"), remedy)
        }
    }
}

fn idle_limit(source: &SourceConfig, limit: &str) -> Finding {
    let found = format!("a pipeline that is stopped for {limit} (idle_replication_slot_timeout) loses its slot");
    if source.copies_when_slot_is_lost {
        return Finding::ok("idle slot", format!("{found}, and all tables are copied again"));
    }
    let remedy = "raise it, or set when_slot_is_lost = \"copy\" of [source]";
    Finding::warning("idle slot", found, remedy)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::check::Verdict;
    use crate::config::Config;

    fn source(lines: &str) -> SourceConfig {
        let text = format!("name = 's'\n[source]\nurl = 'postgres://me@db/s'\n{lines}\n[lake]\nurl = '/l'");
        Config::parse(&text, Path::new(".")).unwrap().source().unwrap().clone()
    }

    #[test]
    fn no_limit_and_a_limit_without_a_way_on_are_warned_of() {
        let verdict = |lines: &str, limit: &str| log_limit(&source(lines), limit).verdict;
        assert_eq!(verdict("", "-1"), Verdict::Warning);
        assert_eq!(verdict("max_retained_wal = '1GiB'", "-1"), Verdict::Ok);
        assert_eq!(verdict("max_retained_wal = '1GiB'", "64MB"), Verdict::Warning);
        assert_eq!(verdict("when_slot_is_lost = 'copy'", "64MB"), Verdict::Ok);
        assert_eq!(idle_limit(&source(""), "10s").verdict, Verdict::Warning);
        assert_eq!(idle_limit(&source("when_slot_is_lost = 'copy'"), "10s").verdict, Verdict::Ok);
    }
}
