//! Reads tables, columns, keys and types from the system catalogs.
//!
//! <https://www.postgresql.org/docs/current/catalogs.html>

use std::collections::HashMap;

use sooner_api::{Code, Error, Result, SourceTable};
use sooner_schemas::{Column, ColumnType, DefaultValue, Relation, ReplicaIdentity, Scalar, TableName};

use crate::client::{Client, Row, quote_text};
use crate::pgoutput::RelationShape;

/// The types that have no fixed id: domains, enums, and the arrays of all types.
#[derive(Debug, Default)]
pub struct Types {
    domains: HashMap<u32, (u32, i32)>,
    elements: HashMap<u32, u32>,
    enums: HashMap<u32, Vec<String>>,
}

/// All permanent ordinary tables outside the system schemas, ordered by name.
pub async fn tables(client: &mut Client) -> Result<Vec<SourceTable>> {
    let types = Types::load(client).await?;
    let size = "coalesce(pg_catalog.pg_total_relation_size(c.oid), 0)";
    load(
        client,
        &types,
        size,
        "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'",
    )
    .await
}

/// Looks a table up by its object id, as the transaction of this connection sees the catalog; none if it does not
/// exist.
pub async fn table(client: &mut Client, types: &Types, oid: u32) -> Result<Option<SourceTable>> {
    Ok(load(client, types, "0", &format!("c.oid = {oid}")).await?.pop())
}

/// The relation that a message of the stream describes. Its columns are those of the message; nullability,
/// defaults, numbers and the key come from the catalog, where that still has columns of these names.
pub async fn relation_of(client: &mut Client, shape: &RelationShape) -> Result<Relation> {
    let types = Types::load_used(client, shape).await?;
    let found = load(client, &types, "0", &format!("c.oid = {}", shape.oid)).await?.pop();
    let known = found.as_ref().map(|table| &table.relation);
    let columns = shape.columns.iter().map(|column| {
        let same = known.and_then(|relation| relation.columns.iter().find(|known| known.name == column.name));
        let column_type = types.resolve(column.type_oid, column.modifier);
        Column {
            name: column.name.clone(),
            nullable: same.is_none_or(|same| same.nullable),
            has_default: same.is_none_or(|same| same.has_default),
            // The catalog may be ahead of the stream: the default counts only while the type is the same.
            default: same.filter(|same| same.column_type == column_type).and_then(|same| same.default.clone()),
            number: same.and_then(|same| same.number),
            type_oid: column.type_oid,
            modifier: column.modifier,
            column_type,
        }
    });
    let columns: Vec<_> = columns.collect();
    let position = |name: &str| columns.iter().position(|column| column.name == name);
    let by_name = known.and_then(|relation| {
        let names = relation.key.iter().map(|&index| position(&relation.columns[index].name));
        names.collect::<Option<Vec<_>>>().filter(|key| !key.is_empty())
    });
    let key = match by_name {
        Some(key) => key,
        // The catalog is ahead of the stream. The message marks the identity's columns; a full identity does not
        // reveal the key.
        None if shape.identity == b'f' => Vec::new(),
        None => (0..shape.columns.len()).filter(|&index| shape.columns[index].in_identity).collect(),
    };
    Ok(Relation {
        oid: shape.oid,
        name: TableName::new(&shape.schema, &shape.table),
        columns,
        key,
        identity: identity_of(char::from(shape.identity)),
    })
}

impl Types {
    /// Loads all domains, arrays and enum labels from the catalog.
    pub async fn load(client: &mut Client) -> Result<Types> {
        Types::select(client, "", "").await
    }

    /// Loads those that a relation uses, in the message or in the catalog: each table has types of its own, so all of
    /// them are many where there are many tables.
    async fn load_used(client: &mut Client, shape: &RelationShape) -> Result<Types> {
        let named: Vec<_> = shape.columns.iter().map(|column| column.type_oid.to_string()).collect();
        let used = format!(
            "WITH RECURSIVE used AS ( \
                 SELECT unnest('{{{}}}'::oid[]) AS oid \
                 UNION SELECT atttypid FROM pg_catalog.pg_attribute WHERE attrelid = {} AND attnum > 0 \
                 UNION SELECT part.oid FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid \
                       CROSS JOIN LATERAL (VALUES (t.typbasetype), (t.typelem)) AS part (oid) WHERE part.oid <> 0) ",
            named.join(","),
            shape.oid
        );
        Types::select(client, &used, "IN (SELECT oid FROM used)").await
    }

