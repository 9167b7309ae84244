//! Mirrors that keep the rows which their source deletes: each with its last values and the commit time of the delete,
//! whatever dies on the way, and beside them the rows that the source has.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, judge, query};
use integration_tests::registry::Registry;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::Code;

const SOFT: &str = "[[table]]\nmatch = \"public.*\"\ndeletes = \"soft\"";
const HARD: &str = "[[table]]\nmatch = \"public.*\"\ndeletes = \"hard\"";
const LIMIT: Duration = Duration::from_secs(60);
/// Postgres says when each transaction was committed.
const SETTINGS: [&str; 2] = ["wal_level=logical", "track_commit_timestamp=on"];
const SOURCE: &str = "
    CREATE TABLE things (id int PRIMARY KEY, name text NOT NULL, body text, n int NOT NULL);
    ALTER TABLE things ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO things SELECT i, 'name ' || i, repeat(md5(i::text), 100), 0 FROM generate_series(1, 2000) i";
/// Triggers note each row that goes, as an oracle that knows nothing of the stream.
const ORACLE: &str = "
    CREATE SCHEMA oracle;
    CREATE TABLE oracle.noted (at bigserial, xid xid, id int, name text, body text, n int);
    CREATE FUNCTION oracle.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        IF TG_OP = 'TRUNCATE' THEN
            INSERT INTO oracle.noted (xid, id, name, body, n)
            SELECT pg_current_xact_id()::xid, id, name, body, n FROM public.things;
        ELSIF TG_OP = 'DELETE' OR OLD.id <> NEW.id THEN
            INSERT INTO oracle.noted (xid, id, name, body, n)
            VALUES (pg_current_xact_id()::xid, OLD.id, OLD.name, OLD.body, OLD.n);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER DELETE OR UPDATE ON things FOR EACH ROW EXECUTE FUNCTION oracle.note();
    CREATE TRIGGER note_all BEFORE TRUNCATE ON things FOR EACH STATEMENT EXECUTE FUNCTION oracle.note()";
/// The last deletion of each key that the source has no more.
const NOTED: &str = "(SELECT DISTINCT ON (id) id, name, body, n, \
     (extract(epoch FROM pg_xact_commit_timestamp(xid)) * 1000000)::bigint AS deleted_at FROM oracle.noted \
     WHERE id NOT IN (SELECT id FROM things) ORDER BY id, at DESC) AS noted";
const KEPT: &str = "(SELECT *, epoch_us(_deleted_at) AS deleted_at FROM lake WHERE _deleted_at IS NOT NULL) AS kept";

fn things(pipeline: &Pipeline) -> String {
    format!("{}/public/things", pipeline.lake)
}

/// How many rows there are, and a digest of them with these columns.
fn digest(columns: &str, rows: &str) -> String {
    format!("SELECT count(*) || ' ' || md5(string_agg(concat_ws(',', {columns}), ';' ORDER BY id)) FROM {rows}")
}

const VALUES: &str = "id, name, coalesce(md5(body), '-'), n";

/// Fails unless the lake has the rows of the source, and each deleted row with its last values; where `has_times`, also
/// with the commit time of its deletion, and otherwise with a time that is not before it.
async fn assert_kept(postgres: &Postgres, pipeline: &Pipeline, has_times: bool) {
    pipeline.assert_equal(postgres, &["public.things"]);
    let columns = if has_times { format!("{VALUES}, deleted_at") } else { VALUES.to_owned() };
    let (kept, noted) = (digest(&columns, KEPT), digest(&columns, NOTED));
    let (kept, noted) = (query(&things(pipeline), &kept), postgres.value(&noted).await);
    assert_eq!(kept, noted, "\n{}", pipeline.log());
    let keys = query(&things(pipeline), "SELECT count(*) - count(DISTINCT id) FROM lake");
    assert_eq!(keys, "0", "a key has several rows");
}

