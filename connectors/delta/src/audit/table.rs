//! The audit trail's table: appended to by several processes at once, read by anybody.
//!
//! Each append is one Parquet file and one entry of the log, put only if nobody has put that version before; whoever
//! was slower reads the new end of the chain, and chains its entries again. Every few commits a checkpoint follows, and
//! entries of very many small files are moved into one. No file is ever deleted, and the log is kept for ever.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use sooner_api::{Class, Code, Error, Result, failpoint};
use uuid::Uuid;

use super::chain::{AuditEntry, ChainedEntry, Head, NO_HASH, chained};
use super::columns::{columns, entries_of, rows_of};
use super::keys::SigningKey;
use crate::clock::now_millis;
use crate::log::actions::{line, metadata, txn};
use crate::log::commit::Commit;
use crate::log::committer::{Committer, MAX_CONFLICTS, Outcome, contended};
use crate::log::live_files::LiveFile;
use crate::log::replay::replay;
use crate::log::retention::Retention;
use crate::log::table_version::TableVersion;
use crate::log::transaction::Plan;
use crate::maintenance::checkpoint::write_checkpoint;
use crate::rows::columns::arrow_schema;
use crate::rows::data_file::{DataFileWriter, new_path};
use crate::rows::fitting::{fitted, unfit};
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::lake_store::LakeStore;
use crate::store::location::TableLocation;
use crate::store::operations::{discard, put};

/// What the table is called in messages.
const NAME: &str = "of the audit trail";
/// Commits from one checkpoint to the next.
const CHECKPOINT_COMMITS: u64 = 10;
/// Entries are moved out of so many small files.
const MANY_FILES: usize = 100;
/// Small files that are moved at a time, at most.
const MOST_FILES: usize = 500;
/// Bytes of a file that is not small.
const SMALL_FILE: u64 = 256 << 10;
/// Nothing is deleted with a checkpoint, nor is the log shortened.
const KEEPS_ALL: Retention = Retention { deleted_files: Duration::MAX, log: None };

/// The audit trail of a pipeline.
#[derive(Clone, Debug)]
pub struct AuditTable {
    location: TableLocation,
    pipeline: String,
    key: Option<SigningKey>,
}

/// How far a journal is recorded once entries are appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalPosition {
    /// Which journal.
    pub journal: String,
    /// Up to where the trail must have it before; none if it knows nothing of the journal.
    pub from: Option<u64>,
    /// Up to where it has it then.
    pub to: u64,
}

/// What became of entries that were to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// They are the end of the chain.
    At(Head),
    /// The trail has another part of the journal already; nothing was appended.
    Overtaken,
}

impl AuditTable {
    /// The audit trail of a pipeline in a lake, whether it exists or not. What is appended is signed, if there is a
    /// key.
    pub fn new(store: &LakeStore, pipeline: &str, key: Option<SigningKey>) -> AuditTable {
        let parts = ["_sooner", pipeline, "audit"];
        let folder = parts.into_iter().fold(store.prefix().clone(), |folder, part| folder.join(part));
        let location = TableLocation::new(store.root(), folder, store.folder_url(&parts));
        AuditTable { location, pipeline: pipeline.to_owned(), key }
    }

    /// Where it lies: a URL.
    pub fn url(&self) -> &str {
        self.location.url.as_str()
    }

