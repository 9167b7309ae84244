//! The publication, which determines the tables that the stream carries.

use sooner_api::{Code, Error, Result, failpoint};
use sooner_schemas::TableName;

use crate::client::{Client, quote_name, quote_text};

/// A publication, as the catalog describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Tables that it contains.
    pub tables: Vec<TableName>,
    /// Kinds of changes that it does not publish: `insert`, `update`, `delete`, `truncate`.
    pub left_out: Vec<&'static str>,
}

/// Looks up a publication by name; none if it does not exist.
pub async fn find(client: &mut Client, name: &str) -> Result<Option<Publication>> {
    let quoted = quote_text(name);
    let found = client
        .query(&format!(
            "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_catalog.pg_publication WHERE pubname = {quoted}"
        ))
        .await?;
    let Some(flags) = found.first() else {
        return Ok(None);
    };
    let kinds = ["insert", "update", "delete", "truncate"];
    let left_out = kinds.into_iter().zip(flags).filter(|(_, flag)| flag.as_deref() != Some("t"));
    let left_out = left_out.map(|(kind, _)| kind).collect();
    let rows = client
        .query(&format!(
            "SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables WHERE pubname = {quoted} ORDER BY 1, 2"
        ))
        .await?;
    let tables = rows.iter().map(|row| {
        let column = |index: usize| crate::catalog::text(row, index);
        Ok(TableName::new(column(0)?, column(1)?))
    });
    Ok(Some(Publication { tables: tables.collect::<Result<_>>()?, left_out }))
}

/// Creates the publication if there is none. Otherwise checks that it contains these tables, publishes all kinds of
/// changes, and has neither row filters nor column lists; if not, the error tells the operator what to change.
pub async fn ensure(client: &mut Client, name: &str, tables: &[TableName]) -> Result<()> {
    let Some(found) = find(client, name).await? else {
        client.query(&create_statement(name, tables)).await?;
        failpoint("publication_created");
        tracing::info!(publication = name, tables = tables.len(), "created the publication");
        return Ok(());
    };
    if !found.left_out.is_empty() {
        return Err(Error::operator(
            Code::PublicationUnusable,
            format!("the publication '{name}' cannot be used"),
            format!("it leaves out: {}", found.left_out.join(", ")),
            format!("ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')", quote_name(name)),
        ));
    }
    if client.server_version() >= 150_000 {
        refuse_filters(client, name).await?;
    }
    let missing: Vec<_> = tables.iter().filter(|table| !found.tables.contains(table)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::operator(
        Code::PublicationUnusable,
        format!("the publication '{name}' cannot be used"),
        format!("it lacks {}", missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        add_statement(name, &missing),
    ))
}

/// Refuses row filters and column lists: with them, rows would stay in the lake that the stream never removes.
async fn refuse_filters(client: &mut Client, name: &str) -> Result<()> {
    let sql = format!(
        "SELECT string_agg(r.prrelid::regclass::text, ', ') FROM pg_catalog.pg_publication_rel r \
         JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid \
         WHERE p.pubname = {} AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)",
        quote_text(name)
    );
    match client.query_value(&sql).await? {
        None => Ok(()),
        Some(tables) => Err(Error::operator(
            Code::PublicationUnusable,
            format!("the publication '{name}' cannot be used"),
            format!("it has a row filter or a column list for {tables}, so the lake would differ from the source"),
            "give the pipeline a publication without them",
        )),
    }
}

/// SQL statement that creates a publication of these tables.
pub fn create_statement(name: &str, tables: &[TableName]) -> String {
    format!("CREATE PUBLICATION {} FOR TABLE {}", quote_name(name), table_list(tables))
}

/// SQL statement that adds these tables to a publication.
pub fn add_statement(name: &str, tables: &[TableName]) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {}", quote_name(name), table_list(tables))
}

/// Quotes a table's schema-qualified name for use in SQL.
pub fn quote_table(table: &TableName) -> String {
    format!("{}.{}", quote_name(&table.schema), quote_name(&table.table))
}

fn table_list(tables: &[TableName]) -> String {
    tables.iter().map(quote_table).collect::<Vec<_>>().join(", ")
}
