//! A report as text for a person: the verdict first, then each hop with what is wrong there before what is known.

use std::time::{Duration, SystemTime};

use bytesize::ByteSize;

use super::report::{KafkaHop, LakeCommit, LakeHop, PostgresHop, Problem, Report, StreamHop, Values};

/// The whole report.
pub fn render(report: &Report) -> String {
    let key: Vec<_> = report.key.iter().map(|(column, value)| format!("{column}={value}")).collect();
    let mut text = format!("{} {}: {}\n", report.table, key.join(", "), report.verdict.sentence);
    if let Some(remedy) = &report.verdict.remedy {
        text.push_str(&format!("To do: {remedy}\n"));
    }
    let hops = &report.hops;
    hop(&mut text, "Postgres", hops.postgres.problem.as_ref(), &postgres(&hops.postgres));
    hop(&mut text, "Stream", hops.stream.problem.as_ref(), &stream(&hops.stream));
    if let Some(of_topic) = &hops.kafka {
        hop(&mut text, "Kafka", of_topic.problem.as_ref(), &kafka(of_topic));
    }
    hop(&mut text, "Lake", hops.lake.problem.as_ref(), &lake(&hops.lake));
    text
}

fn hop(text: &mut String, name: &str, problem: Option<&Problem>, facts: &[String]) {
    text.push_str(&format!("\n{name}\n"));
    if let Some(Problem { reason, remedy }) = problem {
        text.push_str(&format!("  ! {reason}\n    To do: {remedy}\n"));
    }
    for fact in facts {
        text.push_str(&format!("  {fact}\n"));
    }
}

fn postgres(hop: &PostgresHop) -> Vec<String> {
    let mut facts = Vec::new();
    match hop.exists {
        Some(true) => facts.push("the row is there".to_owned()),
        Some(false) => facts.push("there is no such row".to_owned()),
        None => {}
    }
    if !hop.is_published {
        facts.push("the publication's row filter leaves it out".to_owned());
    }
    if let Some(xmin) = hop.xmin {
        let at = hop.committed_micros.map(|micros| format!(", committed at {}", at(micros)));
        facts.push(format!("written by transaction {xmin}{}", at.unwrap_or_default()));
    }
    facts.extend(hop.server_lsn.map(|lsn| format!("the server's log ended at {lsn}")));
    facts.extend(values(hop.values.as_ref()));
    facts
}

fn stream(hop: &StreamHop) -> Vec<String> {
    let mut facts = vec![format!("the table is {}", hop.phase.as_deref().unwrap_or("not known"))];
    facts.push(if hop.is_running { "a process runs here".to_owned() } else { "no process runs here".to_owned() });
    if let Some(lsn) = hop.confirmed_flush_lsn {
        let kept = hop.retained_bytes.map(|bytes| format!("; Postgres keeps {} of log for it", ByteSize(bytes)));
        facts.push(format!("the slot is confirmed to {lsn}{}", kept.unwrap_or_default()));
    }
    facts.extend(hop.complete_to_lsn.map(|lsn| format!("the table in the lake is complete up to {lsn}")));
    if let Some(bytes) = hop.lag_bytes {
        let seconds = hop.lag_seconds.map(|seconds| format!(", {seconds:.1} s")).unwrap_or_default();
        facts.push(format!("lag {}{seconds}", ByteSize(bytes)));
    }
    facts
}

fn kafka(hop: &KafkaHop) -> Vec<String> {
    let mut facts = Vec::new();
    let (Some(partition), Some(partitions)) = (hop.partition, hop.partitions) else {
        return vec![format!("topic {}", hop.topic)];
    };
    facts.push(format!("topic {}, partition {partition} of {partitions}", hop.topic));
    match hop.offset {
        Some(offset) => {
            let op = hop.op.as_ref().map(|op| format!(", op {op}")).unwrap_or_default();
            let position = hop.commit_lsn.zip(hop.ordinal);
            let position = position.map(|(lsn, ordinal)| format!(", of transaction {lsn} event {ordinal}"));
            let time = hop.event_micros.or(hop.written_micros).map(|micros| format!(", at {}", at(micros)));
            let (position, time) = (position.unwrap_or_default(), time.unwrap_or_default());
            facts.push(format!("its last event is at offset {offset}{op}{position}{time}"));
        }
        None => facts.push("no event of it was found".to_owned()),
    }
    facts.extend(hop.tombstone_offset.map(|offset| format!("its tombstone is at offset {offset}")));
    facts
        .extend(hop.whole_table_offset.map(|offset| format!("an event of the whole table follows at offset {offset}")));
    if let (Some(first), Some(end), Some(from)) = (hop.first_offset, hop.end_offset, hop.looked_back_to_offset) {
        facts.push(format!("looked from offset {from} to the end at {end}; the partition begins at {first}"));
    }
    facts.extend(hop.sink_next_offset.map(|next| format!("the lake has the partition up to offset {next}")));
    facts
}

