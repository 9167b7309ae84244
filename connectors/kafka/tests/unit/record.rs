//! Progress records survive their topic: whole, in parts, in any prefix, and after compaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sooner_api::{Class, Code, Error, TableProgress, TableState};
use sooner_kafka::progress::record::{RecordMessage, RecordReplay, Split, TopicOffsets, TopicProgress};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

use crate::support::{at, relation};

fn name(table: &str) -> TableName {
    TableName::new("public", table)
}

fn offsets(topic: &str, generation: i64, next_offsets: Vec<i64>) -> TopicOffsets {
    TopicOffsets {
        topic: topic.to_owned(),
        generation,
        begun_over: false,
        first_offsets: vec![0; next_offsets.len()],
        next_offsets,
    }
}

fn empty(slot: &str) -> TopicProgress {
    let mut progress = TopicProgress::default();
    (progress.record.slot, progress.record.system_id) = (slot.to_owned(), "7".to_owned());
    progress
}

/// Changes some tables; returns which.
fn change(progress: &mut TopicProgress, random: &mut StdRng) -> BTreeSet<TableName> {
    let names = ["a", "b/c", "d.e", "f"].map(name);
    let changed: BTreeSet<_> = names.into_iter().filter(|_| random.random_bool(0.4)).collect();
    for table in &changed {
        let state = match random.random_range(0..4) {
            0 => TableState::Copying,
            1 => TableState::Streaming { copied_lsn: random.random_bool(0.5).then_some(Lsn(4)) },
            2 => TableState::Parked { error: Error::operator(Code::ShapeChanged, "w", "y", "r"), copied_lsn: None },
            _ => {
                progress.record.tables.remove(table);
                progress.topics.remove(table);
                continue;
            }
        };
        let mut table_progress = TableProgress::new(state, Some(random.random_range(1..9)));
        table_progress.relation = random.random_bool(0.5).then(|| relation().into());
        progress.record.tables.insert(table.clone(), table_progress);
        let next = vec![random.random_range(0..100), random.random_range(0..100)];
        progress.topics.insert(table.clone(), offsets(&format!("topic.{table}"), 5, next));
    }
    progress.commit_lsn.0 += random.random_range(1..9u64);
    progress.record.confirmed_lsn = Lsn(progress.commit_lsn.0 + 1);
    progress.commit_micros += 1;
    let split = Split { commit_lsn: Lsn(progress.commit_lsn.0 + 5), next_ordinal: 2 };
    progress.split = random.random_bool(0.3).then_some(split);
    changed
}

/// Messages of some records in a row, and each record with the number of messages up to its head.
fn history(random: &mut StdRng) -> (Vec<RecordMessage>, Vec<(usize, TopicProgress)>) {
    let mut progress = empty("s");
    let (mut messages, mut records) = (Vec::new(), Vec::new());
    for _ in 0..random.random_range(1..12) {
        let changed = change(&mut progress, random);
        messages.extend(progress.messages(&changed).unwrap());
        records.push((messages.len(), progress.clone()));
    }
    (messages, records)
}

fn take(replay: &mut RecordReplay, (key, value): &RecordMessage) -> Option<TopicProgress> {
    replay.take("p/0 offset 3", key.as_bytes(), value.as_deref()).unwrap()
}

fn last(messages: &[RecordMessage]) -> Option<TopicProgress> {
    let mut replay = RecordReplay::default();
    messages.iter().fold(None, |found, message| take(&mut replay, message).or(found))
}

#[test]
fn every_prefix_of_the_topic_gives_the_last_record_whose_head_it_holds() {
    for seed in 0..60 {
        let (messages, records) = history(&mut StdRng::seed_from_u64(seed));
        for length in 0..=messages.len() {
            let expected = records.iter().rev().find(|(end, _)| *end <= length).map(|(_, record)| record);
            assert_eq!(last(&messages[..length]).as_ref(), expected, "seed {seed}, {length} messages");
        }
    }
}

#[test]
fn compaction_up_to_anywhere_loses_nothing_that_counts() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let (messages, records) = history(&mut random);
        let cleaned = random.random_range(0..=messages.len());
        let is_kept = |index: usize| {
            let key = &messages[index].0;
            index >= cleaned || !messages[index + 1..cleaned].iter().any(|(later, _)| later == key)
        };
        let mut replay = RecordReplay::default();
        let mut found = None;
        for index in (0..messages.len()).filter(|index| is_kept(*index)) {
            if let Some(record) = take(&mut replay, &messages[index]) {
                assert!(records.iter().any(|(_, known)| *known == record), "seed {seed}: it was never written");
                found = Some(record);
            }
        }
        assert_eq!(found.as_ref(), records.last().map(|(_, record)| record), "seed {seed}, cleaned to {cleaned}");
    }
}

#[test]
fn records_of_two_slots_share_a_topic() {
    let mut random = StdRng::seed_from_u64(1);
    let (mut one, mut other) = (empty("one"), empty("other"));
    let mut replay = RecordReplay::default();
    for _ in 0..20 {
        let (changed, changed_too) = (change(&mut one, &mut random), change(&mut other, &mut random));
        let (ours, theirs) = (one.messages(&changed).unwrap(), other.messages(&changed_too).unwrap());
        let (last_of_ours, first_of_ours) = ours.split_last().unwrap();
        assert!(first_of_ours.iter().all(|message| take(&mut replay, message).is_none()), "the head is last");
        let found: Vec<_> = theirs.iter().filter_map(|message| take(&mut replay, message)).collect();
        assert_eq!(found, [other.clone()]);
        assert_eq!(take(&mut replay, last_of_ours), Some(one.clone()));
    }
}

