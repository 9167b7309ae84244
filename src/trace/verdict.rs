//! What the hops of a row come to: whether it is up to date, and if not, where it waits and what to do. Without I/O.

use std::collections::{BTreeMap, BTreeSet};

use sooner_api::{Error, Side, TableState};
use sooner_schemas::TableName;

use super::report::{Hop, Hops, Outcome, Problem, Verdict};

/// What is known of the pipeline and its table, to say why it does not go on.
#[derive(Clone, Debug, Default)]
pub struct Standing<'a> {
    /// The table's state; none if the pipeline does not know the table.
    pub state: Option<&'a TableState>,
    /// Whether a process runs; none where another one may run elsewhere.
    pub is_running: Option<bool>,
    /// Sides that are paused.
    pub paused: BTreeSet<Side>,
    /// Why nothing moves at the moment.
    pub trouble: Option<&'a Error>,
    /// Why the slot cannot be read; none if it can, or if nobody looked.
    pub slot: Option<Error>,
    /// Rows copied, and the planner's estimate of all.
    pub copied: (u64, Option<u64>),
    /// Somebody has asked for the table, or rows of it, to be copied.
    pub copy_is_asked: bool,
}

/// Why the pipeline does not go on with a table; none if it does.
pub fn stream_problem(table: &TableName, standing: &Standing<'_>) -> Option<Problem> {
    let of_table = match standing.state {
        None => Some(Problem::new(
            format!("the pipeline does not know {table}"),
            "see `sooner status`; tables and exclude of [source] say which tables take part",
        )),
        Some(TableState::Gone) => Some(Problem::new(
            format!("{table} takes no part any more: it was dropped, or is not selected"),
            "select it by tables of [source]; it is copied then",
        )),
        Some(TableState::Parked { error, .. }) => Some(parked(table, error)),
        Some(TableState::Waiting { error }) => {
            Some(Problem { reason: format!("{table} waits: {}: {}", error.what, error.why), ..Problem::from(error) })
        }
        Some(TableState::Copying | TableState::Streaming { .. }) => None,
    };
    of_table.or_else(|| process_problem(standing)).or_else(|| copy_problem(table, standing))
}

fn parked(table: &TableName, error: &Error) -> Problem {
    let resume = format!("`sooner resume {table}`");
    let remedy = match error.remedy.contains("sooner resume") {
        true => error.remedy.clone(),
        false => format!("{}; then {resume}, which copies it again", error.remedy),
    };
    Problem::new(format!("{table} is parked: {}: {}", error.what, error.why), remedy)
}

fn process_problem(standing: &Standing<'_>) -> Option<Problem> {
    if standing.is_running == Some(false) {
        return Some(Problem::new("no process runs the pipeline", "start it with `sooner run`"));
    }
    if !standing.paused.is_empty() {
        let (what, remedy) = match (standing.paused.contains(&Side::Source), standing.paused.contains(&Side::Sink)) {
            (true, true) => ("the pipeline is", "`sooner resume`"),
            (true, false) => ("the source's side is", "`sooner resume --side source`"),
            _ => ("the sink's side is", "`sooner resume --side sink`"),
        };
        return Some(Problem::new(format!("{what} paused"), remedy));
    }
    standing.slot.as_ref().or(standing.trouble).map(Problem::from)
}

fn copy_problem(table: &TableName, standing: &Standing<'_>) -> Option<Problem> {
    let wait = "wait until the copy has ended; `sooner status` shows how far it is";
    if standing.state == Some(&TableState::Copying) {
        let (rows, estimated) = standing.copied;
        let of = estimated.map(|rows| format!(" of about {rows}")).unwrap_or_default();
        return Some(Problem::new(format!("{table} is being copied: {rows}{of} rows so far"), wait));
    }
    standing.copy_is_asked.then(|| Problem::new(format!("a copy of {table} is asked for, and has not ended"), wait))
}

