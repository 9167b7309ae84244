//! Preconditions of the audit trail.

use super::Finding;
use crate::audit::trail::table_of;
use crate::config::{AuditSettings, Config};

/// Whether the trail can be read, and whether what is recorded is signed.
pub async fn inspect(config: &Config, settings: &AuditSettings) -> Vec<Finding> {
    let head = async { table_of(config)?.head().await };
    let last = match head.await {
        Ok(Some(head)) => format!("the last entry has the number {}", head.sequence),
        Ok(None) => "it has no entry yet".to_owned(),
        Err(error) => return vec![Finding::error("audit", &error)],
    };
    vec![match &settings.signing_key {
        Some(key) => Finding::ok("audit", format!("entries are signed with the key {}; {last}", key.public().id())),
        None => Finding::warning(
            "audit",
            format!("entries are chained, not signed: who may write the lake could write all of them anew; {last}"),
            "set signing_key in [audit], as `openssl genpkey -algorithm ed25519` makes it; or keep what `sooner audit \
             head` prints elsewhere",
        ),
    }]
}
