//! What a lane knows of its table, beside what of it is visible.

use sooner::pipeline::lane::Lane;
use sooner::pipeline::messages::CommitReport;
use sooner_api::{Code, Committed, Error, TableFact, TableNote, TableState};
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