fn lake(hop: &LakeHop) -> Vec<String> {
    let Some(version) = hop.version else {
        return if hop.problem.is_none() { vec!["there is no table yet".to_owned()] } else { Vec::new() };
    };
    let made = hop.version_micros.map(|micros| format!(", made at {}", at(micros))).unwrap_or_default();
    let mut facts = vec![format!("the table has version {version}{made}")];
    facts.extend(hop.watermark_lsn.map(|lsn| format!("its log says that it is complete up to {lsn}")));
    if let Some((file, row)) = hop.file.as_ref().zip(hop.row) {
        facts.push(format!("the row is in {file}, row {row}"));
        match &hop.commit {
            Some(commit) => facts.push(format!("that file came with {}", commit_text(commit))),
            None => facts.push(format!("which commit that file came with is not known{}", looked_back(hop))),
        }
    } else if hop.exists == Some(false) {
        facts.push("the row is not there".to_owned());
        match &hop.commit {
            Some(commit) => facts.push(format!("it went with {}", commit_text(commit))),
            None => facts.push(format!("no commit took it away{}", looked_back(hop))),
        }
    }
    match &hop.differences {
        Some(columns) if columns.is_empty() => facts.push("its values are those in Postgres".to_owned()),
        Some(columns) => facts.push(format!("its values differ in {}", columns.join(", "))),
        None => {}
    }
    facts.push(format!(
        "{} of {} files may hold it by their statistics, {} were read",
        hop.files_in_question, hop.files, hop.files_read
    ));
    facts.extend(values(hop.values.as_ref()));
    facts
}

fn looked_back(hop: &LakeHop) -> String {
    hop.looked_back_to_version.map(|version| format!(", back to version {version}")).unwrap_or_default()
}

fn commit_text(commit: &LakeCommit) -> String {
    let LakeCommit { version, at_micros, operation, engine, watermark_lsn } = commit;
    let operation = operation.as_ref().map(|operation| format!(" ({operation}"));
    let engine = engine.as_ref().filter(|_| operation.is_some()).map(|engine| format!(" by {engine}"));
    let made = operation.map(|operation| format!("{operation}{})", engine.unwrap_or_default())).unwrap_or_default();
    let time = at_micros.map(|micros| format!(" at {}", at(micros))).unwrap_or_default();
    let complete = watermark_lsn.map(|lsn| format!(", complete up to {lsn}")).unwrap_or_default();
    format!("version {version}{made}{time}{complete}")
}

fn values(values: Option<&Values>) -> Vec<String> {
    let line = |(column, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{column} = {value}"),
        None => format!("{column} is NULL"),
    };
    values.into_iter().flatten().map(line).collect()
}

/// A moment in UTC, to the millisecond.
fn at(micros: i64) -> String {
    let moment = SystemTime::UNIX_EPOCH + Duration::from_micros(micros.max(0).unsigned_abs());
    humantime::format_rfc3339_millis(moment).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sooner_schemas::{Lsn, TableName};

    use super::super::report::{Hop, Hops, Outcome, Verdict};
    use super::*;

    #[test]
    fn the_verdict_comes_first_and_what_is_wrong_before_what_is_known() {
        let hops = Hops {
            postgres: PostgresHop { exists: Some(true), is_published: true, xmin: Some(7), ..PostgresHop::default() },
            stream: StreamHop { problem: Some(Problem::new("it is parked", "resume it")), ..StreamHop::default() },
            kafka: Some(KafkaHop {
                topic: "shop.public.t".into(),
                partition: Some(2),
                partitions: Some(3),
                offset: Some(17),
                op: Some("u".into()),
                commit_lsn: Some(Lsn(0xA0)),
                ordinal: Some(1),
                ..KafkaHop::default()
            }),
            lake: LakeHop { version: Some(4), exists: Some(false), ..LakeHop::default() },
        };
        let verdict = Verdict {
            outcome: Outcome::Waiting,
            hop: Some(Hop::Stream),
            sentence: "it waits".into(),
            remedy: Some("resume it".into()),
        };
        let key = BTreeMap::from([("id".to_owned(), "42".to_owned())]);
        let text = render(&Report { table: TableName::new("public", "t"), key, verdict, hops });
        assert!(text.starts_with("public.t id=42: it waits\nTo do: resume it\n"), "{text}");
        assert!(text.contains("Stream\n  ! it is parked\n    To do: resume it\n  the table is"), "{text}");
        assert!(text.contains("partition 2 of 3\n  its last event is at offset 17, op u, of transaction 0/A0 event 1"));
        assert!(text.contains("the row is not there\n  no commit took it away"), "{text}");
    }

    #[test]
    fn a_commit_says_what_is_known_of_it() {
        let commit = LakeCommit { version: 3, at_micros: Some(1_000), ..LakeCommit::default() };
        assert_eq!(commit_text(&commit), "version 3 at 1970-01-01T00:00:00.001Z");
        let commit = LakeCommit { operation: Some("MERGE".into()), engine: Some("sooner/1".into()), ..commit };
        assert_eq!(commit_text(&commit), "version 3 (MERGE by sooner/1) at 1970-01-01T00:00:00.001Z");
    }
}
