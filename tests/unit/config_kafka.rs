//! The sections `[kafka]` and `[registry]`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sooner::config::{Config, KafkaConfig};
use sooner_kafka::WrittenBy;
use sooner_kafka::cluster::settings::{GroupProtocol, PartitionBy, PasswordMechanism, Sasl};
use sooner_kafka::registry::client::{Login, RegistrySettings};
use sooner_kafka::registry::reader::RegistryKind;
use sooner_schemas::TableName;
use sooner_schemas::naming::SubjectStrategy;

use crate::config::problems;

/// A configuration with a source and these lines in `[kafka]` and in `[registry]`.
fn text(kafka: &str, registry: &str) -> String {
    format!(
        "name = 'shop'\nmemory = '64MiB'\n[source]\nurl = 'postgres://me@db/shop'\n\
         [kafka]\nbrokers = 'one:9092,two:9092'\n{kafka}\n[registry]\nurl = 'http://registry:8081'\n{registry}\n"
    )
}

fn parsed_in(folder: &Path, kafka: &str, registry: &str) -> KafkaConfig {
    Config::parse(&text(kafka, registry), folder).unwrap().kafka().unwrap().clone()
}

fn parsed(kafka: &str, registry: &str) -> KafkaConfig {
    parsed_in(Path::new("/nowhere"), kafka, registry)
}

fn confluent(kafka: &KafkaConfig) -> RegistrySettings {
    kafka.registry.writable().unwrap().clone()
}

#[test]
fn a_password_in_the_registrys_url_is_refused_and_not_shown() {
    let text = text("", "").replace("http://registry", "http://me:hunter2@registry");
    let found = problems(&text).join("\n");
    assert!(found.contains("registry.url: ") && !found.contains("hunter2"), "{found}");
}

#[test]
fn everything_but_the_addresses_has_a_default() {
    let kafka = parsed("", "");
    let (topics, producer, consumer) = (&kafka.settings.topics, &kafka.settings.producer, &kafka.settings.consumer);
    assert_eq!(kafka.settings.brokers, "one:9092,two:9092");
    assert!(kafka.settings.tls.is_none() && kafka.settings.sasl.is_none() && kafka.settings.properties.is_empty());
    assert_eq!(kafka.topics.topic(&TableName::new("public", "orders")), "shop.public.orders");
    assert_eq!((kafka.subjects, kafka.written_by), (SubjectStrategy::Topic, WrittenBy::Sooner));
    assert_eq!((topics.create, topics.partitions, topics.replication), (true, 1, None));
    assert_eq!((topics.cleanup_policy.as_str(), topics.compression.as_str()), ("delete", "lz4"));
    assert_eq!((topics.retention, topics.max_message_bytes), (None, None));
    assert_eq!(topics.progress, "sooner.shop.progress");
    assert_eq!(producer.transactional_id.as_deref(), Some("sooner-shop"));
    assert_eq!(producer.transaction_interval, Duration::from_millis(20));
    assert_eq!(producer.partition_by, PartitionBy::Key);
    assert_eq!((consumer.group.as_str(), consumer.protocol), ("sooner-shop", GroupProtocol::Auto));
    assert_eq!((consumer.instance.as_ref(), consumer.dead_letters.as_ref()), (None, None));
    assert_eq!(consumer.fetch_bytes, 8 << 20, "an eighth of the memory");
    assert!(confluent(&kafka).login == Login::None && confluent(&kafka).register);
}

#[test]
fn what_is_set_counts() {
    let kafka = parsed(
        "prefix = 'pg'\ntopic = '{prefix}-{schema}-{table}-v1'\ndelivery = 'at-least-once'\npartition_by = ['region']\n\
         transaction_interval = '5s'\ntransaction_bytes = '1MiB'\ncreate_topics = false\npartitions = 12\n\
         replication = 3\ncleanup_policy = 'compact,delete'\ncompression = 'none'\nretention = '7days'\n\
         max_message_bytes = '2MiB'\nprogress_topic = 'p'\ngroup = 'g'\ngroup_protocol = 'consumer'\n\
         group_instance = 'i'\ndead_letter_topic = 'd'\nwritten_by = 'debezium'",
        "subjects = 'topic-record'\nregister = false",
    );
    let (topics, producer, consumer) = (&kafka.settings.topics, &kafka.settings.producer, &kafka.settings.consumer);
    assert_eq!(kafka.topics.topic(&TableName::new("public", "orders")), "pg-public-orders-v1");
    assert_eq!((kafka.subjects, kafka.written_by), (SubjectStrategy::TopicRecord, WrittenBy::Debezium));
    assert_eq!((topics.create, topics.partitions, topics.replication), (false, 12, Some(3)));
    assert!(topics.is_compacted());
    assert_eq!(topics.compression_type(), "uncompressed");
    assert_eq!(topics.retention, Some(Duration::from_secs(7 * 24 * 3600)));
    assert_eq!((topics.max_message_bytes, topics.progress.as_str()), (Some(2 << 20), "p"));
    assert_eq!(producer.transactional_id, None, "at least once needs no transactions");
    assert_eq!((producer.transaction_bytes, producer.transaction_interval), (1 << 20, Duration::from_secs(5)));
    assert_eq!(producer.partition_by, PartitionBy::Columns(vec!["region".to_owned()]));
    assert_eq!((consumer.group.as_str(), consumer.protocol), ("g", GroupProtocol::Consumer));
    assert_eq!((consumer.instance.as_deref(), consumer.dead_letters.as_deref()), (Some("i"), Some("d")));
    assert!(!confluent(&kafka).register);
}

