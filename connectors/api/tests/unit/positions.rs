//! Laws of positions, and their text.

use proptest::collection::btree_map;
use proptest::prelude::*;
use serde_json::json;
use sooner_api::{NextOffsets, Positions};
use sooner_schemas::{Lsn, Position};

fn at(lsn: u64, ordinal: u64) -> Position {
    Position { commit_lsn: Lsn(lsn), ordinal }
}

fn topic(generation: Option<i64>, next_offsets: &[(i32, i64)]) -> Positions {
    Positions::Topic { generation, next_offsets: next_offsets.iter().copied().collect() }
}

fn any_stream() -> impl Strategy<Value = Positions> {
    (0..9u64, prop_oneof![0..4u64, Just(u64::MAX)]).prop_map(|(lsn, ordinal)| Positions::Stream(at(lsn, ordinal)))
}

fn any_offsets() -> impl Strategy<Value = Positions> {
    btree_map(0..4i32, 0..9i64, 0..4).prop_map(Positions::offsets)
}

fn any_topic() -> impl Strategy<Value = Positions> {
    (prop_oneof![Just(None), (1..3i64).prop_map(Some)], btree_map(0..4i32, 0..9i64, 0..4))
        .prop_map(|(generation, next_offsets)| Positions::Topic { generation, next_offsets })
}

fn any_positions() -> impl Strategy<Value = Positions> {
    prop_oneof![any_stream(), any_topic()]
}

fn advanced(mut from: Positions, by: &Positions) -> Positions {
    from.advance(by);
    from
}

proptest! {
    #[test]
    fn everything_covers_itself(positions in any_positions()) {
        prop_assert!(positions.covers(&positions));
        prop_assert_eq!(advanced(positions.clone(), &positions), positions);
    }

    #[test]
    fn what_is_covered_already_moves_nothing(mine in any_stream(), other in any_stream()) {
        prop_assert_eq!(mine.covers(&other), advanced(mine.clone(), &other) == mine);
    }

    #[test]
    fn offsets_that_are_covered_already_move_nothing(mine in any_offsets(), other in any_offsets()) {
        prop_assert_eq!(mine.covers(&other), advanced(mine.clone(), &other) == mine);
    }

    #[test]
    fn of_two_in_a_stream_one_covers_the_other(a in any_stream(), b in any_stream()) {
        prop_assert!(a.covers(&b) || b.covers(&a));
        prop_assert_eq!(a.covers(&b) && b.covers(&a), a == b);
    }

    #[test]
    fn offsets_advance_in_any_order(a in any_offsets(), b in any_offsets(), c in any_offsets()) {
        let left = advanced(advanced(a.clone(), &b), &c);
        let right = advanced(c, &advanced(b, &a));
        prop_assert_eq!(left, right);
    }

    #[test]
    fn a_partition_stands_where_the_further_of_two_stood(a in any_offsets(), b in any_offsets()) {
        let both = advanced(a.clone(), &b);
        for partition in 0..4 {
            prop_assert_eq!(both.next_offset(partition), a.next_offset(partition).max(b.next_offset(partition)));
        }
    }

    #[test]
    fn a_known_generation_is_never_forgotten(mut mine in any_topic(), other in any_topic()) {
        let known = mine.generation();
        mine.advance(&other);
        prop_assert_eq!(mine.generation(), other.generation().or(known));
    }

    #[test]
    fn what_covers_more_covers_every_event_of_it(
        mine in any_stream(), other in any_stream(), lsn in 0..9u64, ordinal in 0..4u64
    ) {
        let event = at(lsn, ordinal);
        if mine.covers(&other) && other.covers_event(event) {
            prop_assert!(mine.covers_event(event));
        }
        prop_assert_eq!(mine.covers_event(event), mine.covers(&Positions::Stream(event)));
    }

    #[test]
    fn a_stream_and_a_topic_say_nothing_of_each_other(stream in any_stream(), topic in any_topic(), n in 0..4i32) {
        prop_assert!(!stream.covers(&topic) && !topic.covers(&stream));
        prop_assert!(!stream.collides(&topic) && !topic.collides(&stream));
        prop_assert!(!topic.covers_event(at(0, 0)) && !stream.covers_offset(n, 0));
        prop_assert_eq!((stream.next_offset(n), stream.generation(), topic.commit_lsn()), (None, None, None));
        prop_assert_eq!(advanced(stream.clone(), &topic), topic.clone());
        prop_assert_eq!(advanced(topic, &stream), stream);
    }

    #[test]
    fn topics_collide_where_they_share_a_partition(a in any_topic(), b in any_topic()) {
        let shared = (0..4).any(|n| a.next_offset(n).is_some() && b.next_offset(n).is_some());
        prop_assert_eq!(a.collides(&b), shared);
    }
}

#[test]
fn no_offsets_are_covered_by_all_and_cover_none() {
    let none = Positions::offsets(NextOffsets::new());
    let some = topic(Some(3), &[(0, 0)]);
    assert!(some.covers(&none) && !none.covers(&some));
    assert!(!some.covers_offset(0, 0) && !none.covers_offset(0, -1));
}

#[test]
fn a_generation_that_is_not_reported_fits_every_other() {
    let unreported = topic(None, &[(0, 5)]);
    let reported = topic(Some(2), &[(0, 4), (1, 1)]);
    assert!(unreported.covers(&topic(Some(2), &[(0, 4)])));
    assert!(reported.covers(&topic(None, &[(1, 1)])));
    assert_eq!(advanced(unreported, &reported), topic(Some(2), &[(0, 5), (1, 1)]));
}

#[test]
fn another_generation_replaces_also_what_is_further() {
    let former = topic(Some(1), &[(0, 9), (1, 9)]);
    let recreated = topic(Some(2), &[(0, 1)]);
    assert_eq!(advanced(former.clone(), &recreated), recreated);
    assert!(!former.covers(&recreated) && !recreated.covers(&former));
    assert!(former.collides(&recreated), "both write the same partition");
}

#[test]
fn positions_have_the_text_that_is_stored() {
    for (positions, stored) in [
        (Positions::whole(Lsn(0x16_B374_D848)), json!({"stream": "16/B374D848"})),
        (Positions::Stream(at(16, 4)), json!({"stream": "0/10#4"})),
        (topic(None, &[(0, 7), (2, 1)]), json!({"topic": {"next_offsets": {"0": 7, "2": 1}}})),
        (topic(Some(3), &[]), json!({"topic": {"generation": 3, "next_offsets": {}}})),
    ] {
        assert_eq!(serde_json::to_value(&positions).unwrap(), stored);
        assert_eq!(serde_json::from_value::<Positions>(stored).unwrap(), positions);
    }
}

#[test]
fn other_text_is_no_position() {
    for text in ["", "16", "0/10#", "0/10#x", "0/10#-1", "#4", "0/10#4#5", "x/1"] {
        assert!(serde_json::from_value::<Positions>(json!({"stream": text})).is_err(), "'{text}'");
    }
    assert!(serde_json::from_value::<Positions>(json!({"topic": {}})).is_err());
    assert!(serde_json::from_value::<Positions>(json!({"stream": 16})).is_err());
}
