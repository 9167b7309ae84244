//! Masks: what becomes of a column's values before they leave the process that reads the database, and the key that
//! hashes are made with. What enters is a value as Postgres' text; what leaves does not tell it.

use std::fmt::{self, Write};
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Bytes of a masking key, at least: whoever guesses the key finds values by trying them.
pub const LEAST_KEY_BYTES: usize = 16;
/// Bytes of a hash in the key's fingerprint.
const FINGERPRINT_BYTES: usize = 8;
/// A key's fingerprint is the hash of this. No text of Postgres has a zero byte, so no value has that hash.
const FINGERPRINT_OF: &[u8] = b"\0sooner masking key";
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// What becomes of a column's values. NULL stays NULL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// Nothing: somebody has looked at the column, and says so.
    Keep,
    /// The value's HMAC-SHA-256 in 64 lower-case hexadecimal digits, by a key: the same text has the same hash in every
    /// column of every table.
    Hash(Arc<MaskKey>),
    /// So many characters from the beginning of a text.
    Truncate(u32),
    /// NULL.
    Null,
    /// The column is not there at all.
    Omit,
}

/// Key of hashes. Only its fingerprint is stored, by which another key is told apart; [`fmt::Debug`] never shows the
/// key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub struct MaskKey {
    fingerprint: String,
    hasher: Option<Hasher>,
}

/// Hashes texts by a key.
#[derive(Clone)]
pub struct Hasher(Hmac<Sha256>);

impl Mask {
    /// Whether values change by it.
    pub fn hides(&self) -> bool {
        *self != Mask::Keep
    }

    /// Whether nothing is left of a value, so that it need not be read.
    pub fn leaves_nothing(&self) -> bool {
        matches!(self, Mask::Null | Mask::Omit)
    }
}

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mask::Keep => f.write_str("keep"),
            Mask::Hash(_) => f.write_str("hash"),
            Mask::Truncate(characters) => write!(f, "truncate to {characters}"),
            Mask::Null => f.write_str("null"),
            Mask::Omit => f.write_str("omit"),
        }
    }
}

impl MaskKey {
    /// The key of these bytes; none if they are too few.
    pub fn new(secret: &[u8]) -> Option<MaskKey> {
        let hasher = Hasher(Hmac::new_from_slice(secret).ok().filter(|_| secret.len() >= LEAST_KEY_BYTES)?);
        let mut fingerprint = Vec::new();
        hasher.write(&mut fingerprint, FINGERPRINT_OF);
        let fingerprint = fingerprint.into_iter().take(2 * FINGERPRINT_BYTES).map(char::from).collect();
        Some(MaskKey { fingerprint, hasher: Some(hasher) })
    }

    /// What hashes by it; none if only its fingerprint is known.
    pub fn hasher(&self) -> Option<&Hasher> {
        self.hasher.as_ref()
    }
}

impl PartialEq for MaskKey {
    fn eq(&self, other: &MaskKey) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for MaskKey {}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(")?;
        f.write_str(&self.fingerprint)?;
        f.write_char(')')
    }
}

impl From<MaskKey> for String {
    fn from(key: MaskKey) -> String {
        key.fingerprint
    }
}

impl From<String> for MaskKey {
    fn from(fingerprint: String) -> MaskKey {
        MaskKey { fingerprint, hasher: None }
    }
}

impl Hasher {
    /// Appends the hash of a text, as 64 hexadecimal digits.
    pub fn write(&self, out: &mut Vec<u8>, text: &[u8]) {
        let mut keyed = self.0.clone();
        keyed.update(text);
        for byte in keyed.finalize().into_bytes() {
            out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

/// A text's first characters, whole ones.
pub fn truncated(text: &[u8], characters: u32) -> &[u8] {
    let is_start = |byte: u8| byte & 0xC0 != 0x80;
    let starts = text.iter().enumerate().filter(|(_, byte)| is_start(**byte));
    let end = starts.map(|(at, _)| at).nth(characters as usize);
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: &[u8], text: &str) -> String {
        let mut out = Vec::new();
        MaskKey::new(key).unwrap().hasher().unwrap().write(&mut out, text.as_bytes());
        String::from_utf8(out).unwrap()
    }

    /// <https://www.rfc-editor.org/rfc/rfc4231#section-4.2>
    #[test]
    fn hashes_are_those_of_the_standard() {
        let expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(hash(&[0x0b; 20], "Hi There"), expected);
        let long = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert_eq!(hash(&[0xaa; 131], "Test Using Larger Than Block-Size Key - Hash Key First"), long);
    }

    #[test]
    fn a_key_is_told_from_others_by_what_is_stored_and_is_not_shown() {
        let (key, other) = (MaskKey::new(b"0123456789abcdef").unwrap(), MaskKey::new(b"0123456789abcdeX").unwrap());
        let mask = Mask::Hash(Arc::new(key.clone()));
        let stored = serde_json::to_string(&mask).unwrap();
        assert_eq!(serde_json::from_str::<Mask>(&stored).unwrap(), mask);
        assert_ne!(mask, Mask::Hash(Arc::new(other)));
        assert_eq!(String::from(key).len(), 16);
        assert!(!format!("{stored}{mask:?}").contains("0123456789abcdef"));
        let read: Mask = serde_json::from_str(&stored).unwrap();
        assert!(matches!(read, Mask::Hash(key) if key.hasher().is_none()), "the key itself is not stored");
        assert!(MaskKey::new(b"fifteen bytes..").is_none());
        for (mask, text) in
            [(Mask::Truncate(4), r#"{"truncate":4}"#), (Mask::Null, "\"null\""), (Mask::Omit, "\"omit\"")]
        {
            assert_eq!(serde_json::to_string(&mask).unwrap(), text);
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let cut = |text: &'static str, characters| std::str::from_utf8(truncated(text.as_bytes(), characters)).unwrap();
        assert_eq!((cut("+49 170", 3), cut("äöü€x", 4), cut("ab", 5), cut("", 1)), ("+49", "äöü€", "ab", ""));
        assert_eq!(cut("abc", 3), "abc");
    }
}
