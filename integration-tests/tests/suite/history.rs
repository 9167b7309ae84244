//! Histories: every change that the database made is in them once, whatever dies on the way, and any moment of a table
//! can be read from them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::between;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{query, query_by_spark};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const BOTH: &str = "[[table]]\nmatch = \"public.*\"\nwrite = [\"mirror\", \"history\"]";
/// A trigger notes each change, as an oracle that knows nothing of the stream.
const SOURCE: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, balance int, note text);
    CREATE SCHEMA oracle;
    CREATE TABLE oracle.noted (at bigserial, xid bigint, what text, id int, balance int, note text);
    CREATE FUNCTION oracle.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO oracle.noted (xid, what, id) VALUES (txid_current(), 'delete', OLD.id);
        ELSE
            INSERT INTO oracle.noted (xid, what, id, balance, note) VALUES (txid_current(),
                CASE TG_OP WHEN 'INSERT' THEN 'insert' ELSE 'update_postimage' END, NEW.id, NEW.balance, NEW.note);
        END IF;
        RETURN NULL;
    END $$;
    INSERT INTO accounts SELECT i, i, 'n' || i FROM generate_series(1, 2000) i;";
const TRIGGER: &str =
    "CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON accounts FOR EACH ROW EXECUTE FUNCTION oracle.note()";
const NOTED: &str = "SELECT count(*) || ' ' || md5(string_agg(concat_ws(',', xid, what, id, coalesce(balance::text, '-'), \
     coalesce(note, '-')), ';' ORDER BY at)) FROM oracle.noted";
const KEPT: &str = "SELECT count(*) || ' ' || md5(string_agg(concat_ws(',', _transaction_id, _change_type, id, \
     coalesce(balance::text, '-'), coalesce(note, '-')), ';' ORDER BY _commit_lsn, _ordinal)) FROM lake \
     WHERE _change_type IN ('insert', 'update_postimage', 'delete')";

fn history(pipeline: &Pipeline, table: &str) -> String {
    format!("{}/public/{table}-history", pipeline.lake)
}

/// A pipeline that copied the accounts before the first change that the oracle notes.
async fn keeping(postgres: &Postgres, mut pipeline: Pipeline) -> Pipeline {
    postgres.sql(SOURCE).await;
    pipeline.configure_source("tables = [\"public.*\"]");
    pipeline.append_settings(BOTH);
    pipeline.start();
    pipeline.wait_until_copied("public.accounts").await;
    pipeline.catch_up(postgres).await;
    // From here on nothing is copied again: that the copy has ended is stored.
    pipeline.stop();
    pipeline.start();
    pipeline.catch_up(postgres).await;
    postgres.sql(TRIGGER).await;
    pipeline
}

async fn change(postgres: &Postgres, random: &mut StdRng) {
    let (id, other) = (random.random_range(1..2000), random.random_range(2001..9000));
    let statements = format!(
        "BEGIN; UPDATE accounts SET balance = balance + 1 WHERE id IN ({id}, {id} + 7, {id} + 9); \
         INSERT INTO accounts VALUES ({other}, {id}, NULL) ON CONFLICT (id) DO UPDATE SET note = 'again'; \
         DELETE FROM accounts WHERE id = {other} - 3; UPDATE accounts SET note = 'twice' WHERE id = {id}; COMMIT"
    );
    postgres.sql(&statements).await;
}

