//! Tables that rows are only added to: each insert is in them once, whatever dies on the way; what else happens to rows
//! stops the table, or is ignored.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::time::Duration;

use integration_tests::between;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, judge, query};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::Code;

const PARK: &str = "[[table]]\nmatch = \"public.*\"\nwrite = [\"append\"]";
const IGNORE: &str = "[[table]]\nmatch = \"public.*\"\nwrite = [\"append\"]\non_change = \"ignore\"";
const MIRROR: &str = "[[table]]\nmatch = \"public.*\"\nwrite = [\"mirror\"]";
const SOURCE: &str =
    "CREATE TABLE clicks (id bigserial PRIMARY KEY, page text, at timestamptz DEFAULT clock_timestamp())";
/// A trigger notes each insert, as an oracle that knows nothing of the stream. Those that are rolled back go with it.
const ORACLE: &str = "
    CREATE SCHEMA oracle;
    CREATE TABLE oracle.noted (id bigint, page text);
    INSERT INTO oracle.noted SELECT id, page FROM clicks;
    CREATE FUNCTION oracle.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        INSERT INTO oracle.noted VALUES (NEW.id, NEW.page);
        RETURN NULL;
    END $$;
    CREATE TRIGGER note AFTER INSERT ON clicks FOR EACH ROW EXECUTE FUNCTION oracle.note()";
const NOTED: &str = "SELECT count(*) || ' ' || md5(string_agg(id || page, ';' ORDER BY id)) FROM oracle.noted";
const KEPT: &str = "SELECT count(*) || ' ' || md5(string_agg(id || page, ';' ORDER BY id)) FROM lake";
const NOTED_IDS: &str = "SELECT count(*) || ' ' || md5(string_agg(id::text, ';' ORDER BY id)) FROM oracle.noted";
const KEPT_IDS: &str = "SELECT count(*) || ' ' || md5(string_agg(id::text, ';' ORDER BY id)) FROM lake";

/// Inserts alone: single ones, many at once, rolled back whole or in part, and such as come to nothing.
async fn insert(postgres: &Postgres, random: &mut StdRng) {
    let count = random.random_range(1..30);
    let rows = format!("INSERT INTO clicks (page) SELECT 'p' || i FROM generate_series(1, {count}) i");
    let statements = match random.random_range(0..6) {
        0 => format!("BEGIN; {rows}; ROLLBACK"),
        1 => format!("BEGIN; {rows}; SAVEPOINT s; {rows}; ROLLBACK TO s; {rows}; COMMIT"),
        2 => "INSERT INTO clicks SELECT id, 'taken' FROM clicks LIMIT 3 ON CONFLICT DO NOTHING".to_owned(),
        3 => format!("INSERT INTO clicks (page) SELECT 'bulk ' || i FROM generate_series(1, {count} * 100) i"),
        _ => rows,
    };
    postgres.sql(&statements).await;
}

/// Inserts, and whatever else can happen to rows.
async fn change(postgres: &Postgres, random: &mut StdRng) {
    insert(postgres, random).await;
    let id = random.random_range(1..5_000);
    let statement = match random.random_range(0..20) {
        0 => "TRUNCATE clicks".to_owned(),
        1..5 => format!("UPDATE clicks SET id = -id WHERE id = {id}"),
        5..10 => format!("DELETE FROM clicks WHERE id BETWEEN {id} AND {id} + 9"),
        _ => format!("UPDATE clicks SET page = 'changed' WHERE id BETWEEN {id} AND {id} + 4"),
    };
    postgres.sql(&statement).await;
}

fn clicks(pipeline: &Pipeline) -> String {
    format!("{}/public/clicks", pipeline.lake)
}

/// Files of a folder and below that have such a name, or lie in a folder of such a name.
fn files(folder: &Path, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true => found.extend(files(&path, name)),
            false => found.extend(Some(path.display().to_string()).filter(|path| path.contains(name))),
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn every_insert_is_there_once_through_kills_in_the_copy_and_in_the_stream() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(SOURCE).await;
    postgres.sql("INSERT INTO clicks (page) SELECT 'old ' || i FROM generate_series(1, 400000) i").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings(PARK);
    let mut random = StdRng::seed_from_u64(51);
    for kill in 0..16 {
        pipeline.start();
        let writes = if kill < 6 { 10..40 } else { 60..200 };
        for _ in 0..random.random_range(writes) {
            insert(&postgres, &mut random).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..12))).await;
        }
        assert!(pipeline.is_running(), "it ended by itself:\n{}", pipeline.log());
        pipeline.kill();
    }
    pipeline.start();
    pipeline.wait_until_copied("public.clicks").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_all_stream();
    for reader in [Reader::DuckDb, Reader::Polars] {
        assert_equal(reader, &postgres, &pipeline.lake, None, &["public.clicks"]);
    }
    let ids = "SELECT count(*) || ' ' || count(DISTINCT id) FROM";
    let wanted = postgres.value(&format!("{ids} clicks")).await;
    assert_eq!(query(&clicks(&pipeline), &format!("{ids} lake")), wanted);
    judge(&pipeline.lake, &["public.clicks"], Duration::from_secs(3600));
    let left = files(&pipeline.state_dir().join("index"), "clicks");
    assert!(left.is_empty(), "it has an index: {left:?}");
}

/// A pipeline that copied the clicks before the first change, and ignores changes.
async fn ignoring(postgres: &Postgres, mut pipeline: Pipeline) -> Pipeline {
    postgres.sql(SOURCE).await;
    postgres.sql("INSERT INTO clicks (page) SELECT 'old ' || i FROM generate_series(1, 3000) i").await;
    pipeline.configure_source("tables = [\"public.*\"]");
    pipeline.append_settings(IGNORE);
    pipeline.start();
    pipeline.wait_until_copied("public.clicks").await;
    settle(postgres, &mut pipeline).await;
    postgres.sql(ORACLE).await;
    pipeline
}

