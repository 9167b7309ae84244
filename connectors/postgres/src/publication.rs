//! The publication, which determines the tables that the stream carries.

use std::collections::HashMap;

use sooner_api::{Code, Error, Result, failpoint};
use sooner_schemas::TableName;
use sooner_schemas::catalog_facts::{CatalogRow, PublicationFacts};

use crate::client::{Client, Row, quote_name, quote_text};
use crate::row::{number, text};

/// SQLSTATE of a lock that was not granted in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// The version since which publications carry parts of tables, and all tables of schemas.
const SELECTS: u32 = 150_000;
/// What the publication's comment says if sooner created it: only then are tables added to it.
const OWN_COMMENT: &str = "created by sooner, which adds tables to it";

/// Which tables a publication carries, and by which rows of the catalog.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// The publication; none if it does not exist.
    publication: Option<CatalogRow>,
    for_all_tables: bool,
    tables: HashMap<u32, CatalogRow>,
    schemas: HashMap<u32, CatalogRow>,
    /// Numbers of the columns that are sent, of tables that have a column list.
    column_lists: HashMap<u32, Vec<i16>>,
    /// Changes of partitions are published as those of the partitioned table (`publish_via_partition_root`).
    pub through_roots: bool,
    /// Stored generated columns are sent, too (`publish_generated_columns = stored`, since 18).
    pub sends_generated: bool,
}

impl Members {
    /// No table is known to be carried, but one is as if it had been selected so.
    pub fn of_one(sends_generated: bool, table: u32, selection: &Selection) -> Members {
        let column_lists = selection.columns.iter().map(|columns| (table, columns.clone())).collect();
        Members { sends_generated, column_lists, ..Members::default() }
    }

    /// Looks up what a publication carries; nothing if it does not exist, and `through_roots` says how it will.
    pub async fn load(client: &mut Client, name: &str, through_roots: bool) -> Result<Members> {
        let version = client.server_version();
        let generated = if version >= 180_000 { "p.pubgencols = 's'" } else { "false" };
        let of = format!("FROM pg_catalog.pg_publication p WHERE p.pubname = {}", quote_text(name));
        let found =
            client.query(&format!("SELECT p.oid, p.xmin, p.puballtables, {generated}, p.pubviaroot {of}")).await?;
        let Some(row) = found.first() else { return Ok(Members { through_roots, ..Members::default() }) };
        let mut members = Members {
            publication: Some(CatalogRow { oid: number(row, 0)?, version: number(row, 1)? }),
            for_all_tables: text(row, 2)? == "t",
            sends_generated: text(row, 3)? == "t",
            through_roots: text(row, 4)? == "t",
            ..Members::default()
        };
        let publication = format!("(SELECT p.oid {of})");
        let list = if version >= SELECTS { "prattrs" } else { "NULL" };
        let by_table = format!(
            "SELECT prrelid, oid, xmin, {list} FROM pg_catalog.pg_publication_rel WHERE prpubid = {publication}"
        );
        let tables = client.query(&by_table).await?;
        members.tables = by_object(&tables)?;
        for row in &tables {
            if let Some(numbers) = row.get(3).and_then(Option::as_deref) {
                members.column_lists.insert(number(row, 0)?, numbers_of(numbers));
            }
        }
        if version >= SELECTS {
            let by_schema = format!(
                "SELECT pnnspid, oid, xmin FROM pg_catalog.pg_publication_namespace WHERE pnpubid = {publication}"
            );
            members.schemas = by_object(&client.query(&by_schema).await?)?;
        }
        Ok(members)
    }

    /// Whether it carries a table by its own name, or all there are.
    pub fn names(&self, table: u32) -> bool {
        self.for_all_tables || self.tables.contains_key(&table)
    }

    /// Whether a column of a table is sent, where the table is.
    pub fn sends_column(&self, table: u32, number: i16) -> bool {
        self.column_lists.get(&table).is_none_or(|columns| columns.contains(&number))
    }

