//! Masked columns: no image of a row has their values, schemas say nothing of them, and a change of rules is noticed.

use std::sync::Arc;

use apache_avro::types::Value;
use sooner_schemas::differences::differences;
use sooner_schemas::encode::{Encoder, Masking, SchemaIds, TupleValue};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{EventSchema, TableEvents};
use sooner_schemas::evolution::{Evolution, compare_relations};
use sooner_schemas::mask::MaskKey;
use sooner_schemas::masking::{ColumnRule, MaskChange, NewColumns, TableRules, mask_change};
use sooner_schemas::{Column, ColumnType, DefaultValue, Relation, Scalar, TableName};

use crate::support::{field, origin, row, string, union};

/// Stands in every value that is to be masked.
const SECRET: &str = "hunter2";
/// `hmac.new(b"0123456789abcdef", b"hunter2@example.org", "sha256").hexdigest()` of Python.
const HASH: &str = "50d838864c5429510bcd1ff8d1a4883c6cb5d39178a53c887d933a04f4293193";

fn rules(columns: &[(&str, ColumnRule)]) -> TableRules {
    let columns = columns.iter().map(|(name, rule)| ((*name).to_owned(), *rule));
    let key = MaskKey::new(b"0123456789abcdef").map(Arc::new);
    TableRules { columns: columns.collect(), key, ..TableRules::default() }
}

fn all() -> TableRules {
    rules(&[
        ("email", ColumnRule::Hash),
        ("phone", ColumnRule::Truncate(3)),
        ("notes", ColumnRule::Null),
        ("ssn", ColumnRule::Omit),
        ("mood", ColumnRule::Hash),
    ])
}

/// A table as the catalog has it; the key comes after a column that is omitted.
fn table() -> Relation {
    let text = |name: &str, number| Column {
        default: DefaultValue::of_expression(&ColumnType::Scalar(Scalar::Text), &format!("'{SECRET}'::text")),
        missing: Some(SECRET.to_owned()),
        has_default: true,
        ..Column::new(name, ColumnType::Scalar(Scalar::Text)).numbered(number)
    };
    let mood = ColumnType::Scalar(Scalar::Enum(vec![SECRET.to_owned(), "ok".to_owned()]));
    let columns = vec![
        text("ssn", 1),
        Column::new("id", ColumnType::Scalar(Scalar::Int8)).numbered(2),
        text("email", 3),
        text("phone", 4),
        text("notes", 5),
        Column::new("mood", mood).numbered(6),
        Column::new("plain", ColumnType::Scalar(Scalar::Text)).numbered(7).nullable(),
    ];
    Relation { oid: 9, last_number: 7, ..Relation::new(TableName::new("public", "users"), columns, vec![1]) }
}

fn marked(rules: &TableRules) -> Relation {
    let mut relation = table();
    rules.mark(&mut relation);
    relation
}

struct Masked {
    relation: Relation,
    encoder: Encoder,
    value: String,
}

fn masked() -> Masked {
    let relation = marked(&all());
    let masking = Masking::of(&relation).unwrap();
    let carried = relation.without_omitted().into_owned();
    let key = key_schema("t", &carried).unwrap().to_string();
    let value = value_schema("t", &carried).to_string();
    let schema = EventSchema::parse(carried.name.clone(), Some(&key), &value).unwrap();
    assert_eq!(schema.relation, Some(carried.clone()));
    let ids = SchemaIds { key: Some(1), value: 2 };
    let encoder = Encoder::masked(&carried, masking, Arc::new(schema), ids, ("shop", "db"));
    Masked { relation, encoder, value }
}

const EMAIL: &str = "hunter2@example.org";

