//! Records what a running process writes to its journal, beside the stream: in parts, each once, since the trail keeps
//! the journal's position in the same commit. While the lake cannot be reached, entries wait in the journal.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sooner_api::{Clock, Code, Error};
use sooner_delta::audit::chain::{AuditEntry, canonical};
use sooner_delta::audit::table::{Appended, AuditTable, JournalPosition};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::tail::{Part, Tail};
use super::{actor, trail};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::journal::Entry;

/// How often the journal is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// Pause after an error, at most; each is twice as long as the one before.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long the end of a process waits for its last entries. What is not written then, the next process writes.
const LAST_ENTRIES: Duration = Duration::from_secs(5);

/// What the recorder is to do.
#[derive(Clone, Default)]
struct Orders {
    trail: Option<AuditTable>,
    ends: bool,
}

/// Records what a process does, as long as it runs.
pub struct Recorder {
    orders: watch::Sender<Orders>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Starts to record the journal of a state folder, as `side` of the pipeline, once a configuration asks for it.
    pub fn start(state_dir: &Path, side: &'static str) -> Recorder {
        let orders = watch::Sender::new(Orders::default());
        let reading = Reading { tail: Tail::new(state_dir), side, actor: actor::process(), known: None, notice: None };
        let task = tokio::spawn(keep_recording(reading, orders.subscribe()));
        Recorder { orders, task }
    }

    /// From now on the process runs with this configuration.
    pub fn runs(&self, config: &Config) {
        let opened = config.audit.as_ref().map(|_| trail::table_of(config)).transpose();
        match opened {
            Ok(trail) => drop(self.orders.send_replace(Orders { trail, ends: false })),
            Err(error) => tracing::warn!(code = %error.code, %error, "nothing is recorded in the audit trail"),
        }
    }

    /// Records what is left, if that can be done soon, and ends.
    pub async fn finish(self) {
        self.orders.send_modify(|orders| orders.ends = true);
        if tokio::time::timeout(LAST_ENTRIES, self.task).await.is_err() {
            tracing::warn!("the last entries of the audit trail are written by the next process");
        }
    }
}

async fn keep_recording(mut reading: Reading, mut orders: watch::Receiver<Orders>) {
    let (mut pause, mut failing): (_, Option<Code>) = (INTERVAL, None);
    loop {
        let Orders { trail, ends } = orders.borrow_and_update().clone();
        let recorded = match &trail {
            Some(trail) => reading.record(trail).await,
            None => Ok(()),
        };
        match recorded {
            Ok(()) => (pause, failing) = (INTERVAL, None),
            Err(error) => {
                pause = (pause * 2).min(LONGEST_PAUSE);
                if failing != Some(error.code) {
                    tracing::warn!(code = %error.code, %error, "entries of the audit trail wait in the journal");
                }
                failing = Some(error.code);
            }
        }
        if ends {
            return;
        }
        // Another configuration, or the end.
        if let Ok(changed) = tokio::time::timeout(pause, orders.changed()).await {
            reading.known = None;
            if changed.is_err() {
                return;
            }
        }
    }
}

/// The journal, as far as it is recorded.
struct Reading {
    tail: Tail,
    side: &'static str,
    actor: String,
    /// None if the trail has to be asked.
    known: Option<Known>,
    /// What has to be said of the journal itself.
    notice: Option<Value>,
}

/// How far a journal was read and recorded.
#[derive(Clone)]
struct Known {
    journal: String,
    /// Up to where the trail has it.
    recorded: Option<u64>,
    /// Up to where it was read, which is further where lines are no entries.
    read: Option<u64>,
}

impl Reading {
    /// Records all that the journal has.
    async fn record(&mut self, trail: &AuditTable) -> Result<(), Error> {
        loop {
            let known = match self.known.take() {
                Some(known) => known,
                None => {
                    let journal = self.tail.id().map_err(unreadable)?;
                    let recorded = trail.position(&journal).await?;
                    Known { journal, recorded, read: recorded }
                }
            };
            let (tail, read) = (self.tail.clone(), known.read);
            let part = tokio::task::spawn_blocking(move || tail.read(read)).await;
            let part = part.map_err(|error| Error::internal("cannot read the journal", error))?.map_err(unreadable)?;
            if part.is_another {
                self.tail.renew().map_err(unreadable)?;
                let what = "the journal of this state folder was replaced: what is not here of it, is lost";
                self.notice = Some(json!({"what": what, "former_journal": known.journal}));
                continue;
            }
            let to = part.to;
            let entries = self.entries_of(part);
            if entries.is_empty() {
                let is_end = to == known.read.unwrap_or_default();
                self.known = Some(Known { read: Some(to), ..known });
                if is_end {
                    return Ok(());
                }
                continue;
            }
            let position = JournalPosition { journal: known.journal.clone(), from: known.recorded, to };
            if trail.append(&entries, Some(&position)).await? == Appended::Overtaken {
                continue;
            }
            self.notice = None;
            self.known = Some(Known { recorded: Some(to), read: Some(to), ..known });
        }
    }

    fn entries_of(&self, part: Part) -> Vec<AuditEntry> {
        let lost = (part.lost_bytes > 0).then(|| {
            let what = "the journal turned over before it could be recorded: entries between are lost";
            json!({"what": what, "lost_bytes": part.lost_bytes})
        });
        let notices = self.notice.iter().cloned().chain(lost);
        let notices = notices.map(|notice| self.entry(SystemClock.now_micros(), "journal_lost", None, &notice));
        let told = part.entries.iter().filter_map(|entry| self.told(entry));
        notices.chain(told).collect()
    }

    fn told(&self, entry: &Entry) -> Option<AuditEntry> {
        let value = serde_json::to_value(entry).ok()?;
        let kind = value.get("kind")?.as_str()?.to_owned();
        Some(self.entry(entry.at_micros, &kind, entry.table.as_ref().map(ToString::to_string), &value))
    }

    fn entry(&self, at_micros: i64, kind: &str, table: Option<String>, entry: &Value) -> AuditEntry {
        AuditEntry {
            at_micros,
            side: self.side.to_owned(),
            kind: kind.to_owned(),
            table,
            actor: self.actor.clone(),
            entry: canonical(entry),
        }
    }
}

fn unreadable(error: std::io::Error) -> Error {
    let remedy = "see to the disk of state_dir; it is tried again";
    Error::retry(Code::Internal, "cannot read the journal of events", error, remedy)
}
