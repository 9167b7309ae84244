//! A night on call: what goes wrong fires the alert that ships, health says why, and the command that it names mends
//! it.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::Postgres;
use integration_tests::prometheus::Prometheus;
use integration_tests::{between, free_port};
use serde_json::Value;

/// The rules with seconds for minutes: the night is short.
fn in_seconds(mut rules: String) -> String {
    for minutes in [5, 10, 15, 30] {
        for (before, after) in [("for: ", "\n"), ("[", "]"), ("offset ", " ")] {
            let (from, to) = (format!("{before}{minutes}m{after}"), format!("{before}{minutes}s{after}"));
            rules = rules.replace(&from, &to);
        }
    }
    rules
}

struct Night {
    pipeline: Pipeline,
    prometheus: Prometheus,
    url: String,
}

impl Night {
    async fn fires(&self, alert: &str) {
        let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}}");
        self.prometheus.eventually(&firing, |found| !found.is_empty()).await;
    }

    async fn falls_silent(&self, alert: &str) {
        let active = format!("ALERTS{{alertname=\"{alert}\"}}");
        self.prometheus.eventually(&active, <[Value]>::is_empty).await;
    }

    /// Waits until health names a reason, and returns the check that does.
    async fn told(&self, reason: &str) -> Value {
        let asked = Instant::now();
        loop {
            let answer = reqwest::get(format!("{}/api/v1/health", self.url)).await.unwrap();
            let health: Value = answer.json().await.unwrap();
            let checks = health["checks"].as_array().unwrap();
            let found = checks.iter().find(|check| check["reason"].as_str().is_some_and(|told| told.contains(reason)));
            if let Some(check) = found {
                return check.clone();
            }
            assert!(asked.elapsed() < Duration::from_secs(150), "{reason} is not in {health}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn run(&self, command: &str, arguments: &[&str]) {
        let output = self.pipeline.output(command, arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    async fn caught_up(&self, postgres: &Postgres) {
        self.pipeline.catch_up(postgres).await;
        self.pipeline.assert_equal(postgres, &["public.t"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_at_night_is_told_and_mended_by_what_is_told() {
    let (postgres, mut kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, v date); INSERT INTO t VALUES (1, '2020-01-01')").await;
    postgres.sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1GB'").await;
    postgres.sql("SELECT pg_reload_conf()").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    let address = format!("127.0.0.1:{}", free_port());
    pipeline.append_settings(&format!("[http]\nlisten = \"{address}\""));
    pipeline.start();
    pipeline.wait_until_copied("public.t").await;
    let prometheus = Prometheus::start(&address, in_seconds);
    let night = Night { pipeline, prometheus, url: format!("http://{address}") };
    night.caught_up(&postgres).await;

    // Nobody reads the slot, and it fills.
    night.run("pause", &["--side", "source"]);
    night.told("paused").await;
    for id in 2..20 {
        postgres.sql(&format!("INSERT INTO t VALUES ({id}, '2020-01-01'); SELECT pg_switch_wal()")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    night.fires("SoonerSlotFillsDisk").await;
    night.run("resume", &[]);
    night.caught_up(&postgres).await;
    night.falls_silent("SoonerSlotFillsDisk").await;

    // The sink rests, and what is committed does not come.
    night.run("pause", &["--side", "sink"]);
    postgres.sql("INSERT INTO t VALUES (100, '2020-01-01')").await;
    night.fires("SoonerNoProgress").await;
    night.told("paused").await;
    night.run("resume", &["--side", "sink"]);
    night.caught_up(&postgres).await;
    night.falls_silent("SoonerNoProgress").await;

    // A table stops for a value.
    postgres.sql("INSERT INTO t VALUES (200, 'infinity')").await;
    night.fires("SoonerTableParked").await;
    let check = night.told("infinity").await;
    assert!(check["remedy"].as_str().unwrap().contains("sooner resume public.t"), "{check}");
    postgres.sql("UPDATE t SET v = '2021-01-01' WHERE id = 200").await;
    night.run("resume", &["public.t"]);
    night.falls_silent("SoonerTableParked").await;
    night.pipeline.wait_until_streaming(&["public.t"]).await;
    night.caught_up(&postgres).await;

    // The broker dies, and comes back; nobody has to do anything.
    kafka.kill();
    postgres.sql("INSERT INTO t VALUES (300, '2020-01-01')").await;
    night.fires("SoonerNoProgress").await;
    night.told("Kafka").await;
    night.fires("SoonerInterrupted").await;
    kafka.launch();
    night.caught_up(&postgres).await;
    night.falls_silent("SoonerInterrupted").await;
}
