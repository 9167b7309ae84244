//! Cuts between two transactions: when they are made, and when they wait or are refused.

use std::sync::Arc;

use sooner::pipeline::cutting::{CutAnswer, CutDesk, CutRequest, Cutting, Sharing};
use sooner::pipeline::lane::Lane;
use sooner_api::{Code, Coverage, Error, TableFact, TableState, Uncut};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};
use tokio::sync::{mpsc, watch};

fn mark(lsn: u64) -> Watermark {
    Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn + 8), commit_micros: 0 }
}

fn lane(name: &str) -> Lane {
    Lane::new(TableName::new("public", name), TableState::Streaming { copied_lsn: None }, Watermark::default())
}

fn desk() -> (watch::Sender<Option<CutRequest>>, mpsc::UnboundedReceiver<CutAnswer>, Cutting) {
    let (ask, heard, cutting, _) = shared_desk();
    (ask, heard, cutting)
}

type SharedDesk =
    (watch::Sender<Option<CutRequest>>, mpsc::UnboundedReceiver<CutAnswer>, Cutting, watch::Sender<Sharing>);

fn shared_desk() -> SharedDesk {
    let ((ask, asked), (answers, heard)) = (watch::channel(None), mpsc::unbounded_channel());
    let desk = CutDesk { asked, answers, ..CutDesk::closed() };
    let sharing = desk.sharing.clone();
    (ask, heard, Cutting::new(desk, Vec::new()), sharing)
}

fn request(tables: &[&str]) -> CutRequest {
    let tables = tables.iter().map(|table| TableName::new("public", *table)).collect();
    CutRequest { name: "q3".to_owned(), tables, from_lsn: None, from_micros: None, until_millis: None }
}

#[test]
fn a_cut_is_made_between_transactions_once_all_tables_have_answered() {
    let (ask, mut heard, mut cutting) = desk();
    let lanes = [lane("a"), lane("b")];
    ask.send_replace(Some(request(&[])));
    cutting.note(None);
    assert!(cutting.begin(&lanes).is_empty(), "inside a transaction");
    cutting.note(Some(Coverage::all(mark(20))));
    assert_eq!(cutting.begin(&lanes), [0, 1]);
    assert!(cutting.begin(&lanes).is_empty(), "it is on its way");
    cutting.note(None);
    cutting.hear(1, &lanes[1].name, mark(20), Some((Some(7), None)));
    assert!(heard.try_recv().is_err());
    cutting.hear(0, &lanes[0].name, mark(20), Some((Some(3), Some(2))));
    let Ok(CutAnswer::Found(_, watermark, versions)) = heard.try_recv() else { panic!("no answer") };
    assert_eq!((watermark, versions.len(), versions[&lanes[0].name]), (mark(20), 2, (Some(3), Some(2))));
    cutting.note(Some(Coverage::all(mark(30))));
    assert!(cutting.begin(&lanes).is_empty(), "it is answered once");
    ask.send_replace(None);
    assert!(cutting.begin(&lanes).is_empty());
    ask.send_replace(Some(request(&[])));
    assert_eq!(cutting.begin(&lanes), [0, 1], "it was dropped, and is asked for again");
}

#[test]
fn a_cut_waits_for_copies_and_for_its_position_and_fails_for_what_needs_a_person() {
    let (ask, mut heard, mut cutting) = desk();
    let mut lanes = [lane("a"), lane("b")];
    cutting.note(Some(Coverage::all(mark(20))));
    ask.send_replace(Some(CutRequest { from_lsn: Some(Lsn(29)), ..request(&[]) }));
    assert!(cutting.begin(&lanes).is_empty());
    ask.send_replace(Some(CutRequest { from_micros: Some(1), ..request(&[]) }));
    assert!(cutting.begin(&lanes).is_empty(), "what is read is older");
    ask.send_replace(Some(request(&[])));
    lanes[0].begin_copy();
    lanes[0].step(TableFact::CopyBegun);
    assert!(cutting.begin(&lanes).is_empty() && heard.try_recv().is_err());
    ask.send_replace(Some(request(&["b"])));
    assert_eq!(cutting.begin(&lanes), [1], "that one is not copied");
    cutting.hear(1, &lanes[1].name, mark(20), None);
    assert_eq!(cutting.begin(&lanes), [1], "it stopped meanwhile, and is asked again");
    cutting.refuse(&lanes[1].name, mark(20));
    assert!(matches!(heard.try_recv(), Ok(CutAnswer::Failed(..))));
    ask.send_replace(Some(request(&["c"])));
    assert!(cutting.begin(&lanes).is_empty() && matches!(heard.try_recv(), Ok(CutAnswer::Failed(..))));
    lanes[1].step(TableFact::Failed(Error::operator(Code::ShapeChanged, "w", "y", "r")));
    ask.send_replace(Some(request(&["b", "b"])));
    assert!(cutting.begin(&lanes).is_empty() && matches!(heard.try_recv(), Ok(CutAnswer::Failed(..))));
}

