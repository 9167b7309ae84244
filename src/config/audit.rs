//! The section `[audit]` of the configuration: the pipeline records what it does in its lake.

use sooner_delta::audit::keys::SigningKey;

use super::reader::Section;

/// Checked settings of the section `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSettings {
    /// What entries are signed with; none if they are chained only.
    pub signing_key: Option<SigningKey>,
    /// Whether a command fails that cannot be recorded.
    pub required: bool,
}

/// Reads `[audit]`; a key that is none is told, and not shown.
pub fn read_audit(section: &mut Section) -> Option<AuditSettings> {
    let signing_key = section.secret("signing_key").map(|text| SigningKey::from_pem(&text)).transpose();
    let signing_key = signing_key.map_err(|why| section.problem("signing_key", &why)).ok()?;
    Some(AuditSettings { signing_key, required: section.flag("required", false) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    const SMALLEST: &str = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\n[lake]\nurl = '/l'\n";

    #[test]
    fn a_key_is_read_from_a_file_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        std::fs::write(folder.path().join("key"), key).unwrap();
        let parse = |lines: &str| Config::parse(&format!("{SMALLEST}{lines}"), folder.path());
        assert_eq!(parse("").unwrap().audit, None);
        let plain = parse("[audit]").unwrap().audit.unwrap();
        assert_eq!((plain.signing_key, plain.required), (None, false));
        let signed = parse("[audit]\nsigning_key = { file = 'key' }\nrequired = true").unwrap();
        let audit = signed.audit.as_ref().unwrap();
        assert!(audit.required && audit.signing_key.is_some());
        assert!(!format!("{signed:?}").contains("MC4C"));
        std::fs::write(folder.path().join("key"), "hunter2").unwrap();
        let found = parse("[audit]\nsigning_key = { file = 'key' }").unwrap_err().join("\n");
        assert!(found.contains("audit.signing_key: expected a private key in PEM"), "{found}");
        assert!(!found.contains("hunter2"), "{found}");
    }

    #[test]
    fn it_needs_a_lake() {
        let text = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\n[audit]\n[kafka]\nbrokers = 'b:9092'\n\
                    [registry]\nurl = 'http://r:8081'";
        let found = Config::parse(text, Path::new(".")).unwrap_err().join("\n");
        assert!(found.contains("audit: ") && found.contains("[lake]"), "{found}");
    }
}
