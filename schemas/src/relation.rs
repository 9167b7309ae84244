//! The model of a source table: what the catalog and the stream say of it, reduced to what events and their readers
//! need. It travels with the table, from the catalog through the event log to the lake, and is stored with its
//! progress.

use serde::{Deserialize, Serialize};

use crate::column_type::{ColumnType, Scalar};
use crate::default_value::DefaultValue;
use crate::mask::Mask;
use crate::policy::{ValuePolicy, type_with_odd_values};
use crate::table_name::TableName;

/// `relreplident`: what Postgres logs of an old row.
///
/// <https://www.postgresql.org/docs/current/catalog-pg-class.html>
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaIdentity {
    /// The primary key.
    #[default]
    Default,
    /// The whole row.
    Full,
    /// A unique index.
    Index,
    /// Nothing: updates and deletes fail once the table is published.
    Nothing,
}

/// A column of a source table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name, unquoted.
    pub name: String,
    /// Attribute number at the source, if known; it differs for a column dropped and added again by the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i16>,
    /// Object id of the type as declared, before domains are resolved; zero if unknown.
    #[serde(default)]
    pub type_oid: u32,
    /// Type modifier as declared; -1 for none.
    #[serde(default = "no_modifier")]
    pub modifier: i32,
    /// Type, reduced to what decides how values are written. An enum brings its labels.
    pub column_type: ColumnType,
    /// False if declared NOT NULL.
    pub nullable: bool,
    /// Whether the column has, or had, a default: rows older than the column may hold a value that no event carries.
    #[serde(default)]
    pub has_default: bool,
    /// What rows that are older than the column hold in it, as Postgres' text: the constant default with which it was
    /// added (`attmissingval`). None where there is no such value, or rows have to be copied for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Whether its value is computed from other columns and stored; the stream carries such a column since 18, where
    /// the publication says so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
    /// What becomes of its values that their target cannot hold.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: ValuePolicy,
    /// What becomes of its values before they leave the process that reads them; none if nobody says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
    /// Default that the event schemas declare for the column, if any. It is not stored: it says nothing of rows that
    /// are there.
    #[serde(skip)]
    pub default: Option<DefaultValue>,
}

/// A source table: its name and its columns in the order in which Postgres sends them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// Object id: another table that takes the name has another one. Zero if unknown.
    #[serde(default)]
    pub oid: u32,
    /// Schema-qualified name.
    pub name: TableName,
    /// Columns in attribute order.
    pub columns: Vec<Column>,
    /// Indexes into `columns` of the key that identifies a row, in the key's own order: the primary key, or the index
    /// of `REPLICA IDENTITY USING INDEX`. Empty for a table without either.
    pub key: Vec<usize>,
    /// What Postgres logs of an old row.
    #[serde(default)]
    pub identity: ReplicaIdentity,
    /// Greatest attribute number that a column of it has or had (`relnatts`); zero if unknown.
    #[serde(default, skip_serializing_if = "is_default")]
    pub last_number: i16,
    /// Names of columns that Postgres does not send: generated ones, and those that a column list leaves out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsent: Vec<String>,
    /// Columns that a mask leaves out of events. Before that they are among the others, in their places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<OmittedColumn>,
}

/// A column that a mask leaves out of events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OmittedColumn {
    /// Name, unquoted.
    pub name: String,
    /// Attribute number at the source, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i16>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn no_modifier() -> i32 {
    -1
}

impl Column {
    /// A NOT NULL column without a default, of which only name and type are known.
    pub fn new(name: impl Into<String>, column_type: ColumnType) -> Column {
        Column {
            name: name.into(),
            number: None,
            type_oid: 0,
            modifier: -1,
            column_type,
            nullable: false,
            has_default: false,
            missing: None,
            generated: false,
            policy: ValuePolicy::default(),
            mask: None,
            default: None,
        }
    }

    /// The same column, which may be NULL.
    pub fn nullable(self) -> Column {
        Column { nullable: true, ..self }
    }

    /// The same column with an attribute number.
    pub fn numbered(self, number: i16) -> Column {
        Column { number: Some(number), ..self }
    }
}

impl Relation {
    /// A table of which nothing but this is known.
    pub fn new(name: TableName, columns: Vec<Column>, key: Vec<usize>) -> Relation {
        let identity = ReplicaIdentity::Default;
        Relation { oid: 0, name, columns, key, identity, last_number: 0, unsent: Vec::new(), omitted: Vec::new() }
    }

    /// Whether the column at this index is part of the key.
    pub fn is_key(&self, column: usize) -> bool {
        self.key.contains(&column)
    }

    /// The relation as events carry it, given each column's policy. A key is never NULL, so of its columns only those
    /// that are to be texts differ.
    pub fn under_policies(&self, policy_of: impl Fn(&Column) -> ValuePolicy) -> Relation {
        let columns = self.columns.iter().enumerate().map(|(index, column)| {
            let is_masked = column.mask.as_ref().is_some_and(Mask::hides);
            let may_be_odd = type_with_odd_values(&column.column_type).is_some() && !is_masked;
            let policy = if may_be_odd { policy_of(column) } else { ValuePolicy::Park };
            match policy {
                ValuePolicy::Text => {
                    let column_type = ColumnType::Scalar(Scalar::Other);
                    Column { column_type, default: None, policy, ..column.clone() }
                }
                ValuePolicy::Null | ValuePolicy::Clamp if !self.is_key(index) => {
                    let nullable = column.nullable || policy.makes_null(&column.column_type);
                    Column { nullable, policy, ..column.clone() }
                }
                _ => column.clone(),
            }
        });
        Relation { columns: columns.collect(), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relation_says_what_may_be_null_and_what_is_text() {
        let columns = vec![
            Column::new("id", ColumnType::Scalar(Scalar::Date)),
            Column::new("at", ColumnType::Scalar(Scalar::Date)),
            Column::new("price", ColumnType::Scalar(Scalar::Decimal { precision: 4, scale: 2 })),
            Column::new("name", ColumnType::Scalar(Scalar::Text)),
        ];
        let relation = Relation::new(TableName::new("public", "t"), columns, vec![0]);
        let nullable = |policy| {
            let carried = relation.under_policies(|_| policy);
            carried.columns.iter().map(|column| column.nullable).collect::<Vec<_>>()
        };
        assert_eq!(nullable(ValuePolicy::Null), [false, true, true, false]);
        assert_eq!(nullable(ValuePolicy::Clamp), [false, false, true, false]);
        assert_eq!(relation.under_policies(|_| ValuePolicy::Park), relation);
        let texts = relation.under_policies(|_| ValuePolicy::Text);
        let is_text = texts.columns.iter().map(|column| column.column_type == ColumnType::Scalar(Scalar::Other));
        assert_eq!(is_text.collect::<Vec<_>>(), [true, true, true, false]);
    }
}
