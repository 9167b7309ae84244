//! Which certificates of erasures count: where there is an audit trail, those that it knows.

use serde_json::Value;
use sooner_api::Result;
use sooner_delta::DeltaLake;
use sooner_delta::audit::chain::ChainedEntry;
use sooner_delta::audit::check::{Checker, Fault};
use sooner_delta::audit::digits::hash_bytes;
use sooner_delta::audit::keys::{PublicKey, SigningKey};
use sooner_delta::erasures::ErasureRecords;

use super::trail::table_of;
use crate::config::Config;

/// What the lake has of erasures; with `[audit]`, without certificates whose hashes are not in the trail. None counts
/// of a trail that is not as it was written; with a signing key, those alone of entries up to the last that it signed.
pub async fn erasures_of(config: &Config, lake: &DeltaLake) -> Result<ErasureRecords> {
    let records = ErasureRecords::of(lake).await?;
    let Some(settings) = &config.audit else { return Ok(records) };
    let key = settings.signing_key.as_ref().map(SigningKey::public);
    let (mut known, mut vouched) = (Vec::new(), if key.is_none() { i64::MAX } else { 0 });
    let mut checker = Checker::new(&config.name, &[]);
    let each = |chained: ChainedEntry| {
        checker.take(&chained);
        if key.as_ref().is_some_and(|key| is_signed(&chained, key)) {
            vouched = vouched.max(chained.sequence);
        }
        let certificate = certificate_of(&chained.entry.kind, &chained.entry.entry);
        known.extend(certificate.map(|certificate| (chained.sequence, certificate)));
    };
    table_of(config)?.scan(each).await?;
    let checked = checker.finish(None);
    if !checked.findings.iter().all(|finding| finding.fault == Fault::Unchecked) {
        tracing::warn!("the audit trail is not as it was written, so no certificate counts: see `sooner audit verify`");
        known.clear();
    }
    let known = known.into_iter().filter(|(sequence, _)| *sequence <= vouched);
    Ok(records.in_trail(&known.map(|(_, certificate)| certificate).collect()))
}

/// Whether an entry is signed with a key, and so all before it are, as each has the hash of the one before.
fn is_signed(chained: &ChainedEntry, key: &PublicKey) -> bool {
    let hash = hash_bytes(&chained.hash);
    hash.zip(chained.signature.as_ref()).is_some_and(|(hash, signature)| key.has_signed(&hash, signature))
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
