//! Types of columns follow from their type's id and modifier.

use sooner_postgres::types::Types;
use sooner_schemas::{ColumnType, Scalar};

/// The modifier of `numeric(precision, scale)`.
fn numeric(precision: i32, scale: i32) -> i32 {
    ((precision << 16) | (scale & 0x7FF)) + 4
}

fn resolved(oid: u32, modifier: i32) -> Scalar {
    match Types::default().resolve(oid, modifier) {
        ColumnType::Scalar(scalar) => scalar,
        array @ ColumnType::Array(_) => panic!("{array:?}"),
    }
}

#[test]
fn types_of_postgres_have_fixed_ids() {
    for (oid, scalar) in [
        (16, Scalar::Bool),
        (17, Scalar::Bytea),
        (18, Scalar::Text),
        (19, Scalar::Text),
        (20, Scalar::Int8),
        (21, Scalar::Int2),
        (23, Scalar::Int4),
        (25, Scalar::Text),
        (114, Scalar::Json),
        (700, Scalar::Float4),
        (701, Scalar::Float8),
        (1042, Scalar::Text),
        (1043, Scalar::Text),
        (1082, Scalar::Date),
        (2950, Scalar::Uuid),
        (3802, Scalar::Json),
        (869, Scalar::Other),
        (99_999, Scalar::Other),
    ] {
        assert_eq!(resolved(oid, -1), scalar, "type {oid}");
    }
}

#[test]
fn a_modifier_says_the_digits_of_a_decimal() {
    for (modifier, scalar) in [
        (numeric(10, 2), Scalar::Decimal { precision: 10, scale: 2 }),
        (numeric(5, 0), Scalar::Decimal { precision: 5, scale: 0 }),
        (numeric(1000, 1000), Scalar::Decimal { precision: 1000, scale: 1000 }),
        (numeric(3, 3), Scalar::Decimal { precision: 3, scale: 3 }),
        (numeric(2, 3), Scalar::Numeric),
        (numeric(5, -2), Scalar::Numeric),
        (-1, Scalar::Numeric),
        (0, Scalar::Numeric),
    ] {
        assert_eq!(resolved(1700, modifier), scalar, "modifier {modifier}");
    }
}

#[test]
fn a_modifier_says_the_digits_of_a_second() {
    for (modifier, digits) in [(0, 0), (3, 3), (6, 6), (-1, 6), (7, 6), (256, 6)] {
        assert_eq!(resolved(1083, modifier), Scalar::Time(digits));
        assert_eq!(resolved(1114, modifier), Scalar::Timestamp(digits));
        assert_eq!(resolved(1184, modifier), Scalar::Timestamptz(digits));
    }
}
