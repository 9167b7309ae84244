//! Attempts, and what ends one from outside.

use sooner::control::Requests;
use sooner::pipeline::attempts::{End, attempts, halt_on_request, rest_while_paused};
use sooner_api::{Class, NoTelemetry, Side};
use tokio::sync::watch;

use crate::support::{Facts, failure, name, pass, soon};

#[tokio::test(start_paused = true)]
async fn an_attempt_that_has_something_to_do_first_is_followed_at_once() {
    let (_stop, stopped) = watch::channel(false);
    let started = tokio::time::Instant::now();
    let (facts, mut made) = (Facts::default(), 0);
    let ended = attempts(&facts, stopped, async |_| {
        made += 1;
        Ok(if made < 4 { End::Again } else { End::Stopped })
    });
    soon(ended).await.unwrap();
    assert_eq!(made, 4);
    assert_eq!(tokio::time::Instant::now(), started, "without a pause");
}

#[tokio::test(start_paused = true)]
async fn an_interruption_is_told_and_nothing_is_attempted_after_a_stop() {
    let (stop, stopped) = watch::channel(false);
    let facts = Facts::default();
    let mut made = 0;
    let ended = attempts(&facts, stopped, async |_| {
        made += 1;
        Err(failure(Class::Retry))
    });
    let stopping = async {
        // The first pause takes 0.6 s at most.
        pass(900).await;
        stop.send_replace(true);
    };
    let (ended, ()) = soon(futures::future::join(ended, stopping)).await;
    ended.unwrap();
    assert_eq!(made, 2);
    assert_eq!(facts.0.all(), ["interrupted shape_changed", "interrupted shape_changed"]);
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_was_told_to_stop_attempts_nothing() {
    let (_stop, stopped) = watch::channel(true);
    let (facts, mut made) = (Facts::default(), 0);
    let ended = attempts(&facts, stopped, async |_| {
        made += 1;
        Ok(End::Stopped)
    });
    soon(ended).await.unwrap();
    assert_eq!(made, 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_halts_an_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let requests = Requests::new(folder.path());
    let (halt, halted) = watch::channel(false);
    let (_stop, stopped) = watch::channel(false);
    let watching = tokio::spawn(halt_on_request(halt, stopped, requests.clone(), &[Side::Source], true));
    pass(5000).await;
    assert!(!*halted.borrow(), "nobody has asked for anything");
    requests.resume(&name("t")).unwrap();
    soon(watching).await.unwrap();
    assert!(*halted.borrow());
    assert_eq!(requests.whole_tables(), [name("t")], "it is granted by the next attempt");
}

#[tokio::test(start_paused = true)]
async fn a_pause_halts_an_attempt_and_the_next_one_waits_until_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let requests = Requests::new(folder.path());
    let (halt, halted) = watch::channel(false);
    let (_stop, stopped) = watch::channel(false);
    let watching = halt_on_request(halt, stopped.clone(), requests.clone(), &[Side::Source], true);
    let watching = tokio::spawn(watching);
    requests.pause(Side::Sink).unwrap();
    pass(5000).await;
    assert!(!*halted.borrow(), "that is the other side's");
    requests.pause(Side::Source).unwrap();
    soon(watching).await.unwrap();
    assert!(*halted.borrow());
    let resting = requests.clone();
    let resting = tokio::spawn(async move {
        rest_while_paused(&NoTelemetry, stopped, &resting, &[Side::Source], async || ()).await;
    });
    pass(60_000).await;
    assert!(!resting.is_finished());
    requests.unpause(Side::Source).unwrap();
    soon(resting).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_long_to_begin_is_not_halted_by_what_it_has_to_see_to() {
    let folder = tempfile::tempdir().unwrap();
    let requests = Requests::new(folder.path());
    requests.resume(&name("t")).unwrap();
    let (halt, halted) = watch::channel(false);
    let (_stop, stopped) = watch::channel(false);
    let watching = tokio::spawn(halt_on_request(halt, stopped, requests.clone(), &[Side::Source], true));
    pass(60_000).await;
    assert!(!*halted.borrow());
    requests.forget(&requests.pending());
    pass(1000).await;
    requests.resume(&name("t")).unwrap();
    soon(watching).await.unwrap();
    assert!(*halted.borrow(), "it was asked for again");
}

#[tokio::test(start_paused = true)]
async fn a_stop_halts_an_attempt() {
    let folder = tempfile::tempdir().unwrap();
    for is_dropped in [true, false] {
        let (halt, halted) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let watching =
            tokio::spawn(halt_on_request(halt, stopped, Requests::new(folder.path()), &[Side::Source], true));
        pass(700).await;
        assert!(!*halted.borrow());
        if is_dropped {
            drop(stop);
        } else {
            stop.send_replace(true);
        }
        soon(watching).await.unwrap();
        assert!(*halted.borrow());
    }
}
