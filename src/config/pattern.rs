//! Patterns for the names of tables.

use sooner_schemas::TableName;

/// Pattern for names of the form `schema.table`, in which `*` stands for any number of any characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePattern(String);

impl TablePattern {
    /// Parses a pattern; the error is a phrase for a person if schema or table is missing.
    pub fn parse(text: &str) -> Result<TablePattern, String> {
        match text.split_once('.') {
            Some((schema, table)) if !schema.is_empty() && !table.is_empty() => Ok(TablePattern(text.to_owned())),
            _ => Err("expected schema.table, where * stands for any characters, such as \"public.*\"".to_owned()),
        }
    }

    /// The pattern of all names.
    pub fn any() -> TablePattern {
        TablePattern("*.*".to_owned())
    }

    /// The table, if the pattern is the name of one.
    pub fn single(&self) -> Option<TableName> {
        if self.0.contains('*') { None } else { self.0.parse().ok() }
    }

    /// A table that it matches: the one that it names, or one whose name has an `x` for each star.
    pub fn example(&self) -> TableName {
        let text = self.0.replace('*', "x");
        let (schema, table) = text.split_once('.').unwrap_or_default();
        TableName::new(schema, table)
    }

    /// The same as a pattern of SQL's LIKE.
    pub fn as_like(&self) -> String {
        self.0.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_").replace('*', "%")
    }

    /// Whether a table's name matches the pattern.
    pub fn matches(&self, table: &TableName) -> bool {
        fits(self.0.as_bytes(), table.to_string().as_bytes())
    }
}

fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skipped| fits(rest, &text[skipped..])),
        Some((first, rest)) => text.split_first().is_some_and(|(byte, text)| first == byte && fits(rest, text)),
    }
}

impl std::fmt::Display for TablePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stand_for_any_characters() {
        let pattern = TablePattern::parse("public.*_log").unwrap();
        assert!(pattern.matches(&TableName::new("public", "audit_log")));
        assert!(!pattern.matches(&TableName::new("public", "audit_logs")));
        assert!(!pattern.matches(&TableName::new("private", "audit_log")));
        assert_eq!(pattern.as_like(), "public.%\\_log");
    }
}
