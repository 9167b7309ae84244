//! One row, looked up by its key, for whoever asks why the lake does not have it as it is. Enters: a table's name and
//! the texts of a key; leaves: the row's values as the stream would send them, and where the server's log ends. Reads
//! one row through the key's index, in a short transaction, and takes no lock beyond that.

use sooner_api::{Code, Error, Result, SourceTable};
use sooner_schemas::{Column, Lsn, Relation, TableName};

use crate::catalog;
use crate::client::{Client, Row, quote_name, quote_text};
use crate::publication::{Members, Selection, quote_table};
use crate::row::{number, text};
use crate::types::Types;

/// How long the server may work on a statement here.
const STATEMENT_LIMIT: &str = "10s";

/// A table in which rows are looked up.
#[derive(Clone, Debug)]
pub struct LookupTable {
    /// The table, with the columns that Postgres sends.
    pub table: SourceTable,
    /// SQL condition of the publication: rows that do not fulfil it do not exist for the stream.
    pub filter: Option<String>,
}

/// A row as it was at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowNow {
    /// Texts of its key in Postgres' own form, in the order of the key.
    pub key: Vec<String>,
    /// Texts of its values, in the order of the relation's columns; none if there is no such row.
    pub values: Option<Vec<Option<String>>>,
    /// Whether the publication carries the row; true if there is none.
    pub is_published: bool,
    /// The transaction that wrote it last (`xmin`); none if there is no such row.
    pub xmin: Option<u32>,
    /// When that transaction was committed, in microseconds since 1970; none unless `track_commit_timestamp` is on.
    pub committed_micros: Option<i64>,
    /// A position of the server's log before which everything lies that the row's values depend on.
    pub end_lsn: Lsn,
}

/// Looks a table up by its object id, where that is known, or by its name; none if it does not exist.
pub async fn find_table(
    client: &mut Client,
    publication: &str,
    through_roots: bool,
    name: &TableName,
    oid: Option<u32>,
) -> Result<Option<LookupTable>> {
    client.query(&format!("SET statement_timeout = '{STATEMENT_LIMIT}'")).await?;
    let oid = match oid {
        Some(oid) => oid,
        None => match oid_of(client, name).await? {
            Some(oid) => oid,
            None => return Ok(None),
        },
    };
    let members = Members::load(client, publication, through_roots).await?;
    let types = Types::load(client).await?;
    let Some(found) = catalog::table(client, &types, &members, oid).await? else { return Ok(None) };
    let mut table = found.table;
    table.relation.name = name.clone();
    let selection = Selection::load(client, table.facts.publication.as_ref()).await?;
    Ok(Some(LookupTable { table, filter: selection.and_then(|selection| selection.filter) }))
}

async fn oid_of(client: &mut Client, name: &TableName) -> Result<Option<u32>> {
    let sql = format!(
        "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {} AND c.relkind IN ('r', 'p')",
        quote_text(&name.schema),
        quote_text(&name.table)
    );
    Ok(client.query_value(&sql).await?.and_then(|oid| oid.parse().ok()))
}

impl LookupTable {
    /// Looks a row up by the texts of its key, in the order of the key. Texts that are no values of the key's columns
    /// are an operator error with the code [`Code::ValueUnholdable`].
    pub async fn row(&self, client: &mut Client, key: &[String]) -> Result<RowNow> {
        client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let looked_up = self.row_in_transaction(client, key).await;
        // Also ends a transaction in which a statement has failed.
        client.query("ROLLBACK").await?;
        looked_up
    }

    async fn row_in_transaction(&self, client: &mut Client, key: &[String]) -> Result<RowNow> {
        let found = client.query(&self.select(key)).await.map_err(|error| self.no_key(error))?;
        // Asked for after the snapshot, so that all that it sees was written before.
        let end = client
            .query_value(
                "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                        ELSE pg_catalog.pg_current_wal_insert_lsn() END",
            )
            .await?;
        let end_lsn = end.and_then(|lsn| lsn.parse().ok()).unwrap_or_default();
        match found.first() {
            Some(row) => self.found(row, end_lsn),
            None => {
                let key = self.canonical(client, key).await?;
                let absent =
                    RowNow { key, values: None, is_published: true, xmin: None, committed_micros: None, end_lsn };
                Ok(absent)
            }
        }
    }

    fn found(&self, row: &Row, end_lsn: Lsn) -> Result<RowNow> {
        let values: Vec<_> = row.iter().skip(3).cloned().collect();
        let relation = &self.table.relation;
        let key = relation.key.iter().map(|&index| values.get(index).cloned().flatten().unwrap_or_default()).collect();
        Ok(RowNow {
            key,
            values: Some(values),
            is_published: text(row, 2)? == "t",
            xmin: Some(number(row, 0)?),
            committed_micros: row.get(1).cloned().flatten().and_then(|micros| micros.parse().ok()),
            end_lsn,
        })
    }