#[test]
fn each_mistake_is_told_with_its_place_and_what_was_expected() {
    let cases = [
        ("prefix = 'a b'", "", "kafka.prefix: 'a b': expected up to 100 letters"),
        ("topic = '{table}'", "", "kafka.topic: '{table}': expected {schema} and then {table}"),
        ("topic = '{schema}/{table}'", "", "the character '/' is not allowed"),
        ("delivery = 'twice'", "", "kafka.delivery: 'twice': expected \"exactly-once\" or \"at-least-once\""),
        ("written_by = 'maxwell'", "", "kafka.written_by: 'maxwell': expected \"sooner\" or \"debezium\""),
        ("partitions = 0", "", "kafka.partitions: expected a number from 1 to 10000"),
        ("replication = 100", "", "kafka.replication: expected a number from 1 to 99"),
        ("retention = 'ever'", "", "kafka.retention: 'ever': expected a duration such as \"7days\""),
        ("max_message_bytes = '1B'", "", "kafka.max_message_bytes: '1B': expected at least"),
        ("cleanup_policy = 'keep'", "", "kafka.cleanup_policy: 'keep': expected \"delete\", \"compact\""),
        ("compression = 'rar'", "", "kafka.compression: 'rar': expected \"none\", \"gzip\""),
        ("create_topics = 'yes'", "", "kafka.create_topics: expected true or false"),
        ("group_protocol = 'new'", "", "kafka.group_protocol: 'new': expected \"auto\", \"classic\" or \"consumer\""),
        ("transaction_interval = '1m'", "", "kafka.transaction_interval: expected at most 10s"),
        ("transaction_bytes = '1KiB'", "", "kafka.transaction_bytes: '1KiB': expected at least"),
        ("properties = { acks = '0' }", "", "kafka.properties.acks: is refused: events would be lost"),
        ("properties = { a = [1] }", "", "kafka.properties.a: expected a text, a number, true or false"),
        ("properties = 'a=1'", "", "kafka.properties: expected a section of names with texts"),
        ("sasl = { mechanism = 'GSSAPI' }", "", "kafka.sasl.mechanism: 'GSSAPI': expected PLAIN"),
        ("sasl = { mechanism = 'PLAIN', user = 'u' }", "", "kafka.sasl.password: is missing; write { env"),
        ("sasl = { mechanism = 'OAUTHBEARER' }", "", "kafka.sasl.client_id: is missing"),
        ("sasl = { mechanism = 'AWS_MSK_IAM', region = 'a.b/' }", "", "kafka.sasl.region: 'a.b/': expected a region"),
        ("tls = { ca = 'none.pem' }", "", "kafka.tls.ca: 'none.pem': the file cannot be read"),
        ("", "subjects = 'table'", "registry.subjects: 'table': expected \"topic\", \"record\" or \"topic-record\""),
        ("", "user = 'u'", "registry.user: set user and password, or token, or none of them"),
        ("", "token = 'abc'", "registry.token: secrets do not belong in the file"),
    ];
    for (kafka, registry, expected) in cases {
        let found = problems(&text(kafka, registry));
        let is_told = found.iter().any(|problem| problem.contains(expected));
        assert!(is_told, "'{expected}' is not told of {kafka}{registry}, but {found:?}");
    }
}

#[test]
fn with_brokers_one_end_and_a_registry_are_needed() {
    let kafka = "[kafka]\nbrokers = 'b'\n";
    let found = problems(&format!("name = 'shop'\n{kafka}"));
    assert!(found.iter().any(|problem| problem.ends_with("source: set [source], [lake] or both")), "{found:?}");
    assert!(found.iter().any(|problem| problem.ends_with("registry.url: is missing")), "{found:?}");
    for end in ["[source]\nurl = 'postgres://me@db/shop'", "[lake]\nurl = '/lake'"] {
        let text = format!("name = 'shop'\n{end}\n{kafka}[registry]\nurl = 'https://registry'");
        assert!(problems(&text).is_empty(), "{end}");
    }
    let found =
        problems("name = 'shop'\n[source]\nurl = 'postgres://me@db/shop'\n[kafka]\n[registry]\nurl = 'ftp://r'");
    assert!(found.contains(&"line 4: kafka.brokers: is missing".to_owned()), "{found:?}");
    assert!(found.iter().any(|problem| problem.ends_with("expected http://… or https://…")), "{found:?}");
}

