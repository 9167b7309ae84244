//! A column's default value, as Debezium puts it into schemas: derived from the text of the default's expression,
//! which is never evaluated.
//!
//! The rules are those of Debezium 3.6's `PostgresDefaultValueConverter`: a literal stands for itself; a function's
//! result is not known, so the type's zero value replaces it; any other expression has no default, except that for
//! texts its first literal is used. Where that would yield a value that the type cannot hold (NaN, infinity), there
//! is no default.

use serde_json::{Value, json};

use crate::column_type::{ColumnType, Scalar};
use crate::value::write_value;
use crate::wire::Reader;

/// A column's default, held as the Avro bytes of a value of that column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultValue {
    scalar: Scalar,
    avro: Vec<u8>,
}

impl DefaultValue {
    /// Derives the default from an expression as `pg_get_expr` shows it; none if the schemas declare none for it.
    pub fn of_expression(column_type: &ColumnType, expression: &str) -> Option<DefaultValue> {
        let ColumnType::Scalar(scalar) = column_type else { return None };
        let text = value_text(scalar, expression.trim())?;
        let mut avro = Vec::new();
        write_value(&mut avro, column_type, text.as_bytes()).ok()?;
        let default = DefaultValue { scalar: scalar.clone(), avro };
        // JSON has no number for NaN and infinity.
        let (_, json) = default.json()?;
        (!json.is_null()).then_some(default)
    }

    /// Avro bytes of the default.
    pub fn avro(&self) -> &[u8] {
        &self.avro
    }

    /// The default as JSON, first for the type's `connect.default`, then for the field's `default`. The two differ
    /// only in how a `real` is shown. None for types whose defaults the schemas do not declare.
    pub fn json(&self) -> Option<(Value, Value)> {
        let mut reader = Reader::new(&self.avro);
        let both = |value: Value| Some((value.clone(), value));
        match &self.scalar {
            Scalar::Bool => both(json!(reader.boolean().ok()?)),
            Scalar::Int2 => both(json!(i16::try_from(reader.long().ok()?).ok()?)),
            Scalar::Int4 | Scalar::Date => both(json!(reader.int().ok()?)),
            Scalar::Int8 | Scalar::Time(_) | Scalar::Timestamp(_) => both(json!(reader.long().ok()?)),
            Scalar::Float4 => {
                let value = reader.float().ok()?;
                let shortest: f64 = value.to_string().parse().ok()?;
                Some((json!(shortest), json!(f64::from(value))))
            }
            Scalar::Float8 => both(json!(reader.double().ok()?)),
            // In JSON, Avro writes bytes as a text whose characters have the bytes' values as code points.
            Scalar::Decimal { .. } => {
                both(json!(reader.bytes().ok()?.iter().map(|byte| char::from(*byte)).collect::<String>()))
            }
            Scalar::Timestamptz(_) | Scalar::Text | Scalar::Uuid | Scalar::Json | Scalar::Enum(_) => {
                both(json!(reader.string().ok()?))
            }
            Scalar::Numeric | Scalar::Bytea | Scalar::Other => None,
        }
    }
}

/// Postgres' text for the value that an expression stands for; none if it stands for none.
fn value_text(scalar: &Scalar, expression: &str) -> Option<String> {
    if expression.starts_with("NULL::") {
        return None;
    }
    if let Scalar::Enum(labels) = scalar {
        return enum_label(labels, expression);
    }
    let text = if is_function(expression) || is_keyword(expression) {
        unknown_result(scalar)?.to_owned()
    } else {
        first_literal(expression).unwrap_or_else(|| expression.to_owned())
    };
    match scalar {
        Scalar::Bool => Some(if text.eq_ignore_ascii_case("true") { "t" } else { "f" }.to_owned()),
        Scalar::Decimal { scale, .. } => Some(without_excess_zeros(&text, usize::from(*scale)).to_owned()),
        _ => Some(text),
    }
}

/// Text that replaces a value which only the database can compute; none for types without one.
fn unknown_result(scalar: &Scalar) -> Option<&'static str> {
    Some(match scalar {
        Scalar::Bool => "false",
        Scalar::Int2 | Scalar::Int4 | Scalar::Int8 | Scalar::Float4 | Scalar::Float8 | Scalar::Decimal { .. } => "0",
        Scalar::Text => "",
        Scalar::Json => "{}",
        Scalar::Uuid => "00000000-0000-0000-0000-000000000000",
        Scalar::Date => "1970-01-01",
        Scalar::Time(_) => "00:00:00",
        Scalar::Timestamp(_) => "1970-01-01 00:00:00",
        Scalar::Timestamptz(_) => "1970-01-01 00:00:00+00",
        Scalar::Numeric | Scalar::Bytea | Scalar::Other | Scalar::Enum(_) => return None,
    })
}

/// Whether an expression starts with a function call: an identifier and parentheses, possibly after one opening
/// parenthesis.
fn is_function(expression: &str) -> bool {
    let rest = expression.strip_prefix('(').unwrap_or(expression);
    let name =
        rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')).len();
    let line = rest[name..].lines().next().unwrap_or_default();
    name > 0 && line.starts_with('(') && line.contains(')')
}

