//! A storm of random, legal DDL beside changes of rows, in several sessions, while the pipeline is killed again and
//! again: afterwards the lake equals Postgres by itself.
//!
//! `SOONER_SEED` repeats a storm, `SOONER_STORM_SECONDS` says how long it lasts.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use integration_tests::between;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, eventually_equal};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use sooner::status::Status;
use sooner_postgres::Client;

/// Sessions that alter tables at the same time, each its own and those that all share.
const SESSIONS: u64 = 2;
/// Tables of each session.
const TABLES: usize = 4;
/// How often the pipeline is killed.
const KILL_INTERVAL: Duration = Duration::from_secs(7);
/// A storm that lasts so long is read by Spark, too, which takes its time.
const LONG_SECONDS: u64 = 100;

const TYPES: [&str; 9] =
    ["int", "bigint", "text", "varchar(30)", "numeric(12, 3)", "timestamptz", "boolean", "int[]", "jsonb"];

/// A table as a session believes it to be: what the server refuses is nothing to worry about.
struct Table {
    name: String,
    columns: Vec<String>,
}

struct Session {
    client: Client,
    random: StdRng,
    tables: Vec<Table>,
    prefix: String,
    counter: usize,
    /// Columns that came, went or were renamed.
    altered: usize,
}

impl Session {
    async fn open(postgres: &Postgres, number: u64, seed: u64) -> Session {
        let client = postgres.connect("shop").await;
        let random = StdRng::seed_from_u64(seed * 100 + number);
        let prefix = format!("s{number}");
        let mut session = Session { client, random, tables: Vec::new(), prefix, counter: 0, altered: 0 };
        for _ in 0..TABLES {
            session.create_table().await;
        }
        session
    }

    fn next_name(&mut self, of: &str) -> String {
        self.counter += 1;
        format!("{of}{}", self.counter)
    }

    async fn run(&mut self, sql: &str) -> bool {
        // A statement that is not legal at the moment changes nothing.
        self.client.query(sql).await.is_ok()
    }

    async fn create_table(&mut self) {
        let number = self.next_name("t");
        let name = format!("{}_{number}", self.prefix);
        let sql = format!(
            "CREATE TABLE {name} (id int PRIMARY KEY, a text, b int); \
             INSERT INTO {name} SELECT i, 'row ' || i, i FROM generate_series(1, 200) i"
        );
        assert!(self.run(&sql).await, "{sql}");
        self.tables.push(Table { name, columns: vec!["a".to_owned(), "b".to_owned()] });
    }

    async fn step(&mut self) {
        let table = self.random.random_range(0..self.tables.len());
        let name = self.tables[table].name.clone();
        match self.random.random_range(0..100) {
            0..60 => self.change_rows(&name).await,
            60..68 => self.add_column(table, &name).await,
            68..75 => self.drop_column(table, &name).await,
            75..82 => self.rename_column(table, &name).await,
            82..86 => self.retype_column(table, &name).await,
            86..88 => drop(self.run(&format!("TRUNCATE {name}")).await),
            88..90 => drop(self.run(&format!("VACUUM FULL {name}")).await),
            90..93 => self.rename_table(table, &name).await,
            93..95 => self.swap(table, &name).await,
            95..97 if self.tables.len() > 2 => {
                if self.run(&format!("DROP TABLE {name}")).await {
                    self.tables.remove(table);
                }
            }
            97..99 if self.tables.len() < 2 * TABLES => self.create_table().await,
            _ => self.rekey(&name).await,
        }
    }

    async fn change_rows(&mut self, name: &str) {
        let from = self.random.random_range(1..400);
        let statement = match self.random.random_range(0..5) {
            0 => format!(
                "INSERT INTO {name} (id) SELECT i FROM generate_series({from}, {from} + 30) i ON CONFLICT DO NOTHING"
            ),
            1 => format!("DELETE FROM {name} WHERE id BETWEEN {from} AND {from} + 10"),
            2 => format!("UPDATE {name} SET id = id + 1000 WHERE id = {from}"),
            _ => {
                let columns = self.tables.iter().find(|table| table.name == name).map(|table| table.columns.clone());
                let columns = columns.unwrap_or_default();
                let Some(column) = columns.choose(&mut self.random) else { return };
                format!("UPDATE {name} SET {column} = {column} WHERE id % 7 = {}", from % 7)
            }
        };
        self.run(&statement).await;
        let value = self.random.random_range(0..1000);
        for column in ["a", "b"] {
            self.run(&format!("UPDATE {name} SET {column} = '{value}' WHERE id % 11 = {}", from % 11)).await;
        }
    }

    async fn add_column(&mut self, table: usize, name: &str) {
        let column = match self.random.random_range(0..3) {
            0 => "a".to_owned(),
            1 => "b".to_owned(),
            _ => self.next_name("c"),
        };
        let of = TYPES.choose(&mut self.random).unwrap();
        let default = if self.random.random_range(0..4) == 0 { " DEFAULT NULL" } else { "" };
        let filled = if *of == "int" && self.random.random_range(0..3) == 0 { " DEFAULT 7" } else { default };
        if self.run(&format!("ALTER TABLE {name} ADD COLUMN {column} {of}{filled}")).await {
            self.tables[table].columns.push(column);
            self.altered += 1;
        }
    }

