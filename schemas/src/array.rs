//! Postgres' text form of a one-dimensional array: `{1,2,NULL}`, `{"a b","c\"d"}`.
//!
//! <https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO>

use crate::unholdable::Unholdable;

const BAD: Unholdable = Unholdable("it is not in Postgres' array form");

/// Calls `item` for each element in order, with its unescaped text, or `None` for NULL.
///
/// An array of several dimensions, or with a lower bound other than 1, has no place in a list and is refused.
pub fn each_element(
    text: &[u8],
    mut item: impl FnMut(Option<&[u8]>) -> Result<(), Unholdable>,
) -> Result<(), Unholdable> {
    if text.first() == Some(&b'[') {
        return Err(Unholdable("an array with a lower bound other than 1 has no place in a list"));
    }
    let mut rest = text.strip_prefix(b"{").and_then(|text| text.strip_suffix(b"}")).ok_or(BAD)?;
    if rest.is_empty() {
        return Ok(());
    }
    let mut unescaped = Vec::new();
    loop {
        rest = match rest.first() {
            Some(b'{') => return Err(Unholdable("an array of several dimensions has no place in a list")),
            Some(b'"') => {
                let after = unquote(&rest[1..], &mut unescaped)?;
                item(Some(&unescaped))?;
                after
            }
            _ => {
                let (plain, after) = rest.split_at(rest.iter().position(|&byte| byte == b',').unwrap_or(rest.len()));
                item(if plain == b"NULL" { None } else { Some(plain) })?;
                after
            }
        };
        match rest {
            [] => return Ok(()),
            [b',', after @ ..] => rest = after,
            _ => return Err(BAD),
        }
    }
}

/// Copies a quoted element's content and returns what follows its closing quote.
fn unquote<'a>(text: &'a [u8], unescaped: &mut Vec<u8>) -> Result<&'a [u8], Unholdable> {
    unescaped.clear();
    let mut bytes = text.iter().enumerate();
    while let Some((index, &byte)) = bytes.next() {
        match byte {
            b'"' => return Ok(&text[index + 1..]),
            b'\\' => unescaped.push(*bytes.next().ok_or(BAD)?.1),
            _ => unescaped.push(byte),
        }
    }
    Err(BAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(text: &str) -> Result<Vec<Option<String>>, Unholdable> {
        let mut found = Vec::new();
        each_element(text.as_bytes(), |item| {
            found.push(item.map(|bytes| String::from_utf8_lossy(bytes).into_owned()));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn quotes_escapes_and_nulls() {
        assert_eq!(elements("{}"), Ok(vec![]));
        assert_eq!(elements("{1,NULL,3}"), Ok(vec![Some("1".into()), None, Some("3".into())]));
        let quoted = elements(r#"{"a,b","c\"d","NULL","e\\f",""}"#);
        let expected = ["a,b", "c\"d", "NULL", "e\\f", ""].map(|text| Some(text.to_owned()));
        assert_eq!(quoted, Ok(expected.to_vec()));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["{{1,2},{3,4}}", "[0:1]={1,2}", "1,2", "{1", r#"{"a}"#, r#"{"a"b}"#] {
            assert!(elements(text).is_err(), "{text}");
        }
    }
}
