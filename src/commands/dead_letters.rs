//! `sooner dead-letters`: messages that could not be read, and were set aside: lists and shows them, has them replayed,
//! and drops them.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sooner_kafka::letters::catalogue::Selection;
use sooner_kafka::letters::contents::Decoded;
use sooner_kafka::letters::outcome::{Became, Outcome};
use sooner_kafka::message::letter_headers::LetterId;

use super::print;
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::letters::{Desk, DeskSettings, Listed, Shown, name_of};

/// Letters that the audit trail is told one by one.
const MOST_TOLD: usize = 1000;

/// What is done with dead letters.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Verb {
    /// Counts those that are open, by topic and error.
    List {
        /// Only those of one topic.
        #[arg(long)]
        topic: Option<String>,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows what is in them: rows' values, too.
    Show {
        /// One of them: partition/offset on the dead-letter topic. Without it, the last ones that are open.
        id: Option<LetterId>,
        /// Only those of one topic.
        #[arg(long, conflicts_with = "id")]
        topic: Option<String>,
        /// So many at most.
        #[arg(long, default_value_t = 10, conflicts_with = "id")]
        limit: usize,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Replays them, each once: the rows of our own topics are copied again; a message of another producer's topic is
    /// sent there again, unless it has a newer one of its key. Exits with 1 if one of them stays open.
    Replay {
        /// Which ones.
        #[command(flatten)]
        which: Which,
        /// Print what became of them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Does without them: they are no longer listed, nor replayed.
    Drop {
        /// Which ones.
        #[command(flatten)]
        which: Which,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Print what became of them as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Which letters are meant.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Which {
    /// One of them: partition/offset on the dead-letter topic.
    id: Option<LetterId>,
    /// Those of one topic.
    #[arg(long)]
    topic: Option<String>,
    /// All that are open.
    #[arg(long)]
    all: bool,
}

impl Which {
    fn selection(self) -> Selection {
        match self.id {
            Some(id) => Selection::One(id),
            None => Selection::of_topic(self.topic),
        }
    }
}

/// Where letters are handled with a configuration; an operator error if it has no Kafka. `has_source` says whether the
/// source's side of the pipeline may run with its state folder.
pub fn desk(config: &Config, has_source: bool) -> sooner_api::Result<Desk> {
    let kafka = config.kafka()?.clone();
    let source = config.source.as_ref().filter(|_| has_source);
    Ok(Desk::new(DeskSettings {
        kafka: kafka.settings,
        registry: kafka.registry,
        topics: kafka.topics,
        written_by: kafka.written_by,
        database: source.map(|source| source.connect.clone()),
        keeps_names: source.is_some_and(|source| source.kept_names.is_some()),
        state_dir: config.state_dir.clone(),
    }))
}

/// Runs a verb; false if a letter that was to be replayed stays open.
pub async fn run(config: &Config, verb: Verb) -> anyhow::Result<bool> {
    let desk = desk(config, true)?;
    match verb {
        Verb::List { topic, json } => {
            let listed = desk.list(Selection::of_topic(topic), 0).await?;
            print(&if json { format!("{}\n", serde_json::to_string_pretty(&listed)?) } else { list_text(&listed) });
        }
        Verb::Show { id: Some(id), json, .. } => {
            let shown = desk.show(id).await?.ok_or_else(|| no_letter(id))?;
            print(&if json { format!("{}\n", serde_json::to_string_pretty(&shown)?) } else { letter_text(&shown) });
        }
        Verb::Show { topic, limit, json, .. } => {
            let shown = desk.show_last(Selection::of_topic(topic), limit).await?;
            print(&match (json, shown.is_empty()) {
                (true, _) => format!("{}\n", serde_json::to_string_pretty(&shown)?),
                (false, true) => "there are no open dead letters\n".to_owned(),
                (false, false) => shown.iter().map(letter_text).collect::<Vec<_>>().join("\n"),
            });
        }
        Verb::Replay { which, json } => {
            let (act, selection) = (act("dead_letters_replayed", &which), which.selection());
            return recorded(config, act, replay(&desk, selection, json)).await;
        }
        Verb::Drop { which, yes, json } => {
            let (act, selection) = (act("dead_letters_dropped", &which), which.selection());
            if yes || is_sure(&desk, &selection).await? {
                recorded(config, act, drop_letters(&desk, selection, json)).await?;
            }
        }
    }
    Ok(true)
}

fn act(kind: &'static str, which: &Which) -> Act {
    Act::new(kind, json!({"id": which.id.map(|id| id.to_string()), "topic": which.topic, "all": which.all}))
}

/// Returns whether no letter stays open that was to be replayed, and what the audit trail is told.
async fn replay(desk: &Desk, selection: Selection, json: bool) -> anyhow::Result<(bool, Value)> {
    let outcomes = desk.replay(selection.clone()).await?;
    tell(desk, &selection, &outcomes, json).await?;
    let is_done = !outcomes.iter().any(|outcome| matches!(outcome.became, Became::Refused { .. }));
    Ok((is_done, of_audit(&outcomes)))
}

async fn drop_letters(desk: &Desk, selection: Selection, json: bool) -> anyhow::Result<((), Value)> {
    let outcomes = desk.drop_letters(selection.clone()).await?;
    tell(desk, &selection, &outcomes, json).await?;
    Ok(((), of_audit(&outcomes)))
}

/// What the audit trail is told: which letters, and what became of them.
fn of_audit(outcomes: &[Outcome]) -> Value {
    let told = outcomes.iter().take(MOST_TOLD).map(|outcome| {
        let Outcome { id, topic, partition, offset, became } = outcome;
        json!({"id": id.to_string(), "topic": topic, "partition": partition, "offset": offset, "became": name_of(became)})
    });
    json!({"count": outcomes.len(), "letters": told.collect::<Vec<_>>()})
}

fn no_letter(id: LetterId) -> anyhow::Error {
    anyhow::anyhow!(
        "there is no dead letter {id}: retention may have removed it. To do: see `sooner dead-letters list` and `show`"
    )
}

/// Asks whether letters are to be dropped, on a terminal.
async fn is_sure(desk: &Desk, selection: &Selection) -> anyhow::Result<bool> {
    let listed = desk.list(selection.clone(), 0).await?;
    if listed.open == 0 {
        return Ok(true);
    }
    anyhow::ensure!(
        std::io::stdin().is_terminal(),
        "{} dead letter(s) would be dropped, and nobody is there to ask. To do: add --yes",
        listed.open
    );
    print(&format!("{}drop {} letter(s)? [y/N] ", list_text(&listed), listed.open));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Prints what became of letters. One that there is not is an error; one that is no longer open is none.
async fn tell(desk: &Desk, selection: &Selection, outcomes: &[Outcome], json: bool) -> anyhow::Result<()> {
    let mut mark = None;
    if let (Selection::One(id), true) = (selection, outcomes.is_empty()) {
        mark = desk.find(*id).await?.ok_or_else(|| no_letter(*id))?.mark;
    }
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&json!({ "outcomes": outcomes }))?));
        return Ok(());
    }
    let mut text: String = outcomes.iter().map(outcome_line).collect();
    match (mark, text.is_empty()) {
        (Some(mark), _) => text = format!("it was {} before; nothing was done\n", mark.name()),
        (None, true) => text.push_str("there are no such open dead letters; nothing was done\n"),
        (None, false) => {}
    }
    print(&text);
    Ok(())
}

fn outcome_line(outcome: &Outcome) -> String {
    let Outcome { id, topic, partition, offset, became } = outcome;
    let place = format!("{id} ({topic}/{partition} offset {offset}): {}", name_of(became));
    match became {
        Became::Superseded { by } => format!("{place}: offset {by} has a newer message of its key\n"),
        Became::Refused { why, remedy } => format!("{place}: {why}. To do: {remedy}\n"),
        Became::CopyAsked => format!("{place}: its row will be there when the copy that was asked for is\n"),
        Became::Replayed | Became::Dropped => format!("{place}\n"),
    }
}

fn list_text(listed: &Listed) -> String {
    let topic = listed.topic.as_deref().unwrap_or_default();
    let mut text = format!("{} open letter(s) on {topic}\n", listed.open);
    if listed.groups.is_empty() {
        return text;
    }
    let width = listed.groups.iter().map(|listed| listed.group.topic.len()).max().unwrap_or_default().max(5);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:width$}  {:24}  {:>7}  {:20}  {:20}  last letter",
        "topic", "error", "letters", "first", "last"
    );
    for listed in &listed.groups {
        let group = &listed.group;
        let (first, last) = (time(group.first_micros), time(group.last_micros));
        let _ = writeln!(
            text,
            "{:width$}  {:24}  {:7}  {first:20}  {last:20}  {}",
            group.topic, group.code, group.count, group.last
        );
    }
    text
}