/// Changes, with kills at any moment, and some of them between the commit of the history and that of the mirror.
async fn change_with_kills(postgres: &Postgres, pipeline: &mut Pipeline, kills: u32, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 0..kills {
        pipeline.kill();
        if kill % 3 == 2 {
            pipeline.set("SOONER_FAILPOINT", "history_committed@2");
            pipeline.start();
            while pipeline.is_running() {
                change(postgres, &mut random).await;
            }
            pipeline.set("SOONER_FAILPOINT", "");
        }
        pipeline.start();
        for _ in 0..random.random_range(20..150) {
            change(postgres, &mut random).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_kept_once_through_kills() {
    let postgres = Postgres::start(Version::V15).await;
    let mut pipeline = keeping(&postgres, Pipeline::local(&postgres)).await;
    change_with_kills(&postgres, &mut pipeline, 15, 31).await;
    pipeline.catch_up(&postgres).await;
    assert_eq!(query(&history(&pipeline, "accounts"), KEPT), postgres.value(NOTED).await, "\n{}", pipeline.log());
    pipeline.assert_equal(&postgres, &["public.accounts"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_is_through_kafka() {
    let (postgres, kafka, registry) = between::start().await;
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 3\ngroup_instance = \"one\"");
    let mut pipeline = keeping(&postgres, pipeline).await;
    change_with_kills(&postgres, &mut pipeline, 7, 32).await;
    pipeline.catch_up(&postgres).await;
    assert_eq!(query(&history(&pipeline, "accounts"), KEPT), postgres.value(NOTED).await, "\n{}", pipeline.log());
    pipeline.assert_equal(&postgres, &["public.accounts"]);
}

/// A query that `sooner history` prints.
fn view(pipeline: &Pipeline, arguments: &[&str]) -> String {
    let output = pipeline.output("history", arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().trim_end_matches(';').to_owned()
}

/// What such a query finds.
fn found(pipeline: &Pipeline, table: &str, as_of: &[&str], select: &str) -> String {
    let view = view(pipeline, &[&[table], as_of].concat());
    query(&history(pipeline, &table.replace("public.", "")), &format!("{select} FROM ({view})"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_read_as_of_any_moment_from_its_history_alone() {
    let postgres = Postgres::start(Version::V15).await;
    postgres
        .sql(
            "CREATE TABLE docs (id int PRIMARY KEY, state text, body text);
             ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
             INSERT INTO docs SELECT i, 'new', repeat(md5(i::text), 300) FROM generate_series(1, 50) i;
             CREATE TABLE logs (said text, n int); ALTER TABLE logs REPLICA IDENTITY FULL;
             INSERT INTO logs VALUES ('a', 1), ('a', 1)",
        )
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings("[[table]]\nmatch = \"public.*\"\nwrite = [\"history\"]");
    pipeline.start();
    pipeline.wait_until_copied("public.docs").await;
    pipeline.wait_until_copied("public.logs").await;
    let all = "SELECT count(*) || coalesce(md5(string_agg(id || state || body, ',' ORDER BY id)), '')";
    let (mut moments, mut times) = (Vec::new(), Vec::new());
    for (round, statement) in [
        "UPDATE docs SET state = 'seen' WHERE id % 2 = 0",
        "DELETE FROM docs WHERE id < 10",
        "INSERT INTO docs VALUES (7, 'back', 'short')",
        "UPDATE docs SET body = 'changed' WHERE id = 20",
        "UPDATE docs SET id = id + 100, body = 'moved' WHERE id = 30",
        "TRUNCATE docs",
        "INSERT INTO docs VALUES (1, 'after', 'all')",
        "ALTER TABLE docs ADD COLUMN amount int; UPDATE docs SET amount = 5",
    ]
    .into_iter()
    .enumerate()
    {
        postgres.sql(statement).await;
        postgres
            .sql(&format!(
                "INSERT INTO logs VALUES ('round', {round}); DELETE FROM logs WHERE said = 'a' AND {round} = 3"
            ))
            .await;
        let (lsn, time) = (postgres.end_lsn().await.to_string(), postgres.value("SELECT clock_timestamp()").await);
        let wanted = postgres.value(&format!("{all} FROM docs")).await;
        times.push((time, wanted.clone()));
        moments.push((lsn, wanted));
    }
    pipeline.catch_up(&postgres).await;
    for (lsn, wanted) in &moments {
        let seen = found(&pipeline, "public.docs", &["--as-of", lsn], all);
        assert_eq!(&seen, wanted, "as of {lsn}\n{}", pipeline.log());
    }
    assert_eq!(found(&pipeline, "public.docs", &["--as-of", "now"], "SELECT max(amount)"), "5");
    let in_order = "transform(array_sort(collect_list(struct(id, concat(id, state, body) AS text))), row -> row.text)";
    let in_spark =
        format!("SELECT concat(count(*), CASE WHEN count(*) > 0 THEN md5(array_join({in_order}, ',')) ELSE '' END)");
    let for_spark = |as_of: &[&str]| view(&pipeline, &[&["public.docs", "--engine", "spark"], as_of].concat());
    let as_of = moments.iter().map(|(lsn, _)| format!("{in_spark} FROM ({})", for_spark(&["--as-of", lsn])));
    let states = format!("SELECT count(*), count_if(is_current), max(amount) FROM ({})", for_spark(&[]));
    let seen = query_by_spark(&as_of.chain([states]).collect::<Vec<_>>());
    let wanted = moments.iter().map(|(_, wanted)| wanted.as_str()).chain(["80|1|5"]).collect::<Vec<_>>();
    assert_eq!(seen, wanted, "read by Spark");
    each_state_lasts_until_the_next(&postgres, &pipeline, all, &times).await;
    assert!(!std::path::Path::new(&format!("{}/public/docs", pipeline.lake)).exists(), "there is no mirror");

    // A table without a key has a history, too: each row that went is there, as often as it was.
    let kept = "SELECT _change_type || said || n || ':' || count(*) FROM lake WHERE said = 'a' GROUP BY ALL ORDER BY 1";
    let logs = query(&history(&pipeline, "logs"), &kept.replace("GROUP BY ALL", "GROUP BY _change_type, said, n"));
    assert_eq!(logs, "deletea1:2\nsnapshota1:2");
    let refused = pipeline.output("history", &["public.logs"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("has no key"), "{refused:?}");
}

/// Each state of each row is told, with the time in which it was so: also what TRUNCATE took, and until a copy.
async fn each_state_lasts_until_the_next(
    postgres: &Postgres,
    pipeline: &Pipeline,
    all: &str,
    times: &[(String, String)],
) {
    let count = "SELECT count(*) || ' ' || count(*) FILTER (is_current)";
    assert_eq!(found(pipeline, "public.docs", &[], count), "80 1", "each state once, also those that TRUNCATE took");
    let copied = pipeline.output("copy", &["public.docs"]);
    assert!(copied.status.success(), "{copied:?}");
    pipeline.wait_for_log_times("copied", 3, Duration::from_secs(60)).await;
    pipeline.catch_up(postgres).await;
    let copied = found(pipeline, "public.docs", &[], count);
    assert_eq!(copied, "81 1", "the row lasts until its copy, which begins another state");
    let states = view(pipeline, &["public.docs"]);
    for (time, wanted) in times {
        let then = format!("valid_from <= '{time}' AND (valid_to IS NULL OR valid_to > '{time}')");
        let seen = query(&history(pipeline, "docs"), &format!("{all} FROM (SELECT * FROM ({states}) WHERE {then})"));
        assert_eq!(&seen, wanted, "states that were so at {time}");
    }
}
