//! Reads tables, columns and keys from the system catalogs. No query takes a lock that somebody else's lock on a table
//! could keep waiting: only catalogs are read, and no function that opens the table.
//!
//! <https://www.postgresql.org/docs/current/catalogs.html>

use sooner_api::{Result, SourceTable};
use sooner_schemas::catalog_facts::AttributeFacts;
use sooner_schemas::{CatalogFacts, Column, DefaultValue, Relation, ReplicaIdentity, TableName};

use crate::catalog_table::{BLOCK_BYTES, CatalogTable};
use crate::client::{Client, Row};
use crate::eligibility::{ACCESS, Access};
use crate::missing::is_constant_of;
use crate::partitions::{self, stands_for_itself};
use crate::pgoutput::RelationShape;
use crate::publication::Members;
use crate::row::{number, text};
use crate::types::Types;

/// Object ids of the partitioned tables above each partition.
const ANCESTORS: &str = "(WITH RECURSIVE above (child, oid) AS ( \
    SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i \
    UNION ALL SELECT above.child, i.inhparent FROM above JOIN pg_catalog.pg_inherits i ON i.inhrelid = above.oid) \
    SELECT child, string_agg(oid::text, ',') AS oids FROM above GROUP BY child)";

/// Size of a table, as the planner estimates, up to which a column's constant default is written to its files in the
/// lake. Others are copied again, beside the stream.
const FILLED_BYTES: u64 = 4 << 30;

/// All permanent tables outside the system schemas that stand for themselves in the publication, ordered by name.
pub async fn tables(client: &mut Client, members: &Members) -> Result<Vec<CatalogTable>> {
    let types = Types::load(client).await?;
    let outside = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'";
    let mut found = load(client, &types, members, outside).await?;
    found.retain(|found| stands_for_itself(found, members.through_roots, |oid| members.names(oid)));
    Ok(found)
}

/// Looks a table up by its object id, as the transaction of this connection sees the catalog; none if it does not
/// exist.
pub async fn table(client: &mut Client, types: &Types, members: &Members, oid: u32) -> Result<Option<CatalogTable>> {
    Ok(load(client, types, members, &format!("c.oid = {oid}")).await?.pop())
}

/// A relation as a message of the stream describes it, and what the catalog says of its table by now, if that still
/// exists.
pub struct Announced {
    /// Its columns and its key are those of the message; nullability, defaults, numbers and the key's order come from
    /// the catalog, where that still has columns of these names.
    pub relation: Relation,
    /// The table; none if it is gone.
    pub table: Option<SourceTable>,
}

/// Looks up the relation that a message of the stream describes; its table is known as `name`.
pub async fn announced(
    client: &mut Client,
    members: &Members,
    name: &TableName,
    shape: &RelationShape,
) -> Result<Announced> {
    let condition = format!("c.oid = {}", shape.oid);
    let mut types = Types::default();
    let mut table = load(client, &types, members, &condition).await?.pop();
    let in_catalog = table.iter().flat_map(|found| &found.table.relation.columns).map(|column| column.type_oid);
    let in_message = shape.columns.iter().map(|column| column.type_oid);
    // Most tables need no look at the types, which costs several queries.
    if !in_catalog.chain(in_message).all(Types::is_fixed) {
        types = Types::load_used(client, shape).await?;
        table = load(client, &types, members, &condition).await?.pop();
    }
    let table = table.map(|found| found.table);
    let known = table.as_ref().map(|table| &table.relation);
    let columns = shape.columns.iter().map(|column| {
        let same = known.and_then(|relation| relation.columns.iter().find(|known| known.name == column.name));
        let column_type = types.resolve(column.type_oid, column.modifier);
        Column {
            name: column.name.clone(),
            nullable: same.is_none_or(|same| same.nullable),
            has_default: same.is_none_or(|same| same.has_default),
            missing: same.and_then(|same| same.missing.clone()),
            generated: same.is_some_and(|same| same.generated),
            // The catalog may be ahead of the stream: the default counts only while the type is the same.
            default: same.filter(|same| same.column_type == column_type).and_then(|same| same.default.clone()),
            number: same.and_then(|same| same.number),
            type_oid: column.type_oid,
            modifier: column.modifier,
            column_type,
            policy: Default::default(),
            mask: None,
        }
    });
    let columns: Vec<_> = columns.collect();
    let key = key_of(shape, known);
    let identity = identity_of(char::from(shape.identity));
    let unsent = known.map(|relation| relation.unsent.clone()).unwrap_or_default();
    let relation = Relation { oid: shape.oid, identity, unsent, ..Relation::new(name.clone(), columns, key) };
    Ok(Announced { relation, table })
}

