//! What people read: findings, the status, and requests for a copy.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use sooner::check::{Finding, Verdict, render};
use sooner::commands;
use sooner::commands::status::is_running;
use sooner::config::Config;
use sooner::control::Requests;
use sooner::status::{StatusBoard, file, load};
use sooner_api::{Class, CopyRequest, Fact, PartitionOffsets, Side, TableState, TakesPart, Telemetry};
use sooner_schemas::{Lsn, TableName};

use crate::support::{failure, name, parked, streaming};

fn board() -> StatusBoard {
    StatusBoard::new("shop", Duration::from_secs(60))
}

fn finding(check: &str, verdict: Verdict, remedy: Option<&str>) -> Finding {
    let (check, remedy) = (check.to_owned(), remedy.map(str::to_owned));
    Finding { check, verdict, finding: "is found".to_owned(), remedy }
}

/// The configuration of a pipeline with this state folder.
fn config(state_dir: &Path) -> Config {
    let text = "name = 'shop'\n[source]\nurl = 'postgres://me@db/shop'\n[lake]\nurl = '/lake'";
    Config { state_dir: state_dir.to_owned(), ..Config::parse(text, Path::new(".")).unwrap() }
}

#[test]
fn findings_stand_below_each_other_with_their_remedies() {
    let findings = [
        finding("slot", Verdict::Ok, None),
        finding("publication", Verdict::Warning, Some("ALTER it")),
        finding("lake", Verdict::Failed, Some("make a bucket")),
    ];
    let expected = "ok       slot         is found\n\
                    warning  publication  is found\n\
                    \u{20}                     → ALTER it\n\
                    FAILED   lake         is found\n\
                    \u{20}                     → make a bucket\n";
    assert_eq!(render(&findings), expected);
    assert_eq!(render(&[]), "");
}

#[test]
fn a_finding_without_a_remedy_has_none_in_json_either() {
    let json = |finding| serde_json::to_value::<Finding>(finding).unwrap();
    let expected = serde_json::json!({"check": "slot", "verdict": "ok", "finding": "is found"});
    assert_eq!(json(finding("slot", Verdict::Ok, None)), expected);
    assert_eq!(json(finding("slot", Verdict::Failed, Some("do")))["remedy"], "do");
}

#[test]
fn a_status_says_what_is_in_the_way_until_it_moves_again() {
    let board = board();
    let error = failure(Class::Retry);
    board.record(Fact::Interrupted(&error));
    assert_eq!(board.read().trouble, Some(error.clone()));
    board.record(Fact::Running);
    assert_eq!(board.read().trouble, None);
    board.ended(Some(&error));
    assert_eq!(board.read().trouble, Some(error));
    board.ended(None);
    assert_eq!(board.read().trouble, None);
}

#[test]
fn what_was_confirmed_read_and_written_never_moves_back_in_a_status() {
    let board = board();
    for lsn in [Lsn(30), Lsn(20)] {
        board.record(Fact::Confirmed(lsn));
        board.record(Fact::Received(lsn));
        board.record(Fact::ServerEnd(lsn));
        board.record(Fact::Durable(lsn));
    }
    let status = board.read();
    assert_eq!([status.confirmed_flush_lsn, status.received_lsn, status.server_end_lsn], [Lsn(30); 3]);
    assert_eq!(status.durable_lsn, Lsn(20), "a table that goes on from further back takes it back");
}

#[test]
fn a_status_shows_what_is_unread_of_a_topic() {
    let board = board();
    let partitions = BTreeMap::from([(3, PartitionOffsets { next_offset: 5, end_offset: Some(9) })]);
    let (table, reading_micros) = (name("t"), Some(77));
    board.record(Fact::Unread { table: &table, messages: 4, reading_micros, partitions: partitions.clone() });
    let status = &board.read().tables[&table];
    assert_eq!((status.lag_messages, status.unread_micros), (Some(4), Some(77)));
    assert_eq!(status.partitions, partitions);
}

#[test]
fn a_table_keeps_its_counts_when_the_tables_are_told_again() {
    let board = board();
    let table = name("t");
    board.record(Fact::Tables(vec![TakesPart {
        table: &table,
        state: &TableState::Copying,
        estimated_rows: Some(10),
        unsent: &[],
    }]));
    board.record(Fact::RowsCopied(&table, 6, 60));
    board.record(Fact::Tables(vec![TakesPart {
        table: &table,
        state: &TableState::Copying,
        estimated_rows: Some(12),
        unsent: &[],
    }]));
    let status = &board.read().tables[&table];
    assert_eq!((status.rows_copied, status.rows_estimated), (6, Some(12)));
}

#[test]
fn only_a_parked_table_has_a_reason() {
    let board = board();
    board.record(Fact::State(Side::Sink, &name("a"), &parked()));
    board.record(Fact::State(Side::Sink, &name("b"), &streaming()));
    let tables = board.read().tables;
    let reason = tables[&name("a")].reason().unwrap();
    assert!(reason.contains("it is a test") && reason.contains("To do: resume the table"), "{reason}");
    assert_eq!(tables[&name("b")].reason(), None);
}