/// Changes of all kinds: rows come, change without their large value, go, come again and change their keys.
async fn change(postgres: &Postgres, random: &mut StdRng) {
    let statements: Vec<_> = (0..random.random_range(1..6)).map(|_| statement(random)).collect();
    let statements = statements.join("; ");
    let all = match random.random_range(0..12) {
        0 => format!("BEGIN; {statements}; ROLLBACK"),
        1 => format!("BEGIN; {statements}; SAVEPOINT s; DELETE FROM things WHERE id < 500; ROLLBACK TO s; COMMIT"),
        2 => statements,
        _ => format!("BEGIN; {statements}; COMMIT"),
    };
    postgres.sql(&all).await;
}

fn statement(random: &mut StdRng) -> String {
    let (id, other) = (random.random_range(1..2500), random.random_range(2500..5000));
    match random.random_range(0..10) {
        0 | 1 => format!("DELETE FROM things WHERE id BETWEEN {id} AND {id} + 3"),
        2 => format!("DELETE FROM things WHERE id = {id}; INSERT INTO things VALUES ({id}, 'again', 'short', 1)"),
        3 => format!(
            "UPDATE things SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT FROM things WHERE id = {other})"
        ),
        4 => format!(
            "UPDATE things SET id = {id} WHERE id = {other} AND NOT EXISTS (SELECT FROM things WHERE id = {id})"
        ),
        5 => format!(
            "INSERT INTO things VALUES ({other}, 'brief', NULL, 2) ON CONFLICT DO NOTHING; \
             UPDATE things SET n = n + 1 WHERE id = {other}; DELETE FROM things WHERE id = {other}"
        ),
        6 => format!(
            "INSERT INTO things VALUES ({id}, 'new', repeat(md5('{id}'), 90), 3) \
             ON CONFLICT (id) DO UPDATE SET n = things.n + 1"
        ),
        7 => format!("UPDATE things SET body = repeat(md5('{other}'), 90) WHERE id = {id}"),
        _ => format!("UPDATE things SET n = n + 1, name = 'changed' WHERE id BETWEEN {id} AND {id} + 5"),
    }
}

/// Has it stored that copies have ended, so that they are not repeated after a kill.
async fn settle(postgres: &Postgres, pipeline: &mut Pipeline) {
    pipeline.catch_up(postgres).await;
    pipeline.stop();
    pipeline.start();
    pipeline.catch_up(postgres).await;
}

/// A pipeline that copied the things before the first change that the oracle notes.
async fn keeping(postgres: &Postgres, mut pipeline: Pipeline) -> Pipeline {
    postgres.sql(SOURCE).await;
    pipeline.configure_source("tables = [\"public.*\"]");
    pipeline.append_settings(SOFT);
    pipeline.start();
    pipeline.wait_until_copied("public.things").await;
    settle(postgres, &mut pipeline).await;
    postgres.sql(ORACLE).await;
    pipeline
}

async fn change_with_kills(postgres: &Postgres, pipeline: &mut Pipeline, kills: u32, random: &mut StdRng) {
    for _ in 0..kills {
        pipeline.kill();
        pipeline.start();
        for _ in 0..random.random_range(30..120) {
            change(postgres, random).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..15))).await;
        }
    }
    pipeline.catch_up(postgres).await;
}

/// Deletes many rows at once, all rows by TRUNCATE, and brings some of them back.
async fn clear(postgres: &Postgres, pipeline: &mut Pipeline, random: &mut StdRng) {
    postgres.sql("INSERT INTO things SELECT i, 'bulk', 'b' || i, 4 FROM generate_series(10001, 60000) i").await;
    postgres.sql("DELETE FROM things WHERE id > 20000").await;
    pipeline.catch_up(postgres).await;
    assert_kept(postgres, pipeline, true).await;
    for changes in 0..4 {
        // A TRUNCATE amid other changes of its transaction, and as the first thing that a process hears.
        let first =
            if changes == 2 { "TRUNCATE things" } else { "DELETE FROM things WHERE id % 7 = 1; TRUNCATE things" };
        postgres.sql(&format!("BEGIN; {first}; INSERT INTO things VALUES (7, 'after', 'x', {changes}); COMMIT")).await;
        for _ in 0..20 {
            change(postgres, random).await;
        }
        pipeline.catch_up(postgres).await;
        assert_kept(postgres, pipeline, true).await;
        pipeline.kill();
        pipeline.start();
    }
}