fn time(micros: Option<i64>) -> String {
    let Some(micros) = micros.and_then(|micros| u64::try_from(micros).ok()) else { return "?".to_owned() };
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_micros(micros)).to_string()
}

fn letter_text(shown: &Shown) -> String {
    let letter = &shown.letter;
    let state = letter.mark.map_or("open", |mark| mark.name());
    let mut text = format!(
        "{}  {state}  {}\n  from   {}/{} offset {}\n  error  {} ({})\n  to do  {}\n",
        letter.id,
        time(letter.written_micros),
        letter.topic,
        letter.partition,
        letter.offset,
        shown.error,
        letter.code,
        shown.remedy
    );
    for (name, value) in &shown.headers {
        let _ = writeln!(text, "  header {name}: {value}");
    }
    for (what, decoded) in [("key  ", &shown.key), ("value", &shown.value)] {
        text.push_str(&decoded.as_ref().map_or(format!("  {what}  none\n"), |decoded| decoded_text(what, decoded)));
    }
    text
}

fn decoded_text(what: &str, decoded: &Decoded) -> String {
    let schema = match (&decoded.schema, decoded.schema_id) {
        (Some(name), Some(id)) => format!(" of schema {id} ({name})"),
        (None, Some(id)) => format!(" of schema {id}"),
        _ => String::new(),
    };
    let mut text = format!("  {what}  {} bytes{schema}\n", decoded.bytes);
    let parts = [
        decoded.json.as_ref().map(ToString::to_string),
        decoded.trouble.as_ref().map(|why| format!("not decoded to its end: {why}")),
        decoded.hex.as_ref().map(|hex| format!("hex: {hex}")),
        decoded.text.as_ref().map(|text| format!("text: {text}")),
    ];
    for part in parts.into_iter().flatten() {
        let _ = writeln!(text, "         {part}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_told_with_their_reason_and_remedy() {
        let outcome = |became| Outcome {
            id: LetterId { partition: 0, offset: 3 },
            topic: "shop.public.t".into(),
            partition: 1,
            offset: 9,
            became,
        };
        let refused = Became::Refused { why: "it cannot be read".to_owned(), remedy: "register it".to_owned() };
        let line = outcome_line(&outcome(refused));
        assert_eq!(line, "0/3 (shop.public.t/1 offset 9): left open: it cannot be read. To do: register it\n");
        let line = outcome_line(&outcome(Became::Superseded { by: 12 }));
        assert!(line.contains("superseded: offset 12"), "{line}");
        let told = serde_json::to_value(outcome(Became::CopyAsked)).unwrap();
        assert_eq!((told["outcome"].as_str(), told["id"].as_str()), (Some("copy_asked"), Some("0/3")));
    }

    #[test]
    fn what_is_not_decoded_is_shown_as_it_is() {
        let decoded = Decoded {
            bytes: 3,
            trouble: Some("no header".to_owned()),
            hex: Some("414243".to_owned()),
            text: Some("ABC".to_owned()),
            ..Decoded::default()
        };
        let text = decoded_text("value", &decoded);
        for expected in ["3 bytes", "no header", "414243", "ABC"] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
