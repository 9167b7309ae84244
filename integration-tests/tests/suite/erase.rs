//! Erasure: no byte of a subject is left in the lake, nothing else is lost, whatever dies on the way; and what is held
//! stays, and is told.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, holding, query};
use integration_tests::s3::S3;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use sooner_postgres::client::Mode;
use sooner_postgres::{Client, ConnectOptions};

const SUBJECT: &str = "email=jane.subject@doe.example";
const EMAIL: &str = "jane.subject@doe.example";
/// Texts that are the subject's, and nobody else's: also those of former states of her row.
const TEXTS: [&str; 3] = ["jane.subject", "Maiden Name-Of-Jane", "secret of jane"];
const SOURCE: &str = "
    CREATE TABLE people (id int PRIMARY KEY, email text, name text, note text, seen int);
    CREATE TABLE visits (id int PRIMARY KEY, email text, page text);
    CREATE TABLE others (id int PRIMARY KEY, amount int);
    INSERT INTO people SELECT i, 'p' || i || '@doe.example', 'name ' || i, repeat('n' || i, 20), 0
        FROM generate_series(1, 3000) i;
    INSERT INTO people VALUES (7777, 'before@doe.example', 'Maiden Name-Of-Jane', repeat('secret of jane ', 300), 0);
    INSERT INTO visits SELECT i, 'p' || i || '@doe.example', 'page' FROM generate_series(1, 500) i;
    INSERT INTO others SELECT i, i FROM generate_series(1, 500) i;";
