//! What an entry of a table's log tells of the events that it holds.

use serde_json::{Map, Value};
use sooner_schemas::Lsn;

/// What a commit tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It moves rows, or changes columns, or tells nothing: the rows are those of the version before it.
    Nothing,
    /// It holds events, as far as it says which: an older program did not.
    Events { first: Option<Lsn>, last: Lsn, has_copied: bool },
    /// It holds no events.
    NoEvents,
    /// It replaces all rows by a copy that is complete to its watermark.
    Copy,
    /// Rows were changed, and it does not say by what.
    Unknown,
}

/// One entry of a table's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The version that it makes.
    pub version: u64,
    /// What it tells of itself.
    pub told: Told,
    /// It only erases rows, because somebody asked for that.
    pub erases: bool,
    /// Up to where it is complete, and the commit time of that, in microseconds since 1970.
    pub watermark: Option<(Lsn, i64)>,
    /// When it was written, by the writer's clock, in microseconds since 1970.
    pub written_micros: i64,
}

impl Entry {
    /// Reads an entry of a version.
    pub fn parse(version: u64, text: &[u8]) -> serde_json::Result<Entry> {
        let (mut info, mut changes) = (Value::Null, false);
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            let action: Map<String, Value> = serde_json::from_slice(line)?;
            for (kind, body) in action {
                match kind.as_str() {
                    "commitInfo" => info = body,
                    "add" | "remove" => changes |= body.get("dataChange").and_then(Value::as_bool) != Some(false),
                    _ => {}
                }
            }
        }
        let written_micros = info["timestamp"].as_i64().unwrap_or_default().saturating_mul(1000);
        let sooner = &info["sooner"];
        let lsn = |value: &Value| value.as_str().and_then(|text| text.parse::<Lsn>().ok());
        let watermark = lsn(&sooner["watermark"]).zip(sooner["commitMicros"].as_i64());
        let told = match watermark {
            None if changes => Told::Unknown,
            None => Told::Nothing,
            Some(_) if info["operation"] == "REPLACE TABLE AS SELECT" => Told::Copy,
            Some((complete, _)) => match sooner.get("events") {
                None => Told::Events { first: None, last: complete, has_copied: false },
                Some(events) => match lsn(&events["first"]).zip(lsn(&events["last"])) {
                    None => Told::NoEvents,
                    Some((first, last)) => {
                        Told::Events { first: Some(first), last, has_copied: sooner["copied"] == true }
                    }
                },
            },
        };
        let erases = sooner["erasure"] == true;
        Ok(Entry { version, told, erases, watermark, written_micros })
    }

    /// Position of its last event.
    pub fn last(&self) -> Option<Lsn> {
        match self.told {
            Told::Events { last, .. } => Some(last),
            Told::Copy => self.watermark.map(|(lsn, _)| lsn),
            _ => None,
        }
    }
}
