//! Hashes as hexadecimal digits.

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The 32 bytes of a hash from its 64 lower-case digits; none if it has others.
pub fn hash_bytes(hash: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let digits = hash.bytes().map(digit).collect::<Option<Vec<_>>>()?;
    let bytes: Vec<u8> = digits.as_chunks::<2>().0.iter().map(|[high, low]| high * 16 + low).collect();
    bytes.try_into().ok().filter(|_| hash.len() == 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_survives_its_digits_and_nothing_else_is_one() {
        let hash: [u8; 32] = std::array::from_fn(|at| at as u8 * 8);
        assert_eq!(hash_bytes(&hex(&hash)), Some(hash));
        for wrong in ["", "00", &hex(&[0; 31]), &hex(&[0; 33]), &hex(&[0xab; 32]).to_uppercase(), &"é".repeat(32)] {
            assert_eq!(hash_bytes(wrong), None, "{wrong}");
        }
    }
}
