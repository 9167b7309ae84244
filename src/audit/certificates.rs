//! Which certificates of erasures count: where there is an audit trail, those that it knows.

use std::collections::BTreeSet;

use serde_json::Value;
use sooner_api::Result;
use sooner_delta::DeltaLake;
use sooner_delta::erasures::ErasureRecords;

use super::trail::table_of;
use crate::config::Config;

/// What the lake has of erasures; with `[audit]`, without certificates whose hashes are not in the trail.
pub async fn erasures_of(config: &Config, lake: &DeltaLake) -> Result<ErasureRecords> {
    let records = ErasureRecords::of(lake).await?;
    if config.audit.is_none() {
        return Ok(records);
    }
    let mut known = BTreeSet::new();
    let trail = table_of(config)?;
    trail.scan(|chained| known.extend(certificate_of(&chained.entry.kind, &chained.entry.entry))).await?;
    Ok(records.in_trail(&known))
}

/// SHA-256 of the certificate that an entry of the trail tells of.
fn certificate_of(kind: &str, entry: &str) -> Option<String> {
    let entry: Value = serde_json::from_str(entry).ok().filter(|_| kind == "erasure")?;
    entry.pointer("/result/certificate_sha256")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_of_erasures_tell_of_certificates() {
        let entry = "{\"asked\":{},\"result\":{\"certificate_sha256\":\"ab\"}}";
        assert_eq!(certificate_of("erasure", entry).as_deref(), Some("ab"));
        assert_eq!(certificate_of("verification", entry), None);
        assert_eq!(certificate_of("erasure", "{\"error\":\"away\"}"), None);
    }
}
