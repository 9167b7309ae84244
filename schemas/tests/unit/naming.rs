//! Names of topics, subjects, fields and tables.

use proptest::prelude::*;
use sooner_schemas::avro::Schema;
use sooner_schemas::envelope::{avro_name, key_schema, value_schema};
use sooner_schemas::naming::{BadPattern, Part, SubjectStrategy, TopicPattern};
use sooner_schemas::{Relation, Scalar, TableName};

use crate::support::column;

fn name(schema: &str, table: &str) -> TableName {
    TableName::new(schema, table)
}

#[test]
fn a_pattern_may_have_text_at_both_ends() {
    let pattern = TopicPattern::parse("cdc.{prefix}-{schema}__{table}.v1", "shop").unwrap();
    assert_eq!(pattern.topic(&name("public", "orders")), "cdc.shop-public__orders.v1");
    assert_eq!(pattern.table("cdc.shop-public__orders.v1"), Some(name("public", "orders")));
    for topic in [
        "cdc.shop-public__orders",
        "shop-public__orders.v1",
        "cdc.shop-public_orders.v1",
        "cdc.shop-__orders.v1",
        "cdc.shop-public__.v1",
        "cdc.shop-.v1",
        "",
    ] {
        assert_eq!(pattern.table(topic), None, "{topic}");
    }
}

#[test]
fn a_pattern_without_a_prefix_takes_every_topic_of_its_form() {
    let pattern = TopicPattern::parse("{schema}.{table}", "ignored").unwrap();
    assert_eq!(pattern.table("a.b.c"), Some(name("a", "b.c")));
    assert_eq!(pattern.table("ab"), None);
    assert_ne!(pattern, TopicPattern::debezium("ignored"));
}

#[test]
fn a_schema_with_the_separator_in_its_name_is_not_found_again() {
    let pattern = TopicPattern::debezium("p");
    let odd = name("a.b", "c");
    assert_eq!(pattern.topic(&odd), "p.a.b.c");
    assert_ne!(pattern.table(&pattern.topic(&odd)), Some(odd));
}

#[test]
fn what_a_topic_may_not_contain_becomes_an_underscore() {
    let pattern = TopicPattern::debezium("p");
    assert_eq!(pattern.topic(&name("Sch ema", "a/b\"c\u{0}é-_.9")), "p.Sch_ema.a_b_c__-_.9");
    let long = pattern.topic(&name("s", &"é".repeat(400)));
    assert_eq!(long.len(), 249, "Kafka takes no longer name");
    assert!(long.starts_with("p.s.___"));
}

#[test]
fn a_pattern_that_cannot_name_topics_says_why() {
    for (pattern, prefix, expected) in [
        ("{prefix}.{schema}.{table}", "sh op", BadPattern::Character(' ')),
        ("{schema}.{table}.{table}", "p", BadPattern::Character('{')),
        ("{schema}.{schema}.{table}", "p", BadPattern::Character('{')),
        ("{schema}/{table}", "p", BadPattern::Character('/')),
        ("{SCHEMA}.{table}", "p", BadPattern::Parts),
        ("{schema}.x", "p", BadPattern::Parts),
        ("", "p", BadPattern::Parts),
    ] {
        assert_eq!(TopicPattern::parse(pattern, prefix), Err(expected), "{pattern}");
    }
    assert!(BadPattern::Parts.to_string().contains("{schema} and then {table}"));
    assert!(BadPattern::Character('ß').to_string().contains("'ß'"));
}

#[test]
fn subjects_tell_key_from_value_by_the_topic_or_by_the_record() {
    let subjects = |strategy: SubjectStrategy| {
        [(Part::Key, "n.Key"), (Part::Value, "n.Envelope")].map(|(part, record)| strategy.subject("t.u", part, record))
    };
    assert_eq!(subjects(SubjectStrategy::Topic), ["t.u-key", "t.u-value"]);
    assert_eq!(subjects(SubjectStrategy::Record), ["n.Key", "n.Envelope"]);
    assert_eq!(subjects(SubjectStrategy::TopicRecord), ["t.u-n.Key", "t.u-n.Envelope"]);
    assert_eq!(SubjectStrategy::default(), SubjectStrategy::Topic);
}

