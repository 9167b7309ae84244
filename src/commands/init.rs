//! `sooner init`: inspects a database and writes a commented configuration for it.

use std::path::Path;

use bytesize::ByteSize;
use sooner_api::SourceTable;
use sooner_postgres::catalog;
use sooner_postgres::client::Mode;
use sooner_postgres::publication::Members;
use sooner_postgres::{Client, ConnectOptions};
use sooner_schemas::ReplicaIdentity;

use super::print;

/// Inspects the database `from`, writes a configuration to the file `output`, which must not exist yet, and prints a
/// summary of the tables.
pub async fn run(from: &str, to: &str, output: &Path) -> anyhow::Result<()> {
    if output.exists() {
        anyhow::bail!("{} exists already. To do: remove it, or name another with --output.", output.display());
    }
    let options = ConnectOptions::parse(from)?;
    let mut client = Client::connect(&options, Mode::Sql).await?;
    let found = catalog::tables(&mut client, &Members::default()).await?;
    let tables: Vec<_> =
        found.into_iter().filter(|found| !found.access.of_extension).map(|found| found.table).collect();
    let text = configuration(from, to, &options, &tables);
    std::fs::write(output, text)?;
    print(&summary(&tables));
    let password = if options.password.is_some() { "export SOONER_POSTGRES_PASSWORD=…, then " } else { "" };
    print(&format!("wrote {}. Next: {password}`sooner check`, then `sooner run`.\n", output.display()));
    Ok(())
}

fn summary(tables: &[SourceTable]) -> String {
    let width = tables.iter().map(|table| table.name().to_string().len()).max().unwrap_or(0);
    let mut text = String::new();
    for table in tables {
        let rows = table.estimated_rows.map_or("rows unknown".to_owned(), |rows| format!("about {rows} rows"));
        let size = ByteSize(table.size_bytes);
        text.push_str(&format!(
            "{:width$}  {:>10}  {rows:>20}  {}\n",
            table.name().to_string(),
            size.to_string(),
            key(table)
        ));
    }
    text
}

fn key(table: &SourceTable) -> String {
    if table.relation.key.is_empty() {
        return "NO KEY: it cannot be merged; add a primary key, or leave it excluded".to_owned();
    }
    let columns = table.relation.key.iter().map(|&index| table.relation.columns[index].name.as_str());
    let identity = match table.relation.identity {
        ReplicaIdentity::Default => "",
        ReplicaIdentity::Full => ", replica identity FULL",
        ReplicaIdentity::Index => ", replica identity USING INDEX",
        ReplicaIdentity::Nothing => ", replica identity NOTHING: no updates and deletes",
    };
    format!("key ({}){identity}", columns.collect::<Vec<_>>().join(", "))
}

fn configuration(from: &str, to: &str, options: &ConnectOptions, tables: &[SourceTable]) -> String {
    let name: String =
        options.database.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let password = match options.password {
        Some(_) => "password = { env = \"SOONER_POSTGRES_PASSWORD\" }",
        None => "# password = { env = \"SOONER_POSTGRES_PASSWORD\" }   # or { file = \"/run/secrets/postgres\" }",
    };
    let mut listed = String::new();
    let mut excluded = String::new();
    for table in tables {
        let name = table.name().to_string();
        let target = if table.relation.key.is_empty() { &mut excluded } else { &mut listed };
        target.push_str(&format!(
            "    {},   # {}, {}\n",
            toml::Value::String(name),
            ByteSize(table.size_bytes),
            key(table)
        ));
    }
    format!(
        r#"# A pipeline of sooner: every change of a Postgres database into Delta Lake tables.
# `sooner check` looks at all preconditions; `sooner run` starts it.

# Names the pipeline; its positions are stored under this name in the lake.
name = "{name}"
# Where a running pipeline tells its status and hears `sooner resume`. Default: .sooner/<name> beside this file.
# state_dir = "/var/lib/sooner"
# Bytes of events that may wait in memory.
# memory = "128MiB"

[source]
url = {url}
{password}
# The replication slot and the publication; both are created if they do not exist.
# slot = "sooner_{slot}"
# publication = "sooner_{slot}"
# Tables to carry; * stands for any characters.
tables = [
{listed}]
# Tables to leave out, although `tables` names them.
exclude = [
{excluded}]
# Parts of tables that are copied at the same time, and how many bytes a second of all of them at most.
# copy_tables_at_once = 2
# copy_bytes_per_second = "50MiB"
# Log that the slot may make Postgres keep: from half of it on there are warnings.
# max_retained_wal = "50GiB"
# What to do when the slot is lost, or keeps more log than that: "stop", or "copy" all tables again with a new slot.
# when_slot_is_lost = "stop"
# Standbys follow the slot, so that it outlives a failover (version 17 or newer).
# failover = false

{lake}"#,
        url = toml::Value::String(without_password(from, options)),
        slot = name.replace('-', "_"),
        lake = lake_section(to),
    )
}

