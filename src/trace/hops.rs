//! What topic and lake tell, as hops of a report. Without I/O.

use sooner_api::Error;
use sooner_delta::trace::row_trace::{CommitFacts, RowTrace};
use sooner_kafka::key_search::KeyPlace;

use super::report::{KafkaHop, LakeCommit, LakeHop, Problem};

/// What is known of a key's topic, given the next offset of its partition that the lake has not got.
pub fn kafka_hop(topic: String, place: &Result<KeyPlace, Error>, sink_next_offset: Option<i64>) -> KafkaHop {
    let place = match place {
        Ok(place) => place,
        Err(error) => return KafkaHop { problem: Some(Problem::from(error)), topic, ..KafkaHop::default() },
    };
    let range = place.partition.and_then(|partition| place.searched.get(&partition));
    let last = place.last.as_ref();
    let mut hop = KafkaHop {
        topic,
        partitions: Some(place.partitions),
        partition: place.partition,
        first_offset: range.map(|range| range.first_offset),
        end_offset: range.map(|range| range.end_offset),
        looked_back_to_offset: range.map(|range| range.from_offset),
        offset: last.map(|last| last.offset),
        tombstone_offset: last.and_then(|last| last.tombstone_offset),
        op: last.and_then(|last| last.op.clone()),
        commit_lsn: last.and_then(|last| Some(last.position?.commit_lsn)),
        ordinal: last.and_then(|last| Some(last.position?.ordinal)),
        event_micros: last.and_then(|last| last.event_micros),
        written_micros: last.and_then(|last| last.written_micros),
        whole_table_offset: place.whole_table_offset,
        sink_next_offset,
        ..KafkaHop::default()
    };
    hop.problem = unread(&hop);
    hop
}

/// Why the key's last event is not in the lake; none if it is, or if nobody knows.
fn unread(hop: &KafkaHop) -> Option<Problem> {
    let last = hop.whole_table_offset.max(hop.offset)?;
    let (topic, partition) = (&hop.topic, hop.partition?);
    let remedy = "see that a sink runs: `sooner status` where it does; it reads on by itself";
    let Some(next) = hop.sink_next_offset else {
        let reason = format!("the lake has nothing of {topic}/{partition}, where offset {last} concerns the row");
        return Some(Problem::new(reason, remedy));
    };
    // Ends of transactions take offsets, too.
    let behind = hop.end_offset.unwrap_or(last).saturating_sub(next);
    (last >= next).then(|| {
        let reason = format!(
            "the sink has not brought offset {last} of {topic}/{partition} to the lake; it goes on at {next}, \
             {behind} before the end"
        );
        Problem::new(reason, remedy)
    })
}

/// What is known of a row in the lake.
pub fn lake_hop(found: RowTrace, with_values: bool) -> LakeHop {
    let RowTrace { version, watermark, last_commit, search, row, commit, looked_back_to, .. } = found;
    let exists = match &row {
        Some(_) => Some(true),
        None => search.is_whole().then_some(false),
    };
    let problem = exists.is_none().then(|| {
        let (read, all) = (search.read, search.candidates);
        let remedy = "allow more time with --timeout, or ask while the store is less busy";
        Problem::new(format!("only {read} of {all} files that may hold the row could be searched in time"), remedy)
    });
    let (mut file, mut number, mut differences, mut shown) = (None, None, None, None);
    if let Some(row) = row {
        (file, number, differences) = (Some(row.file), Some(row.number), row.differences);
        shown = with_values.then(|| row.values.into_iter().collect());
    }
    LakeHop {
        problem,
        version,
        version_micros: last_commit.and_then(|commit| commit.at_millis).map(|millis| millis * 1000),
        watermark_lsn: watermark,
        exists,
        file,
        row: number,
        differences,
        commit: commit.map(lake_commit),
        looked_back_to_version: looked_back_to,
        files: search.files,
        files_in_question: search.candidates,
        files_read: search.read,
        values: shown,
    }
}

fn lake_commit(commit: CommitFacts) -> LakeCommit {
    let CommitFacts { version, at_millis, operation, engine, watermark } = commit;
    let at_micros = at_millis.map(|millis| millis * 1000);
    LakeCommit { version, at_micros, operation, engine, watermark_lsn: watermark }
}

#[cfg(test)]
mod tests {
    use sooner_delta::trace::row_trace::{LakeRow, SearchExtent};

    use super::*;

    fn hop(offset: Option<i64>, whole_table_offset: Option<i64>, next: Option<i64>) -> KafkaHop {
        KafkaHop {
            topic: "shop.public.t".into(),
            partition: Some(1),
            end_offset: Some(20),
            offset,
            whole_table_offset,
            sink_next_offset: next,
            ..KafkaHop::default()
        }
    }

    #[test]
    fn an_event_that_is_not_in_the_lake_is_a_problem() {
        assert_eq!(unread(&hop(Some(7), None, Some(8))), None);
        let reason = unread(&hop(Some(8), None, Some(8))).unwrap().reason;
        assert!(reason.contains("offset 8 of shop.public.t/1") && reason.contains("12 before the end"), "{reason}");
        assert!(unread(&hop(Some(7), Some(9), Some(8))).is_some(), "a truncate concerns the row, too");
        assert!(unread(&hop(Some(7), None, None)).is_some());
        assert_eq!(unread(&hop(None, None, Some(8))), None, "nothing was found");
    }

    #[test]
    fn a_row_that_was_not_found_is_gone_only_if_all_files_were_searched() {
        let found = |read, row| {
            let search = SearchExtent { files: 9, candidates: 5, read };
            lake_hop(RowTrace { version: Some(3), search, row, ..RowTrace::default() }, false)
        };
        assert_eq!(found(5, None).exists, Some(false));
        let unfinished = found(4, None);
        assert!(unfinished.exists.is_none() && unfinished.problem.unwrap().reason.contains("4 of 5"));
        let row = LakeRow { file: "f".into(), number: 2, differences: Some(Vec::new()), values: Vec::new() };
        let there = found(1, Some(row));
        assert_eq!((there.exists, there.row, there.values), (Some(true), Some(2), None));
    }
}