fn full(id: &'static str) -> Vec<TupleValue<'static>> {
    row(&[
        Some("hunter2-ssn"),
        Some(id),
        Some(EMAIL),
        Some("hun hunter2"),
        Some("hunter2 notes"),
        Some("hunter2"),
        Some("shown"),
    ])
}

fn images(masked: &Masked, batch: &TableEvents) -> Vec<Value> {
    let schema = apache_avro::Schema::parse_str(&masked.value).unwrap();
    let read = |range: std::ops::Range<usize>| {
        let mut datum = &batch.bytes[range][5..];
        let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().unwrap();
        reader.read_value(&mut datum).unwrap()
    };
    batch.events.iter().map(|event| read(event.value.clone())).collect()
}

#[test]
fn no_image_of_a_row_has_a_masked_value() {
    let masked = masked();
    let Masked { encoder, .. } = &masked;
    let mut batch = TableEvents::new(encoder.schema().clone());
    let mut toasted = full("7");
    (toasted[2], toasted[4], toasted[6]) = (TupleValue::Unavailable, TupleValue::Unavailable, TupleValue::Unavailable);
    encoder.read(&mut batch, &origin(), &full("7")).unwrap();
    encoder.update(&mut batch, &origin(), Some(&full("7")), &toasted).unwrap();
    encoder.insert_renamed(&mut batch, &origin(), &full("7"), &full("8")).unwrap();
    encoder.delete(&mut batch, &origin(), &full("8"), true).unwrap();
    encoder.delete(&mut batch, &origin(), &full("8"), false).unwrap();
    assert!(!String::from_utf8_lossy(&batch.bytes).contains(SECRET));
    let envelopes = images(&masked, &batch);
    for (event, image) in [(0, "after"), (1, "before"), (2, "after"), (3, "before")] {
        let row = field(&envelopes[event], image);
        let Value::Union(1, row) = row else { panic!("{row:?}") };
        let Value::Record(fields) = &**row else { panic!("{row:?}") };
        let names: Vec<_> = fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["id", "email", "phone", "notes", "mood", "plain"]);
        assert_eq!(field(row, "email"), &string(HASH));
        assert_eq!(field(row, "phone"), &string("hun"));
        assert_eq!(field(row, "notes"), &union(0, Value::Null));
        assert_eq!(field(row, "plain"), &union(1, string("shown")));
    }
    assert_eq!(*batch.events[1].unavailable, [1, 5], "a hash is taken from the former row, and NULL is known");
    assert_eq!(encoder.width(), 7, "of what Postgres sends");
}