#[test]
fn records_are_named_after_their_topic_in_avros_form() {
    let relation = Relation::new(name("public", "t"), vec![column("id", Scalar::Int4)], vec![0]);
    for (topic, namespace) in [("shop.public.t", "shop.public.t"), ("my-shop.2024.stra-e", "my_shop._2024.stra_e")] {
        let value = Schema::parse(&value_schema(topic, &relation).to_string()).unwrap();
        let key = Schema::parse(&key_schema(topic, &relation).unwrap().to_string()).unwrap();
        let envelope = value.as_record().unwrap();
        assert_eq!(envelope.name, format!("{namespace}.Envelope"));
        assert_eq!(key.as_record().unwrap().name, format!("{namespace}.Key"));
        assert_eq!(key.semantic, Some(format!("{namespace}.Key")));
        let after = envelope.fields[envelope.field_index("after").unwrap()].schema.as_record().unwrap();
        assert_eq!(after.name, format!("{namespace}.Value"));
    }
    let without_key = Relation { key: vec![], ..relation };
    assert!(key_schema("t", &without_key).is_none());
}

#[test]
fn columns_that_share_an_avro_name_stay_apart() {
    let names = ["a-b", "a b", "a_b", "a_b_2", "2nd", "é", "plain"];
    let columns = names.iter().map(|name| column(name, Scalar::Int4)).collect();
    let relation = Relation::new(name("public", "t"), columns, vec![2]);
    let value = Schema::parse(&value_schema("t", &relation).to_string()).unwrap();
    let envelope = value.as_record().unwrap();
    let row = envelope.fields[1].schema.as_record().unwrap();
    let fields: Vec<_> = row.fields.iter().map(|field| (field.name.as_str(), field.column.as_str())).collect();
    let expected = ["a_b", "a_b_2", "a_b_3", "a_b_2_2", "_2nd", "_", "plain"];
    assert_eq!(fields, expected.into_iter().zip(names).collect::<Vec<_>>());
    let key = Schema::parse(&key_schema("t", &relation).unwrap().to_string()).unwrap();
    assert_eq!(key.as_record().unwrap().fields[0].name, "a_b_3", "a key's field has the name of the row's");
}

fn any_name() -> impl Strategy<Value = TableName> {
    (".{0,8}", ".{0,8}").prop_map(|(schema, table)| TableName::new(schema, table))
}

proptest! {
    #[test]
    fn a_topic_leads_back_to_a_table_whose_schema_lacks_the_separator(
        schema in "[a-zA-Z0-9_-]{1,12}",
        table in "[a-zA-Z0-9._-]{1,20}"
    ) {
        let table = TableName::new(schema, table);
        for pattern in ["{prefix}.{schema}.{table}", "{schema}.{table}-cdc", "x-{schema}.{table}"] {
            let pattern = TopicPattern::parse(pattern, "shop").unwrap();
            prop_assert_eq!(pattern.table(&pattern.topic(&table)), Some(table.clone()));
        }
    }

    #[test]
    fn a_topic_has_a_name_that_kafka_takes(table in any_name()) {
        let topic = TopicPattern::debezium("p").topic(&table);
        prop_assert!(topic.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)), "{}", topic);
    }

    #[test]
    fn names_of_tables_survive_text_and_json(name in any_name()) {
        prop_assert_eq!(name.to_string().parse::<TableName>().unwrap(), name.clone());
        let json = serde_json::to_string(&name).unwrap();
        prop_assert!(json.starts_with('"'), "a name is a text, so it can be a key of a map: {}", json);
        prop_assert_eq!(serde_json::from_str::<TableName>(&json).unwrap(), name);
    }

    #[test]
    fn different_tables_have_different_texts(a in any_name(), b in any_name()) {
        prop_assert_eq!(a == b, a.to_string() == b.to_string());
    }

    #[test]
    fn an_avro_name_is_one_and_stays_one(name in ".{0,12}") {
        let adjusted = avro_name(&name);
        let first = adjusted.chars().next().unwrap();
        prop_assert!(first.is_ascii_alphabetic() || first == '_');
        prop_assert!(adjusted.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        prop_assert_eq!(avro_name(&adjusted), adjusted);
    }
}
