//! What goes wrong between source and lake, and what the user is told; nothing is lost by it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use integration_tests::between::{self, LIMIT, parked};
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::Postgres;
use integration_tests::registry::Registry;
use integration_tests::topics::read_topic;
use sooner::status::Status;
use sooner_api::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_large_and_an_incompatible_schema_park_their_tables_only() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE large (id integer PRIMARY KEY, body text)").await;
    postgres.sql("CREATE TABLE changed (id integer PRIMARY KEY, n integer)").await;
    postgres.sql("CREATE TABLE fine (id integer PRIMARY KEY, v text)").await;
    postgres.sql("INSERT INTO large VALUES (1, 'small'); INSERT INTO changed VALUES (1, 1); INSERT INTO fine VALUES (1, 'a')").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    pipeline.start();
    pipeline.catch_up(&postgres).await;

    postgres.sql("INSERT INTO large SELECT 7, string_agg(md5(i::text), '') FROM generate_series(1, 50000) AS i").await;
    postgres.sql("ALTER TABLE changed ALTER n TYPE text USING n::text; INSERT INTO changed VALUES (2, 'two')").await;
    postgres.sql("INSERT INTO fine VALUES (2, 'b')").await;
    let large = pipeline.wait_until_parked("public.large").await.to_string();
    assert!(large.contains("id=7") && large.contains("max.message.bytes"), "{large}");
    let changed = pipeline.wait_until_parked("public.changed").await.to_string();
    assert!(changed.contains("'n' was int") && changed.contains("shop.public.changed-value"), "{changed}");
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.fine"]);

    // Both are mended as the messages say, and resumed.
    kafka.alter_topic("shop.public.large", "max.message.bytes=4194304");
    // This registry asks its global rule where a subject has none.
    let relaxed = registry.ask("PUT", "/config", r#"{"compatibility":"NONE"}"#);
    assert!(relaxed.contains("NONE"), "{relaxed}");
    for table in ["public.large", "public.changed"] {
        pipeline.resume(table);
    }
    pipeline.wait_until_streaming(&["public.large", "public.changed"]).await;
    postgres.sql("INSERT INTO changed VALUES (3, 'three'); UPDATE large SET body = 'short' WHERE id = 1").await;
    pipeline.catch_up(&postgres).await;
    let tables = ["public.fine", "public.large", "public.changed"];
    pipeline.assert_equal(&postgres, &tables);
}

/// Writes messages that cannot be read to the tables' topics; each with what is said of it.
fn spoil(kafka: &Kafka) -> [(&'static str, Vec<u8>, &'static str); 5] {
    let event = |table: &str| {
        let seen = read_topic(kafka, &format!("shop.public.{table}"));
        (seen[0].key.clone(), seen[0].value.clone().unwrap())
    };
    let cut = event("cut").1;
    let mut longer = event("longer").1;
    longer.push(0);
    let mut text = event("text").1;
    // The row's own `v`, with its length before it.
    let at = text.windows(2).position(|bytes| bytes == [2, b'v']).unwrap();
    text[at + 1] = 0xFF;
    let spoilt = [
        ("garbage", b"this is no Avro".to_vec(), "Confluent header"),
        ("unknown", [&[0, 0x7F, 0xFF, 0xFF, 0xFF], &cut[5..]].concat(), "schema id 2147483647"),
        ("cut", cut[..cut.len() - 2].to_vec(), "end in the middle of a value"),
        ("longer", longer, "left over after its value"),
        ("text", text, "UTF-8"),
    ];
    for (table, value, _) in &spoilt {
        kafka.produce(&format!("shop.public.{table}"), &event(table).0, value);
    }
    spoilt
}

const SPOILT: [&str; 6] =
    ["public.garbage", "public.unknown", "public.cut", "public.longer", "public.text", "public.fine"];

async fn start_spoilt(kafka_settings: &str) -> (Postgres, Kafka, Registry, Pipeline) {
    let (postgres, kafka, registry) = between::start().await;
    for table in SPOILT {
        postgres.sql(&format!("CREATE TABLE {table} (id integer PRIMARY KEY, v text)")).await;
        postgres.sql(&format!("INSERT INTO {table} VALUES (1, 'v')")).await;
    }
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, kafka_settings);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    (postgres, kafka, registry, pipeline)
}

