//! What a check of a history's chain finds. Without I/O.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Findings that are told one by one.
const MOST_FINDINGS: usize = 100;

/// Something that is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Number of the row; where several are concerned, of the first.
    pub sequence: i64,
    /// What is wrong with it.
    #[serde(flatten)]
    pub fault: Fault,
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// Its hash is not that of its values and of the hash of the row before.
    Changed,
    /// It is not there, nor are those up to this one.
    Missing {
        /// The last that is missing.
        to: i64,
    },
    /// There are several of its number.
    Repeated,
    /// Rows are not chained although they came after it, which is the first of the chain.
    Unchained {
        /// Number of these rows.
        rows: u64,
    },
    /// It is told to be erased, and no certificate says that so many rows of the history were, by that erasure.
    Uncertified {
        /// The erasure that it names.
        erasure: String,
        /// Number of rows that name it.
        rows: u64,
    },
    /// It is not the one that stood there when the head was noted.
    HeadDiffers,
}

/// What became of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Number of rows that are chained.
    pub rows: u64,
    /// Rows that came before the chain began, which nothing is known of.
    pub unchained_before: u64,
    /// Rows of the chain whose values were erased, by the erasure that they name.
    pub erased: BTreeMap<String, u64>,
    /// The chain's end, as `SEQUENCE:HASH`; none without rows.
    pub head: Option<String>,
    /// What is wrong, in the order of the rows; the first ones if there is much.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub count: u64,
}

impl Checked {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.count == 0
    }

    /// Adds what is wrong with a part of the chain.
    pub fn tell(&mut self, mut findings: Vec<Finding>) {
        self.count += findings.len() as u64;
        findings.sort_by_key(|finding| finding.sequence);
        findings.truncate(MOST_FINDINGS.saturating_sub(self.findings.len()));
        self.findings.extend(findings);
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sequence = self.sequence;
        match &self.fault {
            Fault::Changed => write!(f, "row {sequence} was changed, or the hash of the one before it was"),
            Fault::Missing { to } if *to == sequence => write!(f, "row {sequence} is missing"),
            Fault::Missing { to } => write!(f, "rows {sequence} to {to} are missing"),
            Fault::Repeated => write!(f, "row {sequence} is there more than once"),
            Fault::Unchained { rows } => write!(
                f,
                "{rows} rows are not chained although they came after row {sequence}, with which the chain began: \
                 somebody added them, or chain was switched off for a while"
            ),
            Fault::Uncertified { erasure, rows } => write!(
                f,
                "{rows} rows from row {sequence} on have no values, as if the erasure '{erasure}' had taken them, and \
                 no certificate that counts says so of as many: where there is an audit trail, it has to know the \
                 certificate. If that erasure was broken off, repeat it for the same subject"
            ),
            Fault::HeadDiffers => write!(f, "row {sequence} is not the one of the head: the chain was written anew"),
        }
    }
}