/// Has it stored that copies have ended, so that they are not repeated after a kill.
async fn settle(postgres: &Postgres, pipeline: &mut Pipeline) {
    pipeline.catch_up(postgres).await;
    pipeline.stop();
    pipeline.start();
    pipeline.catch_up(postgres).await;
}

async fn change_with_kills(postgres: &Postgres, pipeline: &mut Pipeline, kills: u32, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..kills {
        pipeline.kill();
        pipeline.start();
        for _ in 0..random.random_range(20..100) {
            change(postgres, &mut random).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
        }
    }
    pipeline.catch_up(postgres).await;
}

/// Judges what is kept, then once more after a copy of a table that has lost most rows at the source; then the setting
/// is taken back, so that the lake has to equal the source again.
async fn judge_ignoring(postgres: &Postgres, mut pipeline: Pipeline, seed: u64) -> Pipeline {
    assert_eq!(query(&clicks(&pipeline), KEPT), postgres.value(NOTED).await, "\n{}", pipeline.log());
    pipeline.resume("public.clicks");
    pipeline.wait_for_log("kept rows that the source has no more", Duration::from_secs(60)).await;
    pipeline.wait_until_streaming(&["public.clicks"]).await;
    pipeline.catch_up(postgres).await;
    let kept = "SELECT count(*) || ' ' || md5(string_agg(id::text, ';' ORDER BY id)) FROM lake WHERE id > 0";
    // What an update of the key made is a row of the source by now.
    assert_eq!(query(&clicks(&pipeline), kept), postgres.value(NOTED_IDS).await, "\n{}", pipeline.log());
    // From here on nothing is copied again: what was asked for is granted, and that the copy has ended is stored.
    let asked = || std::fs::read_dir(pipeline.state_dir().join("requests")).map_or(0, Iterator::count);
    while asked() > 0 {
        postgres.sql("INSERT INTO clicks (page) VALUES ('meanwhile')").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    settle(postgres, &mut pipeline).await;
    change_with_kills(postgres, &mut pipeline, 2, seed).await;
    assert_eq!(query(&clicks(&pipeline), kept), postgres.value(NOTED_IDS).await, "\n{}", pipeline.log());
    judge(&pipeline.lake, &["public.clicks"], Duration::from_secs(3600));
    assert_ne!(query(&clicks(&pipeline), KEPT_IDS), postgres.value(&KEPT_IDS.replace("lake", "clicks")).await);
    pipeline.stop();
    pipeline.replace(IGNORE, MIRROR);
    pipeline.start();
    pipeline
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_inserted_stays_whatever_becomes_of_it() {
    let postgres = Postgres::start(Version::V15).await;
    let mut pipeline = ignoring(&postgres, Pipeline::local(&postgres)).await;
    change_with_kills(&postgres, &mut pipeline, 10, 52).await;
    let pipeline = judge_ignoring(&postgres, pipeline, 53).await;
    // It is copied again by itself, and follows changes from then on.
    pipeline.wait_for_log("and are not any more", Duration::from_secs(60)).await;
    pipeline.wait_until_streaming(&["public.clicks"]).await;
    change(&postgres, &mut StdRng::seed_from_u64(56)).await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.clicks"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_through_kafka() {
    let (postgres, kafka, registry) = between::start().await;
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3\ngroup_instance = \"one\"");
    let mut pipeline = ignoring(&postgres, pipeline).await;
    change_with_kills(&postgres, &mut pipeline, 5, 54).await;
    let pipeline = judge_ignoring(&postgres, pipeline, 55).await;
    let error = pipeline.wait_until_parked("public.clicks").await;
    assert!(error.why.contains("and are not any more"), "{error}");
    pipeline.resume("public.clicks");
    pipeline.wait_until_streaming(&["public.clicks"]).await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.clicks"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_parks_the_table_until_a_person_decides() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(SOURCE).await;
    // Without a key, rows that are alike are told apart by nothing but how many there are.
    postgres.sql("CREATE TABLE logs (line text); ALTER TABLE logs REPLICA IDENTITY FULL; INSERT INTO logs VALUES ('a'), ('a')").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings(PARK);
    pipeline.start();
    for table in ["public.clicks", "public.logs"] {
        pipeline.wait_until_copied(table).await;
    }
    settle(&postgres, &mut pipeline).await;
    for round in 0..4 {
        for _ in 0..20 {
            postgres
                .sql("INSERT INTO logs SELECT 'a' FROM generate_series(1, 7); INSERT INTO clicks (page) VALUES ('a')")
                .await;
        }
        if round % 2 == 0 {
            pipeline.kill();
            pipeline.start();
        }
    }
    pipeline.catch_up(&postgres).await;
    let lines = query(&format!("{}/public/logs", pipeline.lake), "SELECT count(*), min(line), max(line) FROM lake");
    assert_eq!(lines, format!("{}|a|a", 2 + 80 * 7));
    let refused = pipeline.output("copy", &["public.clicks", "--where", "id < 5"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("without --where"), "rows would be there twice: {why}");
    postgres.sql("UPDATE clicks SET page = 'b' WHERE id = 1").await;
    let error = pipeline.wait_until_parked("public.clicks").await;
    assert_eq!(error.code, Code::RowChanged);
    assert!(error.remedy.contains("on_change = \"ignore\""), "{error}");
    pipeline.resume("public.clicks");
    pipeline.wait_until_streaming(&["public.clicks", "public.logs"]).await;
    postgres.sql("INSERT INTO clicks (page) VALUES ('c')").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.clicks"]);
}