    /// Appends entries, and returns once they are durable. With a journal's position, the trail has its part of the
    /// journal either with all of them or not at all, however often this is repeated. After an error without one, they
    /// may have been appended.
    pub async fn append(&self, entries: &[AuditEntry], position: Option<&JournalPosition>) -> Result<Appended> {
        for _ in 0..MAX_CONFLICTS {
            let base = self.version(position.map(|position| position.journal.as_str())).await?;
            if base.exists() && !base.is_made_by(&self.pipeline) {
                return Err(self.foreign());
            }
            if position.is_some_and(|position| self.recorded(&base, &position.journal) != position.from) {
                return Ok(Appended::Overtaken);
            }
            let (next, previous) = self.end(&base).await?;
            let chain = chained(&self.pipeline, entries.to_vec(), next, previous, self.key.as_ref());
            let Some(last) = chain.last() else { return Ok(Appended::Overtaken) };
            let head = Head { sequence: last.sequence, hash: last.hash.clone() };
            let file = self.write(&chain).await?;
            let (id, path) = (Uuid::new_v4(), file.path.clone());
            let plan = self.plan(id, &base, file, head.sequence, position);
            let committed = Committer::new(&self.location, NAME).commit(base.next_number(), id, &plan).await?;
            match committed {
                Outcome::Committed => {
                    failpoint("audit_appended");
                    self.look_after(base.next_number()).await;
                    return Ok(Appended::At(head));
                }
                Outcome::Conflict(_) => discard(self.location.store(), &path).await,
                Outcome::Unknown(error) => return Err(error),
            }
        }
        Err(contended(NAME))
    }

    /// Up to where the trail has a journal; none if it knows nothing of it.
    pub async fn position(&self, journal: &str) -> Result<Option<u64>> {
        Ok(self.recorded(&self.version(Some(journal)).await?, journal))
    }

    /// The end of the chain; none if nothing was recorded.
    pub async fn head(&self) -> Result<Option<Head>> {
        self.last(&self.version(None).await?).await
    }

    /// Hands all entries to `each`, in no certain order; false if there is no trail.
    pub async fn scan(&self, mut each: impl FnMut(ChainedEntry)) -> Result<bool> {
        let version = self.version(None).await?;
        for (_, file) in version.files().iter() {
            self.read(file, &mut each).await.map_err(|error| self.unreadable(error))?;
        }
        Ok(version.exists())
    }

    async fn version(&self, journal: Option<&str>) -> Result<TableVersion> {
        let names = [Some(self.sequence_name()), journal.map(|journal| self.journal_name(journal))];
        let names: Vec<_> = names.iter().flatten().map(String::as_str).collect();
        replay(&self.location, &names).await.map_err(|error| self.unreadable(error))
    }

    /// Name of the `txn` action that has the last entry's number.
    fn sequence_name(&self) -> String {
        format!("sooner/{}/audit", self.pipeline)
    }

    /// Name of the `txn` action that says how far a journal is recorded.
    fn journal_name(&self, journal: &str) -> String {
        format!("sooner/{}/audit/{journal}", self.pipeline)
    }

    fn recorded(&self, version: &TableVersion, journal: &str) -> Option<u64> {
        version.txns().get(&self.journal_name(journal)).map(|position| position.cast_unsigned())
    }

    /// The number that comes next, and the hash that it contains. Numbers of entries that somebody has removed from the
    /// end are not given again, so that they are missed.
    async fn end(&self, base: &TableVersion) -> Result<(i64, String)> {
        let head = self.last(base).await?.unwrap_or(Head { sequence: 0, hash: NO_HASH.to_owned() });
        let given = base.txns().get(&self.sequence_name()).copied().unwrap_or_default();
        Ok((head.sequence.max(given) + 1, head.hash))
    }

    /// The last entry of a version.
    async fn last(&self, version: &TableVersion) -> Result<Option<Head>> {
        let last = self.newest_of(version, 1, &|_| true).await?.into_iter().next();
        Ok(last.map(|last| Head { sequence: last.sequence, hash: last.hash }))
    }

    /// The last entries, the newest first.
    pub async fn newest(&self, count: usize) -> Result<Vec<ChainedEntry>> {
        self.newest_of(&self.version(None).await?, count, &|_| true).await
    }

    /// The last entries that are wanted, the newest first; none if there is no trail. Files are read until there are so
    /// many.
    pub async fn newest_that(
        &self,
        count: usize,
        is_wanted: &(dyn Fn(&ChainedEntry) -> bool + Sync),
    ) -> Result<Vec<ChainedEntry>> {
        self.newest_of(&self.version(None).await?, count, is_wanted).await
    }

