//! The source loop: from the database into the event log, and back to the database what became durable.

use sooner_api::{EventBatch, EventWriter, Fact, Result, Rows, Source, Step, Telemetry};
use sooner_schemas::event::Op;
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::asking::{Asking, Ends};

/// How often new requests are looked for.
const REQUESTS_INTERVAL: Duration = Duration::from_millis(500);

/// Runs until it is told to stop, or the source or the log fails.
pub async fn run<S: Source, W: EventWriter, T: Telemetry>(
    source: &mut S,
    log: &mut W,
    mut asking: Asking<'_>,
    telemetry: &T,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut broken = std::pin::pin!(log.broken());
    let mut asks_at = Instant::now();
    loop {
        if asks_at.elapsed() >= REQUESTS_INTERVAL {
            asking.tell();
            asks_at = Instant::now();
        }
        let mut batch = tokio::select! {
            biased;
            // The sender's end counts as a stop.
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            error = &mut broken => return Err(error),
            batch = source.next() => batch?,
        };
        report(&batch, telemetry);
        let (answers, ends) = (std::mem::take(&mut batch.answers), Ends::of(&batch));
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            appended = log.append(batch) => appended?,
        }
        let durable_lsn = log.durable_lsn();
        source.confirm(durable_lsn);
        asking.note(answers, ends);
        asking.grant(durable_lsn);
    }
}

fn report<T: Telemetry>(batch: &EventBatch, telemetry: &T) {
    for change in &batch.changes {
        telemetry.record(Fact::Changed(change));
    }
    for step in &batch.steps {
        if let Step::Rows(rows) | Step::Truncate(rows) = step {
            report_events(rows, telemetry);
        }
        match step {
            Step::Note(note) => {
                if let Some(relation) = &note.relation {
                    telemetry.record(Fact::Shape(&note.table, relation));
                }
            }
            Step::CopyStart(start) => telemetry.record(Fact::CopyBegun(start.table(), 0)),
            Step::Rows(rows) => {
                let copied = rows.events.events.iter().filter(|event| event.op == Op::Read).count();
                if copied > 0 {
                    telemetry.record(Fact::RowsCopied(rows.table(), copied as u64, rows.events.bytes.len() as u64));
                }
            }
            _ => {}
        }
    }
    if let Some(coverage) = batch.coverage() {
        telemetry.record(Fact::Received(coverage.watermark.end_lsn));
    }
    telemetry.record(Fact::ServerEnd(batch.server_end));
}

/// Counts the events of a step by their operation.
fn report_events<T: Telemetry>(rows: &Rows, telemetry: &T) {
    for op in [Op::Read, Op::Create, Op::Update, Op::Delete, Op::Truncate] {
        let events = rows.events.events.iter().filter(|event| event.op == op).count() as u64;
        if events > 0 {
            telemetry.record(Fact::Read(rows.table(), op, events));
        }
    }
}
