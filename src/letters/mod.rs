//! The dead letters of a pipeline, for the command line and the API: listed, shown, replayed and dropped.
//!
//! Which letters are open is written on the dead-letter topic itself, so all processes agree on it. If another producer
//! writes the topic that a letter is of, its message is sent there again; if our own source does, its row is copied
//! again, since the database knows what it is by now.

mod copying;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use sooner_api::{Error, Result};
use sooner_kafka::WrittenBy;
use sooner_kafka::cluster::settings::KafkaSettings;
use sooner_kafka::letters::catalogue::{Group, Letter, Selection};
use sooner_kafka::letters::contents::Decoded;
use sooner_kafka::letters::handling::Handling;
use sooner_kafka::letters::outcome::{Became, Outcome};
use sooner_kafka::letters::topic::LetterTopic;
use sooner_kafka::message::letter_headers::{LetterId, Mark};
use sooner_kafka::registry::reader::{RegistryKind, SchemaReader};
use sooner_postgres::ConnectOptions;
use sooner_schemas::TableName;
use sooner_schemas::naming::TopicPattern;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

/// Where letters are asked for and handled. Clones share what has been read.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

/// What a desk needs to know of a configuration.
#[derive(Clone)]
pub struct DeskSettings {
    /// How to reach the brokers, and which topic has the dead letters.
    pub kafka: KafkaSettings,
    /// How to reach the schema registry.
    pub registry: RegistryKind,
    /// Which topic is a table's.
    pub topics: TopicPattern,
    /// Who writes those topics.
    pub written_by: WrittenBy,
    /// The database; none where the source's side of the pipeline does not run with this state folder.
    pub database: Option<ConnectOptions>,
    /// Tables keep their names, so that only the pipeline knows what they are called by now.
    pub keeps_names: bool,
    /// Folder in which the pipeline finds requests.
    pub state_dir: PathBuf,
}

struct Inner {
    settings: DeskSettings,
    /// What has been read, for whoever looks again; none before somebody looks.
    read: Mutex<Option<LetterTopic>>,
}

/// The open letters, in groups.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Listed {
    /// Name of the dead-letter topic; none where there is none.
    pub topic: Option<String>,
    /// Number of open letters.
    pub open: usize,
    /// By source topic and error, those with the most first.
    pub groups: Vec<ListedGroup>,
    /// The last ones, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub letters: Vec<ListedLetter>,
}

/// Open letters of one topic and one kind of error.
#[derive(Clone, Debug, Serialize)]
pub struct ListedGroup {
    /// Table of the topic, if the configuration has one for it.
    pub table: Option<TableName>,
    /// The rest.
    #[serde(flatten)]
    pub group: Group,
}

/// A letter without what is in it.
#[derive(Clone, Debug, Serialize)]
pub struct ListedLetter {
    /// `partition/offset` on the dead-letter topic.
    pub id: LetterId,
    /// Topic that the message was read from.
    pub topic: Arc<str>,
    /// Partition of that topic.
    pub partition: i32,
    /// The message's offset there.
    pub offset: i64,
    /// Table of the topic, if the configuration has one for it.
    pub table: Option<TableName>,
    /// Stable name of the error.
    pub code: Arc<str>,
    /// When the letter was written, in microseconds since 1970.
    pub written_micros: Option<i64>,
    /// What became of it; none while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
}

/// A letter with what is in it.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Which one it is.
    #[serde(flatten)]
    pub letter: ListedLetter,
    /// What failed, and why.
    pub error: String,
    /// What to do.
    pub remedy: String,
    /// Headers of the message, if it is still on its topic.
    pub headers: Vec<(String, String)>,
    /// Its key; none if it has none.
    pub key: Option<Decoded>,
    /// Its value; none if it has none.
    pub value: Option<Decoded>,
}

impl Desk {
    /// A desk; nothing is read yet.
    pub fn new(settings: DeskSettings) -> Desk {
        Desk(Arc::new(Inner { settings, read: Mutex::default() }))
    }

    /// Whether there is a dead-letter topic.
    pub fn has_topic(&self) -> bool {
        self.0.settings.kafka.consumer.dead_letters.is_some()
    }

    /// The open letters that are meant, in groups; and the last ones of them, so many at most.
    pub async fn list(&self, selection: Selection, limit: usize) -> Result<Listed> {
        self.look(move |desk, read, _| {
            let open = read.catalogue.open(&selection);
            let group = |group: Group| ListedGroup { table: desk.settings.topics.table(&group.topic), group };
            Ok(Listed {
                topic: Some(read.name.clone()),
                open: open.len(),
                groups: read.catalogue.groups(&selection).into_iter().map(group).collect(),
                letters: newest_first(open).take(limit).map(|letter| desk.listed(&letter)).collect(),
            })
        })
        .await
    }

    /// A letter, also one that is no longer open; none if there is no such letter.
    pub async fn find(&self, id: LetterId) -> Result<Option<ListedLetter>> {
        self.look(move |desk, read, _| Ok(read.catalogue.find(id).map(|letter| desk.listed(letter)))).await
    }