/// The key, as indexes into the message's columns. The message marks the columns of the identity, which is the key
/// unless it is full; the catalog, which may be ahead of the stream, knows their order, and the key beside a full
/// identity.
fn key_of(shape: &RelationShape, known: Option<&Relation>) -> Vec<usize> {
    let position = |name: &str| shape.columns.iter().position(|column| column.name == name);
    let in_catalog = known.and_then(|relation| {
        let names = relation.key.iter().map(|&index| position(&relation.columns[index].name));
        names.collect::<Option<Vec<_>>>()
    });
    if matches!(shape.identity, b'f' | b'n') {
        return in_catalog.unwrap_or_default();
    }
    let marked: Vec<_> = (0..shape.columns.len()).filter(|&index| shape.columns[index].in_identity).collect();
    let is_marked = |key: &Vec<usize>| key.len() == marked.len() && key.iter().all(|index| marked.contains(index));
    in_catalog.filter(is_marked).unwrap_or(marked)
}

/// The query of all columns of the tables that fulfil a condition, ordered by table and number.
fn columns_of(condition: &str) -> String {
    format!(
        "SELECT c.oid, n.nspname, c.relname, c.relreplident, c.reltuples::bigint, \
                    greatest(c.relpages, 0), c.relfilenode, \
                    a.attname, a.atttypid, a.atttypmod, a.attnotnull OR (t.typtype = 'd' AND t.typnotnull), \
                    (a.atthasdef AND a.attgenerated = '') OR a.atthasmissing, \
                    nullif(array_position(k.indkey::int2[], a.attnum) < k.indnkeyatts, false), \
                    array_position(k.indkey::int2[], a.attnum), a.attnum, pg_catalog.pg_get_expr(d.adbin, 0), \
                    a.xmin, a.atthasmissing, c.relnamespace, coalesce(k.indnkeyatts, 0), a.attgenerated, {ACCESS}, \
                    c.relkind, CASE WHEN c.relispartition THEN up.oids END, c.relnatts, \
                    CASE WHEN c.relkind = 'r' THEN pg_catalog.array_to_string(a.attmissingval, '') END \
             FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid LEFT JOIN {ANCESTORS} up ON up.child = c.oid \
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum AND a.attgenerated = '' \
             LEFT JOIN pg_catalog.pg_index k ON k.indrelid = c.oid \
                  AND CASE c.relreplident WHEN 'i' THEN k.indisreplident ELSE k.indisprimary END \
                  AND k.indimmediate AND k.indisvalid \
             WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' \
               AND a.attnum > 0 AND NOT a.attisdropped AND {condition} \
             ORDER BY n.nspname, c.relname, a.attnum"
    )
}

