//! Avro's binary encoding, primitive by primitive, and the Confluent header before a datum.
//!
//! <https://avro.apache.org/docs/1.12.0/specification/#binary-encoding>; header:
//! <https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format>

/// Length of the Confluent header before a datum: a zero byte and a big-endian schema id of four bytes.
pub const HEADER_BYTES: usize = 5;

/// Error: the bytes end early, or do not match their schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A value runs past the end.
    #[error("the bytes end in the middle of a value")]
    Truncated,
    /// An integer does not fit its type, or a length is negative.
    #[error("an integer or a length is out of range")]
    OutOfRange,
    /// A union names a branch that its schema does not have.
    #[error("a union names a branch that the schema does not have")]
    NoSuchBranch,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// No header that names a schema: Confluent's begins with a zero.
    #[error("the bytes do not start with the Confluent header (a zero and a schema id), nor another that is known")]
    NoHeader,
}

/// Appends the Confluent header: a zero byte and the schema id.
pub fn write_header(out: &mut Vec<u8>, schema_id: u32) {
    out.push(0);
    out.extend_from_slice(&schema_id.to_be_bytes());
}

/// Splits a message into schema id and datum; fails if it does not start with a whole Confluent header.
pub fn split_header(message: &[u8]) -> Result<(u32, &[u8]), Malformed> {
    match message {
        [0, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [] | [0, ..] => Err(Malformed::Truncated),
        _ => Err(Malformed::NoHeader),
    }
}

/// Appends an int or a long: zigzag, then seven bits a byte.
#[inline]
pub fn write_long(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends bytes or a string: length, then content.
#[inline]
pub fn write_bytes(out: &mut Vec<u8>, value: &[u8]) {
    write_long(out, value.len() as i64);
    out.extend_from_slice(value);
}

/// Reads a datum from front to back.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of a datum.
    pub fn new(datum: &'a [u8]) -> Reader<'a> {
        Reader { rest: datum }
    }

    /// Bytes that have not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Reads an int or a long.
    #[inline]
    pub fn long(&mut self) -> Result<i64, Malformed> {
        let mut zigzag = 0u64;
        for (index, &byte) in self.rest.iter().enumerate().take(10) {
            if index == 9 && byte > 1 {
                return Err(Malformed::OutOfRange);
            }
            zigzag |= u64::from(byte & 0x7F) << (7 * index);
            if byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64));
            }
        }
        Err(if self.rest.len() >= 10 { Malformed::OutOfRange } else { Malformed::Truncated })
    }

    /// Reads an int: a long that fits 32 bits.
    #[inline]
    pub fn int(&mut self) -> Result<i32, Malformed> {
        i32::try_from(self.long()?).map_err(|_| Malformed::OutOfRange)
    }

    /// Reads a length or an index, which must not be negative.
    #[inline]
    pub fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.long()?).map_err(|_| Malformed::OutOfRange)
    }

    /// Reads a boolean.
    #[inline]
    pub fn boolean(&mut self) -> Result<bool, Malformed> {
        Ok(self.take(1)?[0] != 0)
    }

    /// Reads a float.
    #[inline]
    pub fn float(&mut self) -> Result<f32, Malformed> {
        let bytes = self.take(4)?;
        Ok(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Reads a double.
    #[inline]
    pub fn double(&mut self) -> Result<f64, Malformed> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(f64::from_le_bytes(bytes))
    }

    /// Reads bytes: a length, then that many bytes.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.length()?;
        self.take(length)
    }

    /// Reads a string: a length, then that many bytes of UTF-8.
    #[inline]
    pub fn string(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::NotUtf8)
    }

    /// Takes the next `count` bytes as they are.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn longs_survive(value: i64) {
            let mut out = Vec::new();
            write_long(&mut out, value);
            prop_assert_eq!(apache_avro_long(value), out.clone());
            prop_assert_eq!(Reader::new(&out).long(), Ok(value));
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let _ = Reader::new(&bytes).long();
            let _ = Reader::new(&bytes).string();
            let _ = split_header(&bytes);
        }
    }

    fn apache_avro_long(value: i64) -> Vec<u8> {
        let schema = apache_avro::Schema::Long;
        let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema).build().expect("a writer");
        writer.write_value_to_vec(value).expect("a long is encodable")
    }

    #[test]
    fn a_header_is_split_off() {
        let mut message = Vec::new();
        write_header(&mut message, 0x0102_0304);
        message.push(9);
        assert_eq!(split_header(&message), Ok((0x0102_0304, &[9][..])));
        assert_eq!(split_header(&[1, 0, 0, 0, 1]), Err(Malformed::NoHeader));
        assert_eq!(split_header(&[0, 0]), Err(Malformed::Truncated));
    }
}
