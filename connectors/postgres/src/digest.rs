//! One cheap look at all tables, which shows which of them have to be looked at closely.

use std::collections::HashMap;

use sooner_api::Result;

use crate::client::{Client, quote_text};
use crate::eligibility::ACCESS;
use crate::row::{number, text};

/// What is below a partitioned table `c`.
const PARTITIONS: &str = "(WITH RECURSIVE tree (oid, version) AS ( \
    SELECT i.inhrelid, i.xmin FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid \
    UNION ALL SELECT i.inhrelid, i.xmin FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid) \
    SELECT string_agg(concat_ws(':', tree.oid, tree.version, l.relfilenode, l.relreplident), ',' ORDER BY tree.oid) \
    FROM tree JOIN pg_catalog.pg_class l ON l.oid = tree.oid)";

/// For each table, by object id, a text that changes when anything does that a verdict may depend on.
pub async fn digests(client: &mut Client, publication: &str) -> Result<HashMap<u32, String>> {
    let by_schema = match client.server_version() >= 150_000 {
        true => {
            "(SELECT string_agg(concat_ws(':', s.oid, s.xmin), ',' ORDER BY s.oid) \
              FROM pg_catalog.pg_publication_namespace s WHERE s.pnpubid = p.oid AND s.pnnspid = c.relnamespace)"
        }
        false => "NULL",
    };
    let sql = format!(
        "WITH types AS (SELECT md5(coalesce((SELECT string_agg(concat(oid, enumlabel), ',' ORDER BY oid) \
                 FROM pg_catalog.pg_enum), '') || coalesce((SELECT string_agg(concat_ws(':', a.attrelid, \
                 a.attnum, a.atttypid, a.attisdropped), ',' ORDER BY a.attrelid, a.attnum) \
                 FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class r ON r.oid = a.attrelid \
                 WHERE r.relkind = 'c'), '')) AS digest) \
         SELECT c.oid, c.xmin::text || md5(concat_ws('/', n.nspname, c.relname, c.relfilenode, c.relreplident, \
                c.relkind, c.relpersistence, p.oid, p.xmin, r.oid, r.xmin, {by_schema}, {ACCESS}, \
                (SELECT string_agg(concat_ws(':', a.attnum, a.xmin, a.attname), ',' ORDER BY a.attnum) \
                 FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0), \
                (SELECT string_agg(concat_ws(':', k.indexrelid, k.indkey, k.indisprimary, k.indisreplident, \
                        k.indimmediate, k.indisvalid), ',' ORDER BY k.indexrelid) \
                 FROM pg_catalog.pg_index k WHERE k.indrelid = c.oid AND (k.indisprimary OR k.indisreplident)), \
                CASE WHEN c.relkind = 'p' THEN {PARTITIONS} END, (SELECT digest FROM types))) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_catalog.pg_publication p ON p.pubname = {} \
         LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid \
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384",
        quote_text(publication)
    );
    let rows = client.query(&sql).await?;
    rows.iter().map(|row| Ok((number(row, 0)?, text(row, 1)?.to_owned()))).collect()
}
