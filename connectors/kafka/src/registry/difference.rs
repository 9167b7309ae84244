//! Describes what changed between two schemas of a table's events, in words for the operator.

use sooner_schemas::avro::{Field, Schema};

/// Describes the columns that were added, dropped or changed in type, or says that something else differs.
pub fn difference(former: &str, now: &str) -> String {
    let (Ok(former), Ok(now)) = (Schema::parse(former), Schema::parse(now)) else {
        return "one of the two is not an Avro schema that can be read".to_owned();
    };
    let (former, now) = (columns(&former), columns(&now));
    let mut changes = Vec::new();
    for field in &former {
        match now.iter().find(|other| other.column == field.column) {
            None => changes.push(format!("'{}' is gone", field.column)),
            Some(other) if kind(&field.schema) != kind(&other.schema) => {
                let (was, is) = (kind(&field.schema), kind(&other.schema));
                changes.push(format!("'{}' was {was} and is {is}", field.column));
            }
            Some(_) => {}
        }
    }
    let added = now.iter().filter(|field| !former.iter().any(|other| other.column == field.column));
    changes.extend(added.map(|field| format!("'{}' is new ({})", field.column, kind(&field.schema))));
    match changes.is_empty() {
        true => "no column differs, but something else does".to_owned(),
        false => format!("column {}", changes.join(", column ")),
    }
}

/// Fields of a key, or of the row inside an envelope.
fn columns(schema: &Schema) -> Vec<Field> {
    let Some(record) = schema.as_record() else { return Vec::new() };
    let row = record.field_index("after").and_then(|after| record.fields[after].schema.as_record());
    row.unwrap_or(record).fields.clone()
}

fn kind(schema: &Schema) -> String {
    let (value, null) = schema.without_null();
    let shape = format!("{:?}", value.shape);
    let name = shape.split(['(', ' ', '{']).next().unwrap_or_default().to_lowercase();
    let name = value.semantic.as_deref().and_then(|semantic| semantic.rsplit('.').next()).unwrap_or(&name).to_owned();
    let digits = value.decimal.map(|(precision, scale)| format!("({precision},{scale})")).unwrap_or_default();
    let nullable = if null.is_some() { ", nullable" } else { "" };
    format!("{name}{digits}{nullable}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fields: &str) -> String {
        format!(r#"{{"type":"record","name":"Key","fields":[{fields}]}}"#)
    }

    #[test]
    fn columns_are_named() {
        let former = key(r#"{"name":"id","type":"int"},{"name":"old","type":"string"}"#);
        let now = key(r#"{"name":"id","type":"long"},{"name":"new","type":["null","string"]}"#);
        assert_eq!(
            difference(&former, &now),
            "column 'id' was int and is long, column 'old' is gone, column 'new' is new (string, nullable)"
        );
        assert_eq!(difference(&now, &now), "no column differs, but something else does");
    }
}
