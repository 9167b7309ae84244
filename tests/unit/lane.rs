//! What a lane knows of its table, beside what of it is visible.

use sooner::pipeline::lane::Lane;
use sooner::pipeline::messages::CommitReport;
use sooner_api::{Code, Committed, Coverage, Error, TableFact, TableNote, TableState};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

fn mark(lsn: u64) -> Watermark {
    Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_micros: 0 }
}

fn lane() -> Lane {
    Lane::new(TableName::new("public", "t"), TableState::Streaming { copied_lsn: None }, mark(10))
}

fn committed(lsn: u64) -> CommitReport {
    CommitReport { committed: Committed::default(), positions: None, watermark: mark(lsn), steps: 9, copy: None }
}

#[test]
fn what_a_source_says_of_a_table_is_stored_once_what_came_before_is_visible() {
    let mut lane = lane();
    lane.hand_on(Lsn(30), mark(20));
    lane.note(TableNote { table: lane.name.clone(), relation: None, facts: Default::default() });
    assert!(lane.take_change(mark(20)).is_none());
    lane.committed(committed(30));
    assert!(lane.take_change(mark(30)).unwrap().note.is_some());
    assert!(lane.take_change(mark(30)).is_none(), "once");
}

#[test]
fn a_worker_hears_of_a_watermark_once() {
    let mut lane = lane();
    assert!(!lane.cover(&Coverage::all(mark(20))), "there is nothing to complete");
    lane.hand_on(Lsn(30), mark(20));
    let except = Coverage { except: vec![lane.name.clone()], ..Coverage::all(mark(30)) };
    assert!(!lane.cover(&except), "it says nothing of this table");
    assert!(lane.cover(&Coverage::all(mark(30))));
    assert!(!lane.cover(&Coverage::all(mark(31))));
}

#[test]
fn a_table_whose_last_events_are_not_read_yet_is_complete_to_what_it_was_and_holds_back_what_is_durable() {
    let mut lane = lane();
    let elsewhere = Coverage { elsewhere: vec![lane.name.clone()], ..Coverage::all(mark(30)) };
    assert!(!lane.cover(&elsewhere));
    assert_eq!((lane.behind(), lane.held_back_from()), (Some(mark(10)), Some(Lsn(18))));
    lane.hand_on(Lsn(40), mark(30));
    assert_eq!(lane.behind(), Some(mark(10)), "what comes after it says nothing of what came before");
    lane.committed(committed(40));
    assert!(lane.cover(&Coverage::all(mark(50))));
    assert_eq!((lane.behind(), lane.held_back_from()), (None, None));
}

#[test]
fn a_table_that_is_copied_is_complete_to_what_it_was_and_holds_nothing_back() {
    let mut lane = lane();
    lane.cover(&Coverage { except: vec![lane.name.clone()], ..Coverage::all(mark(30)) });
    assert_eq!((lane.behind(), lane.held_back_from()), (Some(mark(10)), None));
}

#[test]
fn a_copy_lets_a_parked_table_go_on() {
    let mut lane = lane();
    lane.step(TableFact::Failed(Error::operator(Code::ShapeChanged, "w", "y", "r")));
    lane.begin_copy();
    lane.step(TableFact::CopyBegun);
    assert_eq!(lane.state, TableState::Copying);
    assert!(lane.error().is_none());
}

#[test]
fn a_table_is_beyond_what_is_read_again_until_a_copy_replaces_its_rows() {
    let mut lane = lane();
    assert!(!lane.is_beyond(mark(10)) && lane.is_beyond(mark(9)));
    lane.note_reached(Lsn(20));
    lane.committed(committed(15));
    assert!(lane.is_beyond(mark(19)) && !lane.is_beyond(mark(20)), "its history was further");
    lane.committed(committed(30));
    assert!(lane.is_beyond(mark(20)));
    lane.begin_copy();
    assert!(!lane.is_beyond(mark(0)));
}