/// Has the table copied again, while it is changed and the pipeline is killed; rows went just before, and go meanwhile.
/// What a row became between the last state that the lake had and its end is nobody's to know, so none is both.
async fn copy_again(postgres: &Postgres, pipeline: &mut Pipeline, random: &mut StdRng) {
    for _ in 0..100 {
        change(postgres, random).await;
    }
    pipeline.catch_up(postgres).await;
    postgres.sql("DELETE FROM things WHERE id % 11 = 0").await;
    let copies = pipeline.log().matches("kept rows that the source has no more").count();
    pipeline.resume("public.things");
    for round in 1..4 {
        for change in 0..10 {
            let (gone, changed) = (round * 2 + change % 2, 8 + change % 3);
            let sql = format!(
                "DELETE FROM things WHERE id % 11 = {gone} AND id % 5 = {}; UPDATE things SET n = n + 1 WHERE id % 11 = {changed}",
                change / 2
            );
            postgres.sql(&sql).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        pipeline.kill();
        pipeline.start();
    }
    pipeline.wait_for_log_times("kept rows that the source has no more", copies + 1, LIMIT).await;
    pipeline.wait_until_streaming(&["public.things"]).await;
    pipeline.catch_up(postgres).await;
    assert_kept(postgres, pipeline, false).await;
    let early = "SELECT count(*) FROM lake WHERE _deleted_at IS NOT NULL AND _deleted_at < TIMESTAMPTZ '2020-01-01'";
    assert_eq!(query(&things(pipeline), early), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_the_source_deletes_stay_with_their_last_values_and_their_times_through_kills() {
    let postgres = Postgres::start_with(Version::V15, &SETTINGS).await;
    let mut pipeline = keeping(&postgres, Pipeline::local(&postgres)).await;
    let mut random = StdRng::seed_from_u64(71);
    change_with_kills(&postgres, &mut pipeline, 10, &mut random).await;
    assert_kept(&postgres, &pipeline, true).await;
    clear(&postgres, &mut pipeline, &mut random).await;
    copy_again(&postgres, &mut pipeline, &mut random).await;
    let verified = pipeline.output("verify", &[]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    for reader in [Reader::Polars, Reader::Spark] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &["public.things"]);
    }
    judge(&pipeline.lake, &["public.things"], Duration::from_secs(3600));
    pipeline.assert_all_stream();
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_through_kafka() {
    let postgres = Postgres::start_with(Version::V15, &SETTINGS).await;
    let (kafka, registry) = (Kafka::start(), Registry::start());
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3\ngroup_instance = \"one\"");
    let mut pipeline = keeping(&postgres, pipeline).await;
    let mut random = StdRng::seed_from_u64(72);
    change_with_kills(&postgres, &mut pipeline, 4, &mut random).await;
    assert_kept(&postgres, &pipeline, true).await;
    clear(&postgres, &mut pipeline, &mut random).await;
    copy_again(&postgres, &mut pipeline, &mut random).await;
    // Behind a topic, a person decides when deleted rows go.
    pipeline.stop();
    pipeline.replace(SOFT, HARD);
    pipeline.start();
    let error = pipeline.wait_until_parked("public.things").await;
    assert!(error.why.contains("deletes = \"soft\""), "{error}");
    pipeline.resume("public.things");
    pipeline.wait_until_streaming(&["public.things"]).await;
    pipeline.catch_up(&postgres).await;
    let columns = query(&things(&pipeline), "SELECT string_agg(column_name, ' ') FROM (DESCRIBE lake)");
    assert_eq!(columns, "id name body n");
    pipeline.assert_equal(&postgres, &["public.things"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_setting_is_switched_on_without_a_copy_and_off_with_one() {
    let postgres = Postgres::start_with(Version::V15, &SETTINGS).await;
    postgres.sql(SOURCE).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.configure_source("tables = [\"public.*\"]");
    pipeline.append_settings(HARD);
    pipeline.start();
    pipeline.wait_until_copied("public.things").await;
    settle(&postgres, &mut pipeline).await;
    pipeline.stop();
    postgres.sql("DELETE FROM things WHERE id = 1").await;
    pipeline.replace(HARD, SOFT);
    let plan = String::from_utf8(pipeline.output("plan", &[]).stdout).unwrap();
    assert!(plan.contains("deletes") && plan.contains("without a copy"), "{plan}");
    let copies = pipeline.log().matches("\"copied\"").count();
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql(ORACLE).await;
    postgres.sql("DELETE FROM things WHERE id < 9").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.things"]);
    let kept = "SELECT count(*) || ' ' || sum(id) FROM lake WHERE _deleted_at IS NOT NULL";
    assert_eq!(query(&things(&pipeline), kept), "8 36");
    assert_eq!(pipeline.log().matches("\"copied\"").count(), copies, "{}", pipeline.log());
    pipeline.stop();
    pipeline.replace(SOFT, HARD);
    pipeline.start();
    pipeline.wait_for_log("and are not any more", LIMIT).await;
    pipeline.wait_until_streaming(&["public.things"]).await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.things"]);
    let columns = query(&things(&pipeline), "SELECT string_agg(column_name, ' ') FROM (DESCRIBE lake)");
    assert_eq!(columns, "id name body n");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_go_and_change_beside_deleted_rows() {
    let postgres = Postgres::start_with(Version::V15, &SETTINGS).await;
    let pipeline = keeping(&postgres, Pipeline::local(&postgres)).await;
    postgres.sql("CREATE TABLE taken (id int PRIMARY KEY, _deleted_at int)").await;
    let steps = [
        "ALTER TABLE things ADD COLUMN extra text",
        "UPDATE things SET extra = 'e' WHERE id < 50; DELETE FROM things WHERE id < 20",
        "ALTER TABLE things ADD COLUMN filled int DEFAULT 5",
        "DELETE FROM things WHERE id < 30",
        "ALTER TABLE things RENAME COLUMN extra TO \"more of it\"",
        "DELETE FROM things WHERE id < 40",
        "ALTER TABLE things DROP COLUMN filled",
        "DELETE FROM things WHERE id < 45; INSERT INTO things VALUES (3, 'back', 'b', 9)",
        // The table is copied, and what only the lake has is carried over.
        "ALTER TABLE things ALTER COLUMN n TYPE bigint",
        "DELETE FROM things WHERE id < 48",
    ];
    for step in steps {
        postgres.sql(step).await;
        pipeline.catch_up(&postgres).await;
    }
    pipeline.wait_for_log("kept rows that the source has no more", LIMIT).await;
    pipeline.wait_until_streaming(&["public.things"]).await;
    postgres.sql("DELETE FROM things WHERE id = 49").await;
    pipeline.catch_up(&postgres).await;
    assert_kept(&postgres, &pipeline, false).await;
    let more = query(&things(&pipeline), "SELECT count(\"more of it\") FROM lake WHERE _deleted_at IS NOT NULL");
    assert_eq!(more, "47");
    judge(&pipeline.lake, &["public.things"], Duration::from_secs(3600));
    let error = pipeline.wait_until_parked("public.taken").await;
    assert!(error.code == Code::TypeUnsupported && error.remedy.contains("deletes = \"hard\""), "{error}");
}