/// How the row in the lake compares with that in Postgres.
enum Comparison {
    Same,
    /// Said so in words.
    Differs(String),
    Unknown(Hop, Problem),
}

/// What the hops come to. `is_covered` says that the lake had all changes of the row when it was read.
pub fn judge(table: &TableName, key: &BTreeMap<String, String>, hops: &Hops, is_covered: bool) -> Verdict {
    match compare(hops) {
        Comparison::Same => up_to_date(hops),
        Comparison::Unknown(hop, problem) => Verdict {
            outcome: Outcome::Unknown,
            hop: Some(hop),
            sentence: format!("whether the row is up to date cannot be told: {}", problem.reason),
            remedy: Some(problem.remedy),
        },
        Comparison::Differs(what) if is_covered && hops.stream.problem.is_none() => differs(table, key, hops, &what),
        Comparison::Differs(what) => waiting(table, hops, &what),
    }
}

fn compare(hops: &Hops) -> Comparison {
    let unknown = |hop, problem: &Option<Problem>| {
        let nothing = || Problem::new("nobody was asked", "see the other hops");
        Comparison::Unknown(hop, problem.clone().unwrap_or_else(nothing))
    };
    let (postgres, lake) = (&hops.postgres, &hops.lake);
    let Some(exists) = postgres.exists else { return unknown(Hop::Postgres, &postgres.problem) };
    let Some(is_there) = lake.exists else { return unknown(Hop::Lake, &lake.problem) };
    match (exists && postgres.is_published, is_there, &lake.differences) {
        (true, true, Some(columns)) if columns.is_empty() => Comparison::Same,
        (true, true, Some(columns)) => {
            Comparison::Differs(format!("the lake has other values in {}", columns.join(", ")))
        }
        (true, true, None) => Comparison::Differs("the lake cannot hold the row as it is".to_owned()),
        (true, false, _) => Comparison::Differs("the lake does not have the row".to_owned()),
        (false, true, _) if exists => {
            Comparison::Differs("the publication leaves the row out, and the lake has it".to_owned())
        }
        (false, true, _) => Comparison::Differs("the row is gone from Postgres, and the lake has it".to_owned()),
        (false, false, _) => Comparison::Same,
    }
}

fn up_to_date(hops: &Hops) -> Verdict {
    let lsn = hops.postgres.server_lsn.unwrap_or_default();
    let mut sentence = match (hops.postgres.exists, hops.postgres.is_published) {
        (Some(true), true) => format!("the lake has the row as Postgres has it: up to date at {lsn}"),
        (Some(true), false) => {
            format!("the publication leaves the row out, so the lake does not have it: up to date at {lsn}")
        }
        _ => format!("neither Postgres nor the lake has the row: up to date at {lsn}"),
    };
    if let Some(problem) = &hops.stream.problem {
        sentence.push_str(&format!("; but changes from now on wait: {}", problem.reason));
    }
    let remedy = hops.stream.problem.as_ref().map(|problem| problem.remedy.clone());
    Verdict { outcome: Outcome::UpToDate, hop: None, sentence, remedy }
}

fn waiting(table: &TableName, hops: &Hops, what: &str) -> Verdict {
    let of_topic = hops.kafka.as_ref().and_then(|kafka| kafka.problem.as_ref());
    let (hop, problem) = match (&hops.stream.problem, of_topic) {
        (Some(problem), _) => (Hop::Stream, problem.clone()),
        (None, Some(problem)) => (Hop::Kafka, problem.clone()),
        (None, None) => {
            let end = hops.postgres.server_lsn.unwrap_or_default();
            let reason = match hops.stream.complete_to_lsn {
                Some(lsn) => format!("the lake is complete up to {lsn}, and Postgres' log ends at {end}"),
                None => "nobody has told up to where the lake is complete".to_owned(),
            };
            (Hop::Stream, Problem::new(reason, format!("`sooner wait {table} --until {end}`")))
        }
    };
    let sentence = match hop {
        Hop::Kafka => format!("{what}; it waits in the topic: {}", problem.reason),
        _ => format!("{what}; it waits in the pipeline: {}", problem.reason),
    };
    Verdict { outcome: Outcome::Waiting, hop: Some(hop), sentence, remedy: Some(problem.remedy) }
}