fn is_keyword(expression: &str) -> bool {
    const KEYWORDS: [&str; 5] = ["current_timestamp", "current_time", "current_date", "localtime", "localtimestamp"];
    KEYWORDS.iter().any(|keyword| expression.eq_ignore_ascii_case(keyword))
}

/// The content of the expression's first quoted literal, in which two quotes stand for one.
fn first_literal(expression: &str) -> Option<String> {
    let start = expression.find('\'')? + 1;
    let mut literal = String::new();
    let mut rest = &expression[start..];
    loop {
        let end = rest.find('\'')?;
        literal.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('\'') {
            Some(after) => rest = after,
            None => return Some(literal),
        }
        literal.push('\'');
    }
}

/// The enum's label, if the expression starts with that label and a cast.
fn enum_label(labels: &[String], expression: &str) -> Option<String> {
    let label = first_literal(expression)?;
    let quoted = format!("'{}'::", label.replace('\'', "''"));
    (expression.starts_with(&quoted) && labels.contains(&label)).then_some(label)
}

fn without_excess_zeros(text: &str, scale: usize) -> &str {
    let Some(point) = text.find('.') else { return text };
    let mut text = text;
    while text.len() - point - 1 > scale && text.ends_with('0') {
        text = &text[..text.len() - 1];
    }
    text.strip_suffix('.').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default(scalar: Scalar, expression: &str) -> Option<Value> {
        Some(DefaultValue::of_expression(&ColumnType::Scalar(scalar), expression)?.json()?.1)
    }

    fn decimal(precision: u16, scale: u16) -> Scalar {
        Scalar::Decimal { precision, scale }
    }

    #[test]
    fn literals_are_defaults() {
        let mood = Scalar::Enum(vec!["ok".into(), "it's".into()]);
        let known = [
            (Scalar::Int4, "5", json!(5)),
            (Scalar::Int4, "'-5'::integer", json!(-5)),
            (Scalar::Bool, "true", json!(true)),
            (Scalar::Text, "'it''s'::text", json!("it's")),
            (Scalar::Text, "('a'::text || now())", json!("a")),
            (Scalar::Text, "CURRENT_USER", json!("CURRENT_USER")),
            (decimal(10, 2), "1.50", json!("\u{0}\u{96}")),
            (decimal(10, 2), "1.550", json!("\u{0}\u{9b}")),
            (decimal(5, 0), "2.0", json!("\u{2}")),
            (Scalar::Date, "'2020-01-01'::date", json!(18262)),
            (
                Scalar::Timestamp(6),
                "'2020-01-01 00:00:00'::timestamp without time zone",
                json!(1_577_836_800_000_000_i64),
            ),
            (Scalar::Json, "'{}'::jsonb", json!("{}")),
            (mood.clone(), "'ok'::mood", json!("ok")),
            (Scalar::Float8, "1.1", json!(1.1)),
        ];
        for (scalar, expression, expected) in known {
            assert_eq!(default(scalar, expression), Some(expected), "{expression}");
        }
        let real = DefaultValue::of_expression(&ColumnType::Scalar(Scalar::Float4), "1.1").unwrap();
        assert_eq!(real.json(), Some((json!(1.1), json!(1.100_000_023_841_858))));
    }

    #[test]
    fn a_zero_stands_for_what_only_the_database_can_work_out() {
        let unknown = [
            (Scalar::Int4, "nextval('t_id_seq'::regclass)", json!(0)),
            (Scalar::Text, "(upper('a'::text) || 'b'::text)", json!("")),
            (Scalar::Timestamptz(6), "now()", json!("1970-01-01T00:00:00.000000Z")),
            (Scalar::Timestamptz(0), "CURRENT_TIMESTAMP", json!("1970-01-01T00:00:00Z")),
            (Scalar::Uuid, "gen_random_uuid()", json!("00000000-0000-0000-0000-000000000000")),
            (Scalar::Bool, "(1 > 0)", json!(false)),
            (decimal(4, 1), "random()", json!("\u{0}")),
        ];
        for (scalar, expression, expected) in unknown {
            assert_eq!(default(scalar, expression), Some(expected), "{expression}");
        }
    }

    #[test]
    fn others_have_none() {
        let none = [
            (Scalar::Int4, "(1 + 2)"),
            (Scalar::Int4, "NULL::integer"),
            (Scalar::Int2, "70000"),
            (decimal(10, 2), "1.555"),
            (decimal(10, 2), "'NaN'::numeric"),
            (Scalar::Float8, "'NaN'::double precision"),
            (Scalar::Float8, "'Infinity'::double precision"),
            (Scalar::Date, "'infinity'::date"),
            (Scalar::Date, "(CURRENT_DATE + 1)"),
            (Scalar::Bytea, "'\\x00ff'::bytea"),
            (Scalar::Numeric, "1.5"),
            (Scalar::Other, "'1 day'::interval"),
            (Scalar::Enum(vec!["ok".into()]), "('ok'::text)::mood"),
        ];
        for (scalar, expression) in none {
            assert_eq!(default(scalar, expression), None, "{expression}");
        }
    }
}