    /// The last entries of a version, read from the files that can have them: by the largest number that each has.
    async fn newest_of(
        &self,
        version: &TableVersion,
        count: usize,
        is_wanted: &(dyn Fn(&ChainedEntry) -> bool + Sync),
    ) -> Result<Vec<ChainedEntry>> {
        let most = |file: &LiveFile| {
            let stats = file.add.get("stats").and_then(Value::as_str)?;
            serde_json::from_str::<Value>(stats).ok()?.pointer("/maxValues/sequence")?.as_i64()
        };
        // A file that does not say so comes first.
        let mut files: Vec<_> = version.files().iter().map(|(_, file)| (most(file), file)).collect();
        files.sort_by_key(|(most, _)| Reverse(most.unwrap_or(i64::MAX)));
        let mut newest: Vec<ChainedEntry> = Vec::new();
        for (most, file) in files {
            let needed = newest.get(count.saturating_sub(1)).map(|entry| entry.sequence);
            if needed.zip(most).is_some_and(|(needed, most)| most < needed) {
                break;
            }
            self.read(file, &mut |entry| newest.extend(Some(entry).filter(is_wanted)))
                .await
                .map_err(|error| self.unreadable(error))?;
            newest.sort_by_key(|entry| Reverse(entry.sequence));
            newest.truncate(count);
        }
        Ok(newest)
    }

    /// Hands the live entries of a file to `each`.
    async fn read(&self, file: &LiveFile, each: &mut impl FnMut(ChainedEntry)) -> Result<()> {
        let stored = StoredFile::open(&self.location.table, &file.path, file.size, true).await?;
        let rows = u32::try_from(stored.rows()).unwrap_or(u32::MAX);
        let live: Vec<u32> = (0..rows).filter(|row| !file.deleted.contains(*row)).collect();
        let (columns, schema) = (columns(), arrow_schema(&columns()));
        let mut batches = stored.batches(None, (live.len() < rows as usize).then_some(&live), READ_ROWS)?;
        while let Some(batch) = batches.next().await {
            let rows = fitted(&batch?, &columns, &schema).map_err(|error| unfit(&file.path, error))?;
            entries_of(&rows).into_iter().for_each(&mut *each);
        }
        Ok(())
    }

    async fn write(&self, chain: &[ChainedEntry]) -> Result<LiveFile> {
        let rows = rows_of(chain).map_err(|error| Error::internal("cannot write the audit trail", error))?;
        let mut writer = DataFileWriter::for_rows_like(&rows)?;
        writer.write(&rows)?;
        let (written, path) = (writer.finish()?, new_path());
        let size = written.bytes.len() as u64;
        put(self.location.store(), &path, written.bytes).await?;
        let file = LiveFile::written(path, size, chain.len() as u64, now_millis());
        Ok(file.with_statistics(&written.statistics))
    }

    /// The commit that appends a file.
    fn plan(
        &self,
        id: Uuid,
        base: &TableVersion,
        file: LiveFile,
        sequence: i64,
        position: Option<&JournalPosition>,
    ) -> Plan {
        let (now, mut text) = (now_millis(), String::new());
        line(&mut text, "commitInfo", commit_info(now, id, "WRITE", json!({"mode": "Append"})));
        if !base.exists() {
            // No feature that a reader would have to know.
            line(&mut text, "protocol", json!({"minReaderVersion": 1, "minWriterVersion": 2}));
            line(&mut text, "metaData", self.metadata(now));
        }
        line(&mut text, "txn", txn(&self.sequence_name(), sequence.cast_unsigned(), now));
        if let Some(position) = position {
            line(&mut text, "txn", txn(&self.journal_name(&position.journal), position.to, now));
        }
        line(&mut text, "add", file.add_action(None, true));
        planned(id, text, file.rows.unwrap_or_default())
    }

