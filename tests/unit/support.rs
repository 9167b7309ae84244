//! Words that all tests share: names, positions, events, and notes of what was asked of a neighbour.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sooner_api::{
    Class, Clock, Code, Coverage, Error, EventBatch, Fact, Result, Rows, Side, Step, TableState, Telemetry,
};
use sooner_schemas::event::{Event, EventSchema, Op, TableEvents, Watermark};
use sooner_schemas::{Lsn, Position, TableName};

/// Notes in the order in which they were made; clones share them.
#[derive(Clone, Default)]
pub struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub fn note(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn has(&self, text: &str) -> bool {
        self.all().iter().any(|note| note == text)
    }
}

/// What a neighbour is asked, in order, and where it fails or never answers.
#[derive(Clone, Default)]
pub struct Steps {
    pub notes: Notes,
    pub fails_at: &'static str,
    pub hangs_at: &'static str,
}

impl Steps {
    /// Notes a step; its first word is its name.
    pub async fn reach(&self, step: &str) -> Result<()> {
        self.notes.note(step);
        let name = step.split(' ').next().unwrap_or_default();
        if name == self.hangs_at {
            std::future::pending::<()>().await;
        }
        if name == self.fails_at { Err(failure(Class::Retry)) } else { Ok(()) }
    }
}

/// Facts as notes.
#[derive(Clone, Default)]
pub struct Facts(pub Notes);

impl Telemetry for Facts {
    fn record(&self, fact: Fact<'_>) {
        let text = match fact {
            Fact::State(Side::Sink, table, state) => format!("sink {} {}", table.table, state.name()),
            Fact::CopyBegun(table, _) => format!("copy {}", table.table),
            Fact::RowsCopied(table, rows, _) => format!("copied {} {rows}", table.table),
            Fact::Committed { table, events, .. } => format!("committed {} {events}", table.table),
            Fact::Received(lsn) => format!("received {}", lsn.0),
            Fact::ServerEnd(lsn) => format!("server end {}", lsn.0),
            Fact::Interrupted(error) => format!("interrupted {}", error.code),
            Fact::Running => "running".to_owned(),
            _ => return,
        };
        self.0.note(text);
    }
}

/// A clock that stands.
#[derive(Clone)]
pub struct StoppedClock;

impl Clock for StoppedClock {
    fn now_micros(&self) -> i64 {
        1_000_000
    }
}

pub fn name(table: &str) -> TableName {
    TableName::new("public", table)
}

pub fn mark(lsn: u64) -> Watermark {
    Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_micros: 0 }
}

pub fn failure(class: Class) -> Error {
    Error { class, ..Error::operator(Code::ShapeChanged, "cannot merge", "it is a test", "resume the table") }
}

pub fn streaming() -> TableState {
    TableState::Streaming { copied_lsn: None }
}

pub fn parked() -> TableState {
    TableState::Parked { error: failure(Class::Operator), copied_lsn: None }
}

/// One event of a table, that takes about so many bytes.
pub fn rows_of(table: &str, op: Op, lsn: u64, bytes: usize) -> Rows {
    let schema = EventSchema::parse(name(table), None, r#"{"type": "string"}"#).unwrap();
    let event = Event {
        position: Position { commit_lsn: Lsn(lsn), ordinal: 0 },
        op,
        key: 0..0,
        value: 0..bytes,
        unavailable: Box::default(),
        old_key: None,
    };
    Rows::new(TableEvents { schema: Arc::new(schema), bytes: vec![0; bytes], events: vec![event] })
}

/// One small event of a table, as a step.
pub fn step(table: &str, op: Op, lsn: u64) -> Step {
    rows_of(table, op, lsn, 100).into_step()
}

/// A row was inserted.
pub fn insert(table: &str, lsn: u64) -> Step {
    step(table, Op::Create, lsn)
}

/// Whole transactions were read up to there.
pub fn complete(lsn: u64) -> Step {
    Step::Complete(Coverage::all(mark(lsn)))
}

pub fn batch(steps: Vec<Step>) -> EventBatch {
    EventBatch { steps, server_end: Lsn::ZERO, ..EventBatch::default() }
}

/// Lets every task do what it can do now.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}

/// Lets the paused clock go on.
pub async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Waits for something that must not take for ever.
pub async fn soon<O>(work: impl Future<Output = O>) -> O {
    tokio::time::timeout(Duration::from_secs(600), work).await.expect("it waits for ever")
}
