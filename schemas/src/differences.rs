//! How a table differs from what it was, in words for people.

use crate::column_type::{ColumnType, Scalar};
use crate::masking::{MaskChange, mask_change};
use crate::relation::{Column, Relation};

/// Each difference between two shapes of one table, such as "column 'a' was added". Columns are matched by number,
/// or by name where numbers are not known.
pub fn differences(former: &Relation, now: &Relation) -> Vec<String> {
    let masks = mask_change(former, now).map(|change| match change {
        MaskChange::Rules(why) | MaskChange::Unnamed(why) => why,
    });
    let mut found: Vec<_> = masks.into_iter().collect();
    let (former, now) = (&*former.without_omitted(), &*now.without_omitted());
    for was in &former.columns {
        match now.columns.iter().find(|is| is_same_column(was, is)) {
            Some(is) => found.extend(column_differences(was, is)),
            None => found.push(format!("column '{}' was dropped", was.name)),
        }
    }
    for is in &now.columns {
        if !former.columns.iter().any(|was| is_same_column(was, is)) {
            found.push(format!("column '{}' ({}) was added", is.name, type_name(&is.column_type)));
        }
    }
    let (old_key, key) = (key_names(former), key_names(now));
    if old_key != key {
        found.push(format!("its key changed from ({}) to ({})", old_key.join(", "), key.join(", ")));
    }
    if former.identity != now.identity {
        let names = |relation: &Relation| format!("{:?}", relation.identity).to_uppercase();
        found.push(format!("its replica identity changed from {} to {}", names(former), names(now)));
    }
    found
}

fn is_same_column(was: &Column, is: &Column) -> bool {
    match (was.number, is.number) {
        (Some(was), Some(is)) => was == is,
        _ => was.name == is.name,
    }
}

fn column_differences(was: &Column, is: &Column) -> Vec<String> {
    let mut found = Vec::new();
    if was.name != is.name {
        found.push(format!("column '{}' was renamed to '{}'", was.name, is.name));
    }
    let (old_type, new_type) = (type_name(&was.column_type), type_name(&is.column_type));
    if old_type != new_type {
        found.push(format!("column '{}' changed its type from {old_type} to {new_type}", is.name));
    } else if was.column_type != is.column_type {
        found.push(format!("the labels of column '{}' changed", is.name));
    }
    match (was.nullable, is.nullable) {
        (false, true) => found.push(format!("column '{}' may be NULL", is.name)),
        (true, false) => found.push(format!("column '{}' became NOT NULL", is.name)),
        _ => {}
    }
    found
}

fn key_names(relation: &Relation) -> Vec<&str> {
    relation.key.iter().filter_map(|&index| Some(relation.columns.get(index)?.name.as_str())).collect()
}

/// Name of a type, as SQL has it where there is one.
fn type_name(column_type: &ColumnType) -> String {
    match column_type {
        ColumnType::Scalar(scalar) => scalar_name(scalar),
        ColumnType::Array(scalar) => format!("{}[]", scalar_name(scalar)),
    }
}

fn scalar_name(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Bool => "boolean".into(),
        Scalar::Int2 => "smallint".into(),
        Scalar::Int4 => "integer".into(),
        Scalar::Int8 => "bigint".into(),
        Scalar::Float4 => "real".into(),
        Scalar::Float8 => "double precision".into(),
        Scalar::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
        Scalar::Numeric => "numeric".into(),
        Scalar::Time(digits) => format!("time({digits})"),
        Scalar::Timestamp(digits) => format!("timestamp({digits})"),
        Scalar::Timestamptz(digits) => format!("timestamptz({digits})"),
        Scalar::Enum(_) => "enum".into(),
        Scalar::Other => "another type".into(),
        named => format!("{named:?}").to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table_name::TableName;

    fn column(name: &str, number: i16, scalar: Scalar) -> Column {
        Column::new(name, ColumnType::Scalar(scalar)).numbered(number)
    }

    fn relation(columns: Vec<Column>, key: Vec<usize>) -> Relation {
        Relation::new(TableName::new("public", "t"), columns, key)
    }

    #[test]
    fn each_difference_is_told() {
        let former = relation(
            vec![column("id", 1, Scalar::Int4), column("a", 2, Scalar::Text), column("b", 3, Scalar::Date)],
            vec![0],
        );
        assert!(differences(&former, &former).is_empty());
        let decimal = Scalar::Decimal { precision: 10, scale: 2 };
        let mut now = relation(
            vec![column("id", 1, Scalar::Int8), column("c", 2, Scalar::Text), column("d", 4, decimal)],
            vec![],
        );
        now.columns[1].nullable = !former.columns[1].nullable;
        let told = differences(&former, &now);
        assert_eq!(told[0], "column 'id' changed its type from integer to bigint");
        assert_eq!(told[1], "column 'a' was renamed to 'c'");
        assert!(told[2].starts_with("column 'c' "));
        assert_eq!(told[3..5], ["column 'b' was dropped", "column 'd' (numeric(10,2)) was added"]);
        assert_eq!(told[5], "its key changed from (id) to ()");
    }
}
