//! Keys of the audit trail: Ed25519 (RFC 8032), as `openssl genpkey -algorithm ed25519` writes them. Signing and
//! checking is done by aws-lc-rs, which TLS uses as well.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use sha2::{Digest, Sha256};

use super::digits::hex;

/// What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410).
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Hexadecimal digits of a key's id.
const ID_DIGITS: usize = 16;

/// The key that entries are signed with. It is not shown.
#[derive(Clone)]
pub struct SigningKey(Arc<Ed25519KeyPair>);

/// The key that signatures are checked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id())
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &SigningKey) -> bool {
        self.public() == other.public()
    }
}

impl Eq for SigningKey {}

impl SigningKey {
    /// Reads a private key from PEM (PKCS#8); the error says what was expected, and nothing of the text.
    pub fn from_pem(text: &str) -> Result<SigningKey, String> {
        let expected = "expected a private key in PEM, as `openssl genpkey -algorithm ed25519` writes it";
        let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes()).map_err(|_| expected.to_owned())?;
        let pair = Ed25519KeyPair::from_pkcs8(key.secret_pkcs8_der());
        pair.map(|pair| SigningKey(Arc::new(pair))).map_err(|_| format!("{expected}; this one is of another algorithm"))
    }

    /// Signs the bytes of a hash; returns base64.
    pub fn sign(&self, hash: &[u8; 32]) -> String {
        BASE64_STANDARD.encode(self.0.sign(hash))
    }

    /// The key that its signatures are checked with.
    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }
}

impl PublicKey {
    /// Reads a public key from PEM, as `openssl pkey -pubout` writes it.
    pub fn from_pem(text: &str) -> Result<PublicKey, String> {
        let expected = "expected a public Ed25519 key in PEM, as `openssl pkey -in KEY.pem -pubout` writes it";
        let key = SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).map_err(|_| expected.to_owned())?;
        let bytes = key.as_ref().strip_prefix(&PUBLIC_PREFIX).and_then(|bytes| bytes.try_into().ok());
        bytes.map(PublicKey).ok_or_else(|| format!("{expected}; this one is of another algorithm"))
    }

    /// The beginning of the SHA-256 of the key's SubjectPublicKeyInfo in DER, as hexadecimal digits.
    pub fn id(&self) -> String {
        let mut digits = hex(&Sha256::digest([&PUBLIC_PREFIX[..], &self.0].concat()));
        digits.truncate(ID_DIGITS);
        digits
    }

    /// Whether a signature, as base64, is that of the bytes of a hash.
    pub fn has_signed(&self, hash: &[u8; 32], signature: &str) -> bool {
        let Ok(signature) = BASE64_STANDARD.decode(signature) else { return false };
        UnparsedPublicKey::new(&ED25519, &self.0).verify(hash, &signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of RFC 8410, section 10.3 and 10.1: a private key, and its public one.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";

    #[test]
    fn what_a_key_signs_its_public_key_confirms_and_nothing_else() {
        let (key, public) = (SigningKey::from_pem(PRIVATE).unwrap(), PublicKey::from_pem(PUBLIC).unwrap());
        assert_eq!(key.public(), public);
        let signature = key.sign(&[7; 32]);
        assert!(public.has_signed(&[7; 32], &signature));
        assert!(!public.has_signed(&[8; 32], &signature) && !public.has_signed(&[7; 32], "AAAA"));
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", public.id()));
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        for text in ["hunter2", PUBLIC, "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n"] {
            let why = SigningKey::from_pem(text).unwrap_err();
            assert!(why.contains("openssl genpkey") && !why.contains("hunter2"), "{why}");
        }
        assert!(PublicKey::from_pem(PRIVATE).unwrap_err().contains("-pubout"));
    }
}