async fn insert_everywhere(postgres: &Postgres, id: i32) {
    for table in SPOILT {
        postgres.sql(&format!("INSERT INTO {table} VALUES ({id}, 'v')")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_read_park_their_tables_with_the_place_named() {
    let (postgres, kafka, _registry, pipeline) = start_spoilt("").await;
    let spoilt = spoil(&kafka);
    insert_everywhere(&postgres, 2).await;
    for (table, _, expected) in &spoilt {
        let name = format!("public.{table}");
        let why = pipeline.wait_until_parked(&name).await.to_string();
        let place = format!("shop.public.{table}/0 offset ");
        assert!(why.contains(&place) && why.contains(expected) && why.contains("dead_letter_topic"), "{why}");
    }
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.fine"]);
    // The topics' rows come again, behind what cannot be read.
    for (table, ..) in &spoilt {
        pipeline.resume(&format!("public.{table}"));
    }
    pipeline.wait_until_streaming(&SPOILT).await;
    insert_everywhere(&postgres, 3).await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &SPOILT);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_read_go_to_the_dead_letters_if_so_configured() {
    let (postgres, kafka, _registry, mut pipeline) = start_spoilt("dead_letter_topic = \"shop.dead\"").await;
    let spoilt = spoil(&kafka);
    insert_everywhere(&postgres, 2).await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &SPOILT);
    // Killed and started again, it goes on behind them.
    pipeline.kill();
    pipeline.start();
    insert_everywhere(&postgres, 3).await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &SPOILT);
    let letters = read_topic(&kafka, "shop.dead");
    for (table, value, expected) in &spoilt {
        let topic = format!("shop.public.{table}");
        let of_topic: Vec<_> = letters.iter().filter(|letter| letter.header("sooner.dead.topic") == topic).collect();
        let [letter] = of_topic[..] else { panic!("{topic}: {of_topic:?}") };
        assert_eq!(letter.value.as_ref(), Some(value));
        assert!(letter.header("sooner.dead.reason").contains(expected), "{letter:?}");
        let offset: i64 = letter.header("sooner.dead.offset").parse().unwrap();
        let original = read_topic(&kafka, &topic).into_iter().find(|seen| seen.offset == offset).unwrap();
        assert_eq!((letter.header("sooner.dead.partition").as_str(), original.value.as_ref()), ("0", Some(value)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_large_for_its_topic_parks_its_table_during_the_copy() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE large (id integer PRIMARY KEY, body text)").await;
    postgres.sql("INSERT INTO large SELECT i, 'small' FROM generate_series(1, 1000) AS i").await;
    postgres.sql("UPDATE large SET body = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 50000) AS i) WHERE id = 500").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.start();
    let why = pipeline.wait_until_parked("public.large").await.to_string();
    assert!(why.contains("id=500") && why.contains("max.message.bytes"), "{why}");
    // The rows before it are on the topic; without the others they are never to be seen.
    pipeline.catch_up(&postgres).await;
    assert!(!std::path::Path::new(&pipeline.lake).join("public/large/_delta_log").exists());
    // It stays so over a restart.
    pipeline.kill();
    pipeline.start();
    postgres.sql("INSERT INTO large VALUES (2000, 'x')").await;
    pipeline.catch_up(&postgres).await;
    assert!(parked(&pipeline.status().unwrap(), "public.large").is_some());
    assert!(!std::path::Path::new(&pipeline.lake).join("public/large/_delta_log").exists());
    kafka.alter_topic("shop.public.large", "max.message.bytes=4194304");
    pipeline.resume("public.large");
    pipeline.wait_until_streaming(&["public.large"]).await;
    postgres.sql("INSERT INTO large VALUES (2001, 'y')").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.large"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_takes_what_it_can_keep_and_parks_the_table_otherwise() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE empty (id integer PRIMARY KEY); CREATE TABLE emptied (id integer PRIMARY KEY)").await;
    postgres.sql("CREATE TABLE toasted (id integer PRIMARY KEY, n integer, body text)").await;
    postgres.sql("ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL; INSERT INTO emptied VALUES (1)").await;
    postgres.sql("INSERT INTO toasted SELECT 1, 1, repeat('x', 5000)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "cleanup_policy = \"compact\"");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.assert_all_stream();
    postgres.sql("INSERT INTO empty VALUES (1), (2); DELETE FROM empty WHERE id = 1").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.empty", "public.emptied", "public.toasted"]);
    postgres.sql("TRUNCATE emptied; UPDATE toasted SET n = 2").await;
    for (table, expected) in
        [("public.emptied", "a truncate has no key"), ("public.toasted", "left an unchanged large value")]
    {
        let why = pipeline.wait_until_parked(table).await.to_string();
        assert!(why.contains(expected) && why.contains("cleanup.policy=delete"), "{why}");
    }
    postgres.sql("INSERT INTO empty VALUES (3)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.empty"]);
    // As the messages say.
    pipeline.stop();
    for table in ["emptied", "toasted"] {
        kafka.alter_topic(&format!("shop.public.{table}"), "cleanup.policy=delete");
        pipeline.resume(&format!("public.{table}"));
    }
    pipeline.start();
    for table in ["public.emptied", "public.toasted"] {
        pipeline.wait_until_copied(table).await;
    }
    postgres.sql("INSERT INTO emptied VALUES (7); INSERT INTO toasted VALUES (7, 7, 'x')").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.empty", "public.emptied", "public.toasted"]);
    // Compacted while the source runs.
    kafka.alter_topic("shop.public.emptied", "cleanup.policy=compact");
    postgres.sql("TRUNCATE emptied").await;
    let why = pipeline.wait_until_parked("public.emptied").await.to_string();
    assert!(why.contains("a truncate has no key"), "{why}");
    assert!(pipeline.is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_loses_its_key_is_parked_and_keeps_its_rows() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a VALUES (1), (2), (3)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("ALTER TABLE a DROP CONSTRAINT a_pkey; ALTER TABLE a REPLICA IDENTITY FULL").await;
    postgres.sql("DELETE FROM a WHERE id = 2").await;
    let why = pipeline.wait_until_parked("public.a").await.to_string();
    assert!(why.contains("it has lost its key (id)") && why.contains("once it has a key"), "{why}");
    let added = std::fs::read_dir(std::path::Path::new(&pipeline.lake).join("public/a/_delta_log")).unwrap().count();
    assert_eq!(added, 1, "no commit came after the copy's");
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_not_what_they_were_are_refused() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();

    kafka.topics(&["--alter", "--topic", "shop.public.a", "--partitions", "3"]);
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(
        log.contains("another number of partitions") && log.contains("it has 3, and events were written to 2"),
        "{log}"
    );

    kafka.topics(&["--delete", "--topic", "shop.public.a"]);
    kafka.topics(&["--create", "--topic", "shop.public.a", "--partitions", "1"]);
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("it has 1, and events were written to 2"), "{log}");

    kafka.topics(&["--delete", "--topic", "shop.public.a"]);
    kafka.topics(&["--create", "--topic", "shop.public.a", "--partitions", "2"]);
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("deleted and created again") && log.contains("ends at offset 0"), "{log}");

    kafka.alter_topic("sooner.shop.progress", "cleanup.policy=delete");
    pipeline.start_command("source", &[]);
    let log = pipeline.wait_for_end(LIMIT);
    assert!(
        log.contains("its cleanup.policy is 'delete'") && log.contains("--add-config cleanup.policy=compact"),
        "{log}"
    );

    kafka.topics(&["--delete", "--topic", "sooner.shop.progress"]);
    pipeline.start();
    let log = pipeline.wait_for_end(LIMIT);
    assert!(log.contains("the progress topic sooner.shop.progress is missing, and the slot"), "{log}");

    // What all of these messages say: start over, from the source. Meanwhile rows have gone and come, so that the new
    // topic is longer than the table's positions in the old one.
    postgres.sql("DELETE FROM a WHERE id > 50; INSERT INTO a SELECT generate_series(1000, 3000)").await;
    pipeline.start_with(&["--recopy"]);
    pipeline.wait_until_copied("public.a").await;
    postgres.sql("DELETE FROM a WHERE id < 10").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_retention_removed_before_they_were_read_are_missed_aloud() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY); INSERT INTO a SELECT generate_series(1, 100)").await;
    postgres.sql("CREATE TABLE quiet (id integer PRIMARY KEY); INSERT INTO quiet VALUES (1)").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "");
    let mut sink = source.beside();
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    sink.wait_until_copied("public.a").await;
    sink.wait_until_copied("public.quiet").await;
    sink.catch_up(&postgres).await;
    sink.stop();
    // The end of the last transaction is behind the last event.
    kafka.delete_records("shop.public.quiet", -1);
    postgres.sql("INSERT INTO a SELECT generate_series(101, 200)").await;
    let end = postgres.end_lsn().await;
    source.wait_for("written", LIMIT, |status| status.confirmed_flush_lsn >= end).await;
    kafka.delete_records("shop.public.a", 150);
    sink.start_command("sink", &[]);
    let why = sink.wait_until_parked("public.a").await.to_string();
    assert!(why.contains("shop.public.a/0 starts at offset 150") && why.contains("retention removed"), "{why}");
    assert_eq!(parked(&sink.status().unwrap(), "public.quiet"), None, "nothing of it was left to read");
    assert!(source.output("resume", &["public.a"]).status.success());
    sink.wait_until_streaming(&["public.a"]).await;
    sink.catch_up(&postgres).await;
    postgres.sql("INSERT INTO quiet VALUES (2)").await;
    sink.catch_up(&postgres).await;
    sink.assert_equal(&postgres, &["public.a", "public.quiet"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_is_between_source_and_lake() {
    let (postgres, mut kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    let before = pipeline.output("check", &[]);
    let text = String::from_utf8_lossy(&before.stdout).into_owned();
    assert!(before.status.success(), "{text}");
    let unseen = "0 registered, 0 that would follow a compatible one, 2 the first of their subject";
    for expected in ["1 broker(s)", "does not exist yet; the source creates it", "compatibility is BACKWARD", unseen] {
        assert!(text.contains(expected), "'{expected}' is not in:\n{text}");
    }
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let text = String::from_utf8_lossy(&pipeline.output("check", &[]).stdout).into_owned();
    let seen = "2 registered, 0 that would follow";
    for expected in ["shop.public.a", "2 partition(s)", "lz4 compression", "the topics are complete to", seen] {
        assert!(text.contains(expected), "'{expected}' is not in:\n{text}");
    }
    pipeline.stop();
    // What would not go on, and what is not as it should be.
    postgres.sql("CREATE TABLE b (id integer PRIMARY KEY); ALTER TABLE a ALTER id TYPE bigint").await;
    postgres.sql("ALTER TABLE a ALTER id TYPE text").await;
    kafka.alter_topic("shop.public.a", "compression.type=zstd");
    let after = pipeline.output("check", &[]);
    let text = String::from_utf8_lossy(&after.stdout).into_owned();
    assert!(!after.status.success());
    for expected in ["'id' was int and is string", "compression.type is zstd (configured: lz4)", "2 the first of"] {
        assert!(text.contains(expected), "'{expected}' is not in:\n{text}");
    }
    let asked = registry.ask("GET", "/subjects", "");
    assert!(
        asked.contains("shop.public.a-key") && !asked.contains("shop.public.b-key"),
        "nothing was registered: {asked}"
    );
    kafka.alter_topic("shop.public.a", "compression.type=lz4");
    postgres.sql("DROP TABLE b; ALTER TABLE a ALTER id TYPE integer USING id::integer").await;
    kafka.kill();
    let after = pipeline.output("check", &[]);
    let text = String::from_utf8_lossy(&after.stdout).into_owned();
    assert!(!after.status.success());
    assert!(text.contains("cannot reach Kafka at") && text.contains("check brokers of [kafka]"), "{text}");
    pipeline.start();
    let says_so = |status: &Status| status.trouble.as_ref().is_some_and(|error| error.code == Code::KafkaUnreachable);
    pipeline.wait_for("it is told while it runs, too", LIMIT, says_so).await;
    kafka.launch();
    postgres.sql("INSERT INTO a VALUES (1)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.a"]);
}

#[test]
fn properties_that_would_break_a_guarantee_are_refused_by_name() {
    let text = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\n[lake]\nurl = '/l'\n[registry]\nurl = 'http://r'\n\
                [kafka]\nbrokers = 'b'\n[kafka.properties]\n'enable.idempotence' = false\n'fetch.min.bytes' = 1\n\
                'isolation.level' = 'read_uncommitted'\n'sasl.password' = 'hunter2'\n";
    let problems = sooner::config::Config::parse(text, std::path::Path::new(".")).unwrap_err();
    let all = problems.join("\n");
    assert_eq!(problems.len(), 3, "{all}");
    for expected in
        ["kafka.properties.enable.idempotence: is refused: events would be lost", "kafka.properties.isolation.level"]
    {
        assert!(all.contains(expected), "{all}");
    }
    assert!(!all.contains("hunter2"), "{all}");
}