    async fn drop_column(&mut self, table: usize, name: &str) {
        let Some(column) = self.tables[table].columns.choose(&mut self.random).cloned() else { return };
        if self.run(&format!("ALTER TABLE {name} DROP COLUMN {column}")).await {
            self.tables[table].columns.retain(|known| *known != column);
            self.altered += 1;
        }
    }

    async fn rename_column(&mut self, table: usize, name: &str) {
        let Some(column) = self.tables[table].columns.choose(&mut self.random).cloned() else { return };
        let to = if self.random.random_range(0..2) == 0 { "b".to_owned() } else { self.next_name("r") };
        if self.run(&format!("ALTER TABLE {name} RENAME {column} TO {to}")).await {
            self.tables[table].columns.retain(|known| *known != column);
            self.tables[table].columns.push(to);
            self.altered += 1;
        }
    }

    async fn retype_column(&mut self, table: usize, name: &str) {
        let Some(column) = self.tables[table].columns.choose(&mut self.random).cloned() else { return };
        let of = TYPES.choose(&mut self.random).unwrap();
        self.run(&format!("ALTER TABLE {name} ALTER {column} TYPE {of} USING NULL")).await;
        self.run(&format!("ALTER TABLE {name} ALTER {column} TYPE text")).await;
    }

    async fn rename_table(&mut self, table: usize, name: &str) {
        let number = self.next_name("t");
        let to = format!("{}_{number}", self.prefix);
        if self.run(&format!("ALTER TABLE {name} RENAME TO {to}")).await {
            self.tables[table].name = to;
        }
    }

    /// Two tables take each other's name.
    async fn swap(&mut self, table: usize, name: &str) {
        let other = self.random.random_range(0..self.tables.len());
        let theirs = self.tables[other].name.clone();
        let sql = format!(
            "ALTER TABLE {name} RENAME TO {name}_x; ALTER TABLE {theirs} RENAME TO {name}; \
             ALTER TABLE {name}_x RENAME TO {theirs}"
        );
        if other != table && self.run(&sql).await {
            (self.tables[table].name, self.tables[other].name) = (theirs, name.to_owned());
        }
    }

    async fn rekey(&mut self, name: &str) {
        let sql = format!(
            "ALTER TABLE {name} DROP CONSTRAINT IF EXISTS {name}_pkey, ADD COLUMN IF NOT EXISTS k uuid DEFAULT gen_random_uuid(), \
             ADD PRIMARY KEY (k)"
        );
        self.run(&sql).await;
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_of_ddl_the_lake_equals_its_source_by_itself() {
    let postgres = Postgres::start(Version::V15).await;
    storm(&postgres, Pipeline::local(&postgres)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_storm_of_ddl_the_lake_behind_topics_equals_its_source_by_itself() {
    let (postgres, kafka, registry) = between::start().await;
    // What a registry refuses parks a table, as it should.
    registry.ask("PUT", "/config", r#"{"compatibility": "NONE"}"#);
    let pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "partitions = 2");
    storm(&postgres, pipeline).await;
}

async fn storm(postgres: &Postgres, mut pipeline: Pipeline) {
    let (seed, seconds) = (setting("SOONER_SEED", 1), setting("SOONER_STORM_SECONDS", 25));
    let mut sessions = Vec::new();
    for number in 0..SESSIONS {
        sessions.push(Session::open(postgres, number, seed).await);
    }
    pipeline.start();
    let ends = Instant::now() + Duration::from_secs(seconds);
    let storms: Vec<_> = sessions
        .into_iter()
        .map(|mut session| {
            tokio::spawn(async move {
                while Instant::now() < ends {
                    session.step().await;
                    let pause = session.random.random_range(0..120);
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
                session.altered
            })
        })
        .collect();
    while Instant::now() < ends {
        tokio::time::sleep(KILL_INTERVAL.min(ends.saturating_duration_since(Instant::now()))).await;
        pipeline.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        pipeline.start();
    }
    let mut altered = 0;
    for storm in storms {
        altered += storm.await.unwrap();
    }
    let named = postgres
        .value(
            "SELECT string_agg('public.' || relname, ',' ORDER BY relname) FROM pg_class \
             WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'",
        )
        .await;
    let tables: Vec<_> = named.split(',').collect();
    eventually_equal(postgres, &pipeline.lake, &tables, || format!("seed {seed}\n{}", pipeline.log())).await;
    let none_waits = |status: &Status| {
        status
            .tables
            .iter()
            .all(|(name, table)| table.reason().is_none() || !tables.contains(&name.to_string().as_str()))
    };
    pipeline.wait_for("no table waits for a person", Duration::from_secs(30), none_waits).await;
    pipeline.stop();
    if seconds >= LONG_SECONDS {
        assert_equal(Reader::Spark, postgres, &pipeline.lake, None, &tables);
    }
    let log = pipeline.log();
    let open: Vec<_> = reasons_of_copies(&log).into_iter().filter(|why| !is_needed(why)).collect();
    assert!(
        open.len() * 10 <= altered,
        "seed {seed}: copies for {altered} columns that came, went or were renamed: {open:?}"
    );
}

/// Why tables were copied again, by a process's log.
fn reasons_of_copies(log: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains("the table is copied again"));
    let parsed = lines.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    parsed.map(|line| line["why"].as_str().unwrap().to_owned()).collect()
}

/// Whether no event carries what is new. Columns that come, go or are renamed need no copy, unless several of them do
/// within the stream's lag, so that nobody can tell which is which.
fn is_needed(why: &str) -> bool {
    why.contains("has written its rows again") || why.contains("changed its type")
}