    /// Loads the types whose object ids fulfil a condition, if there is one.
    async fn select(client: &mut Client, with: &str, condition: &str) -> Result<Types> {
        let mut types = Types::default();
        let of = |column: &str| if condition.is_empty() { "true".to_owned() } else { format!("{column} {condition}") };
        let rows = client
            .query(&format!(
                "{with}SELECT oid, typtype, typelem, typbasetype, typtypmod FROM pg_catalog.pg_type WHERE {} AND \
                 (typtype = 'd' OR (typelem <> 0 AND typcategory = 'A' AND typlen = -1 AND typdelim = ','))",
                of("oid")
            ))
            .await?;
        for row in &rows {
            let oid = number(row, 0)?;
            if text(row, 1)? == "d" {
                types.domains.insert(oid, (number(row, 3)?, number(row, 4)?));
            } else {
                types.elements.insert(oid, number(row, 2)?);
            }
        }
        let labels = client
            .query(&format!(
                "{with}SELECT enumtypid, enumlabel FROM pg_catalog.pg_enum WHERE {} ORDER BY enumtypid, enumsortorder",
                of("enumtypid")
            ))
            .await?;
        for row in &labels {
            types.enums.entry(number(row, 0)?).or_default().push(text(row, 1)?.to_owned());
        }
        Ok(types)
    }

    /// Column type for a type id and modifier. A domain counts as its base type.
    pub fn resolve(&self, oid: u32, modifier: i32) -> ColumnType {
        let (oid, modifier) = self.without_domain(oid, modifier);
        match self.elements.get(&oid) {
            Some(&element) => {
                let (element, modifier) = self.without_domain(element, modifier);
                ColumnType::Array(self.scalar(element, modifier))
            }
            None => ColumnType::Scalar(self.scalar(oid, modifier)),
        }
    }

    /// Whether the schemas declare defaults for columns of this type: as in Debezium, not for domains, `name` and
    /// `"char"`.
    fn tells_default(&self, oid: u32) -> bool {
        !self.domains.contains_key(&oid) && !matches!(oid, 18 | 19)
    }

    fn without_domain(&self, mut oid: u32, mut modifier: i32) -> (u32, i32) {
        while let Some(&(base, base_modifier)) = self.domains.get(&oid) {
            (oid, modifier) = (base, if base_modifier == -1 { modifier } else { base_modifier });
        }
        (oid, modifier)
    }

    /// Scalar for a type id and modifier; the ids are those of `pg_type.dat`.
    fn scalar(&self, oid: u32, modifier: i32) -> Scalar {
        match oid {
            16 => Scalar::Bool,
            21 => Scalar::Int2,
            23 => Scalar::Int4,
            20 => Scalar::Int8,
            700 => Scalar::Float4,
            701 => Scalar::Float8,
            1700 => numeric(modifier),
            18 | 19 | 25 | 1042 | 1043 => Scalar::Text,
            17 => Scalar::Bytea,
            1082 => Scalar::Date,
            1083 => Scalar::Time(fraction_digits(modifier)),
            1114 => Scalar::Timestamp(fraction_digits(modifier)),
            1184 => Scalar::Timestamptz(fraction_digits(modifier)),
            2950 => Scalar::Uuid,
            114 | 3802 => Scalar::Json,
            other => self.enums.get(&other).map_or(Scalar::Other, |labels| Scalar::Enum(labels.clone())),
        }
    }
}

/// Decodes a numeric's modifier: 4 more than a number with the precision in its upper and the scale in its lower
/// half; the scale has 11 bits, signed.
fn numeric(modifier: i32) -> Scalar {
    if modifier < 4 {
        return Scalar::Numeric;
    }
    let packed = modifier - 4;
    let precision = (packed >> 16) as u16;
    let scale = ((packed & 0x7FF) ^ 0x400) - 0x400;
    match u16::try_from(scale) {
        Ok(scale) if scale <= precision => Scalar::Decimal { precision, scale },
        _ => Scalar::Numeric,
    }
}

fn fraction_digits(modifier: i32) -> u8 {
    u8::try_from(modifier).ok().filter(|&digits| digits <= 6).unwrap_or(6)
}