    /// Readers only take longer without checkpoints, and with very many files, so that a failure is logged.
    async fn look_after(&self, version: u64) {
        if !version.is_multiple_of(CHECKPOINT_COMMITS) || version == 0 {
            return;
        }
        let url = &self.location.url;
        let compacted = self.compact().await.unwrap_or_else(|error| {
            tracing::warn!(%url, version, %error, "cannot move entries of the audit trail into fewer files");
            None
        });
        if let Err(error) = write_checkpoint(&self.location, compacted.unwrap_or(version), &KEEPS_ALL).await {
            tracing::warn!(%url, version, %error, "cannot write a checkpoint of the audit trail");
        }
    }

    /// Moves the entries of small files, if there are many, into one file, and changes nothing of them; the files stay.
    /// Returns the version that was made; none if there is nothing to do, or if somebody appends at the same time.
    async fn compact(&self) -> Result<Option<u64>> {
        let base = self.version(None).await?;
        let is_small = |file: &&LiveFile| file.size < SMALL_FILE && file.deleted.is_empty();
        let small: Vec<_> = base.files().iter().map(|(_, file)| file).filter(is_small).take(MOST_FILES).collect();
        if small.len() < MANY_FILES {
            return Ok(None);
        }
        let mut entries = Vec::new();
        for file in &small {
            self.read(file, &mut |entry| entries.push(entry)).await?;
        }
        entries.sort_by_key(|entry: &ChainedEntry| entry.sequence);
        let file = self.write(&entries).await?;
        let (id, now, path, mut text) = (Uuid::new_v4(), now_millis(), file.path.clone(), String::new());
        line(&mut text, "commitInfo", commit_info(now, id, "OPTIMIZE", json!({})));
        for moved in &small {
            line(&mut text, "remove", moved.remove_action(now, false));
        }
        line(&mut text, "add", file.add_action(None, false));
        let plan = planned(id, text, 0);
        match Committer::new(&self.location, NAME).commit(base.next_number(), id, &plan).await? {
            Outcome::Committed => Ok(Some(base.next_number())),
            Outcome::Conflict(_) => {
                discard(self.location.store(), &path).await;
                Ok(None)
            }
            Outcome::Unknown(error) => Err(error),
        }
    }

    fn metadata(&self, now: i64) -> Value {
        let mut made = metadata(&self.pipeline, &columns(), now);
        made["name"] = json!("audit");
        made["description"] = json!("Audit trail of the pipeline; each entry contains the hash of the one before");
        if let Some(properties) = made["configuration"].as_object_mut() {
            properties.remove("delta.enableDeletionVectors");
            properties.insert("delta.appendOnly".to_owned(), json!("true"));
            properties.insert("delta.enableExpiredLogCleanup".to_owned(), json!("false"));
        }
        made
    }

    fn foreign(&self) -> Error {
        Error::operator(
            Code::TableForeign,
            "cannot write the audit trail",
            format!("the table {} was not made by the pipeline '{}'", self.location.url, self.pipeline),
            "move it away, or find out who made it",
        )
    }

    /// The same error, with what to do about a table that nobody can copy again.
    fn unreadable(&self, error: Error) -> Error {
        if error.class == Class::Retry {
            return error;
        }
        Error::operator(
            error.code,
            format!("cannot read the audit trail at {}", self.location.url),
            format!("{}: {}", error.what, error.why),
            "find out who changed its files, and restore them from a former version or a backup",
        )
    }
}

fn commit_info(now: i64, id: Uuid, operation: &str, parameters: Value) -> Value {
    json!({
        "timestamp": now,
        "operation": operation,
        "operationParameters": parameters,
        "isBlindAppend": false,
        "engineInfo": concat!("sooner/", env!("CARGO_PKG_VERSION")),
        "txnId": id,
    })
}

fn planned(id: Uuid, text: String, rows_written: u64) -> Plan {
    // Nobody goes on from this version in memory: the log is read before each append.
    let commit = Commit { id: Some(id), txns: HashMap::new(), ..Commit::default() };
    Plan { commit, text: Bytes::from(text), vectors: None, rows_written, rows_removed: 0 }
}
