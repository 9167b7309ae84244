//! Asks the database whether it still has rows of subjects, and waits until the lake has all that came before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sooner_api::Code;
use sooner_delta::DeltaLake;
use sooner_delta::erasure::subject::Subject;
use sooner_postgres::Client;
use sooner_postgres::client::{Mode, quote_name, quote_text};
use sooner_postgres::log_end::log_end;
use sooner_schemas::{Lsn, TableName};

use crate::commands::wait::{Standing, reached};
use crate::config::Config;
use crate::status;

/// Rows that are counted, at most.
const MOST_ROWS: u32 = 1000;

/// What the database has of subjects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceRows {
    /// Rows by table; tables without rows are left out.
    pub rows: BTreeMap<TableName, u64>,
    /// Tables of which nobody can tell: the source has them without the column, and the lake has or had it.
    pub unknown: BTreeSet<TableName>,
    /// Position of its log after that was looked at.
    pub lsn: Lsn,
}

/// Asks the database what it has of subjects in tables that the lake has.
pub async fn ask(
    config: &Config,
    lake: &DeltaLake,
    tables: &[TableName],
    subjects: &[Subject],
) -> anyhow::Result<SourceRows> {
    let source = config.source()?;
    let mut client = Client::connect(&source.connect, Mode::Sql).await?;
    let (mut rows, mut unknown) = (BTreeMap::new(), BTreeSet::new());
    for table in tables {
        for subject in subjects.iter().filter(|subject| subject.concerns(table)) {
            let has_column = has_column(&mut client, table, Some(&subject.column)).await?;
            if !has_column {
                let is_in_lake = has_or_had(lake, table, &subject.column).await?;
                // Where tables keep their names, it may be called otherwise by now.
                let may_be_there = source.kept_names.is_some() || self::has_column(&mut client, table, None).await?;
                if is_in_lake && may_be_there {
                    unknown.insert(table.clone());
                }
                continue;
            }
            let count = count(&mut client, table, subject).await?;
            if count > 0 {
                *rows.entry(table.clone()).or_default() += count;
            }
        }
    }
    Ok(SourceRows { rows, unknown, lsn: log_end(&mut client).await? })
}

/// Rows that have the value: as a text, or as whatever the column's type takes that for.
async fn count(client: &mut Client, table: &TableName, subject: &Subject) -> anyhow::Result<u64> {
    let (column, value) = (quote_name(&subject.column), quote_text(&subject.value));
    let counting = |condition: String| {
        format!(
            "SELECT pg_catalog.count(*) FROM (SELECT 1 FROM {}.{} WHERE {condition} LIMIT {MOST_ROWS}) found",
            quote_name(&table.schema),
            quote_name(&table.table),
        )
    };
    let number = |found: Option<String>| found.and_then(|count| count.parse().ok()).unwrap_or(0u64);
    let as_text = counting(format!("{column}::text = {value}"));
    let texts = number(client.query_value(&as_text).await?);
    match client.query_value(&counting(format!("{column} = {value}"))).await {
        Ok(found) => Ok(texts.max(number(found))),
        // The text is no value of that type, or the type has no equality.
        Err(error) if error.code == Code::PostgresError => Ok(texts),
        Err(error) => Err(error.into()),
    }
}

/// Subjects, and what columns of a fixed length have for them: Postgres fills such values up with blanks.
pub async fn filled_up(config: &Config, tables: &[TableName], subjects: &[Subject]) -> anyhow::Result<Vec<Subject>> {
    let mut found = subjects.to_vec();
    let Ok(source) = config.source() else { return Ok(found) };
    let mut client = Client::connect(&source.connect, Mode::Sql).await?;
    for table in tables {
        for subject in subjects.iter().filter(|subject| subject.concerns(table)) {
            let of_type = format!(
                "SELECT m.typmod - 4 FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
                 CROSS JOIN LATERAL (SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END AS base, \
                 CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END AS typmod) m \
                 WHERE n.nspname = {} AND c.relname = {} AND a.attname = {} AND NOT a.attisdropped \
                 AND m.typmod > 4 AND m.base = 'pg_catalog.bpchar'::pg_catalog.regtype",
                quote_text(&table.schema),
                quote_text(&table.table),
                quote_text(&subject.column),
            );
            let length = client.query_value(&of_type).await?.and_then(|length| length.parse::<usize>().ok());
            let value = subject.value.trim_end_matches(' ');
            let characters = value.chars().count();
            if let Some(length) = length.filter(|length| *length >= characters) {
                let value = format!("{value}{}", " ".repeat(length - characters));
                let filled = Subject { table: Some(table.clone()), column: subject.column.clone(), value };
                if filled.value != subject.value {
                    found.push(filled);
                }
            }
        }
    }
    Ok(found)
}

/// Whether the database has a table, with a column if one is named.
async fn has_column(client: &mut Client, table: &TableName, column: Option<&str>) -> anyhow::Result<bool> {
    let named = column.map(|column| format!(" AND a.attname = {}", quote_text(column))).unwrap_or_default();
    let sql = format!(
        "SELECT 1 FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {} \
         AND a.attnum > 0 AND NOT a.attisdropped{named} LIMIT 1",
        quote_text(&table.schema),
        quote_text(&table.table),
    );
    Ok(client.query_value(&sql).await?.is_some())
}

/// Tables of the lake that have a column of a subject, or had.
pub async fn concerned(lake: &DeltaLake, tables: &[TableName], subjects: &[Subject]) -> anyhow::Result<Vec<TableName>> {
    let mut concerned = Vec::new();
    for table in tables {
        for subject in subjects.iter().filter(|subject| subject.concerns(table)) {
            if has_or_had(lake, table, &subject.column).await? {
                concerned.push(table.clone());
                break;
            }
        }
    }
    Ok(concerned)
}

/// Whether a table of the lake, or its history, has a column, or has it under another name by now.
async fn has_or_had(lake: &DeltaLake, table: &TableName, column: &str) -> anyhow::Result<bool> {
    let mirror = lake.rows_of(table).await?.map(|rows| rows.version.columns().to_vec()).unwrap_or_default();
    let history = lake.describe_history(table).await?.map(|history| history.columns).unwrap_or_default();
    Ok(mirror.iter().chain(&history).any(|known| known.name == column || known.stored_name() == column))
}

/// Waits until tables of the lake have all that was committed before a position. One that has stopped, or takes no part
/// any more, is not waited for. An error where no pipeline has run with this state folder.
pub async fn wait(config: &Config, tables: &[TableName], lsn: Lsn, limit: Duration) -> anyhow::Result<()> {
    let asked = Instant::now();
    for table in tables {
        let Some(status) = status::load(&config.state_dir)? else {
            anyhow::bail!(
                "no pipeline has run with the state_dir {}, so nobody can tell whether {table} is complete up to {lsn}. \
                 To do: run it with the pipeline's state_dir, or --no-wait, which leaves files alone that may belong to \
                 a commit to come",
                config.state_dir.display()
            );
        };
        if !status.tables.contains_key(table) {
            continue;
        }
        match reached(config, table, lsn, || Some(limit.saturating_sub(asked.elapsed()))).await? {
            Standing::Complete | Standing::Stopped(_) => {}
            Standing::Behind | Standing::Unknown => anyhow::bail!(
                "{table} is not complete up to {lsn} yet, so rows of the subject may still come. To do: let the \
                 pipeline run and see `sooner status`, or --no-wait, which leaves files alone that may belong to a \
                 commit to come"
            ),
        }
    }
    Ok(())
}