    /// By which rows a table is carried, given its object id and that of its schema; none if it is not.
    pub fn facts_of(&self, table: u32, schema: u32) -> Option<PublicationFacts> {
        let publication = self.publication?;
        let members: Vec<_> =
            [self.tables.get(&table), self.schemas.get(&schema)].into_iter().flatten().copied().collect();
        (self.for_all_tables || !members.is_empty()).then_some(PublicationFacts { publication, members })
    }
}

/// What a publication carries of a table: all of it, unless it says otherwise.
///
/// <https://www.postgresql.org/docs/current/logical-replication-row-filter.html>
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// SQL condition on its rows.
    pub filter: Option<String>,
    /// Numbers of its columns.
    pub columns: Option<Vec<i16>>,
}

impl Selection {
    /// Looks up what is carried of a table that is published by these rows of the catalog; none if one of them is gone,
    /// so that the table is published otherwise by now. Takes a lock on the table if there is a filter.
    pub async fn load(client: &mut Client, facts: Option<&PublicationFacts>) -> Result<Option<Selection>> {
        // Where a schema is published, all of its tables are, whole.
        let Some([member]) = facts.map(|facts| facts.members.as_slice()) else { return Ok(Some(Selection::default())) };
        if client.server_version() < SELECTS {
            return Ok(Some(Selection::default()));
        }
        let oid = member.oid;
        let sql = format!(
            "SELECT pg_catalog.pg_get_expr(prqual, prrelid), prattrs \
             FROM pg_catalog.pg_publication_rel WHERE oid = {oid} \
             UNION ALL SELECT NULL, NULL FROM pg_catalog.pg_publication_namespace WHERE oid = {oid}"
        );
        let found = client.query(&sql).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let value = |index: usize| row.get(index).cloned().flatten();
        Ok(Some(Selection { filter: value(0), columns: value(1).map(|numbers| numbers_of(&numbers)) }))
    }
}

/// Reads an `int2vector`.
fn numbers_of(text: &str) -> Vec<i16> {
    text.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
}

fn by_object(rows: &[Row]) -> Result<HashMap<u32, CatalogRow>> {
    let entry = |row: &Row| Ok((number(row, 0)?, CatalogRow { oid: number(row, 1)?, version: number(row, 2)? }));
    rows.iter().map(entry).collect()
}

/// What became of tables that were to be published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The publication is not what it was.
    pub changed: bool,
    /// Some tables could not be added now, such as one that is locked: it may be tried again.
    pub pending: bool,
}

/// Creates the publication of these tables if there is none; otherwise adds them to it, if sooner created it. A
/// publication that leaves out kinds of changes is an error that tells the operator what to change.
pub async fn ensure(client: &mut Client, name: &str, tables: &[TableName], through_roots: bool) -> Result<Published> {
    let mut published = Published::default();
    let is_own = match find(client, name).await? {
        Some(found) => {
            found.check(name)?;
            found.is_own
        }
        None => {
            published.changed = true;
            if create(client, name, tables, through_roots).await? {
                return Ok(published);
            }
            true
        }
    };
    for table in tables.iter().filter(|_| is_own) {
        match client.query(&add_statement(name, std::slice::from_ref(table))).await {
            Ok(_) => {
                tracing::info!(publication = name, %table, "added a table to the publication");
                published.changed = true;
            }
            // It waits, and its error says the statement.
            Err(error) => {
                tracing::debug!(publication = name, %table, %error, "could not add a table to the publication");
                published.pending = true;
            }
        }
    }
    Ok(published)
}

