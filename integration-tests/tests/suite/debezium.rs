//! The same changes captured by us and by Debezium, side by side: schemas, keys, values and headers.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use integration_tests::avro_json::{differences, to_json};
use integration_tests::between;
use integration_tests::debezium::Debezium;
use integration_tests::kafka::Kafka;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::Pipeline;
use integration_tests::readers::{self, compare};
use integration_tests::registry::Registry;
use integration_tests::topics::{Seen, find_topic, read_topic};
use serde_json::Value;
use sooner_schemas::wire::{Reader, split_header};

const SCHEMA: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE numbers (id integer PRIMARY KEY, a smallint, b integer NOT NULL, c bigint, d real, e double precision,
        f numeric(12, 3), g numeric(40, 5), h numeric, i boolean, j numeric(5) NOT NULL);
    CREATE TABLE texts (id bigint PRIMARY KEY, a text, b varchar(20) NOT NULL, c char(5), d bytea, e uuid, f json, g jsonb,
        h mood, i inet, j interval, k xml, l name, m point, n bit(3), o money, p tsvector);
    CREATE TABLE times (id uuid PRIMARY KEY, a date, b time, c time(3), d timestamp, e timestamp(3), f timestamptz,
        g timestamptz(3), h timetz, i timestamp(0), j time(0) NOT NULL);
    CREATE TABLE arrays (id integer PRIMARY KEY, a integer[], b text[], c bigint[], d uuid[], e date[], f boolean[],
        g double precision[], h numeric(10, 2)[], i smallint[], j jsonb[], k varchar(5)[] NOT NULL, l real[], m char(3)[]);
    CREATE TABLE pairs (b text, a integer, v text, PRIMARY KEY (a, b));
    CREATE TABLE whole (id integer PRIMARY KEY, v text, w integer);
    ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE toasted (id integer PRIMARY KEY, n integer, a text, b bytea, c jsonb, d text[], e text NOT NULL, f integer[]);
    ALTER TABLE toasted ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL, ALTER c SET STORAGE EXTERNAL,
        ALTER d SET STORAGE EXTERNAL, ALTER e SET STORAGE EXTERNAL, ALTER f SET STORAGE EXTERNAL;
    CREATE DOMAIN positive AS integer NOT NULL DEFAULT 1;
    CREATE TABLE defaults (id serial PRIMARY KEY, a integer DEFAULT 7, b text NOT NULL DEFAULT 'x', c timestamptz DEFAULT now(),
        d numeric(6, 2) NOT NULL DEFAULT 1.5, e boolean DEFAULT true, f bigint NOT NULL DEFAULT 9, g date DEFAULT '2020-01-02',
        h uuid DEFAULT gen_random_uuid(), i jsonb NOT NULL DEFAULT '[1, 2]', j mood DEFAULT 'ok', k real DEFAULT 1.1,
        l smallint NOT NULL DEFAULT 3, m timestamp NOT NULL DEFAULT '2020-01-01 12:00', n integer DEFAULT (1 + 2),
        o varchar(5) DEFAULT NULL, p text DEFAULT 'it''s', q text[] DEFAULT '{}', r timestamptz(3) NOT NULL DEFAULT now(),
        s time DEFAULT '12:34:56.5', t double precision DEFAULT 2, u numeric DEFAULT 1.5, v bytea DEFAULT '\\x00', w positive,
        x text DEFAULT CURRENT_USER, y integer GENERATED ALWAYS AS (l + 1) STORED, z bigint GENERATED ALWAYS AS IDENTITY);
    CREATE TABLE \"Odd-Names\" (id integer PRIMARY KEY, \"a b\" text, \"1st\" integer);
    CREATE TABLE emptied (id integer PRIMARY KEY, v text);
    INSERT INTO numbers VALUES (1, 1, 2, 3, 1.5, 2.5, 123.456, 12345678901234567890123456789012345.12345, 1.500, true, 12345);
    INSERT INTO texts VALUES (1, 'ä', 'b', 'c', '\\x00ff', '7f6c2f0e-0a52-4b5e-8d35-1f0f0c5d6a01', '{\"a\": 1}', '{\"b\": [1, 2]}',
        'ok', '10.0.0.1', '1 day 2 hours', '<a/>', 'n', '(1,2)', B'101', 12.34, 'a b');
    INSERT INTO times VALUES ('7f6c2f0e-0a52-4b5e-8d35-1f0f0c5d6a01', '2020-02-29', '12:34:56.789012', '12:34:56.789',
        '2020-02-29 12:34:56.789012', '2020-02-29 12:34:56.789', '2020-02-29 12:34:56.789012+02', '2020-02-29 12:34:56.7+02',
        '12:34:56+02', '2020-02-29 12:34:56', '12:34:56');
    INSERT INTO arrays VALUES (1, '{1,2,NULL}', '{a,NULL,\"b,c\"}', '{3}', '{7f6c2f0e-0a52-4b5e-8d35-1f0f0c5d6a01}', '{2020-01-01}',
        '{t,f}', '{1.5}', '{1.25,NULL}', '{7}', '{\"1\"}', '{x}', '{2.5}', '{ab}');
    INSERT INTO pairs VALUES ('x', 1, 'v');
    INSERT INTO whole VALUES (1, 'v', 2), (2, 'w', 3);
    INSERT INTO toasted SELECT 1, 1, repeat('a', 5000), decode(repeat('00ff', 3000), 'hex'), to_jsonb(repeat('b', 5000)),
        ARRAY[repeat('c', 5000)], repeat('d', 5000), (SELECT array_agg(i) FROM generate_series(1, 3000) i);
    INSERT INTO defaults (id) VALUES (1);
    INSERT INTO \"Odd-Names\" VALUES (1, 'x', 2);
    INSERT INTO emptied VALUES (1, 'x'), (2, 'y');