    /// The statement that reads the row. Values come in the form of their types' output, as the stream sends them.
    fn select(&self, key: &[String]) -> String {
        let relation = &self.table.relation;
        let columns: String = relation.columns.iter().map(|column| format!(", {}", quote_name(&column.name))).collect();
        let name = quote_table(&self.table.source_name);
        let from = if self.table.facts.partitions.is_some() { name } else { format!("ONLY {name}") };
        let conditions = key_columns(relation).zip(key);
        let conditions: Vec<_> =
            conditions.map(|(column, text)| format!("{} = {}", quote_name(&column.name), quote_text(text))).collect();
        let is_published = self.filter.as_ref().map_or("true".to_owned(), |filter| format!("({filter}) IS TRUE"));
        format!(
            "SELECT xmin, CASE WHEN pg_catalog.current_setting('track_commit_timestamp')::bool THEN \
             (extract(epoch FROM pg_catalog.pg_xact_commit_timestamp(xmin)) * 1000000)::bigint END, \
             {is_published}{columns} FROM {from} WHERE {}",
            conditions.join(" AND ")
        )
    }

    /// The texts of a key that no row has, in Postgres' own form. What the columns cannot hold as it is, such as a text
    /// that is too long, is an error.
    async fn canonical(&self, client: &mut Client, key: &[String]) -> Result<Vec<String>> {
        let types: Vec<_> = key_columns(&self.table.relation)
            .flat_map(|column| {
                let name = |modifier| format!("pg_catalog.format_type({}, {modifier})", column.type_oid);
                [name(column.modifier), name(-1)]
            })
            .collect();
        let types = client.query(&format!("SELECT {}", types.join(", "))).await?.into_iter().next().unwrap_or_default();
        let types: Vec<_> = types.into_iter().flatten().collect();
        let mut texts = Vec::with_capacity(key.len());
        let mut is_same = Vec::with_capacity(key.len());
        for (text, types) in key.iter().zip(types.chunks(2)) {
            let [exact, plain] = types else { continue };
            let literal = quote_text(text);
            texts.push(format!("({literal}::{plain})::{exact}"));
            is_same.push(format!("({literal}::{plain})::{exact} = {literal}::{plain}"));
        }
        let sql = format!("SELECT {}, {}", is_same.join(" AND "), texts.join(", "));
        let row = client.query(&sql).await.map_err(|error| self.no_key(error))?;
        let mut row = row.into_iter().next().unwrap_or_default().into_iter();
        if row.next().flatten().as_deref() != Some("t") {
            return Err(self.no_key(Error::internal("", "its columns cannot hold it")));
        }
        Ok(row.map(Option::unwrap_or_default).collect())
    }

    /// The error of a key that its columns cannot hold; others stay as they are.
    fn no_key(&self, error: Error) -> Error {
        // SQLSTATE class 22: data exceptions, such as texts that are no numbers.
        if error.code != Code::Internal && !error.why.contains("SQLSTATE 22") {
            return error;
        }
        let columns: Vec<_> = key_columns(&self.table.relation).map(|column| column.name.as_str()).collect();
        let what = format!("cannot look up this key in {}", self.table.name());
        let remedy = format!("write a value for each of the key's columns: {}", columns.join(", "));
        Error::operator(Code::ValueUnholdable, what, error.why, remedy)
    }
}

/// Columns of a relation's key, in the order of the key.
fn key_columns(relation: &Relation) -> impl Iterator<Item = &Column> {
    relation.key.iter().filter_map(|&index| relation.columns.get(index))
}

#[cfg(test)]
mod tests {
    use sooner_schemas::{ColumnType, Scalar};

    use super::*;

    #[test]
    fn a_row_is_read_by_its_key_and_told_apart_from_those_that_are_not_published() {
        let column = |name: &str| Column::new(name, ColumnType::Scalar(Scalar::Text));
        let relation =
            Relation::new(TableName::new("public", "t"), vec![column("v"), column("a"), column("B")], vec![2, 1]);
        let mut lookup = LookupTable { table: SourceTable::new(relation), filter: None };
        let sql = lookup.select(&["it's".to_owned(), "2".to_owned()]);
        assert!(
            sql.contains(r#"true, "v", "a", "B" FROM ONLY "public"."t" WHERE "B" = 'it''s' AND "a" = '2'"#),
            "{sql}"
        );
        lookup.filter = Some("v > 1".to_owned());
        assert!(lookup.select(&[]).contains("(v > 1) IS TRUE"));
    }
}