    /// What is in a letter, also in one that is no longer open; none if there is no such letter.
    pub async fn show(&self, id: LetterId) -> Result<Option<Shown>> {
        self.look(move |desk, read, runtime| match read.catalogue.find(id).cloned() {
            Some(letter) => desk.shown(read, &letter, runtime),
            None => Ok(None),
        })
        .await
    }

    /// What is in the last open letters that are meant, so many at most, the newest first.
    pub async fn show_last(&self, selection: Selection, limit: usize) -> Result<Vec<Shown>> {
        self.look(move |desk, read, runtime| {
            let mut shown = Vec::new();
            for letter in newest_first(read.catalogue.open(&selection)).take(limit) {
                shown.extend(desk.shown(read, &letter, runtime)?);
            }
            Ok(shown)
        })
        .await
    }

    /// Replays the open letters that are meant, each once, and says what became of them.
    pub async fn replay(&self, selection: Selection) -> Result<Vec<Outcome>> {
        self.handle(move |desk, handling, runtime| {
            let letters = handling.open(&selection);
            match desk.settings.written_by {
                WrittenBy::Sooner => copying::copy(desk, handling, letters, runtime),
                WrittenBy::Debezium => {
                    let registry = SchemaReader::new(&desk.settings.registry)?;
                    handling.resend(letters, registry, &desk.settings.topics, runtime.clone())
                }
            }
        })
        .await
    }

    /// Drops the open letters that are meant, and says which those were.
    pub async fn drop_letters(&self, selection: Selection) -> Result<Vec<Outcome>> {
        self.handle(move |_, handling, _| {
            let letters = handling.open(&selection);
            handling.mark(&letters, Mark::Dropped)?;
            Ok(letters.iter().map(|letter| Outcome::new(letter, Became::Dropped)).collect())
        })
        .await
    }

    /// Looks at the topic as it is now.
    async fn look<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner, &LetterTopic, &Handle) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (desk, runtime) = (self.0.clone(), Handle::current());
        let looked = spawn_blocking(move || {
            let mut read = desk.read.lock().unwrap_or_else(PoisonError::into_inner);
            let read = match read.take() {
                Some(known) => read.insert(known),
                None => read.insert(LetterTopic::open(&desk.settings.kafka)?),
            };
            read.refresh()?;
            work(&desk, read, &runtime)
        });
        looked.await.unwrap_or_else(|panic| Err(Error::internal("cannot look at the dead letters", panic)))
    }

    /// Handles letters. Whoever looks meanwhile does not wait for that.
    async fn handle(
        &self,
        work: impl FnOnce(&Inner, &mut Handling<'_>, &Handle) -> Result<Vec<Outcome>> + Send + 'static,
    ) -> Result<Vec<Outcome>> {
        let (desk, runtime) = (self.0.clone(), Handle::current());
        let handled = spawn_blocking(move || {
            let mut topic = LetterTopic::open(&desk.settings.kafka)?;
            let outcomes = work(&desk, &mut Handling::begin(&mut topic)?, &runtime)?;
            for Outcome { id, topic, partition, offset, became } in &outcomes {
                tracing::info!(letter = %id, %topic, partition, offset, became = name_of(became), "a dead letter");
            }
            Ok(outcomes)
        });
        handled.await.unwrap_or_else(|panic| Err(Error::internal("cannot handle the dead letters", panic)))
    }
}

impl Inner {
    fn listed(&self, letter: &Letter) -> ListedLetter {
        let Letter { id, topic, partition, offset, code, written_micros, mark, .. } = letter.clone();
        let table = self.settings.topics.table(&topic);
        ListedLetter { id, topic, partition, offset, table, code, written_micros, mark }
    }

    fn shown(&self, read: &LetterTopic, letter: &Letter, runtime: &Handle) -> Result<Option<Shown>> {
        let Some(loaded) = read.load(letter.id)? else { return Ok(None) };
        let registry = SchemaReader::new(&self.settings.registry)?;
        let decode = |message: &Option<Vec<u8>>| {
            message.as_ref().map(|message| runtime.block_on(Decoded::new(message, &registry)))
        };
        // Only of interest beside the rest: the topic may be gone.
        let headers = read.original_headers(letter, &loaded).ok().flatten();
        let known = Some(loaded.headers.remedy.clone()).filter(|remedy| !remedy.is_empty());
        Ok(Some(Shown {
            letter: self.listed(letter),
            error: loaded.headers.reason.clone(),
            remedy: known.unwrap_or_else(|| "see what is in it, and what writes to its topic".to_owned()),
            headers: headers.as_ref().map(LetterTopic::header_texts).unwrap_or_default(),
            key: decode(&loaded.key),
            value: decode(&loaded.value),
        }))
    }
}

fn newest_first(mut letters: Vec<Letter>) -> impl Iterator<Item = Letter> {
    letters.sort_by_key(|letter| std::cmp::Reverse((letter.written_micros, letter.id)));
    letters.into_iter()
}

/// Name of what became of a letter.
pub fn name_of(became: &Became) -> &'static str {
    match became {
        Became::Replayed => "replayed",
        Became::CopyAsked => "copied again",
        Became::Superseded { .. } => "superseded",
        Became::Dropped => "dropped",
        Became::Refused { .. } => "left open",
    }
}