#[test]
fn a_record_of_an_earlier_version_is_continued_in_parts() {
    let whole = r#"{"system_id":"7","timeline":1,"slot":"s","confirmed_lsn":"0/78","commit_lsn":"0/64",
        "commit_micros":5,"split":{"commit_lsn":"0/65","next_ordinal":3},
        "tables":{"public.a":{"phase":"streaming","copied_lsn":"0/9"},"public.b":{"phase":"copying"}},
        "topics":{"public.a":{"topic":"a","next_offsets":[3]},"public.b":{"topic":"b","next_offsets":[4]}}}"#;
    let mut replay = RecordReplay::default();
    let mut record = take(&mut replay, &("s".to_owned(), Some(whole.into()))).unwrap();
    assert_eq!((record.commit_lsn, record.record.confirmed_lsn), (Lsn(0x64), Lsn(0x78)));
    assert_eq!(record.split, Some(Split { commit_lsn: Lsn(0x65), next_ordinal: 3 }));
    assert_eq!(record.record.tables[&name("a")].state, TableState::Streaming { copied_lsn: Some(Lsn(9)) });
    assert_eq!((record.topics[&name("b")].generation, record.topics[&name("b")].first_offset(0)), (0, 0));
    record.topics.insert(name("a"), offsets("a", 5, vec![8]));
    record.record.tables.remove(&name("b"));
    record.topics.remove(&name("b"));
    record.split = None;
    let messages = record.messages(&BTreeSet::from([name("a"), name("b")])).unwrap();
    let found: Vec<_> = messages.iter().filter_map(|message| take(&mut replay, message)).collect();
    assert_eq!(found, [record]);
}

#[test]
fn keys_name_the_slot_and_the_table_and_a_forgotten_table_has_no_value() {
    let mut progress = empty("s");
    let odd = TableName::new("odd.schema", "t");
    progress.record.tables.insert(odd.clone(), TableProgress::new(TableState::Copying, None));
    let messages = progress.messages(&BTreeSet::from([odd, name("gone")])).unwrap();
    let keys: BTreeMap<_, _> = messages.iter().map(|(key, value)| (key.as_str(), value.is_some())).collect();
    assert_eq!(keys, BTreeMap::from([("s/\"odd.schema\".t", true), ("s/public.gone", false), ("s", true)]));
    assert_eq!(messages.last().map(|(key, _)| key.as_str()), Some("s"));
    assert_eq!(last(&messages), Some(progress), "a table without a topic is one, too");
}

#[test]
fn a_head_that_was_removed_is_passed_over() {
    let mut replay = RecordReplay::default();
    assert_eq!(take(&mut replay, &("s".to_owned(), None)), None);
    assert_eq!(take(&mut replay, &("s/public.a".to_owned(), None)), None);
    let progress = empty("s");
    assert_eq!(take(&mut replay, &progress.messages(&BTreeSet::new()).unwrap()[0]), Some(progress));
}

#[test]
fn what_somebody_else_writes_to_the_topic_is_told_with_its_place() {
    for (key, value) in [("s", "7"), ("s", "{\"slot\":\"s\"}"), ("s/public.a", "{}"), ("s/public.a", "")] {
        let taken = RecordReplay::default().take("p/0 offset 3", key.as_bytes(), Some(value.as_bytes()));
        let error = taken.unwrap_err();
        assert_eq!((error.code, error.class), (Code::ProgressUnreadable, Class::Operator), "{key}: {value}");
        assert!(error.what.contains("p/0 offset 3"), "{error}");
    }
}

#[test]
fn a_split_transaction_withholds_the_watermark() {
    let mut progress = empty("s");
    (progress.commit_lsn, progress.commit_micros, progress.record.confirmed_lsn) = (Lsn(100), 5, Lsn(110));
    let whole = Watermark { commit_lsn: Lsn(100), end_lsn: Lsn(110), commit_micros: 5 };
    assert_eq!(progress.watermark(), Some(whole));
    progress.note(at(120, 0));
    assert_eq!(progress.watermark(), None);
    assert!(progress.covered().covers_event(at(120, 0)) && !progress.covered().covers_event(at(120, 1)));
    progress.split = Some(Split { commit_lsn: Lsn(130), next_ordinal: 0 });
    assert!(!progress.covered().covers_event(at(101, 0)), "of a split transaction that has not begun nothing is known");
}

#[test]
fn offsets_of_another_generation_or_topic_are_none() {
    let mut progress = empty("s");
    progress.topics.insert(name("a"), offsets("topic", 5, vec![3, 4]));
    assert_eq!(progress.offsets_of("topic", 5), [3, 4]);
    assert!(progress.offsets_of("topic", 4).is_empty() && progress.offsets_of("other", 5).is_empty());
    assert!(progress.topic("other").is_none());
    assert_eq!(progress.tables_by_topic(), HashMap::from([("topic".to_owned(), name("a"))]));
    let begun = TopicOffsets { first_offsets: vec![7, 8], ..offsets("topic", 5, vec![9]) };
    assert_eq!([-1, 0, 1, 2].map(|partition| begun.first_offset(partition)), [0, 7, 8, 0]);
}