#[test]
fn a_status_is_written_whole_and_its_age_tells_whether_the_pipeline_runs() {
    let folder = tempfile::tempdir().unwrap();
    board().save(folder.path()).unwrap();
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["status.json"], "nothing is left beside it");
    let mut status = load(folder.path()).unwrap().unwrap();
    assert!(is_running(&status), "this process has just written it");
    status.updated_micros -= 60_000_000;
    assert!(!is_running(&status), "it has not written for a minute");
}

#[tokio::test]
async fn a_copy_is_asked_for_by_the_tables_name() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path());
    let refused = commands::steer::resume(&config, "orders", false).await.unwrap_err().to_string();
    assert!(refused.contains("'orders'") && refused.contains("To do: write it as schema.table"), "{refused}");
    commands::steer::resume(&config, "public.orders", false).await.unwrap();
    commands::steer::resume(&config, "public.orders", false).await.unwrap();
    assert_eq!(Requests::new(folder.path()).whole_tables(), [name("orders")], "asking twice asks once");
}

#[tokio::test]
async fn a_copy_of_a_table_that_takes_no_part_is_refused_with_those_that_do() {
    let folder = tempfile::tempdir().unwrap();
    let board = board();
    for table in ["lines", "orders"] {
        board.record(Fact::State(Side::Sink, &name(table), &streaming()));
    }
    board.save(folder.path()).unwrap();
    let refused = commands::steer::resume(&config(folder.path()), "public.order", false).await.unwrap_err().to_string();
    assert!(refused.contains("'public.order'") && refused.ends_with("public.lines, public.orders"), "{refused}");
    assert!(Requests::new(folder.path()).pending().is_empty());
    commands::steer::resume(&config(folder.path()), "public.orders", false).await.unwrap();
    assert_eq!(Requests::new(folder.path()).whole_tables(), [name("orders")]);
}

#[tokio::test]
async fn the_status_of_a_pipeline_that_never_ran_is_an_error_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = commands::status::run(&config(folder.path()), false, false).await.unwrap_err().to_string();
    assert!(error.contains("'shop'") && error.contains("sooner run"), "{error}");
    fs::write(file(folder.path()), "not json").unwrap();
    let error = commands::status::run(&config(folder.path()), true, false).await.unwrap_err().to_string();
    assert!(error.contains("status.json") && error.contains("To do"), "{error}");
}

#[test]
fn forgetting_a_request_leaves_the_others_and_what_is_no_request_asks_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let requests = Requests::new(&folder.path().join("not/there/yet"));
    let odd = TableName::new("odd.schema", "a/b");
    requests.resume(&odd).unwrap();
    requests.resume(&name("t")).unwrap();
    fs::write(folder.path().join("not/there/yet/requests/stray"), "no name").unwrap();
    let whole = |table: TableName| CopyRequest { table, condition: None };
    requests.forget(&[whole(name("t")), whole(name("never asked for"))]);
    assert_eq!(requests.whole_tables(), [odd]);
}

fn part<'a>(table: &'a TableName, state: &'a TableState, unsent: &'a [String]) -> TakesPart<'a> {
    TakesPart { table, state, estimated_rows: Some(7), unsent }
}

#[test]
fn a_table_that_takes_no_part_any_more_is_not_shown_and_one_that_does_says_what_it_lacks() {
    let board = board();
    board.record(Fact::State(Side::Sink, &name("gone"), &streaming()));
    board.record(Fact::Tables(vec![part(&name("kept"), &TableState::Copying, &["total".to_owned()])]));
    let status = board.read();
    assert_eq!(status.tables.keys().collect::<Vec<_>>(), [&name("kept")]);
    let kept = &status.tables[&name("kept")];
    assert_eq!((kept.rows_estimated, kept.columns_not_sent.join(",").as_str()), (Some(7), "total"));
}

#[test]
fn a_table_that_takes_no_events_any_more_is_shown_so_and_so_is_one_that_does_again() {
    let board = board();
    let shown = || board.read().tables[&name("t")].state.name();
    board.record(Fact::State(Side::Sink, &name("t"), &streaming()));
    for (state, expected) in [(TableState::Gone, "gone"), (TableState::Copying, "copying")] {
        board.record(Fact::Tables(vec![part(&name("t"), &state, &[])]));
        assert_eq!(shown(), expected);
    }
    board.record(Fact::State(Side::Sink, &name("t"), &streaming()));
    assert_eq!(shown(), "streaming");
}

#[test]
fn copied_rows_are_counted_from_zero_by_each_copy_and_an_empty_one_counts_none() {
    let (board, table) = (board(), name("t"));
    board.record(Fact::CopyBegun(&table, 0));
    board.record(Fact::RowsCopied(&table, 5, 50));
    board.record(Fact::CopyBegun(&table, 0));
    assert_eq!(board.read().tables[&table].rows_copied, 0);
}

#[test]
fn a_status_survives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    assert!(load(folder.path()).unwrap().is_none());
    let board = board();
    board.record(Fact::State(Side::Sink, &name("t"), &parked()));
    board.save(folder.path()).unwrap();
    let status = load(folder.path()).unwrap().unwrap();
    assert_eq!(status.pipeline, "shop");
    assert_eq!(status.tables[&name("t")].state, board.read().tables[&name("t")].state);
    fs::write(file(folder.path()), "{").unwrap();
    assert!(load(folder.path()).unwrap_err().to_string().contains("To do"));
}
