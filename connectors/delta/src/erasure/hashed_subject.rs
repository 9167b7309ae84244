//! A subject whose value is not to be stored: only a hash of it is.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sooner_schemas::TableName;

use super::search::hex;
use super::subject::Subject;

/// A subject without its value: whoever knows the value can tell that it is the one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedSubject {
    /// The only table that is meant; every table that has the column if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableName>,
    /// Name of the column.
    pub column: String,
    /// What was put before the value when it was hashed.
    pub salt: String,
    /// SHA-256 of salt and value, as hexadecimal digits.
    pub sha256: String,
}

impl HashedSubject {
    /// Hashes a subject's value, with a salt of its own.
    pub fn of(subject: &Subject) -> HashedSubject {
        let salt = hex(&rand::random::<[u8; 16]>());
        let sha256 = hash(&salt, &subject.value);
        HashedSubject { table: subject.table.clone(), column: subject.column.clone(), salt, sha256 }
    }

    /// Whether rows of a table may be meant.
    pub fn concerns(&self, table: &TableName) -> bool {
        self.table.as_ref().is_none_or(|meant| meant == table)
    }

    /// Whether a value of the column is the subject's.
    pub fn is(&self, value: &str) -> bool {
        self.sha256 == hash(&self.salt, value)
    }

    /// Whether rows may be this subject's and another one's.
    pub fn may_be(&self, other: &Subject) -> bool {
        let tables = self.table.as_ref().zip(other.table.as_ref());
        let is_same_place = self.column == other.column && tables.is_none_or(|(a, b)| a == b);
        is_same_place && self.is(&other.value)
    }
}

fn hash(salt: &str, value: &str) -> String {
    hex(&Sha256::digest(format!("{salt}{value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_subject_is_recognised_by_its_value_and_does_not_have_it() {
        let subject: Subject = "public.users.email=jane@doe.org".parse().unwrap();
        let hashed = HashedSubject::of(&subject);
        assert!(!serde_json::to_string(&hashed).unwrap().contains("jane"));
        assert!(hashed.may_be(&subject) && hashed.may_be(&"email=jane@doe.org".parse().unwrap()));
        for other in ["email=joe@doe.org", "name=jane@doe.org", "public.staff.email=jane@doe.org"] {
            assert!(!hashed.may_be(&other.parse().unwrap()), "{other}");
        }
        assert_ne!(HashedSubject::of(&subject).sha256, hashed.sha256);
    }
}
