//! Errors that say what failed, why, and what to do; with a stable code, and in three classes because a caller can do
//! three things.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Code;

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// It passes by itself: retry, with growing pauses.
    Retry,
    /// It needs a person: park the table, or stop the pipeline if it concerns all of it, and say what to do.
    Operator,
    /// Going on could lose or change data: stop.
    Fatal,
}

/// An error for a person. It holds no secrets, and of rows no values other than keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Stable name of the error.
    pub code: Code,
    /// What a caller does about it.
    pub class: Class,
    /// What failed: "cannot connect to Postgres at db:5432".
    pub what: String,
    /// Why it failed: "password authentication failed for user \"sooner\"".
    pub why: String,
    /// What to do: "check the user and password of [source]".
    pub remedy: String,
}

/// A result with that error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that passes by itself.
    pub fn retry(code: Code, what: impl Into<String>, why: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error { code, class: Class::Retry, what: what.into(), why: why.to_string(), remedy: remedy.into() }
    }

    /// An error that needs a person.
    pub fn operator(code: Code, what: impl Into<String>, why: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error { code, class: Class::Operator, what: what.into(), why: why.to_string(), remedy: remedy.into() }
    }

    /// An error after which nothing may go on.
    pub fn fatal(code: Code, what: impl Into<String>, why: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error { code, class: Class::Fatal, what: what.into(), why: why.to_string(), remedy: remedy.into() }
    }

    /// A defect of sooner itself, after which nothing may go on.
    pub fn internal(what: impl Into<String>, why: impl fmt::Display) -> Error {
        Error::fatal(Code::Internal, what, why, "report this")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. To do: {}.", self.what, self.why, self.remedy)
    }
}

impl std::error::Error for Error {}
