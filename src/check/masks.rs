//! Which columns are masked, and what has to be copied again because that changed. Rules that do not fit a table are
//! told with the table, which waits for them.

use sooner_api::{ProgressRecord, ProgressStore, Result};
use sooner_delta::{LakeProgress, LakeStore};
use sooner_kafka::progress::load::load;
use sooner_postgres::Client;
use sooner_postgres::client::Mode;
use sooner_postgres::inspection::eligible_tables;
use sooner_schemas::masking::{MaskChange, mask_change};
use sooner_schemas::{Relation, TableName};

use super::Finding;
use crate::config::pattern::TablePattern;
use crate::config::{Config, SourceConfig};

/// Tells the masks of each table. If the database cannot be reached there are no findings: the source's own check
/// reports that.
pub async fn inspect(config: &Config, source: &SourceConfig) -> Vec<Finding> {
    let mut patterns = source.blocks.masking_patterns().peekable();
    let is_used = patterns.peek().is_some();
    let stored = stored(config).await.unwrap_or_default().unwrap_or_default();
    if !is_used && stored.tables.values().all(|table| table.relation.is_none()) {
        return Vec::new();
    }
    let Ok(tables) = tables(source).await else { return Vec::new() };
    let unused = patterns.filter(|pattern| !tables.iter().any(|(name, _)| pattern.matches(name)));
    let unused = unused.map(|pattern| {
        let remedy = format!("correct match = \"{pattern}\", or take the block out");
        Finding::warning("masks", format!("a [[table]] block masks columns of {pattern}, and no table fits it"), remedy)
    });
    let mut findings: Vec<_> = unused.collect();
    findings
        .extend(source.blocks.masked_by_pattern().filter_map(|(pattern, column)| unmasked(pattern, column, &tables)));
    for (name, relation) in &tables {
        let written = stored.tables.get(name).and_then(|progress| progress.relation.as_deref());
        findings.extend(finding(name, relation, written));
    }
    findings
}

/// A column that a block masks, and that no table has which fits it: it may be written wrongly, and its values leave as
/// they are.
fn unmasked(pattern: &TablePattern, column: &str, tables: &[(TableName, Relation)]) -> Option<Finding> {
    let mut fitting = tables.iter().filter(|(name, _)| pattern.matches(name)).peekable();
    fitting.peek()?;
    let is_there = fitting.any(|(_, relation)| relation.columns.iter().any(|known| known.name == column));
    let remedy = "correct the name in mask of the block, or take it out; a column of another name is not masked";
    let what = format!("a [[table]] block masks the column {column} of {pattern}, and no table that fits it has that");
    (!is_there).then(|| Finding::warning("masks", what, remedy))
}

async fn tables(source: &SourceConfig) -> Result<Vec<(TableName, Relation)>> {
    let mut client = Client::connect(&source.connect, Mode::Sql).await?;
    let tables = eligible_tables(&mut client, &source.publication, &source.filter()).await?;
    Ok(tables.into_iter().map(|table| (table.name().clone(), table.relation)).collect())
}

/// What the pipeline stored of its tables; none if it has stored nothing.
async fn stored(config: &Config) -> Result<Option<ProgressRecord>> {
    if let Some(kafka) = &config.kafka {
        return Ok(load(&kafka.settings)?.map(|progress| progress.record));
    }
    let Some(lake) = &config.lake else { return Ok(None) };
    LakeProgress::new(LakeStore::open(&lake.url, &lake.s3)?, &config.name).load().await
}

/// What becomes of a table's columns, given what its events were last written by.
fn finding(name: &TableName, relation: &Relation, written: Option<&Relation>) -> Option<Finding> {
    let check = format!("{name} masks");
    let masked = relation.masked_columns().into_iter().map(|(column, mask)| format!("{column}: {mask}"));
    let masked = masked.collect::<Vec<_>>().join(", ");
    match written.and_then(|written| mask_change(written, relation)) {
        Some(MaskChange::Rules(why)) => {
            let masked = if masked.is_empty() { "nothing is masked".to_owned() } else { masked };
            let remedy = "nothing; files from before go with the table's retention, messages with their topic's; a history \
                          keeps the values that it has (keep_history, `sooner erase`)";
            Some(Finding::warning(check, format!("{masked}. The table is copied again: {why}"), remedy))
        }
        Some(MaskChange::Unnamed(why)) => {
            let remedy = format!("then reload (SIGHUP) or restart, and `sooner resume {name}`");
            Some(Finding::failed(check, why, remedy))
        }
        None => (!masked.is_empty()).then(|| Finding::ok(check, masked)),
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::masking::{ColumnRule, TableRules};
    use sooner_schemas::{Column, ColumnType, Scalar};

    use super::*;
    use crate::check::Verdict;

    fn table(rules: &[(&str, ColumnRule)]) -> Relation {
        let text = |name: &str, number| Column::new(name, ColumnType::Scalar(Scalar::Text)).numbered(number);
        let columns = vec![text("id", 1), text("phone", 2)];
        let mut relation = Relation::new(TableName::new("public", "users"), columns, vec![0]);
        let columns = rules.iter().map(|(name, rule)| ((*name).to_owned(), *rule)).collect();
        TableRules { columns, ..TableRules::default() }.mark(&mut relation);
        relation
    }

    #[test]
    fn masks_are_told_with_what_their_change_costs() {
        let (plain, cut) = (table(&[]), table(&[("phone", ColumnRule::Truncate(4))]));
        let name = &plain.name;
        assert_eq!(finding(name, &plain, None), None);
        let told = |relation, written| finding(name, relation, written).map(|found| (found.verdict, found.finding));
        assert_eq!(told(&cut, Some(&cut)), Some((Verdict::Ok, "phone: truncate to 4".to_owned())));
        for (now, written, part) in [
            (&cut, &plain, "copied again: column 'phone' is masked now"),
            (&plain, &cut, "nothing is masked. The table is copied again: column 'phone' is not masked any more"),
        ] {
            let Some((Verdict::Warning, finding)) = told(now, Some(written)) else { panic!("{part}") };
            assert!(finding.contains(part), "{finding}");
        }
    }
}
