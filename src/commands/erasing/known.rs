//! Subjects as the lake has them: under their columns' names, and where a column is hashed on its way, by the hash.

use sooner_delta::DeltaLake;
use sooner_delta::erasure::subject::Subject;
use sooner_schemas::TableName;
use sooner_schemas::masking::{ColumnRule, TableRules};

use super::remains::Remains;
use super::source::{concerned, filled_up};
use crate::config::Config;

/// What the lake has of subjects.
#[derive(Clone, Debug, Default)]
pub struct InLake {
    /// The subjects, and their hashes in tables that have those.
    pub subjects: Vec<Subject>,
    /// Tables whose rows cannot be told by a subject, because its column has other values there.
    pub masked: Vec<Remains>,
}

/// Subjects with what columns are made of them by the masks of `[[table]]`.
pub fn in_lake(config: &Config, tables: &[TableName], subjects: &[Subject]) -> InLake {
    let masks = config.tables.mask_rules();
    let mut found = InLake { subjects: subjects.to_vec(), masked: Vec::new() };
    for table in tables {
        let rules = masks(table);
        for subject in subjects.iter().filter(|subject| subject.concerns(table)) {
            let rule = rules.rule(&subject.column);
            let hash = hashed(&rules, table, subject).filter(|_| rule == ColumnRule::Hash);
            match rule {
                ColumnRule::Keep => {}
                _ if hash.is_some() => found.subjects.extend(hash),
                // Of a column that no rule names, it is not known whether the table has it.
                _ if !rules.columns.contains_key(&subject.column) && subject.table.is_none() => {}
                _ => found.masked.push(Remains {
                    place: table.to_string(),
                    why: format!("its column {} is masked, so that its rows cannot be found by it", subject.column),
                    until: None,
                    to_do: "erase its rows by another column, such as the key".to_owned(),
                    found: false,
                }),
            }
        }
    }
    found
}

/// The same, with the blanks with which the source fills up values of some columns.
pub async fn as_stored(config: &Config, tables: &[TableName], subjects: &[Subject]) -> anyhow::Result<InLake> {
    Ok(in_lake(config, tables, &filled_up(config, tables, subjects).await?))
}

fn hashed(rules: &TableRules, table: &TableName, subject: &Subject) -> Option<Subject> {
    let (key, mut hash) = (rules.key.as_ref()?, Vec::new());
    key.hasher()?.write(&mut hash, subject.value.as_bytes());
    let value = String::from_utf8(hash).ok()?;
    Some(Subject { table: Some(table.clone()), column: subject.column.clone(), value })
}

/// An error if a subject has a column that no table of the lake has or had: a certificate would say nothing of anybody.
pub async fn check_known(
    config: &Config,
    lake: &DeltaLake,
    tables: &[TableName],
    subjects: &[Subject],
) -> anyhow::Result<()> {
    for subject in subjects {
        let one = std::slice::from_ref(subject);
        // The lake does not have a column that is left out on its way, and it is told of.
        let is_masked = !in_lake(config, tables, one).masked.is_empty();
        if !is_masked && concerned(lake, tables, one).await?.is_empty() {
            anyhow::bail!(
                "the lake has no table with the column {}, so nobody would be erased. To do: write the column as the \
                 source has it, and its table as schema.table; `sooner status` has the tables",
                subject.place()
            );
        }
    }
    Ok(())
}
