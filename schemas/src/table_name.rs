//! A table's name, and its text form.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A table's schema-qualified name, unquoted.
///
/// Its text form is `schema.table`, which is how it stands in configurations, records and messages. A schema whose own
/// name has a dot, or starts with a double quote, is quoted as in SQL (`"odd.schema".table`), so that the text leads
/// back to the name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TableName {
    /// Schema (namespace), such as `public`.
    pub schema: String,
    /// Table within that schema.
    pub table: String,
}

/// The text is not a schema and a table with a dot between.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a table's name; expected schema.table, with a schema that has a dot in double quotes")]
pub struct BadTableName(String);

impl TableName {
    /// Builds a name from its two parts.
    pub fn new(schema: impl Into<String>, table: impl Into<String>) -> TableName {
        TableName { schema: schema.into(), table: table.into() }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.schema.contains('.') || self.schema.starts_with('"') {
            write!(f, "\"{}\".{}", self.schema.replace('"', "\"\""), self.table)
        } else {
            write!(f, "{}.{}", self.schema, self.table)
        }
    }
}

impl FromStr for TableName {
    type Err = BadTableName;

    fn from_str(text: &str) -> Result<TableName, BadTableName> {
        let bad = || BadTableName(text.to_owned());
        let Some(quoted) = text.strip_prefix('"') else {
            let (schema, table) = text.split_once('.').ok_or_else(bad)?;
            return Ok(TableName::new(schema, table));
        };
        let mut schema = String::new();
        let mut rest = quoted;
        loop {
            let (part, after) = rest.split_once('"').ok_or_else(bad)?;
            schema.push_str(part);
            match after.strip_prefix('"') {
                Some(more) => {
                    schema.push('"');
                    rest = more;
                }
                None => return Ok(TableName::new(schema, after.strip_prefix('.').ok_or_else(bad)?)),
            }
        }
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> String {
        name.to_string()
    }
}

impl TryFrom<String> for TableName {
    type Error = BadTableName;

    fn try_from(text: String) -> Result<TableName, BadTableName> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_is_read_back(schema in "[a-z.\" ]{0,6}", table in "[a-z.\" ]{0,6}") {
            let name = TableName::new(schema, table);
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn only_an_odd_schema_is_quoted() {
        assert_eq!(TableName::new("public", "order.lines").to_string(), "public.order.lines");
        assert_eq!(TableName::new("a.b", "c").to_string(), "\"a.b\".c");
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "orders", "\"a.b", "\"a\"b.c"] {
            assert!(text.parse::<TableName>().is_err(), "{text}");
        }
    }
}
