//! A load of random changes from a seed: inserts, updates, deletes, changed keys, rolled-back and large transactions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_postgres::client::Mode;
use sooner_postgres::{Client, ConnectOptions};
use tokio::task::JoinHandle;

/// Tables that the load changes. `documents` has values that Postgres stores out of line (TOAST).
pub const TABLES: [&str; 3] = ["public.accounts", "public.events", "public.documents"];

/// SQL that creates the tables of the load, with some rows.
pub const SCHEMA: &str = "
    CREATE TABLE accounts (id bigint PRIMARY KEY, owner text NOT NULL, balance numeric(12, 2) NOT NULL, note text);
    CREATE TABLE events (stream text, number integer, payload jsonb, at timestamptz, PRIMARY KEY (stream, number));
    CREATE TABLE documents (id integer PRIMARY KEY, title text, body text, version integer NOT NULL);
    ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL;
    INSERT INTO accounts SELECT i, 'owner ' || i, i * 1.25, NULL FROM generate_series(1, 5000) AS i;
    INSERT INTO events SELECT 's' || i % 7, i, '{}', now() FROM generate_series(1, 3000) AS i;
    INSERT INTO documents SELECT i, 'title ' || i, repeat(md5(i::text), 200), 1 FROM generate_series(1, 300) AS i;
";

/// A load that runs in a task until it is stopped, and survives restarts of the server.
pub struct Load {
    stop: Arc<AtomicBool>,
    transactions: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Load {
    /// Starts the load on the database at `url`.
    pub fn start(url: String, seed: u64) -> Load {
        let (stop, transactions) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(run(url, seed, stop.clone(), transactions.clone()));
        Load { stop, transactions, task }
    }

    /// Stops the load, and returns how many transactions were attempted.
    pub async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the load does not panic");
        self.transactions.load(Ordering::Relaxed)
    }
}

async fn run(url: String, seed: u64, stop: Arc<AtomicBool>, transactions: Arc<AtomicU64>) {
    let options = ConnectOptions::parse(&url).expect("valid");
    let mut random = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(&options, Mode::Sql).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            let transaction = transaction(&mut random);
            transactions.fetch_add(1, Ordering::Relaxed);
            if client.query(&transaction).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..6))).await;
        }
    }
}

/// A random transaction as SQL.
pub fn transaction(random: &mut StdRng) -> String {
    if random.random_ratio(1, 60) {
        let low = random.random_range(1..4000);
        return format!("UPDATE accounts SET balance = balance + 1 WHERE id BETWEEN {low} AND {low} + 1500");
    }
    let statements: Vec<_> = (0..random.random_range(1..8)).map(|_| statement(random)).collect();
    let end = if random.random_ratio(1, 12) { "ROLLBACK" } else { "COMMIT" };
    format!("BEGIN; {}; {end}", statements.join("; "))
}

fn statement(random: &mut StdRng) -> String {
    let id = random.random_range(1..6000);
    // Keys change back and forth, so that there are always documents to change.
    let (low, is_low) = (random.random_range(1..330), random.random_bool(0.5));
    let (document, moved) = if is_low { (low, low + 1000) } else { (low + 1000, low) };
    match random.random_range(0..12) {
        0 | 1 => format!(
            "INSERT INTO accounts VALUES ({id}, 'new', {id}, NULL) ON CONFLICT (id) DO UPDATE SET balance = accounts.balance + 1"
        ),
        2 | 3 => format!("UPDATE accounts SET balance = balance - 0.01, note = 'n{id}' WHERE id = {id}"),
        4 => format!("DELETE FROM accounts WHERE id = {id}"),
        5 => format!(
            "UPDATE accounts SET id = {} WHERE id = {id} AND NOT EXISTS (SELECT FROM accounts WHERE id = {})",
            id + 10_000,
            id + 10_000
        ),
        6 => format!(
            "INSERT INTO events VALUES ('s{}', {}, '{{\"a\": {id}}}', now()) ON CONFLICT DO NOTHING",
            id % 7,
            id + 3000
        ),
        7 => format!("DELETE FROM events WHERE stream = 's{}' AND number = {id}", id % 7),
        8 | 9 => format!("UPDATE documents SET version = version + 1 WHERE id = {document}"),
        10 => format!("UPDATE documents SET body = repeat(md5('{id}'), 150) WHERE id = {document}"),
        _ => format!(
            "UPDATE documents SET id = {moved} WHERE id = {document} AND NOT EXISTS (SELECT FROM documents WHERE id = {moved})"
        ),
    }
}
