//! Some rows of a table as they are at an exact position of the log, however often they change: they are read under the
//! snapshot of a temporary slot, which stands at a position, and followed by the slot's stream from there.
//!
//! <https://www.postgresql.org/docs/current/protocol-replication.html#PROTOCOL-REPLICATION-CREATE-REPLICATION-SLOT>

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use sooner_api::{Code, Error, Result};
use sooner_schemas::Lsn;
use sooner_schemas::encode::{RowChange, TupleValue};
use sooner_schemas::event::Op;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::chunk::CopiedTable;
use crate::chunk_statement::{Conditions, select};
use crate::client::{Client, Mode, frame_length, quote_name, quote_text};
use crate::copy_text::CopyRow;
use crate::errors::{ServerError, protocol, unholdable};
use crate::feedback::{FeedbackState, send_feedback};
use crate::incoming::lost;
use crate::options::ConnectOptions;
use crate::pgoutput::{self, Message, OldRow, RelationShape};
use crate::publication::Selection;
use crate::row::text;
use crate::schedule::{KeyTexts, Part};
use crate::tracked::key_texts;

/// Texts of a row's values; none for NULL.
type Texts = Vec<Option<Box<[u8]>>>;

/// Rows of one table that are followed.
pub struct FollowedRows<'a> {
    copied: &'a CopiedTable,
    keys: BTreeSet<KeyTexts>,
    /// Rows of those keys, and rows that had one of them and have another key now: they may come back.
    rows: HashMap<KeyTexts, Texts>,
    origins: BTreeSet<KeyTexts>,
}

/// A temporary slot, whose stream has not begun. It is gone with its connection.
pub struct FollowingSlot {
    holder: Client,
    name: String,
    snapshot: String,
}

impl FollowingSlot {
    /// Creates a slot of this name, which Postgres does once the transactions that write have ended; waits for so long
    /// at most.
    pub async fn create(options: &ConnectOptions, name: String, patience: Duration) -> Result<FollowingSlot> {
        let mut holder = Client::connect(options, Mode::Replication).await?;
        let command =
            format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT", quote_name(&name));
        // The server itself gives up: who waits for a lock does not notice that nobody waits for it any more.
        holder.query(&format!("SET lock_timeout = {}", patience.as_millis().max(1))).await?;
        let rows = holder.query(&command).await.map_err(|error| {
            // SQLSTATE 55P03: lock_not_available.
            if !error.why.contains("SQLSTATE 55P03") {
                return error;
            }
            Error::retry(
                Code::TableLocked,
                "cannot follow rows that change all the time",
                "a temporary slot is only created once all transactions that write have ended, and one runs on",
                "try again when it has ended (`SELECT * FROM pg_stat_activity ORDER BY xact_start`)",
            )
        })?;
        let row = rows.first().cloned().unwrap_or_default();
        let snapshot = text(&row, 2)?.to_owned();
        Ok(FollowingSlot { holder, name, snapshot })
    }
}