/// Takes tables out of a publication that sooner created: those that have lost their key, so that Postgres refuses the
/// application's UPDATE and DELETE of them. They wait for another one.
pub async fn withdraw(client: &mut Client, name: &str, tables: &[&TableName]) -> Result<()> {
    if tables.is_empty() || !find(client, name).await?.is_some_and(|found| found.is_own) {
        return Ok(());
    }
    for table in tables {
        let statement = format!("ALTER PUBLICATION {} DROP TABLE {}", quote_name(name), quote_table(table));
        match client.query(&statement).await {
            Ok(_) => tracing::warn!(publication = name, %table, "it has lost its key: it is not published any more"),
            Err(error) => tracing::warn!(publication = name, %table, %error, "could not stop publishing it"),
        }
    }
    Ok(())
}

/// Creates the publication; returns whether it has the tables. It has none if somebody has locked one of them.
async fn create(client: &mut Client, name: &str, tables: &[TableName], through_roots: bool) -> Result<bool> {
    let with_tables = match client.query(&create_statement(name, tables, through_roots)).await {
        Ok(_) => true,
        Err(error) if error.why.contains(LOCK_NOT_AVAILABLE) => {
            client.query(&create_statement(name, &[], through_roots)).await?;
            false
        }
        Err(error) => return Err(error),
    };
    let comment = format!("COMMENT ON PUBLICATION {} IS {}", quote_name(name), quote_text(OWN_COMMENT));
    client.query(&comment).await?;
    failpoint("publication_created");
    tracing::info!(publication = name, tables = tables.len(), "created the publication");
    Ok(with_tables)
}

/// Fails if there is no publication, which the role could not create, since it owns none of these tables.
pub async fn expect(
    client: &mut Client,
    name: &str,
    tables: impl Iterator<Item = &TableName>,
    through_roots: bool,
) -> Result<()> {
    if find(client, name).await?.is_some() {
        return Ok(());
    }
    Err(Error::operator(
        Code::PublicationUnusable,
        format!("the publication '{name}' does not exist"),
        "the role owns none of the tables, so it cannot create one for them",
        format!(
            "let their owner run: {};",
            create_statement(name, &tables.cloned().collect::<Vec<_>>(), through_roots)
        ),
    ))
}

/// A publication, as the catalog describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Kinds of changes that it does not publish: `insert`, `update`, `delete`, `truncate`.
    pub left_out: Vec<&'static str>,
    /// Whether sooner created it.
    pub is_own: bool,
}

/// Looks up a publication by name; none if it does not exist.
pub async fn find(client: &mut Client, name: &str) -> Result<Option<Publication>> {
    let sql = format!(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pg_catalog.obj_description(oid, 'pg_publication') \
         FROM pg_catalog.pg_publication WHERE pubname = {}",
        quote_text(name)
    );
    let found = client.query(&sql).await?;
    let Some(row) = found.first() else { return Ok(None) };
    let kinds = ["insert", "update", "delete", "truncate"];
    let left_out = kinds.into_iter().zip(row).filter(|(_, flag)| flag.as_deref() != Some("t"));
    let is_own = row.get(4).and_then(Option::as_deref) == Some(OWN_COMMENT);
    Ok(Some(Publication { left_out: left_out.map(|(kind, _)| kind).collect(), is_own }))
}

impl Publication {
    /// Refuses one that leaves out kinds of changes.
    pub fn check(&self, name: &str) -> Result<()> {
        if !self.left_out.is_empty() {
            return Err(Error::operator(
                Code::PublicationUnusable,
                format!("the publication '{name}' cannot be used"),
                format!("it leaves out: {}", self.left_out.join(", ")),
                format!("ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate')", quote_name(name)),
            ));
        }
        Ok(())
    }
}

/// SQL statement that creates a publication of these tables, which carries partitions as parts of what they are parts
/// of, or as tables of their own.
pub fn create_statement(name: &str, tables: &[TableName], through_roots: bool) -> String {
    let mut statement = format!("CREATE PUBLICATION {}", quote_name(name));
    if !tables.is_empty() {
        statement.push_str(&format!(" FOR TABLE {}", table_list(tables)));
    }
    if through_roots {
        statement.push_str(" WITH (publish_via_partition_root = true)");
    }
    statement
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