async fn load(client: &mut Client, types: &Types, size: &str, condition: &str) -> Result<Vec<SourceTable>> {
    let rows = client
        .query(&format!(
            "SELECT c.oid, n.nspname, c.relname, c.relreplident, c.reltuples::bigint, \
                    {size}, coalesce(pg_catalog.pg_relation_filenode(c.oid), 0), \
                    a.attname, a.atttypid, a.atttypmod, a.attnotnull OR (t.typtype = 'd' AND t.typnotnull), \
                    a.atthasdef OR a.atthasmissing, \
                    nullif(array_position(k.indkey::int2[], a.attnum) < k.indnkeyatts, false), \
                    array_position(k.indkey::int2[], a.attnum), a.attnum, pg_catalog.pg_get_expr(d.adbin, d.adrelid) \
             FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid \
             JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
             LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum \
             LEFT JOIN pg_catalog.pg_index k ON k.indrelid = c.oid \
                  AND CASE c.relreplident WHEN 'i' THEN k.indisreplident ELSE k.indisprimary END \
                  AND k.indimmediate AND k.indisvalid \
             WHERE c.relkind = 'r' AND c.relpersistence = 'p' \
               AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND {condition} \
             ORDER BY n.nspname, c.relname, a.attnum"
        ))
        .await?;
    let mut tables: Vec<SourceTable> = Vec::new();
    let mut keys: Vec<Vec<(u32, usize)>> = Vec::new();
    for row in &rows {
        let oid = number(row, 0)?;
        if tables.last().is_none_or(|table| table.relation.oid != oid) {
            tables.push(empty_table(row, oid)?);
            keys.push(Vec::new());
        }
        let (Some(table), Some(key)) = (tables.last_mut(), keys.last_mut()) else { continue };
        let (type_oid, modifier) = (number(row, 8)?, number(row, 9)?);
        // Columns that an index merely includes are not part of the key.
        if row.get(12).is_some_and(Option::is_some) {
            key.push((number(row, 13)?, table.relation.columns.len()));
        }
        let column_type = types.resolve(type_oid, modifier);
        let expression = row.get(15).and_then(Option::as_deref).filter(|_| types.tells_default(type_oid));
        table.relation.columns.push(Column {
            name: text(row, 7)?.to_owned(),
            default: expression.and_then(|expression| DefaultValue::of_expression(&column_type, expression)),
            column_type,
            nullable: text(row, 10)? == "f",
            has_default: text(row, 11)? == "t",
            number: Some(number(row, 14)?),
            type_oid,
            modifier,
        });
    }
    for (table, mut key) in tables.iter_mut().zip(keys) {
        key.sort_unstable();
        table.relation.key = key.into_iter().map(|(_, column)| column).collect();
    }
    Ok(tables)
}

fn empty_table(row: &Row, oid: u32) -> Result<SourceTable> {
    let name = TableName::new(text(row, 1)?, text(row, 2)?);
    let identity = identity_of(text(row, 3)?.chars().next().unwrap_or('d'));
    Ok(SourceTable {
        relation: Relation { oid, identity, ..Relation::new(name, Vec::new(), Vec::new()) },
        estimated_rows: number::<i64>(row, 4)?.try_into().ok(),
        size_bytes: number(row, 5)?,
        file_node: number(row, 6)?,
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

/// Those of `tables` that the catalog no longer has or that the publication does not contain, each with the reason.
///
/// Reads catalogs only: the view `pg_publication_tables` would wait for any session that has locked a table.
pub async fn missing_tables(
    client: &mut Client,
    publication: &str,
    tables: &[TableName],
) -> Result<Vec<(TableName, Error)>> {
    let by_schema = if client.server_version() >= 150_000 {
        "OR EXISTS (SELECT FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = n.oid)"
    } else {
        ""
    };
    let rows = client
        .query(&format!(
            "SELECT n.nspname, c.relname, EXISTS (\
                SELECT FROM pg_catalog.pg_publication p WHERE p.pubname = {} AND (p.puballtables OR EXISTS (\
                    SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = c.oid) {by_schema})) \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND c.relpersistence = 'p'",
            quote_text(publication)
        ))
        .await?;
    let mut published = HashMap::new();
    for row in &rows {
        published.insert(TableName::new(text(row, 0)?, text(row, 1)?), text(row, 2)? == "t");
    }
    let missing = tables.iter().filter_map(|table| {
        let what = format!("cannot follow {table}");
        let again = format!("then `sooner resume {table}`, which copies the table again");
        let error = match published.get(table) {
            None => {
                let why = "the table was dropped or renamed at the source";
                let remedy = format!("leave it out (exclude); or create it again, {again}");
                Error::operator(Code::TableReplaced, what, why, remedy)
            }
            Some(false) => {
                let why = format!("the publication '{publication}' does not contain the table");
                let remedy = format!("add it to the publication, {again}");
                Error::operator(Code::TableUnpublished, what, why, remedy)
            }
            Some(true) => return None,
        };
        Some((table.clone(), error))
    });
    Ok(missing.collect())
}

/// Text of a column of a query's row; a protocol error if it is NULL or missing.
pub(crate) fn text(row: &Row, index: usize) -> Result<&str> {
    row.get(index).and_then(Option::as_deref).ok_or_else(|| {
        crate::errors::protocol("cannot understand Postgres' catalog", format!("column {index} of a row is missing"))
    })
}

/// Number in a column of a query's row; a protocol error if it is NULL, missing or not a number.
pub(crate) fn number<N: std::str::FromStr>(row: &Row, index: usize) -> Result<N> {
    let text = text(row, index)?;
    text.parse().map_err(|_| {
        crate::errors::protocol("cannot understand Postgres' catalog", format!("'{text}' is not the expected number"))
    })
}
