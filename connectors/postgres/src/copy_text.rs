//! Parses a row of COPY's text format into column values.
//!
//! <https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS>

use std::ops::Range;

use sooner_schemas::encode::TupleValue;

/// Memory of a row that is kept for the next one.
const KEPT_BYTES: usize = 1 << 20;

/// Parser of single rows: splits columns and resolves escapes. It reuses its memory from row to row.
#[derive(Debug, Default)]
pub struct CopyRow {
    text: Vec<u8>,
    columns: Vec<Option<Range<usize>>>,
}

impl CopyRow {
    /// Parses a row, with or without its newline; it replaces the previous one.
    pub fn parse(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if self.text.capacity() > KEPT_BYTES {
            self.text = Vec::new();
        }
        self.text.clear();
        self.text.reserve(line.len());
        self.columns.clear();
        for field in line.split(|&byte| byte == b'\t') {
            if field == b"\\N" {
                self.columns.push(None);
                continue;
            }
            let start = self.text.len();
            unescape(field, &mut self.text);
            self.columns.push(Some(start..self.text.len()));
        }
    }

    /// Values of the row that was parsed last, in column order.
    pub fn values(&self) -> Vec<TupleValue<'_>> {
        let value = |range: &Option<Range<usize>>| match range {
            None => TupleValue::Null,
            Some(range) => TupleValue::Text(&self.text[range.clone()]),
        };
        self.columns.iter().map(value).collect()
    }
}

fn unescape(field: &[u8], out: &mut Vec<u8>) {
    let mut rest = field;
    while let Some(index) = rest.iter().position(|&byte| byte == b'\\') {
        out.extend_from_slice(&rest[..index]);
        let escaped = rest.get(index + 1).copied().unwrap_or(b'\\');
        out.push(match escaped {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            other => other,
        });
        rest = rest.get(index + 2..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_escapes_and_empty_texts() {
        let mut row = CopyRow::default();
        row.parse(b"1\t\\N\t\ta\\tb\\\\c\\nd\n");
        let expected =
            [TupleValue::Text(b"1"), TupleValue::Null, TupleValue::Text(b""), TupleValue::Text(b"a\tb\\c\nd")];
        assert_eq!(row.values(), expected);
    }

    #[test]
    fn a_literal_backslash_n_is_no_null() {
        let mut row = CopyRow::default();
        row.parse(b"\\\\N");
        assert_eq!(row.values(), [TupleValue::Text(b"\\N")]);
    }
}
