//! Positions, relations as they are stored, defaults, and placeholders that are found again.

use proptest::prelude::*;
use serde_json::json;
use sooner_schemas::avro::Schema;
use sooner_schemas::envelope::value_schema;
use sooner_schemas::placeholder::find_placeholders;
use sooner_schemas::value::{PLACEHOLDER, write_fallback, write_placeholder};
use sooner_schemas::wire::{Malformed, Reader, write_bytes, write_long};
use sooner_schemas::{Column, ColumnType, DefaultValue, Lsn, Position, Relation, ReplicaIdentity, Scalar, TableName};

use crate::support::{column, column_types};

#[test]
fn an_lsn_is_read_in_either_case_and_written_in_upper_case() {
    for (text, value, written) in [
        ("16/b374d848", 0x16_B374_D848, "16/B374D848"),
        ("00000001/0000000a", 0x1_0000_000A, "1/A"),
        ("FFFFFFFF/FFFFFFFF", u64::MAX, "FFFFFFFF/FFFFFFFF"),
    ] {
        let lsn: Lsn = text.parse().unwrap();
        assert_eq!((lsn, lsn.to_string().as_str()), (Lsn(value), written));
    }
    for text in ["-1/0", " 1/0", "1/0 ", "0x1/0", "1:0", "100000000/0"] {
        let refused = text.parse::<Lsn>().unwrap_err();
        assert!(refused.to_string().starts_with(&format!("'{text}' is not an LSN")), "{refused}");
    }
}

#[test]
fn bytes_since_a_later_position_are_none() {
    assert_eq!(Lsn(50).bytes_since(Lsn(20)), 30);
    assert_eq!(Lsn(20).bytes_since(Lsn(50)), 0);
    assert_eq!(Lsn(u64::MAX).bytes_since(Lsn::ZERO), u64::MAX);
}

proptest! {
    #[test]
    fn an_lsn_survives_text_and_json(value in any::<u64>()) {
        let lsn = Lsn(value);
        prop_assert_eq!(lsn.to_string().parse::<Lsn>().unwrap(), lsn);
        let stored = serde_json::to_value(lsn).unwrap();
        prop_assert_eq!(stored.clone(), json!(lsn.to_string()));
        prop_assert_eq!(serde_json::from_value::<Lsn>(stored).unwrap(), lsn);
    }

    #[test]
    fn a_commit_comes_before_an_ordinal(a in any::<(u64, u64)>(), b in any::<(u64, u64)>()) {
        let at = |(lsn, ordinal): (u64, u64)| Position { commit_lsn: Lsn(lsn), ordinal };
        prop_assert_eq!(at(a).cmp(&at(b)), a.cmp(&b));
    }
}

#[test]
fn a_relation_is_stored_whole_but_for_the_defaults_of_its_schemas() {
    let columns = column_types().into_iter().enumerate().map(|(n, column_type)| Column {
        number: Some(n as i16 + 1),
        type_oid: 20,
        modifier: 7,
        has_default: n % 2 == 0,
        missing: None,
        nullable: n % 3 == 0,
        ..Column::new(format!("c{n}"), column_type)
    });
    let relation = Relation {
        oid: 5,
        identity: ReplicaIdentity::Full,
        ..Relation::new(TableName::new("odd.schema", "t"), columns.collect(), vec![3, 0])
    };
    let text = serde_json::to_string(&relation).unwrap();
    assert_eq!(serde_json::from_str::<Relation>(&text).unwrap(), relation);

    let default = DefaultValue::of_expression(&ColumnType::Scalar(Scalar::Int4), "5");
    assert!(default.is_some());
    let defaulted = Column { default, ..column("a", Scalar::Int4) };
    let stored = serde_json::to_string(&defaulted).unwrap();
    assert_eq!(serde_json::from_str::<Column>(&stored).unwrap(), column("a", Scalar::Int4));
}

#[test]
fn a_relation_that_lacks_later_additions_is_read() {
    let stored = json!({
        "name": "public.t",
        "columns": [{"name": "a", "column_type": {"scalar": "int4"}, "nullable": true}],
        "key": [0],
    });
    let relation: Relation = serde_json::from_value(stored).unwrap();
    let expected = Relation::new(TableName::new("public", "t"), vec![column("a", Scalar::Int4).nullable()], vec![0]);
    assert_eq!(relation, expected);
    assert_eq!((relation.columns[0].modifier, relation.identity), (-1, ReplicaIdentity::Default));
    assert!(relation.is_key(0) && !relation.is_key(1));
}