fn differs(table: &TableName, key: &BTreeMap<String, String>, hops: &Hops, what: &str) -> Verdict {
    let lsn = hops.stream.complete_to_lsn.unwrap_or_default();
    let remedy = match hops.postgres.exists {
        Some(true) if hops.postgres.is_published => {
            format!("`sooner copy {table} --where {}`, which copies the row again", in_shell(&condition(key)))
        }
        // Copied rows do not remove others.
        _ => format!("`sooner copy {table}`, which copies the table again and removes what its source does not have"),
    };
    let sentence =
        format!("{what}, although it is complete up to {lsn}: somebody else changed the table, or a change was lost");
    Verdict { outcome: Outcome::Differs, hop: Some(Hop::Lake), sentence, remedy: Some(remedy) }
}

/// SQL condition on a key.
fn condition(key: &BTreeMap<String, String>) -> String {
    let is_plain = |name: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c == '_';
        name.chars().all(|c| plain(c) || c.is_ascii_digit()) && name.starts_with(plain)
    };
    let part = |(name, value): (&String, &String)| {
        let name = if is_plain(name) { name.clone() } else { format!("\"{}\"", name.replace('"', "\"\"")) };
        format!("{name} = '{}'", value.replace('\'', "''"))
    };
    key.iter().map(part).collect::<Vec<_>>().join(" AND ")
}

