//! Maps Postgres' errors to ours: the one place that decides what is retried and what needs the operator.
//!
//! Codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>

use std::fmt;
use std::io;

use sooner_api::{Class, Code, Error};
use sooner_schemas::TableName;
use sooner_schemas::encode::ValueError;

/// An error that the server sent.
#[derive(Clone, Debug, Default)]
pub struct ServerError {
    /// SQLSTATE code.
    pub code: String,
    /// Primary message, with detail and hint if there are any.
    pub message: String,
}

impl ServerError {
    /// Parses the fields of an ErrorResponse, each a type byte and a zero-terminated text.
    ///
    /// <https://www.postgresql.org/docs/current/protocol-error-fields.html>
    pub fn parse(payload: &[u8]) -> ServerError {
        let mut error = ServerError::default();
        for field in payload.split(|&byte| byte == 0) {
            let Some((kind, value)) = field.split_first() else { continue };
            let value = String::from_utf8_lossy(value).into_owned();
            match kind {
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' | b'H' => error.message = format!("{}; {value}", error.message),
                _ => {}
            }
        }
        error
    }

    /// Turns the server's error into ours: adds what failed, and the class and the remedy for its SQLSTATE.
    pub fn into_error(self, what: impl Into<String>) -> Error {
        let (code, class, remedy) = judge(&self.code, &self.message);
        Error { code, class, what: what.into(), why: self.to_string(), remedy: remedy.to_owned() }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)
    }
}

/// What to do where a pooler answers.
const WITHOUT_POOLER: &str = "connect to Postgres itself rather than to a pooler, which passes no replication on: at its \
    own host and port (5432, not 6432 or 6543; at Neon, the host without '-pooler')";

fn judge(code: &str, message: &str) -> (Code, Class, &'static str) {
    match code {
        // What PgBouncer says, and what Postgres says of replication commands that come by a pooler's session.
        "08P01" if message.contains("startup parameter") => {
            (Code::PostgresSettingUnsuitable, Class::Operator, WITHOUT_POOLER)
        }
        "42601" if message.contains("IDENTIFY_SYSTEM") || message.contains("START_REPLICATION") => {
            (Code::PostgresSettingUnsuitable, Class::Operator, WITHOUT_POOLER)
        }
        "28P01" => (Code::PostgresLoginRefused, Class::Operator, "check the user and the password of [source]"),
        "28000" if message.contains("replication") || message.contains("pg_hba") => {
            (Code::PostgresLoginRefused, Class::Operator, "let this role in from this host in pg_hba.conf")
        }
        "28000" => (Code::PostgresLoginRefused, Class::Operator, "check that the role exists and may log in"),
        "3D000" => (Code::PostgresLoginRefused, Class::Operator, "check the database name of [source]"),
        "42501" if message.contains("replication") || message.contains("WAL sender") => {
            (Code::PostgresPermissionDenied, Class::Operator, "ALTER ROLE <role> REPLICATION, as a superuser")
        }
        "42501" => (
            Code::PostgresPermissionDenied,
            Class::Operator,
            "grant the role what the message names; `sooner check` prints the statements",
        ),
        "55006" => (
            Code::SlotInUse,
            Class::Retry,
            "stop the other process that uses the slot, or give this pipeline a slot of its own",
        ),
        "42704" => (
            Code::PostgresSettingUnsuitable,
            Class::Operator,
            "run `sooner check`, which says what is missing and how to make it",
        ),
        "55000" if message.contains("wal_level") => (
            Code::PostgresSettingUnsuitable,
            Class::Operator,
            "ALTER SYSTEM SET wal_level = logical, then restart Postgres",
        ),
        "55000" if message.contains("recovery") => (
            Code::PostgresSettingUnsuitable,
            Class::Operator,
            "connect to the primary: reading from a standby is not supported yet",
        ),
        "55000" if message.contains("can no longer") || message.contains("invalidated") => {
            (Code::SlotLost, Class::Operator, "drop the slot, then start with --recopy, which copies all tables again")
        }
        "55000" | "58P01" => {
            (Code::SlotUnusable, Class::Operator, "run `sooner check`, which says what is wrong with the slot")
        }
        "42710" | "22023" => (Code::PostgresError, Class::Retry, "nothing; it is tried again"),
        "55P03" => (Code::TableLocked, Class::Retry, "nothing; it is tried again once the lock is gone"),
        "53400" => (
            Code::PostgresLimitReached,
            Class::Operator,
            "raise max_replication_slots, or drop a slot that nobody uses",
        ),
        "53300" => (
            Code::PostgresLimitReached,
            Class::Retry,
            "raise max_connections or max_wal_senders, or wait until others disconnect",
        ),
        "57P01" | "57P02" | "57P03" | "57014" => {
            (Code::PostgresUnavailable, Class::Retry, "wait until Postgres is up again")
        }
        code if code.starts_with("08") || code.starts_with("40") || code.starts_with("53") => {
            (Code::PostgresUnavailable, Class::Retry, "wait; it is tried again")
        }
        _ => (Code::PostgresError, Class::Operator, "see the message of Postgres"),
    }
}

/// Error for a URL that says that a pooler answers.
pub fn pooled(address: &str) -> Error {
    Error::operator(
        Code::PostgresSettingUnsuitable,
        format!("cannot stream from Postgres at {address}"),
        "the URL says pgbouncer=true",
        WITHOUT_POOLER,
    )
}

/// Error for a broken connection, which is retried.
pub fn connection_lost(what: impl Into<String>, error: &io::Error) -> Error {
    Error::retry(
        Code::PostgresUnreachable,
        what,
        error,
        "check that Postgres runs and can be reached; it is tried again",
    )
}

/// Error for bytes that violate the protocol, which is fatal.
pub fn protocol(what: impl Into<String>, why: impl fmt::Display) -> Error {
    Error::fatal(Code::PostgresProtocolViolated, what, why, "report this, with the versions of Postgres and sooner")
}

/// Error of a value that its event cannot hold. `what` names the activity, such as "cannot copy".
pub fn unholdable(what: &str, table: &TableName, key: &str, error: &ValueError) -> Error {
    Error::operator(
        Code::ValueUnholdable,
        format!("{what} {table}"),
        format!("in the row {key}, {error}"),
        format!(
            "say what becomes of such values (unholdable = \"null\", \"clamp\" or \"text\" in a [[table]] block that \
             matches {table}, or in its unholdable_types or unholdable_columns), or correct the value at the source; then \
             `sooner resume {table}`"
        ),
    )
}