#[test]
fn defaults_end_where_their_types_end() {
    let scalar = |scalar: Scalar, expression: &str| {
        Some(DefaultValue::of_expression(&ColumnType::Scalar(scalar), expression)?.json()?.1)
    };
    for (of, expression, expected) in [
        (Scalar::Int2, "'-32768'::integer", Some(json!(-32_768))),
        (Scalar::Int2, "32768", None),
        (Scalar::Int4, "2147483647", Some(json!(i32::MAX))),
        (Scalar::Int4, "'2147483648'::bigint", None),
        (Scalar::Int8, "'-9223372036854775808'::bigint", Some(json!(i64::MIN))),
        (Scalar::Int8, "9223372036854775808", None),
        (Scalar::Int4, "  7 ", Some(json!(7))),
        (Scalar::Time(0), "'12:00:00'::time without time zone", Some(json!(43_200_000))),
        (Scalar::Time(6), "'12:00:00'::time without time zone", Some(json!(43_200_000_000_i64))),
        (Scalar::Timestamp(6), "LOCALTIMESTAMP", Some(json!(0))),
        (Scalar::Int8, "pg_catalog.txid_current()", Some(json!(0))),
        (Scalar::Text, "'now()'::text", Some(json!("now()"))),
        (Scalar::Text, "''::text", Some(json!(""))),
        (Scalar::Text, "NULL::text", None),
        (Scalar::Enum(vec!["it's".to_owned()]), "'it''s'::mood", Some(json!("it's"))),
        (Scalar::Enum(vec!["ok".to_owned()]), "'gone'::mood", None),
        (Scalar::Numeric, "now()", None),
    ] {
        assert_eq!(scalar(of.clone(), expression), expected, "{of:?} {expression}");
    }
    let array = ColumnType::Array(Scalar::Int4);
    assert_eq!(DefaultValue::of_expression(&array, "'{1}'::integer[]"), None, "schemas declare none for arrays");
}

#[test]
fn what_stands_in_for_a_value_fits_the_schema_of_its_column() {
    for column_type in column_types() {
        let relation = Relation::new(TableName::new("s", "t"), vec![Column::new("c", column_type.clone())], vec![]);
        let value = Schema::parse(&value_schema("t", &relation).to_string()).unwrap();
        let row = value.as_record().unwrap().fields[0].schema.as_record().unwrap().clone();

        let mut fallback = Vec::new();
        write_fallback(&mut fallback, &column_type);
        let mut reader = Reader::new(&fallback);
        row.fields[0].schema.skip(&mut reader).unwrap();
        assert!(reader.rest().is_empty(), "{column_type:?}");
        assert!(find_placeholders(&row, &mut Reader::new(&fallback)).unwrap().is_empty(), "{column_type:?}");

        let mut placeholder = Vec::new();
        if write_placeholder(&mut placeholder, &column_type) {
            let mut reader = Reader::new(&placeholder);
            assert_eq!(find_placeholders(&row, &mut reader), Ok(vec![0]), "{column_type:?}");
            assert!(reader.rest().is_empty(), "{column_type:?}");
            let cut = &placeholder[..placeholder.len() - 1];
            assert_eq!(find_placeholders(&row, &mut Reader::new(cut)), Err(Malformed::Truncated), "{column_type:?}");
        }
    }
}

#[test]
fn what_only_resembles_a_placeholder_is_a_value() {
    let fields = r#"[{"name": "a", "type": {"type": "array", "items": ["null", "string"]}}]"#;
    let schema = Schema::parse(&format!(r#"{{"type": "record", "name": "V", "fields": {fields}}}"#)).unwrap();
    let row = schema.as_record().unwrap();
    let array = |items: &[Option<&[u8]>]| {
        let mut out = Vec::new();
        write_long(&mut out, items.len() as i64);
        for item in items {
            write_long(&mut out, item.is_some().into());
            if let Some(text) = item {
                write_bytes(&mut out, text);
            }
        }
        if !items.is_empty() {
            write_long(&mut out, 0);
        }
        out
    };
    let longer = [PLACEHOLDER, b" "].concat();
    for (items, found) in [
        (vec![Some(PLACEHOLDER)], true),
        (vec![], false),
        (vec![None], false),
        (vec![Some(PLACEHOLDER), None], false),
        (vec![None, Some(PLACEHOLDER)], false),
        (vec![Some(PLACEHOLDER), Some(PLACEHOLDER)], false),
        (vec![Some(&PLACEHOLDER[1..])], false),
        (vec![Some(&longer[..])], false),
    ] {
        let bytes = array(&items);
        let mut reader = Reader::new(&bytes);
        assert_eq!(!find_placeholders(row, &mut reader).unwrap().is_empty(), found, "{items:?}");
        assert!(reader.rest().is_empty(), "the reader stands after the row");
    }
}
