//! Masks of columns: `mask`, `mask_key`, `known_columns` and `new_columns` of `[[table]]`, and the key of hashes in
//! `[masking]`. What enters is a section; what leaves is rules, whose problems have been told.

use std::sync::Arc;

use sooner_schemas::mask::{LEAST_KEY_BYTES, MaskKey};
use sooner_schemas::masking::{ColumnRule, NewColumns, TableRules};
use toml::Value;

use super::reader::Section;

const EXPECTED: &str = "expected \"hash\", \"null\", \"omit\", \"keep\" or { truncate = 4 }";

/// What one block says of masks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskBlock {
    columns: Vec<(String, ColumnRule)>,
    hashes_keys: Option<bool>,
    known: Option<Vec<String>>,
    new_columns: Option<NewColumns>,
}

impl MaskBlock {
    /// Reads what a block says.
    pub fn read(section: &mut Section) -> MaskBlock {
        let example = "a table of columns, such as { email = \"hash\" }";
        let columns = section.values("mask", example, |_, value| parse_rule(value));
        let hashes_keys = section.has("mask_key").then(|| section.flag("mask_key", false));
        section.knows("mask_key");
        let known = section.list("known_columns", |name| Ok::<_, String>(name.to_owned()));
        let new_columns = section.optional("new_columns", |text| match text {
            "allow" => Ok(NewColumns::Allow),
            "mask" => Ok(NewColumns::Mask),
            "block" => Ok(NewColumns::Block),
            _ => Err("expected \"allow\", \"mask\" or \"block\"".to_owned()),
        });
        MaskBlock { columns, hashes_keys, known, new_columns }
    }

    /// Whether it masks anything.
    pub fn masks(&self) -> bool {
        self.columns.iter().any(|(_, rule)| *rule != ColumnRule::Keep) || self.new_columns == Some(NewColumns::Mask)
    }

    /// Names of the columns that it masks.
    pub fn masked(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|(_, rule)| *rule != ColumnRule::Keep).map(|(name, _)| name.as_str())
    }

    /// The first column that is hashed.
    pub fn hashed(&self) -> Option<&str> {
        let hashed = self.columns.iter().find(|(_, rule)| *rule == ColumnRule::Hash);
        hashed.map(|(name, _)| name.as_str())
    }

    /// Adds what it says to what earlier blocks say, which it overrules. The block may be for one table only.
    pub fn add_to(&self, rules: &mut TableRules, is_single: bool) {
        for (name, rule) in &self.columns {
            rules.columns.insert(name.clone(), *rule);
            if *rule == ColumnRule::Keep {
                rules.expected.remove(name);
            } else if is_single {
                rules.expected.insert(name.clone());
            }
        }
        rules.hashes_keys = self.hashes_keys.unwrap_or(rules.hashes_keys);
        if let Some(known) = &self.known {
            rules.known = known.iter().cloned().collect();
        }
        rules.new_columns = self.new_columns.unwrap_or(rules.new_columns);
    }
}

/// Reads `[masking]`: the key of hashes.
pub fn read_masking(section: &mut Section) -> Option<Arc<MaskKey>> {
    let secret = section.required_secret("key")?;
    let key = MaskKey::new(secret.as_bytes());
    if key.is_none() {
        let why = format!("expected at least {LEAST_KEY_BYTES} bytes, such as those of `openssl rand -hex 32`");
        section.problem("key", &why);
    }
    key.map(Arc::new)
}

fn parse_rule(value: &Value) -> Result<ColumnRule, String> {
    match value {
        Value::String(text) => match text.as_str() {
            "keep" => Ok(ColumnRule::Keep),
            "hash" => Ok(ColumnRule::Hash),
            "null" => Ok(ColumnRule::Null),
            "omit" => Ok(ColumnRule::Omit),
            other => Err(format!("'{other}': {EXPECTED}")),
        },
        Value::Table(table) if table.len() == 1 => {
            let characters = table.get("truncate").and_then(Value::as_integer);
            let characters = characters.and_then(|number| u32::try_from(number).ok()).filter(|number| *number > 0);
            characters.map(ColumnRule::Truncate).ok_or_else(|| EXPECTED.to_owned())
        }
        _ => Err(EXPECTED.to_owned()),
    }
}