/// A text as one argument of a shell.
fn in_shell(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use sooner_api::Code;
    use sooner_schemas::Lsn;

    use super::super::report::{KafkaHop, LakeHop, PostgresHop, StreamHop};
    use super::*;

    fn table() -> TableName {
        TableName::new("public", "t")
    }

    fn streaming() -> TableState {
        TableState::Streaming { copied_lsn: None }
    }

    fn hops(in_postgres: bool, in_lake: bool, differences: Option<&[&str]>) -> Hops {
        let differences = differences.map(|columns| columns.iter().map(|column| (*column).to_owned()).collect());
        Hops {
            postgres: PostgresHop {
                exists: Some(in_postgres),
                is_published: true,
                server_lsn: Some(Lsn(0x20)),
                ..PostgresHop::default()
            },
            stream: StreamHop { complete_to_lsn: Some(Lsn(0x10)), ..StreamHop::default() },
            kafka: None,
            lake: LakeHop { exists: Some(in_lake), differences, ..LakeHop::default() },
        }
    }

    fn judged(hops: &Hops, is_covered: bool) -> Verdict {
        judge(&table(), &BTreeMap::from([("id".to_owned(), "4'2".to_owned())]), hops, is_covered)
    }

    #[test]
    fn a_row_that_is_the_same_is_up_to_date_whatever_is_covered() {
        let verdict = judged(&hops(true, true, Some(&[])), false);
        assert_eq!((verdict.outcome, verdict.hop, verdict.remedy), (Outcome::UpToDate, None, None));
        assert!(verdict.sentence.contains("0/20"), "{}", verdict.sentence);
        assert_eq!(judged(&hops(false, false, None), false).outcome, Outcome::UpToDate);
        let mut left_out = hops(true, false, None);
        left_out.postgres.is_published = false;
        assert_eq!(judged(&left_out, true).outcome, Outcome::UpToDate);
        let mut parked = hops(true, true, Some(&[]));
        parked.stream.problem = Some(Problem::new("it is parked", "resume it"));
        let verdict = judged(&parked, true);
        assert_eq!((verdict.outcome, verdict.remedy.as_deref()), (Outcome::UpToDate, Some("resume it")));
        assert!(verdict.sentence.contains("parked"));
    }

    #[test]
    fn a_row_that_differs_waits_unless_its_changes_have_arrived() {
        let verdict = judged(&hops(true, true, Some(&["v"])), false);
        assert_eq!((verdict.outcome, verdict.hop), (Outcome::Waiting, Some(Hop::Stream)));
        assert_eq!(verdict.remedy.as_deref(), Some("`sooner wait public.t --until 0/20`"));
        let verdict = judged(&hops(true, true, Some(&["v"])), true);
        assert_eq!((verdict.outcome, verdict.hop), (Outcome::Differs, Some(Hop::Lake)));
        assert!(verdict.remedy.unwrap().contains("sooner copy public.t --where \"id = '4''2'\""));
        let verdict = judged(&hops(false, true, None), true);
        assert!(verdict.remedy.unwrap().contains("removes"), "rows that are copied remove none");
        let mut waits = hops(true, false, None);
        waits.kafka = Some(KafkaHop { problem: Some(Problem::new("3 unread", "wait")), ..KafkaHop::default() });
        assert_eq!(judged(&waits, false).hop, Some(Hop::Kafka));
        waits.stream.problem = Some(Problem::new("it is paused", "resume"));
        assert_eq!(judged(&waits, true).hop, Some(Hop::Stream), "what has to be done comes first");
    }

    #[test]
    fn where_a_hop_did_not_answer_nothing_is_claimed() {
        let mut silent = hops(true, true, Some(&[]));
        silent.postgres =
            PostgresHop { problem: Some(Problem::new("no route", "connect it")), ..PostgresHop::default() };
        let verdict = judged(&silent, true);
        assert_eq!((verdict.outcome, verdict.hop), (Outcome::Unknown, Some(Hop::Postgres)));
        let mut unread = hops(true, false, None);
        unread.lake.exists = None;
        assert_eq!(judged(&unread, true).outcome, Outcome::Unknown);
    }

    #[test]
    fn what_stops_a_table_comes_before_what_stops_the_pipeline() {
        let error = Error::operator(Code::ShapeChanged, "cannot follow", "no key", "give it one");
        let parked = TableState::Parked { error: error.clone(), copied_lsn: None };
        let standing = Standing { state: Some(&parked), is_running: Some(false), ..Standing::default() };
        let problem = stream_problem(&table(), &standing).unwrap();
        assert!(problem.reason.contains("no key"));
        assert!(problem.remedy.contains("give it one; then `sooner resume public.t`"), "{problem:?}");
        let streaming = streaming();
        let goes_on = Standing { state: Some(&streaming), is_running: Some(true), ..Standing::default() };
        assert_eq!(stream_problem(&table(), &goes_on), None);
        let remedy = |standing: Standing<'_>| stream_problem(&table(), &standing).unwrap().remedy;
        assert!(remedy(Standing { is_running: Some(false), ..goes_on.clone() }).contains("sooner run"));
        let paused = Standing { paused: BTreeSet::from([Side::Sink]), ..goes_on.clone() };
        assert_eq!(remedy(paused), "`sooner resume --side sink`");
        assert_eq!(remedy(Standing { trouble: Some(&error), ..goes_on.clone() }), "give it one");
        assert!(remedy(Standing { copy_is_asked: true, ..goes_on.clone() }).contains("copy"));
        assert!(remedy(Standing { state: None, ..goes_on.clone() }).contains("[source]"));
        let copying = Standing { state: Some(&TableState::Copying), copied: (5, Some(9)), ..goes_on };
        assert!(stream_problem(&table(), &copying).unwrap().reason.contains("5 of about 9"));
    }

    #[test]
    fn conditions_can_be_pasted_into_a_shell() {
        let key = [("Id", "a$b"), ("n", "1")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(in_shell(&condition(&BTreeMap::from(key))), r#""\"Id\" = 'a\$b' AND n = '1'""#);
    }
}