";

const CHANGES: &str = "
    INSERT INTO numbers VALUES (2, NULL, -2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 0), (3, -1, 5, 9, -0.5, 1e300, -1.005, -1, -12.25, false, 1);
    UPDATE numbers SET b = 99, h = 100 WHERE id = 1;
    DELETE FROM numbers WHERE id = 2;
    INSERT INTO texts (id, b) VALUES (2, 'only');
    UPDATE texts SET a = '', d = '', o = -5.5 WHERE id = 1;
    INSERT INTO times (id, j) VALUES ('00000000-0000-0000-0000-000000000001', '00:00:00');
    UPDATE times SET f = '1999-12-31 23:59:59+00', g = '1969-12-31 23:59:59.5+00', d = '1969-12-31 23:59:59.5',
        a = '1900-01-01', b = '23:59:59.999999', h = '01:02:03.5-05' WHERE a IS NOT NULL;
    INSERT INTO arrays (id, k, a) VALUES (2, '{}', '{}');
    UPDATE pairs SET a = 2 WHERE a = 1;
    UPDATE pairs SET v = 'again' WHERE a = 2;
    UPDATE whole SET v = 'changed' WHERE id = 1;
    DELETE FROM whole WHERE id = 2;
    UPDATE toasted SET n = 2 WHERE id = 1;
    UPDATE toasted SET id = 5 WHERE id = 1;
    DELETE FROM toasted WHERE id = 5;
    INSERT INTO defaults (id, a, b, c, d, e, f, g) VALUES (2, NULL, 'y', NULL, 2, NULL, 3, NULL);
    UPDATE defaults SET f = 4 WHERE id = 1;
    DELETE FROM defaults WHERE id = 2;
    UPDATE \"Odd-Names\" SET \"1st\" = 3;
    TRUNCATE emptied;
    INSERT INTO emptied VALUES (3, 'z');
";

const TABLES: [&str; 10] =
    ["numbers", "texts", "times", "arrays", "pairs", "whole", "toasted", "defaults", "Odd-Names", "emptied"];

