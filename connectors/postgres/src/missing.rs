//! Constant defaults of columns that were added: which of them need no copy of the rows that are older.
//!
//! <https://www.postgresql.org/docs/current/catalog-pg-attribute.html> (`attmissingval`)

use sooner_schemas::{ColumnType, Scalar};

/// A value's length, at most: it stands in schemas and records.
const LONGEST_BYTES: usize = 1 << 10;

/// Whether a value, as Postgres' text, is one that its readers can write for themselves: all types whose text is what
/// stands in the lake, and plain numbers and dates. Infinity, years before Christ, arrays and the like are not.
pub fn is_constant_of(column_type: &ColumnType, text: &str) -> bool {
    let ColumnType::Scalar(scalar) = column_type else { return false };
    if text.len() > LONGEST_BYTES {
        return false;
    }
    match scalar {
        Scalar::Bool => matches!(text, "t" | "f"),
        Scalar::Int2 | Scalar::Int4 | Scalar::Int8 => text.parse::<i64>().is_ok(),
        Scalar::Float4 | Scalar::Float8 | Scalar::Numeric | Scalar::Decimal { .. } => is_plain_number(text),
        Scalar::Text | Scalar::Uuid | Scalar::Json | Scalar::Enum(_) | Scalar::Other => true,
        Scalar::Date => is_date(text),
        Scalar::Timestamp(_) => text.split_once(' ').is_some_and(|(date, time)| is_date(date) && is_time(time)),
        Scalar::Bytea | Scalar::Time(_) | Scalar::Timestamptz(_) => false,
    }
}

fn is_plain_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// Four digits, two, and two.
fn is_date(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let are_digits = parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    are_digits && parts.iter().map(|part| part.len()).eq([4, 2, 2])
}

fn is_time(text: &str) -> bool {
    text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_that_anybody_reads_alike_need_no_copy() {
        let is = |scalar, text| is_constant_of(&ColumnType::Scalar(scalar), text);
        assert!(is(Scalar::Int4, "-7") && is(Scalar::Bool, "t") && is(Scalar::Text, "any 'text'"));
        assert!(is(Scalar::Decimal { precision: 5, scale: 2 }, "-1.50") && is(Scalar::Float8, "0.25"));
        assert!(is(Scalar::Date, "2026-02-28") && is(Scalar::Timestamp(6), "1970-01-01 00:00:00.25"));
        assert!(!is(Scalar::Numeric, "NaN") && !is(Scalar::Float8, "1e+300") && !is(Scalar::Date, "infinity"));
        assert!(!is(Scalar::Date, "10000-01-01") && !is(Scalar::Timestamp(6), "0044-03-15 00:00:00 BC"));
        assert!(!is(Scalar::Timestamptz(6), "2026-01-01 00:00:00+00") && !is(Scalar::Bytea, "\\x00"));
        assert!(!is_constant_of(&ColumnType::Array(Scalar::Int4), "{1}"));
    }
}