/// Moments at which the command dies.
const FAILPOINTS: [&str; 4] = ["erased_files_written", "rows_erased", "erased_files_found", "erased_log_checkpointed"];
const TABLES: [&str; 2] = ["public.people", "public.others"];
const SETTINGS: &str = "
[[table]]
match = \"public.people\"
write = [\"mirror\", \"history\"]
[[table]]
match = \"public.visits\"
write = [\"append\"]
on_change = \"ignore\"";
/// Everything of the history that is not the subject's, up to a position.
const KEPT: &str = "SELECT count(*) || ' ' || md5(string_agg(concat_ws(',', _commit_lsn, _ordinal, _change_type, id, \
     coalesce(email, '-'), coalesce(name, '-')), ';' ORDER BY _commit_lsn, _ordinal)) FROM lake WHERE id <> 7777";

async fn begun(postgres: &Postgres) -> Pipeline {
    begun_as(Pipeline::local(postgres), postgres).await
}

async fn begun_as(mut pipeline: Pipeline, postgres: &Postgres) -> Pipeline {
    postgres.sql(SOURCE).await;
    pipeline.configure_source("tables = [\"public.*\"]");
    pipeline.append_settings(SETTINGS);
    pipeline.start();
    for table in ["public.people", "public.visits", "public.others"] {
        pipeline.wait_until_copied(table).await;
    }
    pipeline.catch_up(postgres).await;
    pipeline
}

/// The subject is there in several states, and goes.
async fn live_and_leave(postgres: &Postgres, pipeline: &Pipeline) {
    for statement in [
        "UPDATE people SET seen = 1 WHERE id IN (7777, 3, 4)",
        &format!("UPDATE people SET email = '{EMAIL}', name = 'Jane Subject' WHERE id = 7777"),
        &format!("INSERT INTO visits VALUES (9001, '{EMAIL}', 'a page'), (9002, 'joe@doe.example', 'a page')"),
        "UPDATE people SET seen = 2 WHERE id IN (7777, 5)",
        &format!("INSERT INTO visits VALUES (9003, '{EMAIL}', 'another page')"),
    ] {
        postgres.sql(statement).await;
        pipeline.catch_up(postgres).await;
    }
    postgres.sql("DELETE FROM people WHERE id = 7777; DELETE FROM visits WHERE id IN (9001, 9003)").await;
}

/// Changes of everybody else, until it is told to stop.
fn load(url: String, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let options = ConnectOptions::parse(&url).unwrap();
        let mut client = Client::connect(&options, Mode::Sql).await.unwrap();
        let mut random = StdRng::seed_from_u64(15);
        while !stop.load(Ordering::Relaxed) {
            let (id, new) = (random.random_range(1..3000), random.random_range(10_000..900_000));
            let sql = format!(
                "BEGIN; UPDATE people SET seen = seen + 1 WHERE id BETWEEN {id} AND {id} + 5; \
                 INSERT INTO people VALUES ({new}, 'new', 'new', repeat('x', 3000), 0) ON CONFLICT DO NOTHING; \
                 DELETE FROM people WHERE id = {new} - 1; UPDATE others SET amount = {new} WHERE id = {id} % 500; COMMIT"
            );
            client.query(&sql).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
}

fn assert_nothing_left(pipeline: &Pipeline) {
    assert_nothing_in(Path::new(&pipeline.lake), pipeline);
}

fn assert_nothing_in(lake: &Path, pipeline: &Pipeline) {
    for text in TEXTS {
        assert_eq!(holding(lake.to_str().unwrap(), text), "", "'{text}' is in the lake\n{}", pipeline.log());
    }
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn erase(pipeline: &Pipeline, more: &[&str]) -> Output {
    pipeline.output("erase", &[&["--subject", SUBJECT, "--timeout", "60s"], more].concat())
}

/// Objects of a lake with their sizes and times.
fn objects(folder: &Path) -> BTreeMap<String, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, metadata) = (entry.path(), entry.metadata().unwrap());
        match metadata.is_dir() {
            true => found.extend(objects(&path)),
            false => drop(found.insert(path.display().to_string(), (metadata.len(), metadata.modified().unwrap()))),
        }
    }
    found
}

fn history(pipeline: &Pipeline) -> String {
    format!("{}/public/people-history", pipeline.lake)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_subject_is_left_and_all_else_is_after_kills_under_load() {
    let postgres = Postgres::start(Version::V15).await;
    let mut pipeline = begun(&postgres).await;
    live_and_leave(&postgres, &pipeline).await;
    pipeline.catch_up(&postgres).await;
    for text in TEXTS {
        assert_ne!(holding(&pipeline.lake, text), "", "it was there");
    }
    let lsn = query(&history(&pipeline), "SELECT max(_commit_lsn) FROM lake");
    let kept = format!("{KEPT} AND _commit_lsn <= {lsn}");
    let before = query(&history(&pipeline), &kept);
    let stop = Arc::new(AtomicBool::new(false));
    let changes = load(postgres.url(), stop.clone());
    let mut died = 0;
    for failpoint in FAILPOINTS {
        for time in [1, 2] {
            let mut command = pipeline.command("erase");
            command.args(["--subject", SUBJECT, "--timeout", "60s"]);
            let output = command.env("SOONER_FAILPOINT", format!("{failpoint}@{time}")).output().unwrap();
            died += u32::from(output.status.code().is_none());
            pipeline.kill();
            pipeline.start();
        }
    }
    assert!(died >= 5, "{died} deaths prove little");
    let last = erase(&pipeline, &["--json"]);
    assert!(last.status.success(), "{}\n{}", told(&last), pipeline.log());
    let certificate: Value = serde_json::from_slice(&last.stdout).unwrap();
    assert_eq!((&certificate["clean"], &certificate["remains"]), (&Value::Bool(true), &Value::Array(Vec::new())));
    assert!(certificate["search"]["objects"].as_u64().unwrap() > 20, "{certificate}");
    assert_nothing_left(&pipeline);
    stop.store(true, Ordering::Relaxed);
    changes.await.unwrap();
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &TABLES);
    assert_eq!(query(&history(&pipeline), &kept), before, "{}", pipeline.log());
    let visits = query(&format!("{}/public/visits", pipeline.lake), "SELECT count(*) FROM lake");
    assert_eq!(visits, "501", "what the source has no more of others stays");
    // Nothing was copied again to get there, and nothing comes back with the next process.
    pipeline.stop();
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert_nothing_left(&pipeline);
    assert!(!pipeline.log().contains("copies it again") && !pipeline.log().contains("parked"), "{}", pipeline.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_in_a_bucket_either() {
    let (postgres, s3) = (Postgres::start(Version::V15).await, S3::start());
    let pipeline = begun_as(Pipeline::s3(&postgres, &s3.endpoint()), &postgres).await;
    live_and_leave(&postgres, &pipeline).await;
    pipeline.catch_up(&postgres).await;
    let cut = pipeline.output("cut", &["create", "q3", "--timeout", "60s"]);
    assert!(cut.status.success(), "{}", told(&cut));
    let before = tempfile::tempdir().unwrap();
    s3.download(before.path());
    for text in TEXTS {
        assert_ne!(holding(before.path().to_str().unwrap(), text), "", "it was there");
    }
    let mut erased = erase(&pipeline, &["--drop-cuts", "--json"]);
    // A file of a commit that is on its way is told, and found when it is looked for again.
    for _ in 0..5 {
        if erased.status.code() != Some(3) {
            break;
        }
        assert!(told(&erased).contains("erase again in a while"), "{}", told(&erased));
        erased = erase(&pipeline, &["--drop-cuts", "--json"]);
    }
    assert!(erased.status.success(), "{}\n{}", told(&erased), pipeline.log());
    let certificate: Value = serde_json::from_slice(&erased.stdout).unwrap();
    assert_eq!(certificate["clean"], true, "{certificate:#}");
    let after = tempfile::tempdir().unwrap();
    s3.download(after.path());
    assert_nothing_in(after.path(), &pipeline);
    pipeline.catch_up(&postgres).await;
    assert_equal(Reader::DuckDb, &postgres, &pipeline.lake, Some(s3.port), &TABLES);
}

/// Number of rows of a version of a table, as a cut names it.
fn count(version: &Value) -> String {
    let script = "import sys\nsys.path.insert(0, sys.argv[1])\nfrom verify import connect_duckdb\n\
                  lake = connect_duckdb(None)\n\
                  lake.execute(f\"ATTACH '{sys.argv[2]}' AS cut (TYPE delta, VERSION {sys.argv[3]})\")\n\
                  print(lake.execute('SELECT count(*) FROM cut').fetchone()[0])";
    let place = version["url"].as_str().unwrap().trim_start_matches("file://").trim_end_matches('/');
    let readers = integration_tests::root().join("integration-tests/readers");
    let mut reader = Command::new(integration_tests::python());
    reader.args(["-c", script, readers.to_str().unwrap(), place, &version["version"].to_string()]);
    told(&reader.output().unwrap()).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_told_and_stays_until_it_is_not() {
    let postgres = Postgres::start(Version::V15).await;
    let mut pipeline = begun(&postgres).await;
    live_and_leave(&postgres, &pipeline).await;
    postgres.sql(&format!("INSERT INTO people VALUES (8888, '{EMAIL}', 'Jane Subject', '', 0)")).await;
    pipeline.catch_up(&postgres).await;
    let cut = pipeline.output("cut", &["create", "q3", "--keep", "7days", "--timeout", "60s"]);
    assert!(cut.status.success(), "{}", told(&cut));
    let refused = erase(&pipeline, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(told(&refused).contains("the source still has 1 rows of the subject in public.people. To do: delete"));
    postgres.sql("DELETE FROM people WHERE id = 8888").await;
    pipeline.catch_up(&postgres).await;

    pipeline.stop();
    let before = objects(Path::new(&pipeline.lake));
    let dry = erase(&pipeline, &["--dry-run", "--json"]);
    let found: Value = serde_json::from_slice(&dry.stdout).expect("JSON");
    assert_eq!(found["tables"].as_array().unwrap().len(), 3, "{found:#}");
    assert!(
        found["held"][0]["why"].as_str().unwrap().contains("the cut 'q3'") && found["held"][0]["until"].is_string()
    );
    assert_eq!(objects(Path::new(&pipeline.lake)), before, "nothing has changed");
    pipeline.start();

    for (name, more) in [("case-1", ["--subject", SUBJECT]), ("case-2", ["--table", "public.people"])] {
        let hold = pipeline.output("hold", &[&["add", name, "--reason", "litigation"], &more[..]].concat());
        assert!(hold.status.success(), "{}", told(&hold));
        assert!(!holding(&pipeline.lake, EMAIL).contains("_sooner"), "a hold has no value");
        let refused = erase(&pipeline, &[]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            told(&refused).contains(&format!("the legal hold '{name}' keeps it: litigation")),
            "{}",
            told(&refused)
        );
        let vacuum = pipeline.output("vacuum", &["public.people"]);
        assert!(vacuum.status.success() && !holding(&pipeline.lake, EMAIL).is_empty());
        assert!(pipeline.output("hold", &["release", name, "--reason", "settled"]).status.success());
    }
    let hold = pipeline.output("hold", &["add", "case-3", "--reason", "audit", "--cut", "q3"]);
    assert!(hold.status.success(), "{}", told(&hold));
    let dropped = pipeline.output("cut", &["drop", "q3"]);
    assert!(told(&dropped).contains("the legal hold 'case-3' keeps it: audit"), "{}", told(&dropped));

    let shown = pipeline.output("cut", &["show", "q3", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let rows = || count(&shown["tables"]["public.visits"]["mirror"]);
    assert_eq!(rows(), "503");
    let partial = erase(&pipeline, &["--drop-cuts"]);
    assert_eq!(partial.status.code(), Some(3), "{}", told(&partial));
    assert!(told(&partial).contains("kept by the legal hold 'case-3' and the cut 'q3'"), "{}", told(&partial));
    assert_eq!(rows(), "503", "the cut is as it was");
    assert!(pipeline.output("hold", &["release", "case-3", "--reason", "done"]).status.success());
    let all = erase(&pipeline, &["--drop-cuts"]);
    assert!(all.status.success(), "{}\n{}", told(&all), pipeline.log());
    assert_nothing_left(&pipeline);
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &TABLES);
    let holds = pipeline.output("hold", &["list", "--json"]);
    let holds: Value = serde_json::from_slice(&holds.stdout).unwrap();
    assert!(holds.as_array().unwrap().iter().all(|hold| hold["released"]["reason"].is_string()), "{holds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_erased_by_a_wrong_name_nor_from_under_a_hold_and_copies_of_rows_are_found_wherever_they_lie() {
    let postgres = Postgres::start(Version::V15).await;
    let pipeline = begun(&postgres).await;
    live_and_leave(&postgres, &pipeline).await;
    for wrong in ["emial=jane.subject@doe.example", "public.peple.id=7777", "public.people.identity=7777"] {
        for more in [&[][..], &["--dry-run"]] {
            let refused = pipeline.output("erase", &[&["--subject", wrong], more].concat());
            assert!(told(&refused).contains("the lake has no table with the column"), "{wrong}: {}", told(&refused));
            assert_eq!(refused.status.code(), Some(1));
        }
    }

    // Her rows are held by one column, and looked for by another.
    let hold = pipeline.output("hold", &["add", "case-9", "--reason", "litigation", "--subject", SUBJECT, "--json"]);
    assert!(hold.status.success(), "{}", told(&hold));
    let refused = pipeline.output("erase", &["--subject", "public.people.id=7777"]);
    assert!(told(&refused).contains("the legal hold 'case-9' keeps it"), "{}", told(&refused));
    assert!(pipeline.output("hold", &["release", "case-9", "--reason", "settled", "--json"]).status.success());
    for (name, until) in [("early", "2020-01-01T00:00:00Z"), ("typo", "2040-01-01T00:00:00Z")] {
        let tables = ["--table", "public.people", "--table", "public.nobody"];
        let refused =
            pipeline.output("hold", &[&["add", name, "--reason", "r", "--until", until], &tables[..]].concat());
        assert!(!refused.status.success(), "{}", told(&refused));
    }
    let listed = pipeline.output("hold", &["list", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&listed.stdout).unwrap().as_array().unwrap().len(), 1, "no half of one");

    // An export that lies in the lake has her number, which is no text there.
    let cut = pipeline.output("cut", &["create", "q4", "--json"]);
    let cut: Value = serde_json::from_slice(&cut.stdout).unwrap();
    let to = format!("{}/_sooner/shop/exports/q4", pipeline.lake);
    assert!(pipeline.output("cut", &["export", "q4", "--to", &to]).status.success());
    let partial = pipeline.output("erase", &["--subject", "public.people.id=7777", "--drop-cuts"]);
    assert_eq!(partial.status.code(), Some(3), "{}", told(&partial));
    assert!(told(&partial).contains("exports/q4/public/people-history"), "{}: {cut}", told(&partial));
    std::fs::remove_dir_all(&to).unwrap();
    let all = pipeline.output("erase", &["--subject", "public.people.id=7777", "--drop-cuts"]);
    assert!(all.status.success(), "{}", told(&all));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_hashed_on_the_way_is_found_by_the_hash_and_what_is_left_out_is_told() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE people (id int PRIMARY KEY, email text, phone text); INSERT INTO people SELECT i, 'p' || i || \
              '@doe.example', '030' FROM generate_series(1, 50) i; INSERT INTO people VALUES (77, 'jane@doe.example', '040')",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.set("SOONER_MASK_KEY", "a key of the tests, long enough");
    pipeline.append_settings(
        "[masking]\nkey = { env = \"SOONER_MASK_KEY\" }\n[[table]]\nmatch = \"public.people\"\n\
         mask = { email = \"hash\", phone = \"omit\" }\nwrite = [\"mirror\", \"history\"]",
    );
    pipeline.start();
    pipeline.wait_until_copied("public.people").await;
    postgres.sql("DELETE FROM people WHERE id = 77").await;
    pipeline.catch_up(&postgres).await;
    let history = format!("{}/public/people-history", pipeline.lake);
    let hers = || query(&history, "SELECT count(*) FROM lake WHERE id = 77");
    assert_eq!(hers(), "2");
    let omitted = pipeline.output("erase", &["--subject", "phone=040"]);
    assert!(told(&omitted).contains("its column phone is masked"), "{}", told(&omitted));
    assert_eq!(hers(), "2");
    let erased = pipeline.output("erase", &["--subject", "email=jane@doe.example"]);
    assert!(erased.status.success(), "{}", told(&erased));
    assert_eq!(hers(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_row_that_is_gone_every_state_goes_though_its_table_keeps_it_or_a_truncate_took_it() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE kept (id int PRIMARY KEY, email text); CREATE TABLE emptied (id int PRIMARY KEY, email text);
             INSERT INTO kept SELECT i, 'p' || i || '@doe.example' FROM generate_series(1, 100) i;
             INSERT INTO emptied SELECT * FROM kept",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline
        .append_settings("[[table]]\nmatch = \"public.kept\"\nwrite = [\"mirror\", \"history\"]\ndeletes = \"soft\"");
    pipeline.append_settings("[[table]]\nmatch = \"public.emptied\"\nwrite = [\"mirror\", \"history\"]");
    pipeline.start();
    for table in ["public.kept", "public.emptied"] {
        pipeline.wait_until_copied(table).await;
        let name = table.trim_start_matches("public.");
        postgres.sql(&format!("UPDATE {name} SET email = 'later-name@doe.example' WHERE id = 77")).await;
    }
    pipeline.catch_up(&postgres).await;
    postgres.sql("DELETE FROM kept WHERE id = 77; TRUNCATE emptied; INSERT INTO emptied VALUES (1, 'new')").await;
    pipeline.catch_up(&postgres).await;
    // She is known by an address that she had before.
    let erased = pipeline.output("erase", &["--subject", "email=p77@doe.example", "--timeout", "60s"]);
    assert!(erased.status.success(), "{}\n{}", told(&erased), pipeline.log());
    assert_eq!(holding(&pipeline.lake, "later-name"), "", "{}", told(&erased));
    let kept = format!("{}/public/kept", pipeline.lake);
    assert_eq!(query(&kept, "SELECT count(*) || ' ' || count(_deleted_at) FROM lake"), "99 0");
    let nobody = pipeline.output("hold", &["add", "case-1", "--reason", "r", "--subject", "mail=p5@doe.example"]);
    assert!(told(&nobody).contains("nothing would be held"), "{}", told(&nobody));
}