async fn load(client: &mut Client, types: &Types, members: &Members, condition: &str) -> Result<Vec<CatalogTable>> {
    let rows = client.query(&columns_of(condition)).await?;
    let mut tables: Vec<CatalogTable> = Vec::new();
    let mut keys: Vec<Vec<(u32, usize)>> = Vec::new();
    for row in &rows {
        let oid = number(row, 0)?;
        if tables.last().is_none_or(|found| found.table.relation.oid != oid) {
            let access = Access { unsent_key_columns: number(row, 19)?, ..Access::of_row(row, 21) };
            let ancestors = row.get(28).and_then(Option::as_deref).unwrap_or_default();
            tables.push(CatalogTable {
                table: empty_table(row, oid, members)?,
                access,
                is_partitioned: text(row, 27)? == "p",
                ancestors: ancestors.split(',').filter_map(|oid| oid.parse().ok()).collect(),
            });
            keys.push(Vec::new());
        }
        let (Some(CatalogTable { table, .. }), Some(key)) = (tables.last_mut(), keys.last_mut()) else { continue };
        let attribute = number(row, 14)?;
        let is_sent = match text(row, 20)? {
            "" => members.sends_column(oid, attribute),
            // Virtual columns, which have no stored value, are never sent.
            kind => kind == "s" && members.sends_generated && members.sends_column(oid, attribute),
        };
        if !is_sent {
            table.relation.unsent.push(text(row, 7)?.to_owned());
            continue;
        }
        let (type_oid, modifier) = (number(row, 8)?, number(row, 9)?);
        // Columns that an index merely includes are not part of the key.
        if row.get(12).is_some_and(Option::is_some) {
            key.push((number(row, 13)?, table.relation.columns.len()));
        }
        let column_type = types.resolve(type_oid, modifier);
        let missing = row.get(30).cloned().flatten();
        let missing = missing.filter(|text| table.size_bytes <= FILLED_BYTES && is_constant_of(&column_type, text));
        table.facts.columns.push(AttributeFacts {
            number: attribute,
            version: number(row, 16)?,
            has_missing: text(row, 17)? == "t" && missing.is_none(),
        });
        types.collect_facts(type_oid, &mut table.facts.types);
        let expression = row.get(15).and_then(Option::as_deref).filter(|_| types.tells_default(type_oid));
        table.relation.columns.push(Column {
            name: text(row, 7)?.to_owned(),
            default: expression.and_then(|expression| DefaultValue::of_expression(&column_type, expression)),
            column_type,
            nullable: text(row, 10)? == "f",
            has_default: text(row, 11)? == "t",
            missing,
            generated: !text(row, 20)?.is_empty(),
            number: Some(attribute),
            type_oid,
            modifier,
            policy: Default::default(),
            mask: None,
        });
    }
    for (CatalogTable { table, access, .. }, mut key) in tables.iter_mut().zip(keys) {
        key.sort_unstable();
        access.unsent_key_columns -= key.len().min(access.unsent_key_columns);
        table.relation.key = key.into_iter().map(|(_, column)| column).collect();
    }
    partitions::complete(client, &mut tables).await?;
    Ok(tables)
}

fn empty_table(row: &Row, oid: u32, members: &Members) -> Result<SourceTable> {
    let name = TableName::new(text(row, 1)?, text(row, 2)?);
    let source_name = name.clone();
    let identity = identity_of(text(row, 3)?.chars().next().unwrap_or('d'));
    Ok(SourceTable {
        relation: Relation {
            oid,
            identity,
            last_number: number(row, 29)?,
            ..Relation::new(name, Vec::new(), Vec::new())
        },
        source_name,
        estimated_rows: number::<i64>(row, 4)?.try_into().ok(),
        size_bytes: number::<u64>(row, 5)? * BLOCK_BYTES,
        facts: CatalogFacts {
            file_node: number(row, 6)?,
            publication: members.facts_of(oid, number(row, 18)?),
            ..CatalogFacts::default()
        },
        blocked: None,
    })
}

/// Meaning of `relreplident`.
fn identity_of(letter: char) -> ReplicaIdentity {
    match letter {
        'f' => ReplicaIdentity::Full,
        'i' => ReplicaIdentity::Index,
        'n' => ReplicaIdentity::Nothing,
        _ => ReplicaIdentity::Default,
    }
}