/// Waits until a topic, which its writer may not have made yet, has so many messages, and returns them.
async fn wait_for(kafka: &Kafka, topic: &str, count: usize) -> Vec<Seen> {
    let asked = Instant::now();
    loop {
        let seen = find_topic(kafka, topic).unwrap_or_default();
        if seen.len() >= count || asked.elapsed() > Duration::from_secs(90) {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// What differs, and why. A path ends in `*` where more may follow.
const DIFFERENCES: &[(&str, &str, &str)] = &[
    ("*", "headers", "ours say where an event stands; Debezium's name its connector, which there is none of"),
    ("*", "value schema.sooner.relation", "the table as it is in the catalog: what the types of Avro cannot say"),
    ("*", "value.source.version", "another program"),
    ("*", "value.source.name", "the test gives the two different prefixes, so that their topics differ"),
    ("*", "value.source.lsn", "only of copied rows: each took its own snapshot"),
    ("*", "value.source.txId", "only of copied rows: ours come without a transaction, Debezium's with its reader's"),
    ("*", "value.source.ts_*", "only of copied rows: each took its own snapshot"),
    ("*", "value.source.sequence", "ours is commit LSN and ordinal: unique, and in commit order"),
    (
        "*",
        "value.source.snapshot",
        "rows are copied in parallel streams: which one is the last is not known when it is sent",
    ),
    ("*", "value.ts_*", "the time at which each of the two handled the event"),
    ("numbers", "value.after.h*", "a numeric without scale keeps its trailing zeros, as Postgres shows them"),
    (
        "Odd-Names",
        "value schema.fields[before].type[Value].fields[*",
        "the column's own name stands beside the changed one",
    ),
    (
        "defaults",
        "value schema.fields[before].type[Value].fields",
        "a generated column is in Debezium's snapshot, and neither in its stream nor with us: Postgres does not send it",
    ),
    ("defaults", "value.after.*", "a NULL stays NULL where the column has a default; the Avro converter replaces it"),
    ("defaults", "value.before.*", "the same, of a row of which only the key is known"),
    ("times", "value*h*", "timetz goes as Postgres' text"),
    ("texts", "value*j*", "interval goes as Postgres' text"),
    ("texts", "value*k*", "xml goes as Postgres' text, without Debezium's name for it"),
    ("texts", "value.after.l", "name goes as text; Debezium leaves it out"),
    ("texts", "value*m*", "point goes as Postgres' text"),
    ("texts", "value*n*", "bit goes as Postgres' text"),
    ("texts", "value*o*", "money goes as Postgres' text"),
    ("texts", "value*p*", "tsvector goes as Postgres' text, without Debezium's name for it"),
];

fn is_known(table: &str, path: &str, used: &mut BTreeSet<usize>) -> bool {
    let fits = |pattern: &str| {
        let mut rest = path;
        let parts: Vec<_> = pattern.split('*').collect();
        for (index, part) in parts.iter().enumerate() {
            match rest.find(part) {
                Some(at) if index > 0 || at == 0 => rest = &rest[at + part.len()..],
                _ => return false,
            }
        }
        pattern.ends_with('*') || rest.is_empty()
    };
    let known =
        DIFFERENCES.iter().enumerate().filter(|(_, (of, pattern, _))| (*of == "*" || *of == table) && fits(pattern));
    let known: Vec<_> = known.map(|(index, _)| index).collect();
    used.extend(&known);
    !known.is_empty()
}

struct Side<'a> {
    registry: &'a Registry,
    prefix: &'static str,
}

impl Side<'_> {
    fn schema_json(&self, message: &[u8]) -> Value {
        let (id, _) = split_header(message).unwrap();
        let text = self.registry.schema_text(id).replace(self.prefix, "same");
        serde_json::from_str(&text).unwrap()
    }

    fn value(&self, message: &[u8]) -> Value {
        let (id, datum) = split_header(message).unwrap();
        let mut reader = Reader::new(datum);
        let value = to_json(&self.registry.schema(id), &mut reader);
        assert!(reader.rest().is_empty(), "bytes are left over");
        value
    }
}

/// Compares keys and values of two messages, with their schemas.
fn compare_parts(ours: &Side<'_>, theirs: &Side<'_>, mine: &Seen, other: &Seen, note: &mut impl FnMut(String, String)) {
    let parts = [
        (Some(&mine.key).filter(|key| !key.is_empty()), Some(&other.key).filter(|key| !key.is_empty()), "key"),
        (mine.value.as_ref(), other.value.as_ref(), "value"),
    ];
    for (a, b, part) in parts {
        match (a, b) {
            (Some(a), Some(b)) => {
                let mut found = Vec::new();
                differences(&format!("{part} schema"), &ours.schema_json(a), &theirs.schema_json(b), &mut found);
                differences(part, &ours.value(a), &theirs.value(b), &mut found);
                for (path, a, b) in found {
                    note(path, format!("{a} | {b}").chars().take(200).collect());
                }
            }
            (None, None) => {}
            (a, b) => note(part.into(), format!("ours {}, theirs {}", a.is_some(), b.is_some())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_of_debezium_find_what_they_know() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(SCHEMA).await;
    let settings = [
        "table.include.list=public.*",
        "skipped.operations=none",
        "poll.interval.ms=50",
        "schema.name.adjustment.mode=avro",
        "field.name.adjustment.mode=avro",
    ];
    let debezium = Debezium::start(&postgres, &kafka, &registry, "theirs", &settings);
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "prefix = \"ours\"");
    source.start_command("source", &[]);
    debezium.wait_until_streaming(&postgres, "theirs").await;
    source.wait_for_log("\"streaming\"", Duration::from_secs(60)).await;
    for statement in CHANGES.split(';').filter(|statement| !statement.trim().is_empty()) {
        postgres.sql(statement).await;
    }
    let end = postgres.end_lsn().await;
    source
        .wait_for("everything is on the topics", Duration::from_secs(30), |status| status.confirmed_flush_lsn >= end)
        .await;
    let (ours, theirs) = (Side { registry: &registry, prefix: "ours" }, Side { registry: &registry, prefix: "theirs" });
    let mut report: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut used = BTreeSet::new();
    let mut compared = 0;
    for table in TABLES {
        let from_us = read_topic(&kafka, &format!("ours.public.{table}"));
        let from_them = wait_for(&kafka, &format!("theirs.public.{table}"), from_us.len()).await;
        compared += from_us.len();
        let mut note = |path: String, what: String| {
            if is_known(table, &path, &mut used) {
                return;
            }
            report.entry(path).or_default().insert(format!("{table}: {what}"));
        };
        if from_us.len() != from_them.len() {
            note("(count)".into(), format!("{} ours, {} theirs", from_us.len(), from_them.len()));
        }
        for (mine, other) in from_us.iter().zip(&from_them) {
            compare_parts(&ours, &theirs, mine, other, &mut note);
            // Those that tell of a changed key are the same.
            for name in ["__debezium.newkey", "__debezium.oldkey"] {
                if mine.headers.get(name) != other.headers.get(name) {
                    note(format!("header {name}"), format!("{} | {}", mine.header(name), other.header(name)));
                }
            }
            let names = |seen: &Seen| seen.headers.keys().cloned().collect::<Vec<_>>().join(" ");
            if names(mine) != names(other) {
                note("headers".into(), format!("{} | {}", names(mine), names(other)));
            }
        }
    }
    let unknown: String = report.iter().map(|(path, found)| format!("{path}\n    {found:?}\n")).collect();
    assert!(unknown.is_empty(), "differences that nobody gave a reason for (ours | theirs):\n{unknown}");
    assert!(compared >= 40, "only {compared} messages were compared");
    let unused: Vec<_> = (0..DIFFERENCES.len()).filter(|index| !used.contains(index)).collect();
    assert!(unused.is_empty(), "differences that are none any more: {unused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_builds_the_same_tables_from_topics_that_debezium_writes() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(load::SCHEMA).await;
    // Debezium leaves the values that an UPDATE did not touch out of the event that changes a key, and says so nowhere
    // else: with the whole old row they are there.
    postgres.sql("ALTER TABLE documents REPLICA IDENTITY FULL").await;
    let settings = ["table.include.list=public.*", "poll.interval.ms=50", "topic.creation.default.partitions=3"];
    let debezium = Debezium::start(&postgres, &kafka, &registry, "theirs", &settings);
    debezium.wait_until_streaming(&postgres, "theirs").await;
    let load = Load::start(postgres.url(), 21);
    let mut sink = Pipeline::kafka(&postgres, &kafka, &registry, "prefix = \"theirs\"\nwritten_by = \"debezium\"");
    sink.start_command("sink", &[]);
    tokio::time::sleep(Duration::from_secs(6)).await;
    sink.kill();
    sink.start_command("sink", &[]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.stop().await;
    // Nothing tells where such topics end; so the tables are looked at until they are equal.
    let asked = Instant::now();
    while let Err(difference) = compare(readers::Reader::DuckDb, &postgres, &sink.lake, None, &load::TABLES) {
        assert!(asked.elapsed() < Duration::from_secs(60), "{difference}\n{}", sink.log());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(sink.is_running());
}
