//! The source loop: hands over, and confirms what became durable.

use futures::future::join;
use sooner::control::Requests;
use sooner::pipeline::asking::Asking;
use sooner::pipeline::source::run;
use sooner_api::{Class, Code, Error, EventBatch, Result, Step};
use sooner_schemas::Lsn;
use sooner_schemas::event::Op;
use tokio::sync::watch;

use crate::fake_database::FakeSource;
use crate::fake_log::{Batches, FakeWriter};
use crate::support::{Facts, Steps, complete, failure, insert, settle, soon, step};

fn send(batches: &Batches, server_end: u64, steps: Vec<Step>) {
    batches.send(Ok(EventBatch { steps, server_end: Lsn(server_end), ..EventBatch::default() })).unwrap();
}

struct Ends {
    batches: Batches,
    stop: watch::Sender<bool>,
    breaks: watch::Sender<Option<Error>>,
}

/// Runs the loop while a test drives it; returns how it ended, and the facts.
async fn running(steps: &Steps, drive: impl AsyncFnOnce(Ends)) -> (Result<()>, Vec<String>) {
    let (batches, mut source) = FakeSource::new(steps.clone());
    let (breaks, broken) = watch::channel(None);
    let mut writer = FakeWriter::new(steps.clone(), broken);
    let (stop, stopped) = watch::channel(false);
    let facts = Facts::default();
    let driving = drive(Ends { batches, stop, breaks });
    let folder = tempfile::tempdir().unwrap();
    let requests = Requests::new(folder.path());
    let (asking, _requests) = Asking::new(&requests, true);
    let (ended, ()) = soon(join(run(&mut source, &mut writer, asking, &facts, stopped), driving)).await;
    (ended, facts.0.all())
}

#[tokio::test(start_paused = true)]
async fn what_is_durable_is_confirmed_after_each_batch() {
    let steps = Steps::default();
    let (ended, _) = running(&steps, async |ends| {
        send(&ends.batches, 10, vec![insert("t", 5)]);
        send(&ends.batches, 20, vec![complete(5)]);
        settle().await;
        ends.stop.send_replace(true);
    })
    .await;
    ended.unwrap();
    assert_eq!(steps.notes.all(), ["append 10", "confirm 9", "append 20", "confirm 19"]);
}

#[tokio::test(start_paused = true)]
async fn a_broken_log_ends_the_loop_although_the_source_is_silent() {
    let broken = failure(Class::Retry);
    let (ended, _) = running(&Steps::default(), async |ends| {
        settle().await;
        ends.breaks.send_replace(Some(failure(Class::Retry)));
        settle().await;
    })
    .await;
    assert_eq!(ended.unwrap_err(), broken);
}

#[tokio::test(start_paused = true)]
async fn a_stop_comes_before_what_waits_to_be_read() {
    let steps = Steps::default();
    let (ended, facts) = running(&steps, async |ends| {
        settle().await;
        send(&ends.batches, 10, vec![insert("t", 5)]);
        ends.stop.send_replace(true);
    })
    .await;
    ended.unwrap();
    assert!(steps.notes.all().is_empty() && facts.is_empty(), "{facts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_log_that_is_full() {
    let steps = Steps { hangs_at: "append", ..Steps::default() };
    let (ended, _) = running(&steps, async |ends| {
        send(&ends.batches, 10, vec![insert("t", 5)]);
        settle().await;
        ends.stop.send_replace(true);
        settle().await;
    })
    .await;
    ended.unwrap();
    assert_eq!(steps.notes.all(), ["append 10"], "nothing of it is confirmed");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_whoever_could_stop_it_is_a_stop() {
    let (ended, _) = running(&Steps::default(), async |ends| drop(ends.stop)).await;
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn errors_of_the_source_and_of_the_log_end_the_loop() {
    let steps = Steps::default();
    let lost = Error { code: Code::PostgresUnreachable, ..failure(Class::Retry) };
    let (ended, _) = running(&steps, async |ends| {
        send(&ends.batches, 10, vec![insert("t", 5)]);
        ends.batches.send(Err(Error { code: Code::PostgresUnreachable, ..failure(Class::Retry) })).unwrap();
        settle().await;
    })
    .await;
    assert_eq!(ended.unwrap_err(), lost);
    assert_eq!(steps.notes.all(), ["append 10", "confirm 9"]);
    let steps = Steps { fails_at: "append", ..Steps::default() };
    let (ended, _) = running(&steps, async |ends| {
        send(&ends.batches, 10, vec![insert("t", 5)]);
        settle().await;
    })
    .await;
    assert_eq!(ended.unwrap_err(), failure(Class::Retry));
    assert_eq!(steps.notes.all(), ["append 10"], "nothing of it is confirmed");
}

#[tokio::test(start_paused = true)]
async fn copied_rows_are_told_and_changes_are_not_counted_among_them() {
    let (ended, facts) = running(&Steps::default(), async |ends| {
        let copy = vec![step("t", Op::CopyStart, 5), step("t", Op::Read, 5), insert("t", 7), complete(7)];
        send(&ends.batches, 30, copy);
        settle().await;
        ends.stop.send_replace(true);
    })
    .await;
    ended.unwrap();
    assert_eq!(facts, ["copy t", "copied t 1", "received 15", "server end 30"]);
}
