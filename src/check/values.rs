//! Values that the lake cannot hold, as far as the planner's statistics tell of them: no table is read.

use std::collections::BTreeMap;

use sooner_api::Result;
use sooner_postgres::Client;
use sooner_postgres::catalog_table::CatalogTable;
use sooner_schemas::policy::{ValuePolicy, type_with_odd_values};
use sooner_schemas::{ColumnType, Scalar, TableName};

use super::Finding;
use crate::config::SourceConfig;

/// Columns whose statistics show infinity or NaN, and those that are declared with several dimensions.
///
/// <https://www.postgresql.org/docs/current/view-pg-stats.html>
const ODD_VALUES: &str = "\
    SELECT s.schemaname, s.tablename, s.attname, \
           substring(concat(s.most_common_vals::text, s.histogram_bounds::text) FROM '-?[Ii]nfinity|NaN') \
    FROM pg_catalog.pg_stats s \
    WHERE concat(s.most_common_vals::text, s.histogram_bounds::text) ~ '[{,\"](-?[Ii]nfinity|NaN)[},\"]' \
    UNION ALL \
    SELECT n.nspname, c.relname, a.attname, 'arrays of several dimensions' \
    FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE a.attndims > 1 AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind = 'r'";

/// Looks for such values in columns for which no policy says what becomes of them.
pub async fn inspect(source: &SourceConfig, client: &mut Client, tables: &[CatalogTable]) -> Result<Vec<Finding>> {
    let rows = client.query(ODD_VALUES).await?;
    let mut found: BTreeMap<TableName, BTreeMap<&str, &str>> = BTreeMap::new();
    for row in &rows {
        let [Some(schema), Some(table), Some(column), Some(value)] = &row[..] else { continue };
        found.entry(TableName::new(schema, table)).or_default().insert(column, value);
    }
    let policy_of = source.policies();
    let mut findings = Vec::new();
    for table in tables.iter().map(|found| &found.table) {
        let Some(odd) = found.get(table.name()) else { continue };
        for column in &table.relation.columns {
            let Some(value) = odd.get(column.name.as_str()) else { continue };
            let is_open = policy_of(table.name(), column) == ValuePolicy::Park;
            // In the lake, a number of any scale is a text.
            let is_text = column.column_type == ColumnType::Scalar(Scalar::Numeric);
            if type_with_odd_values(&column.column_type).is_none() || is_text || !is_open {
                continue;
            }
            findings.push(Finding::warning(
                table.name().to_string(),
                format!("the column '{}' holds {value}, which the lake cannot hold: the table would stop", column.name),
                format!(
                    "say what becomes of it: unholdable_columns = {{ \"{}\" = \"null\" }} (or \"clamp\", \"text\") in a \
                     [[table]] block that matches {}",
                    column.name,
                    table.name()
                ),
            ));
        }
    }
    Ok(findings)
}