#[test]
fn schemas_and_what_is_stored_say_nothing_of_masked_values() {
    let masked = masked();
    let stored = serde_json::to_string(&masked.relation).unwrap();
    for text in [&masked.value, &stored] {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(serde_json::to_string(&table()).unwrap().contains(SECRET));
    let of = |name: &str| masked.relation.columns.iter().find(|column| column.name == name).unwrap();
    assert!(of("notes").nullable && !of("notes").has_default, "nothing that rows older than it lack");
    assert!(of("email").has_default && !of("email").nullable, "rows that are older are copied");
    let shown = masked.relation.without_omitted().masked_columns();
    let shown: Vec<_> = shown.iter().map(|(name, mask)| format!("{name}: {mask}")).collect();
    assert_eq!(shown, ["email: hash", "phone: truncate to 3", "notes: null", "mood: hash", "ssn: omit"]);
}

#[test]
fn a_masked_key_is_not_described_in_messages() {
    let keyed = TableRules { hashes_keys: true, ..rules(&[("id", ColumnRule::Hash)]) };
    let relation = marked(&keyed);
    assert_eq!(keyed.misfit(&table()), None);
    let encoder = masked().encoder;
    assert_eq!(encoder.describe_key(&relation, &full("7")), "id=?");
    assert_eq!(encoder.describe_key(&table(), &full("7")), "id=7");
}

#[test]
fn rules_that_do_not_fit_say_why() {
    let block = |columns: &[(&str, ColumnRule)], known: &[&str], new_columns| TableRules {
        known: known.iter().map(|name| (*name).to_owned()).collect(),
        new_columns,
        ..rules(columns)
    };
    let names = ["ssn", "email", "phone", "notes", "mood", "plain"];
    let expected = TableRules { expected: ["mail".to_owned()].into(), ..rules(&[("mail", ColumnRule::Hash)]) };
    for (rules, part) in [
        (expected, "a column 'mail', which it does not have"),
        (TableRules { key: None, ..all() }, "there is no key"),
        (rules(&[("id", ColumnRule::Hash)]), "'id' is part of its key, by which"),
        (rules(&[("id", ColumnRule::Omit)]), "could not be told apart"),
        (rules(&[("mood", ColumnRule::Truncate(1))]), "only texts are truncated"),
        (block(&[("email", ColumnRule::Hash)], &names, NewColumns::Block), "names its column 'id'"),
        (block(&[("email", ColumnRule::Hash)], &["email"], NewColumns::Mask), "'id', which is part of its key"),
    ] {
        let why = rules.misfit(&table()).unwrap().why;
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(all().misfit(&table()), None);
    let masks_new = block(&[("email", ColumnRule::Hash)], &["id", "plain"], NewColumns::Mask);
    assert_eq!(masks_new.misfit(&table()), None);
    let masks: Vec<_> = marked(&masks_new).masked_columns().into_iter().map(|(_, mask)| mask).collect();
    assert_eq!(masks, ["null", "hash", "null", "null", "null"]);
    let stored = serde_json::to_string(&marked(&all())).unwrap();
    let error = Masking::of(&serde_json::from_str(&stored).unwrap()).unwrap_err();
    assert_eq!(error.0, "email", "the key is not stored");
}

#[test]
fn a_changed_rule_has_the_table_copied_again_and_nothing_else_has() {
    let plain = table();
    let with = |columns: &[(&str, ColumnRule)]| marked(&rules(columns));
    let hashed = with(&[("email", ColumnRule::Hash)]);
    let other_key =
        TableRules { key: MaskKey::new(b"fedcba9876543210").map(Arc::new), ..rules(&[("email", ColumnRule::Hash)]) };
    let omitted = with(&[("plain", ColumnRule::Omit)]);
    for (former, now, part) in [
        (&plain, &hashed, "column 'email' is masked now (hash)"),
        (&hashed, &plain, "column 'email' is not masked any more (hash)"),
        (&hashed, &marked(&other_key), "hashed by another key"),
        (&hashed, &with(&[("email", ColumnRule::Null)]), "changed from hash to null"),
        (&omitted, &plain, "column 'plain' is not masked any more (omit)"),
        (&omitted.without_omitted(), &plain, "column 'plain' is not masked any more (omit)"),
        (&plain, &omitted, "column 'plain' is masked now (omit)"),
    ] {
        let Evolution::Recopy(why) = compare_relations(former, now) else { panic!("{part}") };
        assert!(why.contains(part), "{why}");
        assert!(differences(former, now)[0].contains(part));
    }
    for relation in [&marked(&all()), &omitted] {
        let carried = relation.without_omitted().into_owned();
        assert_eq!(compare_relations(relation, relation), Evolution::Same);
        assert_eq!(compare_relations(&carried, relation), Evolution::Same, "as events carried it");
        assert!(differences(&carried, relation).is_empty());
    }
    assert_eq!(compare_relations(&plain, &with(&[("email", ColumnRule::Keep)])), Evolution::Same);
}

#[test]
fn a_masked_column_that_is_renamed_is_not_carried_before_a_rule_knows_its_name() {
    let renamed = |rules: &TableRules| {
        let mut relation = table();
        relation.columns[2].name = "mail".to_owned();
        rules.mark(&mut relation);
        relation
    };
    let former = marked(&all());
    let unnamed = renamed(&all());
    assert!(matches!(compare_relations(&former, &unnamed), Evolution::Decision(why) if why.contains("called 'mail'")));
    assert!(matches!(mask_change(&former.without_omitted(), &unnamed), Some(MaskChange::Unnamed(_))));
    let mut with_new = all();
    with_new.columns.insert("mail".to_owned(), ColumnRule::Hash);
    assert_eq!(mask_change(&former, &renamed(&with_new)), None);
    with_new.columns.insert("mail".to_owned(), ColumnRule::Keep);
    assert!(matches!(mask_change(&former, &renamed(&with_new)), Some(MaskChange::Rules(_))));
    let mut dropped = former.clone();
    dropped.columns.remove(2);
    assert_eq!(mask_change(&former, &dropped), None);
}