/// The section of the lake, and that of single tables.
fn lake_section(to: &str) -> String {
    format!(
        r#"[lake]
# A folder, or s3://bucket/prefix. Each table lies at <url>/<schema>/<table>.
url = {to}
# How long an event may wait before readers of the lake see it.
freshness = "1s"
# How long files and log entries are kept that the tables do not need any more, for readers of former versions. These
# become properties of the tables; without them new tables keep files for 3 days and the log for 7.
# deleted_file_retention = "3days"
# log_retention = "7days"
# Memory for the key indexes of all tables, which lie on disk in state_dir.
# index_memory = "64MiB"
# For S3. Credentials come from the AWS_* variables or the machine's role, unless they are given here.
# region = "eu-central-1"
# endpoint = "http://127.0.0.1:9000"
# access_key_id = {{ env = "LAKE_ACCESS_KEY_ID" }}
# secret_access_key = {{ env = "LAKE_SECRET_ACCESS_KEY" }}

# Metrics for Prometheus, probes, a page and an API, on this machine.
# [http]
# listen = "127.0.0.1:9640"

# Settings of tables that match; of several blocks, the last one that has a setting counts.
# [[table]]
# match = "billing.*"
# freshness = "1m"
"#,
        to = toml::Value::String(to.to_owned()),
    )
}

/// The database URL as it was given, without its password: neither before the host nor as a parameter.
fn without_password(from: &str, options: &ConnectOptions) -> String {
    if options.password.is_none() {
        return from.to_owned();
    }
    let Some((scheme, rest)) = from.split_once("://") else { return from.to_owned() };
    let (authority, tail) = rest.split_once('@').unwrap_or(("", rest));
    let user = authority.split(':').next().unwrap_or_default();
    let parameters = |text: &str| {
        let kept = text.split('&').filter(|parameter| !parameter.starts_with("password="));
        kept.collect::<Vec<_>>().join("&")
    };
    let tail = match tail.split_once('?') {
        Some((path, query)) => format!("{path}?{}", parameters(query)),
        None => tail.to_owned(),
    };
    format!("{scheme}://{user}@{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_stays_out_and_the_rest_stays_in() {
        for (from, expected) in [
            ("postgres://me:secret@db/shop?sslmode=require", "postgres://me@db/shop?sslmode=require"),
            ("postgres://me@db/shop?password=secret&sslmode=require", "postgres://me@db/shop?sslmode=require"),
            ("postgres://me@db/shop", "postgres://me@db/shop"),
        ] {
            let options = ConnectOptions::parse(from).unwrap();
            assert_eq!(without_password(from, &options), expected);
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let options = ConnectOptions::parse("postgres://me@db/shop").unwrap();
        let text = configuration("postgres://me@db/shop", "/lake", &options, &[]);
        crate::config::Config::parse(&text, Path::new(".")).unwrap();
    }
}
