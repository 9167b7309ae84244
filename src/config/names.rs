//! Names that may stand in the configuration.

/// A pipeline's name.
pub fn check_name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if !text.is_empty() && text.len() <= 50 && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("expected up to 50 of: lower-case letters, digits, '-' and '_'".to_owned())
}

/// A slot's name: <https://www.postgresql.org/docs/current/warm-standby.html#STREAMING-REPLICATION-SLOTS-MANIPULATION>
pub fn check_slot(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !text.is_empty() && text.len() <= 63 && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    Err("expected up to 63 of: lower-case letters, digits and '_' (Postgres' rule for slots)".to_owned())
}
