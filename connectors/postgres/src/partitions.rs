//! Partitioned tables, each of which is one table here: their partitions, which hold the rows.
//!
//! <https://www.postgresql.org/docs/current/ddl-partitioning.html>

use std::collections::{BTreeMap, HashMap};

use sooner_api::Result;
use sooner_schemas::TableName;
use sooner_schemas::catalog_facts::PartitionFacts;

use crate::catalog_table::{BLOCK_BYTES, CatalogTable};
use crate::client::Client;
use crate::row::{number, text};

/// Whether the statement that made the table with the system column `s` also made it the partition `i`.
const IS_BORN: &str = "(i.xmin = s.xmin AND i.cmin::text::bigint - s.cmin::text::bigint <= 3)";

/// What is below the partitioned tables of these object ids, at any depth. A table is born a partition if the statement
/// that made it made it one, and so it was with those above it: CREATE TABLE … PARTITION OF takes two commands of its
/// transaction for that, CREATE TABLE and then ATTACH PARTITION at least five (versions 15 and 18).
fn tree(roots: &str) -> String {
    let child = "pg_catalog.pg_inherits i JOIN pg_catalog.pg_attribute s ON s.attrelid = i.inhrelid AND s.attnum = -1";
    format!(
        "WITH RECURSIVE tree (root, oid, is_born, attached) AS ( \
             SELECT i.inhparent, i.inhrelid, {IS_BORN}, i.xmin::text FROM {child} WHERE i.inhparent IN ({roots}) \
             UNION ALL \
             SELECT tree.root, i.inhrelid, tree.is_born AND {IS_BORN}, tree.attached || '/' || i.xmin FROM {child} \
             JOIN tree ON tree.oid = i.inhparent) "
    )
}

/// Completes what is known of partitioned tables: their partitions, and what is the sum of these.
pub async fn complete(client: &mut Client, tables: &mut [CatalogTable]) -> Result<()> {
    let mut roots: HashMap<u32, &mut CatalogTable> = HashMap::new();
    for found in tables.iter_mut().filter(|found| found.is_partitioned) {
        found.table.facts.partitions = Some(BTreeMap::new());
        (found.table.size_bytes, found.table.estimated_rows) = (0, Some(0));
        roots.insert(found.table.relation.oid, found);
    }
    if roots.is_empty() {
        return Ok(());
    }
    let tree = tree(&roots.keys().map(u32::to_string).collect::<Vec<_>>().join(", "));
    let partitions = client
        .query(&format!(
            "{tree} SELECT tree.root, c.oid, n.nspname, c.relname, c.relfilenode, tree.is_born, \
                    greatest(c.relpages, 0), greatest(c.reltuples, 0)::bigint, \
                    c.relreplident = r.relreplident AND c.relreplident IN ('d', 'f'), tree.attached \
             FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid JOIN pg_catalog.pg_class r ON r.oid = tree.root \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'"
        ))
        .await?;
    for row in &partitions {
        let Some(CatalogTable { table, access, .. }) = roots.get_mut(&number(row, 0)?) else { continue };
        let name = TableName::new(text(row, 2)?, text(row, 3)?);
        let facts = PartitionFacts {
            name,
            file_node: number(row, 4)?,
            is_born: text(row, 5)? == "t",
            attached: text(row, 9)?.to_owned(),
        };
        table.facts.partitions.get_or_insert_default().insert(number(row, 1)?, facts);
        table.size_bytes += number::<u64>(row, 6)? * BLOCK_BYTES;
        table.estimated_rows = table.estimated_rows.zip(number::<u64>(row, 7).ok()).map(|(sum, rows)| sum + rows);
        access.has_odd_partition |= text(row, 8)? != "t";
    }
    let filled = client
        .query(&format!(
            "{tree} SELECT DISTINCT tree.root, r.attnum FROM tree \
             JOIN pg_catalog.pg_attribute a ON a.attrelid = tree.oid AND a.atthasmissing \
             JOIN pg_catalog.pg_attribute r ON r.attrelid = tree.root AND r.attname = a.attname"
        ))
        .await?;
    for row in &filled {
        let number_of: i16 = number(row, 1)?;
        let Some(found) = roots.get_mut(&number(row, 0)?) else { continue };
        let columns = &mut found.table.facts.columns;
        columns.iter_mut().filter(|column| column.number == number_of).for_each(|column| column.has_missing = true);
    }
    Ok(())
}

/// Whether a table stands for itself in a publication: one that publishes through partitioned tables carries
/// partitions only as what they are part of, and any other one carries only partitions.
pub fn stands_for_itself(found: &CatalogTable, through_roots: bool, carries: impl Fn(u32) -> bool) -> bool {
    match (through_roots, found.is_partitioned, found.ancestors.is_empty()) {
        (false, is_partitioned, _) => !is_partitioned,
        (true, _, true) => true,
        // Somebody publishes a part of a partitioned table.
        (true, _, false) => carries(found.table.relation.oid) && !found.ancestors.iter().any(|oid| carries(*oid)),
    }
}