#[test]
fn properties_may_be_texts_numbers_and_booleans() {
    let mut properties = parsed("properties = { a = 'x', b = 5, c = true }", "").settings.properties;
    properties.sort();
    let expected = [("a", "x"), ("b", "5"), ("c", "true")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(properties, expected);
}

#[test]
fn every_login_takes_its_secret_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pw"), "hunter2\n").unwrap();
    let parsed = |kafka: &str, registry: &str| parsed_in(folder.path(), kafka, registry);
    let secret = || "hunter2".to_owned();
    for (text, mechanism) in [
        ("PLAIN", PasswordMechanism::Plain),
        ("SCRAM-SHA-256", PasswordMechanism::ScramSha256),
        ("SCRAM-SHA-512", PasswordMechanism::ScramSha512),
    ] {
        let kafka = parsed(&format!("sasl = {{ mechanism = '{text}', user = 'u', password = {{ file = 'pw' }} }}"), "");
        let expected = Sasl::Password { mechanism, user: "u".to_owned(), password: secret() };
        assert!(kafka.settings.sasl == Some(expected), "{text}");
        assert!(!format!("{kafka:?}").contains("hunter2"));
    }
    let kafka = parsed(
        "[kafka.sasl]\nmechanism = 'OAUTHBEARER'\ntoken_url = 'https://id/token'\nclient_id = 'c'\n\
         client_secret = { file = 'pw' }\nscope = 's'",
        "",
    );
    let (token_url, client_id) = ("https://id/token".to_owned(), "c".to_owned());
    let expected = Sasl::OauthBearer { token_url, client_id, client_secret: secret(), scope: Some("s".to_owned()) };
    assert!(kafka.settings.sasl == Some(expected));
    let kafka = parsed("", "user = 'u'\npassword = { file = 'pw' }");
    assert!(confluent(&kafka).login == Login::Basic { user: "u".to_owned(), password: secret() });
    assert!(confluent(&parsed("", "token = { file = 'pw' }")).login == Login::Token(secret()));
}

#[test]
fn a_certificate_needs_its_key() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("c.pem"), "").unwrap();
    let refused = Config::parse(&text("tls = { certificate = 'c.pem' }", ""), folder.path()).unwrap_err();
    assert!(refused[0].ends_with("kafka.tls.certificate: certificate and key go together: set both or neither"));
    let kafka = parsed_in(folder.path(), "tls = { certificate = 'c.pem', key = 'c.pem' }", "");
    assert_eq!(kafka.settings.tls.unwrap().certificate, Some(folder.path().join("c.pem")));
}

#[test]
fn a_login_by_iam_finds_the_region_and_takes_tls_for_granted() {
    let iam = |kafka: &str, brokers: &str| {
        let text = text(kafka, "").replace("one:9092,two:9092", brokers);
        let settings = Config::parse(&text, Path::new("/nowhere")).unwrap().kafka().unwrap().settings.clone();
        assert!(settings.tls.is_some(), "a token is nothing to show to others");
        settings.iam().unwrap().region().to_owned()
    };
    let msk = "b-1.shop.abc.c2.kafka.eu-west-1.amazonaws.com:9098";
    assert_eq!(iam("[kafka.sasl]\nmechanism = 'AWS_MSK_IAM'", msk), "eu-west-1");
    assert_eq!(iam("[kafka.sasl]\nmechanism = 'AWS_MSK_IAM'\nregion = 'eu-south-1'", msk), "eu-south-1");
}

#[test]
fn a_registry_of_aws_glue_needs_a_region_and_is_only_read() {
    let sink = "name = 'shop'\n[lake]\nurl = '/lake'\n[kafka]\nbrokers = 'b'\nwritten_by = 'debezium'\n[registry]\n";
    let parsed = |registry: &str| Config::parse(&format!("{sink}{registry}"), Path::new("/nowhere"));
    let url = |registry: &str| match &parsed(registry).unwrap().kafka().unwrap().registry {
        RegistryKind::Glue(settings) => settings.url(),
        RegistryKind::Confluent(_) => panic!("{registry} is taken for another kind"),
    };
    assert_eq!(url("type = 'glue'\nregion = 'eu-west-1'"), "https://glue.eu-west-1.amazonaws.com/");
    assert_eq!(url("type = 'glue'\nregion = 'eu-west-1'\nurl = 'http://localhost:5000'"), "http://localhost:5000");
    for (registry, expected) in [
        ("type = 'glue'\nregion = 'a/b'", "registry.region: 'a/b': expected a region"),
        ("type = 'glue'\nregion = 'eu-west-1'\nsubjects = 'topic'", "registry.subjects: is not known"),
        ("type = 'avro'", "registry.type: 'avro': expected \"confluent\" or \"glue\""),
    ] {
        let found = parsed(registry).unwrap_err().join("\n");
        assert!(found.contains(expected), "'{expected}' not in:\n{found}");
    }
    let with_source = text("", "type = 'glue'\nregion = 'eu-west-1'");
    assert!(problems(&with_source).join("\n").contains("registry.type: AWS Glue's registry is only read"));
}
