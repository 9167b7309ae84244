//! Whatever dies between Postgres and the lake, the lake equals Postgres afterwards, and the topics have every event
//! once.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::between;
use integration_tests::load::{self, Load};
use integration_tests::pipeline::Pipeline;
use integration_tests::readers::wait_until_equal;
use integration_tests::topics::{Judge, assert_once_and_in_order, read_topic};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Small transactions, so that the copy and large changes take several; and a member that comes back as itself.
const SETTINGS: &str = "partitions = 3\ntransaction_bytes = \"256KiB\"\ngroup_instance = \"one\"";

async fn pause(random: &mut StdRng, millis: std::ops::Range<u64>) {
    tokio::time::sleep(Duration::from_millis(random.random_range(millis))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_dies_again_and_again() {
    let (postgres, mut kafka, mut registry) = between::start().await;
    let judge = Judge::start(&postgres).await;
    postgres.sql(load::SCHEMA).await;
    // Large enough that the first kills come during the copy.
    postgres.sql("INSERT INTO accounts SELECT i, 'bulk', i, NULL FROM generate_series(100001, 130000) AS i").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, SETTINGS);
    let mut sink = source.beside();
    let load = Load::start(postgres.url(), 12);
    let mut random = StdRng::seed_from_u64(12);
    for round in 0..14 {
        source.start_command("source", &[]);
        sink.start_command("sink", &[]);
        // The first kills come during the copy; each kill of a sink meets one that reads.
        if round > 0 {
            sink.wait_for_log_times("\"reading\"", round, Duration::from_secs(60)).await;
        }
        pause(&mut random, if round < 6 { 300..2000 } else { 1000..3000 }).await;
        assert!(source.is_running(), "it ended by itself:\n{}", source.log());
        assert!(sink.is_running(), "it ended by itself:\n{}", sink.log());
        match round % 4 {
            0 => {
                kafka.kill();
                pause(&mut random, 0..1000).await;
                kafka.launch();
                pause(&mut random, 1000..3000).await;
            }
            1 => {
                postgres.stop("immediate");
                pause(&mut random, 100..500).await;
                postgres.launch();
                pause(&mut random, 500..2000).await;
            }
            2 if round < 8 => {
                registry.kill();
                source.kill();
                source.start_command("source", &[]);
                pause(&mut random, 100..500).await;
                registry.launch();
                pause(&mut random, 500..2000).await;
            }
            _ => {}
        }
        source.kill();
        sink.kill();
    }
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    let transactions = load.stop().await;
    sink.catch_up(&postgres).await;
    // A copy that was begun again late ends after all that; what is streamed is seen behind it.
    let load = Load::start(postgres.url(), 13);
    pause(&mut random, 2000..3000).await;
    load.stop().await;
    sink.catch_up(&postgres).await;
    assert!(transactions > 500, "a load of {transactions} transactions proves little");
    assert!(source.is_running() && sink.is_running());
    judge.assert_complete(&postgres, &kafka, &registry, &load::TABLES).await;
    sink.assert_equal(&postgres, &load::TABLES);
}

/// Several sinks share the partitions; which of them hold all, nobody tells. So the tables are looked at.
#[tokio::test(flavor = "multi_thread")]
async fn sinks_come_and_go_while_they_share_partitions() {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql(load::SCHEMA).await;
    // A changed key may change its partition; what Postgres leaves out of such an event lies with another sink then.
    postgres.sql("ALTER TABLE documents REPLICA IDENTITY FULL").await;
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 4");
    source.start_command("source", &[]);
    let mut sinks: Vec<_> = (0..3).map(|_| source.beside()).collect();
    sinks[0].start_command("sink", &[]);
    let load = Load::start(postgres.url(), 13);
    let mut random = StdRng::seed_from_u64(13);
    pause(&mut random, 4000..5000).await;
    sinks[1].start_command("sink", &[]);
    pause(&mut random, 4000..5000).await;
    sinks[2].start_command("sink", &[]);
    pause(&mut random, 3000..4000).await;
    sinks[0].stop();
    pause(&mut random, 3000..4000).await;
    sinks[1].kill();
    pause(&mut random, 1000..2000).await;
    sinks[0].start_command("sink", &[]);
    pause(&mut random, 3000..4000).await;
    load.stop().await;
    let logs = || sinks.iter().map(Pipeline::log).collect::<Vec<_>>().join("\n\n");
    wait_until_equal(&postgres, &source.lake, logs).await;
    assert!(logs().contains("another writer committed"), "the sinks never met in a table:\n{}", logs());
    let running = sinks.iter_mut().map(Pipeline::is_running).collect::<Vec<_>>();
    assert_eq!(running, [true, false, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_wakes_up_as_a_zombie_is_fenced_and_so_is_a_sink() {
    let (postgres, kafka, registry) = between::start().await;
    let judge = Judge::start(&postgres).await;
    postgres.sql(load::SCHEMA).await;
    // For a while both sinks have some of the partitions.
    postgres.sql("ALTER TABLE documents REPLICA IDENTITY FULL").await;
    let settings = "partitions = 2";
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, settings);
    let (mut sink, mut other_source, mut other_sink) = (source.beside(), source.beside(), source.beside());
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    sink.catch_up(&postgres).await;
    let load = Load::start(postgres.url(), 14);
    let mut random = StdRng::seed_from_u64(14);
    pause(&mut random, 2000..3000).await;
    // A second source of the same name waits for the slot.
    other_source.start_command("source", &[]);
    other_source.wait_for_log("is in use", Duration::from_secs(30)).await;
    // The first one sleeps through the loss of its connection, and of its transactional id.
    source.signal("STOP");
    sink.signal("STOP");
    postgres
        .sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'sooner_shop'")
        .await;
    other_source.wait_for_log("\"streaming\"", Duration::from_secs(60)).await;
    other_sink.start_command("sink", &[]);
    other_sink.wait_for_log("reading", Duration::from_secs(60)).await;
    pause(&mut random, 3000..4000).await;
    source.signal("CONT");
    sink.signal("CONT");
    source.wait_for_log("has taken over, and fenced this one", Duration::from_secs(60)).await;
    pause(&mut random, 4000..5000).await;
    load.stop().await;
    let logs = || [&source, &sink, &other_source, &other_sink].map(Pipeline::log).join("\n\n");
    wait_until_equal(&postgres, &source.lake, logs).await;
    assert!(other_source.is_running() && source.is_running());
    judge.assert_complete(&postgres, &kafka, &registry, &load::TABLES[..2]).await;
}

/// Rows that each commit of a local table added, in the order of its versions.
fn rows_added(lake: &str, table: &str) -> Vec<u64> {
    let log = std::path::Path::new(lake).join(table).join("_delta_log");
    let mut entries: Vec<_> = std::fs::read_dir(log).unwrap().flatten().map(|entry| entry.path()).collect();
    entries.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    entries.sort();
    let rows = |line: &str| {
        let action: serde_json::Value = serde_json::from_str(line).unwrap();
        let statistics = action["add"]["stats"].as_str()?;
        serde_json::from_str::<serde_json::Value>(statistics).unwrap()["numRecords"].as_u64()
    };
    entries.iter().map(|path| std::fs::read_to_string(path).unwrap().lines().filter_map(rows).sum()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_is_split_appears_whole() {
    const ROWS: u64 = 60_000;
    let (postgres, kafka, registry) = between::start().await;
    postgres
        .sql("CREATE TABLE big (id integer PRIMARY KEY, v text); CREATE TABLE other (id integer PRIMARY KEY)")
        .await;
    let settings = "partitions = 3\ntransaction_bytes = \"128KiB\"";
    let mut source = Pipeline::kafka(&postgres, &kafka, &registry, settings);
    let mut sink = source.beside();
    source.start_command("source", &[]);
    sink.start_command("sink", &[]);
    sink.catch_up(&postgres).await;
    source.kill();
    for id in 0..50 {
        postgres.sql(&format!("INSERT INTO other VALUES ({id})")).await;
    }
    postgres
        .sql(&format!("INSERT INTO big SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, {ROWS}) AS i"))
        .await;
    postgres.sql("INSERT INTO other VALUES (100)").await;
    // Each start gets somewhat further, and all but the last end within the transaction.
    for round in 0..8 {
        source.start_command("source", &[]);
        source.wait_for_log_times("\"streaming\"", round + 2, Duration::from_secs(60)).await;
        tokio::time::sleep(Duration::from_millis(60 * round as u64)).await;
        source.kill();
        if round == 4 {
            sink.kill();
            sink.start_command("sink", &[]);
        }
    }
    source.start_command("source", &[]);
    sink.catch_up(&postgres).await;
    sink.assert_equal(&postgres, &["public.big", "public.other"]);
    let added: Vec<_> = rows_added(&sink.lake, "public/big").into_iter().filter(|rows| *rows > 0).collect();
    assert_eq!(added, [ROWS], "no version has a part of the transaction");
    for topic in ["shop.public.big", "shop.public.other"] {
        let seen = read_topic(&kafka, topic);
        assert_once_and_in_order(topic, &seen);
    }
}
