//! Where batches end, how far they say the stream is complete, and what of it was taken before.

use sooner_api::{NextOffsets, Positions};
use sooner_postgres::tracked::Selected;
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, Position};

use crate::messages::Cell::{Null, Text};
use crate::messages::{delete, insert, truncate, update_from};
use crate::stream::{COMMIT_MICROS, LINES, NOW, ORDERS, OTHER, START, Stream, positions, table};

/// An insert of a row with this many KiB.
fn large(id: &str, kib: usize) -> Vec<u8> {
    insert(ORDERS, &[Text(id), Text(&"x".repeat(kib << 10))])
}

fn small(id: &str) -> Vec<u8> {
    insert(ORDERS, &[Text(id), Null])
}

fn watermark(commit_lsn: u64, end_lsn: u64, commit_micros: i64) -> Watermark {
    Watermark { commit_lsn: Lsn(commit_lsn), end_lsn: Lsn(end_lsn), commit_micros }
}

/// The watermark of the next batch.
fn reached(stream: &mut Stream) -> Watermark {
    stream.decoder.take().and_then(|batch| batch.coverage().cloned()).expect("a complete batch").watermark
}

#[test]
fn an_open_transaction_that_fits_is_not_taken() {
    let mut stream = Stream::of_three();
    stream.transaction(500, &[small("1")]);
    stream.begin(600);
    assert!(stream.decoder.take().is_none());
    stream.send(&small("2"));
    assert!(stream.decoder.take().is_none() && !stream.decoder.is_ready());
    stream.commit(600);
    let batch = stream.decoder.take().unwrap();
    assert_eq!(positions(&batch), [(500, 0), (600, 0)]);
    assert_eq!(batch.coverage().unwrap().watermark, watermark(600, 610, COMMIT_MICROS));
    assert!(stream.decoder.take().is_none(), "it was taken");
}

#[test]
fn transactions_gather_until_the_batch_is_large() {
    let mut stream = Stream::of_three();
    stream.transaction(500, &[large("1", 500)]);
    assert!(!stream.decoder.is_ready());
    stream.transaction(600, &[large("2", 20)]);
    assert!(stream.decoder.is_ready());
    assert_eq!(positions(&stream.decoder.take().unwrap()), [(500, 0), (600, 0)]);
    assert!(!stream.decoder.is_ready());
    stream.transaction(700, &[small("3")]);
    assert!(!stream.decoder.is_ready(), "the bytes are counted anew");
}

#[test]
fn a_large_transaction_ends_its_batch_only_with_its_commit() {
    let mut stream = Stream::of_three();
    stream.begin(500);
    for id in ["1", "2", "3"] {
        stream.send(&large(id, 600));
        assert!(!stream.decoder.is_ready());
    }
    stream.commit(500);
    assert!(stream.decoder.is_ready());
    assert_eq!(reached(&mut stream), watermark(500, 510, COMMIT_MICROS));
}

#[test]
fn a_transaction_larger_than_a_batch_is_cut_and_its_end_stands_alone() {
    let mut stream = Stream::of_three();
    stream.begin(500);
    for id in ["1", "2", "3", "4"] {
        stream.send(&large(id, 600));
    }
    assert!(stream.decoder.is_ready());
    let first = stream.decoder.take().unwrap();
    assert_eq!(positions(&first), [(500, 0), (500, 2), (500, 4), (500, 6)]);
    assert!(first.coverage().is_none(), "the transaction is still open");
    assert!(!stream.decoder.is_ready());
    stream.send(&small("5"));
    assert!(stream.decoder.take().is_none());
    stream.commit(500);
    assert!(stream.decoder.is_ready(), "nothing of the next transaction may follow");
    let last = stream.decoder.take().unwrap();
    assert_eq!(positions(&last), [(500, 8)]);
    assert_eq!(last.coverage().unwrap().watermark, watermark(500, 510, COMMIT_MICROS));
    stream.transaction(600, &[small("6")]);
    assert!(!stream.decoder.is_ready(), "this one was not cut");
}

#[test]
fn a_cut_transaction_without_further_changes_ends_with_its_watermark() {
    let mut stream = Stream::of_three();
    stream.begin(500);
    stream.send(&large("1", 2100));
    assert_eq!(stream.decoder.take().unwrap().event_count(), 1);
    stream.send(&insert(OTHER, &[Text("1"), Null]));
    stream.commit(500);
    assert!(stream.decoder.is_ready());
    assert_eq!(stream.steps(), ["complete 500..510"]);
}

#[test]
fn a_transaction_of_other_tables_advances_the_watermark() {
    let mut stream = Stream::of_three();
    stream.transaction(500, &[insert(OTHER, &[Text("1"), Null])]);
    stream.transaction(600, &[]);
    assert_eq!(stream.steps(), ["complete 600..610"]);
}