#[test]
fn a_cut_waits_until_what_is_read_again_has_passed_what_every_table_holds() {
    let (ask, _heard, mut cutting) = desk();
    let mut ahead = lane("ahead");
    ahead.note_reached(Lsn(30));
    let lanes = [lane("a"), ahead];
    ask.send_replace(Some(request(&[])));
    cutting.note(Some(Coverage::all(mark(20))));
    assert!(cutting.begin(&lanes).is_empty(), "one of them holds what comes after it");
    ask.send_replace(Some(request(&["a"])));
    assert_eq!(cutting.begin(&lanes), [0], "the other alone");
    cutting.hear(0, &lanes[0].name, mark(20), Some((Some(7), None)));
    ask.send_replace(Some(request(&[])));
    cutting.note(Some(Coverage::all(mark(30))));
    assert_eq!(cutting.begin(&lanes), [0, 1]);
}

#[test]
fn a_cut_waits_for_a_table_whose_last_events_stand_in_a_topic_that_is_not_read_yet() {
    let (ask, _heard, mut cutting) = desk();
    let lanes = [lane("a"), lane("b")];
    let elsewhere = vec![lanes[1].name.clone()];
    ask.send_replace(Some(request(&[])));
    cutting.note(Some(Coverage { elsewhere: elsewhere.clone(), ..Coverage::all(mark(20)) }));
    assert!(cutting.begin(&lanes).is_empty());
    cutting.note(Some(Coverage::all(mark(30))));
    assert_eq!(cutting.begin(&lanes), [0, 1]);
}

#[test]
fn a_cut_of_what_others_read_waits_until_it_is_read_here_and_what_is_not_meant_does_not_matter() {
    let (ask, _heard, mut cutting, sharing) = shared_desk();
    let lanes = [lane("a")];
    let shared = |uncut: Uncut| Coverage { uncut: Arc::new(uncut), ..Coverage::all(mark(20)) };
    let b = || [TableName::new("public", "b")].into();
    ask.send_replace(Some(request(&[])));
    cutting.note(Some(shared(Uncut { shared: b(), ..Uncut::default() })));
    assert!(cutting.begin(&lanes).is_empty());
    assert_eq!(*sharing.borrow(), Sharing::Others);
    ask.send_replace(Some(request(&["a"])));
    assert_eq!(cutting.begin(&lanes), [0], "others do not read that one");
    cutting.hear(0, &lanes[0].name, mark(20), None);
    ask.send_replace(Some(request(&[])));
    assert!(cutting.begin(&lanes).is_empty());
    cutting.note(Some(shared(Uncut { ahead: b(), ..Uncut::default() })));
    assert!(cutting.begin(&lanes).is_empty(), "it is about to be read");
    assert_eq!(*sharing.borrow(), Sharing::Alone);
    cutting.note(Some(shared(Uncut::default())));
    assert_eq!(cutting.begin(&lanes), [0]);
    ask.send_replace(None);
    cutting.hear(0, &lanes[0].name, mark(20), None);
    assert!(cutting.begin(&lanes).is_empty());
    assert_eq!(*sharing.borrow(), Sharing::None);
}

#[test]
fn a_table_that_its_source_has_parked_is_refused_and_one_that_is_gone_is_left_out() {
    let (ask, mut heard, mut cutting) = desk();
    let lanes = [lane("a"), lane("b")];
    ask.send_replace(Some(request(&[])));
    let (a, b) = (vec![lanes[0].name.clone()], vec![lanes[1].name.clone()]);
    cutting.note(Some(Coverage { stopped: b.clone(), ..Coverage::all(mark(20)) }));
    assert!(cutting.begin(&lanes).is_empty() && matches!(heard.try_recv(), Ok(CutAnswer::Failed(..))));
    cutting.note(Some(Coverage { gone: a, ..Coverage::all(mark(20)) }));
    ask.send_replace(Some(request(&["b", "a"])));
    assert!(cutting.begin(&lanes).is_empty() && matches!(heard.try_recv(), Ok(CutAnswer::Failed(..))));
    ask.send_replace(Some(request(&[])));
    assert_eq!(cutting.begin(&lanes), [1]);
}

#[test]
fn what_a_table_answers_to_a_former_question_is_no_answer() {
    let (ask, mut heard, mut cutting) = desk();
    let lanes = [lane("a")];
    ask.send_replace(Some(request(&[])));
    cutting.note(Some(Coverage::all(mark(20))));
    assert_eq!(cutting.begin(&lanes), [0]);
    cutting.hear(0, &lanes[0].name, mark(20), None);
    cutting.note(Some(Coverage::all(mark(30))));
    assert_eq!(cutting.begin(&lanes), [0]);
    cutting.hear(0, &lanes[0].name, mark(20), Some((Some(1), None)));
    cutting.refuse(&lanes[0].name, mark(20));
    assert!(heard.try_recv().is_err());
    cutting.hear(0, &lanes[0].name, mark(30), Some((Some(2), None)));
    assert!(matches!(heard.try_recv(), Ok(CutAnswer::Found(..))));
}
