//! Errors that say what failed, why, and what to do; in three classes, because a caller can do three things.

use std::fmt;

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Passes by itself: try again, with growing pauses.
    Retry,
    /// Needs a person: stop this table, or the pipeline if it is about all of it, and say what to do.
    Operator,
    /// Going on could lose or change data: stop.
    Fatal,
}

/// An error for a person. Holds no secrets and no row values other than keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What a caller does about it.
    pub class: Class,
    /// What failed: "cannot connect to Postgres at db:5432".
    pub what: String,
    /// Why: "password authentication failed for user \"sooner\"".
    pub why: String,
    /// What to do: "check the user and password of [source]".
    pub remedy: String,
}

/// A result with that error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error that passes by itself.
    pub fn retry(what: impl Into<String>, why: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error { class: Class::Retry, what: what.into(), why: why.to_string(), remedy: remedy.into() }
    }

    /// An error that needs a person.
    pub fn operator(what: impl Into<String>, why: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error { class: Class::Operator, what: what.into(), why: why.to_string(), remedy: remedy.into() }
    }

    /// An error after which nothing may go on.
    pub fn fatal(what: impl Into<String>, why: impl fmt::Display, remedy: impl Into<String>) -> Error {
        Error { class: Class::Fatal, what: what.into(), why: why.to_string(), remedy: remedy.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}. To do: {}.", self.what, self.why, self.remedy)
    }
}

impl std::error::Error for Error {}
