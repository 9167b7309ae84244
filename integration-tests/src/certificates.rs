//! Certificates for tests, made by openssl: two authorities, and the certificates of servers and clients.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A temporary folder of PEM files, `NAME.crt` and `NAME.key`: the authorities `root` and `other`, and the
/// certificates that `root` has signed.
pub struct Certificates(TempDir);

impl Certificates {
    /// Creates the folder with the certificates of both authorities.
    pub fn new() -> Certificates {
        let made = Certificates(tempfile::Builder::new().prefix("sooner-certificates-").tempdir().expect("a folder"));
        for root in ["root", "other"] {
            let (key, certificate, subject) =
                (format!("{root}.key"), format!("{root}.crt"), format!("/CN=Test {root}"));
            let names = ["-subj", &subject, "-keyout", &key, "-out", &certificate];
            made.openssl(&[&["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"][..], &names].concat());
        }
        made
    }

    /// Issues a certificate signed by `root`, for alternative names such as `DNS:localhost`.
    pub fn issue(&self, name: &str, alternative_names: &str) {
        self.sign("root", name, alternative_names, "-sha256");
    }

    /// Issues a certificate signed by `other`.
    pub fn issue_elsewhere(&self, name: &str, alternative_names: &str) {
        self.sign("other", name, alternative_names, "-sha256");
    }

    /// Issues a certificate whose signature has a hash such as `-sha512`.
    pub fn issue_hashed(&self, name: &str, alternative_names: &str, hash: &str) {
        self.sign("root", name, alternative_names, hash);
    }

    fn sign(&self, authority: &str, name: &str, alternative_names: &str, hash: &str) {
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        let names = ["-subj", &subject, "-keyout", &key, "-out", &request];
        self.openssl(&[&["req", "-newkey", "rsa:2048", "-nodes"][..], &names].concat());
        let extensions = format!("subjectAltName={alternative_names}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(self.path("extensions"), extensions).expect("writable");
        let (issuer, issuer_key) = (format!("{authority}.crt"), format!("{authority}.key"));
        let authority = [hash, "-CA", &issuer, "-CAkey", &issuer_key, "-CAcreateserial", "-days", "2"];
        let files = ["-in", &request, "-extfile", "extensions", "-out", &certificate];
        self.openssl(&[&["x509", "-req"][..], &authority, &files].concat());
    }

    /// Path of a file in the folder.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// Writes key and certificate into one PEM file, as Java's key stores need them, and returns its path.
    pub fn key_store(&self, name: &str) -> PathBuf {
        let read = |kind: &str| std::fs::read_to_string(self.path(&format!("{name}.{kind}"))).expect("issued");
        let path = self.path(&format!("{name}.pem"));
        std::fs::write(&path, read("key") + &read("crt")).expect("writable");
        path
    }

    fn openssl(&self, arguments: &[&str]) {
        openssl(self.0.path(), arguments);
    }
}

impl Default for Certificates {
    fn default() -> Certificates {
        Certificates::new()
    }
}

/// Runs openssl in a folder, and returns its standard output; panics if it fails.
pub fn openssl(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let done = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl");
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}
