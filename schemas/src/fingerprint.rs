//! Fingerprints stand for texts that are too large to be kept only to be recognised.

use std::hash::{BuildHasher, Hash, RandomState};

/// Makes fingerprints of 128 bits by keys of its own: nobody can make two of them meet.
#[derive(Debug, Default)]
pub struct Fingerprints(RandomState, RandomState);

impl Fingerprints {
    /// The fingerprint of something.
    pub fn of(&self, value: &impl Hash) -> u128 {
        u128::from(self.0.hash_one(value)) << 64 | u128::from(self.1.hash_one(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_equal_has_one_fingerprint_and_what_differs_another() {
        let prints = Fingerprints::default();
        assert_eq!(prints.of(&("a", "bc")), prints.of(&("a".to_owned(), "bc".to_owned())));
        assert_ne!(prints.of(&("a", "bc")), prints.of(&("ab", "c")));
        assert_ne!(prints.of(&("a", "bc")), Fingerprints::default().of(&("a", "bc")));
    }
}
