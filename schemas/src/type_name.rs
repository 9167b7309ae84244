//! Names of Postgres' types, as `format_type` writes them: for people who compare a table with what is made of it.
//!
//! The ids are those of `pg_type.dat`, which never change.

use crate::column_type::{ColumnType, Scalar};
use crate::relation::Column;

/// Types that every server has: their id, that of their arrays, and their name.
const BUILT_IN: [(u32, u32, &str); 50] = [
    (16, 1000, "boolean"),
    (17, 1001, "bytea"),
    (18, 1002, "\"char\""),
    (19, 1003, "name"),
    (20, 1016, "bigint"),
    (21, 1005, "smallint"),
    (23, 1007, "integer"),
    (25, 1009, "text"),
    (26, 1028, "oid"),
    (114, 199, "json"),
    (142, 143, "xml"),
    (600, 1017, "point"),
    (601, 1018, "lseg"),
    (602, 1019, "path"),
    (603, 1020, "box"),
    (604, 1027, "polygon"),
    (628, 629, "line"),
    (650, 651, "cidr"),
    (700, 1021, "real"),
    (701, 1022, "double precision"),
    (718, 719, "circle"),
    (774, 775, "macaddr8"),
    (790, 791, "money"),
    (829, 1040, "macaddr"),
    (869, 1041, "inet"),
    (1042, 1014, "character"),
    (1043, 1015, "character varying"),
    (1082, 1182, "date"),
    (1083, 1183, "time without time zone"),
    (1114, 1115, "timestamp without time zone"),
    (1184, 1185, "timestamp with time zone"),
    (1186, 1187, "interval"),
    (1266, 1270, "time with time zone"),
    (1560, 1561, "bit"),
    (1562, 1563, "bit varying"),
    (1700, 1231, "numeric"),
    (2205, 2210, "regclass"),
    (2950, 2951, "uuid"),
    (3220, 3221, "pg_lsn"),
    (3614, 3643, "tsvector"),
    (3615, 3645, "tsquery"),
    (3802, 3807, "jsonb"),
    (3904, 3905, "int4range"),
    (3906, 3907, "numrange"),
    (3908, 3909, "tsrange"),
    (3910, 3911, "tstzrange"),
    (3912, 3913, "daterange"),
    (3926, 3927, "int8range"),
    (4072, 4073, "jsonpath"),
    (4451, 6150, "int4multirange"),
];

/// Name of a column's type with its modifier, as `numeric(10,2)`. Of types that a database has made itself only the
/// relation's reduced form is known: what enums allow, what domains are over.
pub fn postgres_type(column: &Column) -> String {
    let Column { type_oid, modifier, column_type, .. } = column;
    for (oid, array, name) in BUILT_IN {
        if *type_oid == oid {
            return with_modifier(name, *modifier);
        }
        if *type_oid == array {
            return format!("{}[]", with_modifier(name, *modifier));
        }
    }
    match column_type {
        ColumnType::Scalar(Scalar::Other) if *type_oid == 0 => "another type".to_owned(),
        ColumnType::Scalar(Scalar::Other) => format!("the type with the id {type_oid}"),
        ColumnType::Array(Scalar::Other) => format!("the array type with the id {type_oid}"),
        ColumnType::Array(items) => format!("{}[]", reduced(items)),
        ColumnType::Scalar(scalar @ Scalar::Enum(_)) => reduced(scalar),
        ColumnType::Scalar(scalar) if *type_oid == 0 => reduced(scalar),
        ColumnType::Scalar(scalar) => format!("domain over {}", reduced(scalar)),
    }
}

/// A name with its modifier, as the type's output function writes it.
fn with_modifier(name: &str, modifier: i32) -> String {
    let digits = |word: &str| {
        let (first, rest) = name.split_once(' ').unwrap_or((name, ""));
        format!("{first}({word}){}{rest}", if rest.is_empty() { "" } else { " " })
    };
    match name {
        _ if modifier < 0 => name.to_owned(),
        "numeric" if modifier >= 4 => {
            let packed = modifier - 4;
            format!("numeric({},{})", (packed >> 16) & 0xFFFF, ((packed & 0x7FF) ^ 0x400) - 0x400)
        }
        "character" | "character varying" => format!("{name}({})", modifier - 4),
        "bit" | "bit varying" => format!("{name}({modifier})"),
        "interval" => match modifier & 0xFFFF {
            0xFFFF => name.to_owned(),
            precision => format!("interval({precision})"),
        },
        _ if name.contains(" time zone") => digits(&modifier.to_string()),
        _ => name.to_owned(),
    }
}

fn reduced(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Bool => "boolean".to_owned(),
        Scalar::Int2 => "smallint".to_owned(),
        Scalar::Int4 => "integer".to_owned(),
        Scalar::Int8 => "bigint".to_owned(),
        Scalar::Float4 => "real".to_owned(),
        Scalar::Float8 => "double precision".to_owned(),
        Scalar::Decimal { precision, scale } => format!("numeric({precision},{scale})"),
        Scalar::Numeric => "numeric".to_owned(),
        Scalar::Text => "text".to_owned(),
        Scalar::Bytea => "bytea".to_owned(),
        Scalar::Date => "date".to_owned(),
        Scalar::Time(_) => "time without time zone".to_owned(),
        Scalar::Timestamp(_) => "timestamp without time zone".to_owned(),
        Scalar::Timestamptz(_) => "timestamp with time zone".to_owned(),
        Scalar::Uuid => "uuid".to_owned(),
        Scalar::Json => "json".to_owned(),
        Scalar::Enum(labels) => format!("enum ({})", labels.join(", ")),
        Scalar::Other => "another type".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(type_oid: u32, modifier: i32, column_type: ColumnType) -> String {
        postgres_type(&Column { type_oid, modifier, ..Column::new("c", column_type) })
    }

    #[test]
    fn types_that_every_server_has_are_named_with_their_modifiers() {
        let of = |oid, modifier| named(oid, modifier, ColumnType::Scalar(Scalar::Other));
        for (oid, modifier, name) in [
            (23, -1, "integer"),
            (1700, -1, "numeric"),
            (1700, (10 << 16) + 2 + 4, "numeric(10,2)"),
            (1700, (3 << 16) + 0x7FE + 4, "numeric(3,-2)"),
            (1231, (10 << 16) + 2 + 4, "numeric(10,2)[]"),
            (1043, 24, "character varying(20)"),
            (1042, 5, "character(1)"),
            (1114, 3, "timestamp(3) without time zone"),
            (1184, -1, "timestamp with time zone"),
            (1083, 0, "time(0) without time zone"),
            (1186, 0x7FFF_0003, "interval(3)"),
            (1186, 0x7FFF_FFFF, "interval"),
            (1560, 8, "bit(8)"),
            (3807, -1, "jsonb[]"),
        ] {
            assert_eq!(of(oid, modifier), name);
        }
    }

    #[test]
    fn of_types_of_the_database_the_reduced_form_is_told() {
        let scalar = ColumnType::Scalar;
        let labels = || Scalar::Enum(vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(named(16_400, -1, scalar(labels())), "enum (a, b)");
        assert_eq!(named(16_401, -1, ColumnType::Array(labels())), "enum (a, b)[]");
        let decimal = Scalar::Decimal { precision: 4, scale: 1 };
        assert_eq!(named(16_402, -1, scalar(decimal)), "domain over numeric(4,1)");
        assert_eq!(named(16_403, -1, scalar(Scalar::Other)), "the type with the id 16403");
        assert_eq!(named(0, -1, scalar(Scalar::Uuid)), "uuid");
    }
}
