//! A row's key, as a person writes it.
//!
//! Values are separated by commas and come in the order of the key's columns; or each has its column's name before an
//! equal sign, and then they come in any order. Blanks around names and values do not count. A name or value in double
//! quotes may have commas, equal signs and blanks; a double quote is written twice there: `42`, `7,42`,
//! `tenant=7,id=42`, `region="north, ""old""",id=1`.

/// A key that is not matched with columns yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenKey {
    /// Values in the order of the key's columns.
    Ordered(Vec<String>),
    /// Names of columns with their values.
    Named(Vec<(String, String)>),
}

/// A name or a value while it is read.
#[derive(Default)]
struct Word {
    text: String,
    /// Bytes of it that stood in quotes, or before something that did: blanks among them count.
    kept: usize,
    was_quoted: bool,
}

impl Word {
    fn finish(self) -> String {
        let (kept, rest) = self.text.split_at(self.kept);
        format!("{kept}{}", rest.trim_end())
    }

    fn push(&mut self, c: char) {
        // Blanks before a word do not count.
        if !c.is_whitespace() || !self.text.is_empty() || self.was_quoted {
            self.text.push(c);
        }
    }

    fn quote(&mut self, c: char) {
        self.text.push(c);
        self.kept = self.text.len();
    }
}

/// Parses a key. The error says what is wrong with it.
pub fn parse_key(text: &str) -> Result<GivenKey, String> {
    let mut parts: Vec<(Option<String>, String)> = Vec::new();
    let (mut name, mut word) = (None, Word::default());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => read_quoted(&mut chars, &mut word)?,
            ',' => parts.push((name.take(), std::mem::take(&mut word).finish())),
            '=' if name.is_none() => name = Some(std::mem::take(&mut word).finish()),
            '=' => return Err("it has a second equal sign in one value; put such a value in double quotes".to_owned()),
            c => word.push(c),
        }
    }
    parts.push((name, word.finish()));
    let named = parts.iter().filter(|(name, _)| name.is_some()).count();
    if named == 0 {
        return Ok(GivenKey::Ordered(parts.into_iter().map(|(_, value)| value).collect()));
    }
    if named < parts.len() {
        let why = "some of its values have names and others do not; name all of them or none, and put values that have \
                   commas or equal signs in double quotes";
        return Err(why.to_owned());
    }
    Ok(GivenKey::Named(parts.into_iter().map(|(name, value)| (name.unwrap_or_default(), value)).collect()))
}

fn read_quoted(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, word: &mut Word) -> Result<(), String> {
    word.was_quoted = true;
    loop {
        match chars.next() {
            None => return Err("a double quote is not closed".to_owned()),
            Some('"') if chars.next_if_eq(&'"').is_none() => break,
            Some(c) => word.quote(c),
        }
    }
    word.kept = word.text.len();
    Ok(())
}

impl GivenKey {
    /// The values in the order of these columns, which are the table's key. The error says what does not fit.
    pub fn in_order_of(self, columns: &[&str]) -> Result<Vec<String>, String> {
        let key = columns.join(", ");
        match self {
            GivenKey::Ordered(values) if values.len() == columns.len() => Ok(values),
            GivenKey::Ordered(values) => {
                Err(format!("it has {} value(s), and the table's key has {}: {key}", values.len(), columns.len()))
            }
            GivenKey::Named(mut values) => {
                let mut ordered = Vec::with_capacity(columns.len());
                for column in columns {
                    let Some(at) = values.iter().position(|(name, _)| name == column) else {
                        return Err(format!("it has no value for {column}; the table's key is {key}"));
                    };
                    ordered.push(values.remove(at).1);
                }
                match values.first() {
                    Some((name, _)) => Err(format!("'{name}' is not once in the table's key, which is {key}")),
                    None => Ok(ordered),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ordered(values: &[&str]) -> Result<GivenKey, String> {
        Ok(GivenKey::Ordered(values.iter().map(|value| (*value).to_owned()).collect()))
    }

    fn named(values: &[(&str, &str)]) -> Result<GivenKey, String> {
        let owned = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Ok(GivenKey::Named(owned.collect()))
    }

    #[test]
    fn keys_are_read_as_the_rule_says() {
        assert_eq!(parse_key("42"), ordered(&["42"]));
        assert_eq!(parse_key(" 7 , a b "), ordered(&["7", "a b"]));
        assert_eq!(parse_key("tenant=7,id=42"), named(&[("tenant", "7"), ("id", "42")]));
        assert_eq!(
            parse_key(r#"region="north, ""old""" , id=1"#),
            named(&[("region", r#"north, "old""#), ("id", "1")])
        );
        assert_eq!(parse_key(r#""a=b""#), ordered(&["a=b"]));
        assert_eq!(parse_key(r#"" a ""#), ordered(&[" a "]));
        assert_eq!(parse_key(""), ordered(&[""]));
        assert_eq!(parse_key(r#""a b"=1"#), named(&[("a b", "1")]));
    }

    #[test]
    fn what_the_rule_does_not_have_is_refused() {
        assert!(parse_key("\"a").unwrap_err().contains("not closed"));
        assert!(parse_key("a=1,2").unwrap_err().contains("all of them or none"));
        assert!(parse_key("a=b=c").unwrap_err().contains("equal sign"));
    }

    #[test]
    fn values_are_put_in_the_order_of_the_key() {
        let of = |text: &str| parse_key(text).unwrap().in_order_of(&["tenant", "id"]);
        assert_eq!(of("id=42,tenant=7").unwrap(), ["7", "42"]);
        assert_eq!(of("7,42").unwrap(), ["7", "42"]);
        assert!(of("7").unwrap_err().contains("tenant, id"));
        assert!(of("id=42").unwrap_err().contains("no value for tenant"));
        assert!(of("id=42,tenant=7,other=1").unwrap_err().contains("'other'"));
        assert!(of("id=42,tenant=7,id=1").unwrap_err().contains("'id'"));
    }
}