#[test]
fn keepalives_advance_the_watermark_between_transactions_and_never_back() {
    let mut stream = Stream::of_three();
    stream.decoder.caught_up(Lsn(START - 20), NOW);
    assert_eq!(reached(&mut stream), watermark(START - 1, START, 0), "it starts where the stream does");
    stream.decoder.caught_up(Lsn(300), NOW);
    assert_eq!(reached(&mut stream), watermark(299, 300, NOW));
    stream.transaction(500, &[]);
    stream.decoder.caught_up(Lsn(505), NOW);
    assert_eq!(reached(&mut stream), watermark(500, 510, COMMIT_MICROS), "the keepalive is older than the commit");
    stream.decoder.caught_up(Lsn(510), NOW);
    assert_eq!(reached(&mut stream), watermark(509, 510, NOW));
}

#[test]
fn a_keepalive_of_a_server_that_is_behind_its_log_tells_no_time() {
    let mut stream = Stream::of_three();
    stream.transaction(500, &[]);
    stream.decoder.server_end(Lsn(700));
    stream.decoder.caught_up(Lsn(600), NOW);
    assert_eq!(reached(&mut stream), watermark(599, 600, COMMIT_MICROS), "more was committed by now");
    stream.decoder.caught_up(Lsn(700), NOW);
    assert_eq!(reached(&mut stream), watermark(699, 700, NOW));
}

#[test]
fn a_keepalive_inside_a_transaction_completes_nothing() {
    let mut stream = Stream::of_three();
    stream.begin(500);
    stream.send(&large("1", 2100));
    stream.decoder.caught_up(Lsn(9000), NOW);
    let cut = stream.decoder.take().unwrap();
    assert!(cut.coverage().is_none());
    assert_eq!(cut.server_end, Lsn(9000));
    stream.commit(500);
    assert_eq!(reached(&mut stream), watermark(500, 510, COMMIT_MICROS));
}

#[test]
fn a_batch_knows_the_furthest_end_of_the_server() {
    let mut stream = Stream::of_three();
    stream.decoder.server_end(Lsn(700));
    assert!(stream.decoder.take().is_none(), "an end alone is no batch");
    stream.decoder.server_end(Lsn(900));
    stream.decoder.server_end(Lsn(800));
    stream.transaction(500, &[]);
    assert_eq!(stream.decoder.take().unwrap().server_end, Lsn(900));
}

#[test]
fn what_was_taken_before_is_left_out() {
    let at = |lsn, ordinal| Positions::Stream(Position { commit_lsn: Lsn(lsn), ordinal });
    let all: [(u64, u64); 5] = [(500, 0), (500, 1), (500, 2), (500, 4), (600, 0)];
    for (covered, carried) in [
        (Positions::whole(Lsn(499)), &all[..]),
        (at(500, 1), &all[2..]),
        (at(500, 2), &all[3..]),
        (at(500, 3), &all[3..]),
        (Positions::whole(Lsn(500)), &all[4..]),
        (Positions::whole(Lsn(600)), &all[5..]),
        (Positions::offsets(NextOffsets::from([(0, 1 << 40)])), &all[..]),
    ] {
        let mut stream = Stream::after(vec![("public.orders", covered.clone())]);
        stream.announce(&table(ORDERS, "public.orders"));
        let changed = update_from(ORDERS, b'K', &[Text("1"), Null], &[Text("2"), Null]);
        stream.transaction(500, &[changed, truncate(&[ORDERS], 0), small("3")]);
        stream.transaction(600, &[delete(ORDERS, b'K', &[Text("3"), Null])]);
        let batch = stream.decoder.take().unwrap();
        assert_eq!(positions(&batch), carried, "{covered:?}");
        assert_eq!(batch.coverage().unwrap().watermark.commit_lsn, Lsn(600), "{covered:?}");
    }
}

#[test]
fn each_table_leaves_out_what_was_taken_of_it() {
    let mut stream = Stream::after(vec![
        ("public.orders", Positions::whole(Lsn(500))),
        ("public.lines", Positions::whole(Lsn(300))),
    ]);
    stream.announce_three();
    let line = insert(LINES, &[Text("7"), Null]);
    stream.transaction(300, std::slice::from_ref(&line));
    stream.transaction(500, &[small("1"), line]);
    stream.transaction(600, &[small("2")]);
    let (lines, orders) = ("public.lines [500#2 c 7: - > 7|-]", "public.orders [600#0 c 2: - > 2|-]");
    assert_eq!(stream.steps(), [lines, orders, "complete 600..610"]);
}

#[test]
fn a_table_whose_copy_begins_is_carried_from_there() {
    let mut stream = Stream::of(&["public.orders"]);
    let selected = Selected { name: table(LINES, "public.lines").name, covered: Positions::whole(Lsn(500)) };
    stream.decoder.follow_copied(LINES, Some(selected));
    stream.announce_three();
    let line = insert(LINES, &[Text("7"), Null]);
    stream.transaction(500, std::slice::from_ref(&line));
    stream.transaction(600, &[line]);
    assert_eq!(stream.steps(), ["public.lines [600#0 c 7: - > 7|-]", "complete 600..610"]);
}