impl<'a> FollowedRows<'a> {
    /// Reads the rows of these keys, as they are at the slot's position. What is not read is not there.
    pub async fn read(
        options: &ConnectOptions,
        slot: &mut FollowingSlot,
        copied: &'a CopiedTable,
        keys: Vec<KeyTexts>,
    ) -> Result<FollowedRows<'a>> {
        let mut client = Client::connect(options, Mode::Sql).await?;
        client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        client.query(&format!("SET TRANSACTION SNAPSHOT {}", quote_text(&slot.snapshot))).await?;
        client.query("SET LOCAL row_security = off").await?;
        let selection = Selection::load(&mut client, copied.table.facts.publication.as_ref()).await?;
        let selection = selection.ok_or_else(|| altered(copied))?;
        let conditions = Conditions { published: selection.filter.as_deref(), asked: None };
        let rows = HashMap::with_capacity(keys.len());
        let mut followed =
            FollowedRows { copied, keys: keys.iter().cloned().collect(), rows, origins: BTreeSet::new() };
        client.copy_out(&select(&copied.table, conditions, &Part::Keys(keys), None, &[])).await?;
        let mut row = CopyRow::default();
        while let Some(line) = client.copy_data().await? {
            row.parse(&line);
            followed.put(&row.values(), None);
        }
        client.query("COMMIT").await?;
        // Any command gives the snapshot up, which would keep old rows from being vacuumed.
        slot.holder.query("IDENTIFY_SYSTEM").await?;
        Ok(followed)
    }

    /// Follows them until they are as every transaction up to this commit has left them, and none after it.
    pub async fn follow_to(
        &mut self,
        slot: FollowingSlot,
        publication: &str,
        commit_lsn: Lsn,
        patience: Duration,
    ) -> Result<()> {
        let command = format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})",
            quote_name(&slot.name),
            Lsn::ZERO,
            quote_text(&quote_name(publication)),
        );
        let (stream, mut buffer) = slot.holder.start_replication(&command).await?;
        let (mut reader, writer) = tokio::io::split(stream);
        let feedback = tokio::spawn(send_feedback(writer, Arc::new(FeedbackState::default())));
        let followed = tokio::time::timeout(patience, self.follow(&mut reader, &mut buffer, commit_lsn)).await;
        feedback.abort();
        followed.unwrap_or_else(|_| Err(lost(&io::Error::from(io::ErrorKind::TimedOut))))
    }

    async fn follow<S: AsyncRead + Unpin>(&mut self, reader: &mut S, buffer: &mut BytesMut, end: Lsn) -> Result<()> {
        loop {
            while let Some(length) = frame_length(buffer).map_err(|error| lost(&error))? {
                let frame = buffer.split_to(length);
                match frame[0] {
                    b'd' if self.take(&frame[5..], end)? => return Ok(()),
                    b'E' => return Err(ServerError::parse(&frame[5..]).into_error("Postgres ended the stream")),
                    _ => {}
                }
            }
            if reader.read_buf(buffer).await.map_err(|error| lost(&error))? == 0 {
                return Err(lost(&io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
        }
    }

    /// Takes a message of the stream; true if all up to the end has been taken.
    fn take(&mut self, payload: &[u8], end: Lsn) -> Result<bool> {
        match payload.first() {
            Some(b'w') => {
                let message = pgoutput::parse(payload.get(25..).unwrap_or_default());
                self.apply(message.map_err(|error| protocol("cannot understand a message of pgoutput", error.0))?, end)
            }
            // The server has sent whatever ends before here.
            Some(b'k') => {
                let sent = payload.get(1..9).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
                Ok(sent.is_some_and(|sent| Lsn(sent) > end))
            }
            _ => Ok(false),
        }
    }

    fn apply(&mut self, message: Message<'_>, end: Lsn) -> Result<bool> {
        let table = self.copied.table.relation.oid;
        match message {
            Message::Begin { commit_lsn, .. } => return Ok(commit_lsn > end),
            Message::Relation(shape) if shape.oid == table => self.check_shape(&shape)?,
            Message::Insert { oid, new } if oid == table => self.put(&new, None),
            Message::Update { oid, old, mut new } if oid == table => {
                let before = old.as_ref().and_then(|old| self.key_of(tuple(old)));
                let before = before.or_else(|| self.key_of(&new));
                let known = before.as_ref().and_then(|key| self.rows.remove(key)).unwrap_or_default();
                if let Some(OldRow::Whole(old)) = &old {
                    fill(&mut new, |index| old.get(index).copied());
                }
                fill(&mut new, |index| known.get(index).map(as_value));
                match (before, known.is_empty()) {
                    (before, true) => self.put(&new, before),
                    (_, false) => self.keep(&new),
                }
            }
            Message::Delete { oid, old } if oid == table => {
                self.key_of(tuple(&old)).and_then(|key| self.rows.remove(&key));
            }
            Message::Truncate { oids } if oids.contains(&table) => self.rows.clear(),
            _ => {}
        }
        Ok(false)
    }

    /// Takes in a row, if it is followed; it had the key `before` until now.
    fn put(&mut self, values: &[TupleValue<'_>], before: Option<KeyTexts>) {
        let Some(key) = self.key_of(values).filter(|key| self.keys.contains(key)) else { return };
        if values.contains(&TupleValue::Unavailable) {
            // The key that it had was not followed.
            self.origins.extend(before);
            self.keys.remove(&key);
            return;
        }
        self.keep(values);
    }

    /// Takes in a row that was followed until now, whatever its key is.
    fn keep(&mut self, values: &[TupleValue<'_>]) {
        let Some(key) = self.key_of(values) else { return };
        let texts = values.iter().map(|value| match value {
            TupleValue::Text(text) => Some((*text).into()),
            TupleValue::Null | TupleValue::Unavailable => None,
        });
        self.rows.insert(key, texts.collect());
    }

    fn key_of(&self, values: &[TupleValue<'_>]) -> Option<KeyTexts> {
        key_texts(&self.copied.table.relation, values)
    }

    /// Keys whose rows are known: as [`FollowedRows::messages`] says, or not there.
    pub fn keys(&self) -> &BTreeSet<KeyTexts> {
        &self.keys
    }

    /// Keys from which rows came to keys that were followed, with values that are not known therefore: who follows
    /// these as well next time knows them.
    pub fn origins(&self) -> &BTreeSet<KeyTexts> {
        &self.origins
    }

    fn check_shape(&self, shape: &RelationShape) -> Result<()> {
        let known = self.copied.table.relation.columns.iter().map(|column| &column.name);
        if known.eq(shape.columns.iter().map(|column| &column.name)) { Ok(()) } else { Err(altered(self.copied)) }
    }

    /// The value messages of the rows that are there, each apart.
    pub fn messages(&self) -> Result<Vec<Vec<u8>>> {
        let CopiedTable { table, encoder, .. } = self.copied;
        let message = |texts: &Texts| {
            let values: Vec<_> = texts.iter().map(as_value).collect();
            let mut bytes = Vec::new();
            let images = encoder.images().write(&mut bytes, Op::Read, RowChange::New(&values)).map_err(|error| {
                let key = encoder.describe_key(&table.relation, &values);
                unholdable("cannot compare", &table.relation.name, &key, &error)
            })?;
            Ok(bytes[images.value].to_vec())
        };
        let known = self.rows.iter().filter(|(key, _)| self.keys.contains(*key));
        known.map(|(_, texts)| message(texts)).collect()
    }
}

fn tuple<'a, 'b>(old: &'b OldRow<'a>) -> &'b [TupleValue<'a>] {
    match old {
        OldRow::Key(values) | OldRow::Whole(values) => values,
    }
}

fn as_value(text: &Option<Box<[u8]>>) -> TupleValue<'_> {
    text.as_ref().map_or(TupleValue::Null, |text| TupleValue::Text(text))
}

/// Fills values that Postgres left out, because the change did not touch them.
fn fill<'a>(values: &mut [TupleValue<'a>], known: impl Fn(usize) -> Option<TupleValue<'a>>) {
    for (index, value) in values.iter_mut().enumerate() {
        if *value == TupleValue::Unavailable {
            *value = known(index).unwrap_or(TupleValue::Unavailable);
        }
    }
}

fn altered(copied: &CopiedTable) -> Error {
    Error::retry(
        Code::TableAlteredDuringCopy,
        format!("cannot follow rows of {}", copied.table.name()),
        "the table was altered meanwhile",
        "nothing; try again",
    )
}
