//! Committing: one new version of the log, or none. Whatever stands in the way is read from the log and followed.
//!
//! A commit removes and adds files, so that every other writer's conflict check sees it; it is never a plain append,
//! which would be let through beside an OPTIMIZE, and rows would double.

use std::collections::BTreeMap;

use bytes::Bytes;
use roaring::RoaringBitmap;
use serde_json::{Value, json};
use sooner_api::{Class, Code, Committed, Error, Result};
use sooner_schemas::event::Watermark;

use crate::actions::{self, Commit, line, log_path, txn};
use crate::deletion_vector::VectorWriter;
use crate::index::FileId;
use crate::live_files::LiveFile;
use crate::staging::Staging;
use crate::store::{Put, get, put_new};
use crate::table::{DeltaTable, now_millis, store};

/// How often a commit gives way to others before it gives up.
const MAX_CONFLICTS: u32 = 50;
/// How often a put whose outcome is unknown is tried.
const MAX_UNKNOWN: u32 = 6;
/// Commits between two checkpoints.
const CHECKPOINT_COMMITS: u64 = 50;

/// What a commit does to the live files.
struct Plan {
    /// Live files that go.
    removed: Vec<FileId>,
    /// Live files that get a new vector: all of their rows that are gone, and its descriptor.
    vectors: BTreeMap<FileId, (RoaringBitmap, Value)>,
    /// New files, with the vector of those of their rows that are superseded already.
    added: BTreeMap<FileId, LiveFile>,
    rows_removed: u64,
    /// The table's metadata, if it changes.
    metadata: Option<Value>,
}

/// What became of one attempt.
pub(crate) enum Outcome {
    /// It is in the log.
    Committed,
    /// Somebody else has this version.
    Conflict(Box<Commit>),
}

impl DeltaTable {
    /// Makes what is staged visible.
    pub(crate) async fn commit_staged(&mut self, watermark: Watermark) -> Result<Committed> {
        self.seal_pending().await?;
        self.close_part().await?;
        if self.staging.is_empty() {
            return Ok(Committed { table_version: self.version.unwrap_or_default(), ..Committed::default() });
        }
        for _ in 0..MAX_CONFLICTS {
            let version = self.next_version();
            let plan = self.plan().await?;
            let text = self.log_text(&plan, watermark);
            match self.put_version(version, text).await? {
                Outcome::Committed => return Ok(self.apply(version, plan, watermark)),
                Outcome::Conflict(other) => self.follow_all(*other).await?,
            }
        }
        Err(Error::retry(
            Code::CommitContended,
            format!("cannot commit to the lake table {}", self.name),
            format!("other writers were faster {MAX_CONFLICTS} times in a row"),
            "let other writers commit less often; it is tried again",
        ))
    }

    /// Finds the rows that the staged ones supersede, and writes their vectors.
    async fn plan(&self) -> Result<Plan> {
        let staging = &self.staging;
        let mut writer = VectorWriter::new();
        let mut plan = Plan {
            removed: Vec::new(),
            vectors: BTreeMap::new(),
            added: staging.parts.clone(),
            rows_removed: 0,
            metadata: self.next_metadata(),
        };
        for (id, file) in &mut plan.added {
            if let Some(superseded) = staging.superseded.get(id) {
                file.vector = Some(writer.add(superseded));
                file.deleted = superseded.clone();
            }
        }
        plan.added.retain(|_, file| !file.is_emptied_by(&RoaringBitmap::new()));
        if staging.replaces {
            plan.removed = self.files.iter().map(|(id, _)| id).collect();
            let rows = self.files.iter().filter_map(|(_, file)| Some(file.rows?.saturating_sub(file.deleted.len())));
            plan.rows_removed = rows.sum();
        } else {
            for (id, rows) in self.superseded_rows() {
                plan.rows_removed += rows.len();
                self.plan_file(id, rows, &mut plan, &mut writer);
            }
        }
        writer.finish(store(self)).await?;
        Ok(plan)
    }

    /// Live rows whose keys have a new row, or none any more.
    fn superseded_rows(&self) -> BTreeMap<FileId, RoaringBitmap> {
        let mut rows: BTreeMap<FileId, RoaringBitmap> = BTreeMap::new();
        let Some(index) = &self.index else { return rows };
        let moved = self.staging.moved.iter().map(|(key, _)| key);
        for key in moved.chain(self.staging.gone.iter().copied()) {
            if let Some(row) = index.get(key).filter(|row| self.files.holds(*row)) {
                rows.entry(row.file).or_default().insert(row.row);
            }
        }
        rows
    }

    fn plan_file(&self, id: FileId, rows: RoaringBitmap, plan: &mut Plan, writer: &mut VectorWriter) {
        let Some(file) = self.files.get(id) else { return };
        if file.is_emptied_by(&rows) {
            plan.removed.push(id);
            return;
        }
        let deleted = rows | &file.deleted;
        let descriptor = writer.add(&deleted);
        plan.vectors.insert(id, (deleted, descriptor));
    }

    fn log_text(&self, plan: &Plan, watermark: Watermark) -> Bytes {
        let now = now_millis();
        let mut text = String::new();
        line(&mut text, "commitInfo", self.commit_info(plan, watermark, now));
        if self.version.is_none() {
            line(&mut text, "protocol", actions::protocol());
        }
        if let Some(metadata) = &plan.metadata {
            line(&mut text, "metaData", metadata.clone());
        }
        let applied = self.staging.last_lsn.max(self.applied.unwrap_or_default());
        let applied = if self.staging.copying { watermark.commit_lsn } else { applied };
        for (id, version) in self.app_ids.versions(applied, &self.staging.next_offsets, watermark) {
            line(&mut text, "txn", txn(id, version, now));
        }
        for id in plan.removed.iter().chain(plan.vectors.keys()) {
            if let Some(file) = self.files.get(*id) {
                line(&mut text, "remove", file.remove_action(now));
            }
        }
        for (id, (_, descriptor)) in &plan.vectors {
            if let Some(file) = self.files.get(*id) {
                line(&mut text, "add", file.add_action(Some(descriptor)));
            }
        }
        for file in plan.added.values() {
            line(&mut text, "add", file.add_action(file.vector.as_ref()));
        }
        Bytes::from(text)
    }

    fn commit_info(&self, plan: &Plan, watermark: Watermark, now: i64) -> Value {
        let operation = match (self.staging.copying, self.staging.replaces) {
            (true, _) => "REPLACE TABLE AS SELECT",
            (_, true) => "TRUNCATE",
            _ => "MERGE",
        };
        let mut info = json!({
            "timestamp": now,
            "operation": operation,
            "operationParameters": {},
            "operationMetrics": {
                "numTargetRowsInserted": plan.added.values().filter_map(|file| file.rows).sum::<u64>().to_string(),
                "numTargetRowsDeleted": plan.rows_removed.to_string(),
            },
            "isolationLevel": "Serializable",
            "isBlindAppend": false,
            "engineInfo": concat!("sooner/", env!("CARGO_PKG_VERSION")),
            "txnId": self.staging.commit_id,
        });
        if self.app_ids.knows_watermark() {
            info["sooner"] = json!({"watermark": watermark.commit_lsn, "commitMicros": watermark.commit_micros});
        }
        info
    }

    fn next_metadata(&self) -> Option<Value> {
        let columns = self.staging.columns.as_ref()?;
        if self.version.is_none() {
            // A table that is new gets its id here, once for the log and for what follows.
            return Some(actions::metadata(self.app_ids.pipeline(), columns, now_millis()));
        }
        (*columns != self.columns).then(|| actions::with_columns(&self.metadata, columns))
    }

    /// Puts a version. Where the outcome is unknown, the log tells: a commit with our id means success.
    async fn put_version(&self, version: u64, text: Bytes) -> Result<Outcome> {
        let path = log_path(version);
        let mut pause = std::time::Duration::from_millis(100);
        let mut last_error = None;
        for _ in 0..MAX_UNKNOWN {
            match put_new(store(self), &path, text.clone()).await {
                Ok(Put::Created) => return Ok(Outcome::Committed),
                Ok(Put::Exists) => match self.read_version(version).await? {
                    Some(outcome) => return Ok(outcome),
                    // S3 also answers so while another put of that name is under way.
                    None => last_error = Some(self.undecided(version)),
                },
                Err(error) if error.class == Class::Retry => last_error = Some(error),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        Err(last_error.unwrap_or_else(|| {
            Error::retry(Code::CommitUndecided, "cannot commit", "no attempt was made", "it is tried again")
        }))
    }

    /// What became of a version of the log; none if it is free.
    pub(crate) async fn read_version(&self, version: u64) -> Result<Option<Outcome>> {
        let path = log_path(version);
        let unreadable = |why: String| {
            let what = format!("cannot read {path} of the lake table {}", self.name);
            Error::operator(Code::LogUnreadable, what, why, "restore the table's log")
        };
        let Some(text) = get(store(self), &path).await? else { return Ok(None) };
        let commit = Commit::parse(&text).map_err(|error| unreadable(error.to_string()))?;
        let ours = commit.id.as_deref() == Some(self.staging.commit_id.to_string().as_str());
        Ok(Some(if ours { Outcome::Committed } else { Outcome::Conflict(Box::new(commit)) }))
    }

    fn undecided(&self, version: u64) -> Error {
        Error::retry(
            Code::CommitUndecided,
            format!("cannot commit to the lake table {}", self.name),
            format!("version {version} is neither there nor free"),
            "nothing; it is tried again",
        )
    }

    pub(crate) fn next_version(&self) -> u64 {
        self.version.map_or(0, |version| version + 1)
    }

    /// Takes in what we committed.
    fn apply(&mut self, version: u64, plan: Plan, watermark: Watermark) -> Committed {
        let rows_written =
            plan.added.values().filter_map(|file| Some(file.rows?.saturating_sub(file.deleted.len()))).sum();
        let staging = std::mem::replace(&mut self.staging, Staging::new());
        if let Some(columns) = &staging.columns {
            self.columns.clone_from(columns);
        }
        if let Some(metadata) = plan.metadata {
            self.metadata = metadata;
        }
        if self.version.is_none() {
            self.protocol = actions::protocol();
        }
        if staging.replaces {
            self.files.clear();
        }
        for id in &plan.removed {
            if let Some(path) = self.files.get(*id).map(|file| file.key().to_owned()) {
                self.files.remove(&path);
            }
        }
        for (id, (deleted, descriptor)) in plan.vectors {
            if let Some(file) = self.files.get_mut(id) {
                file.deleted = deleted;
                file.vector = Some(descriptor);
            }
        }
        for (id, file) in plan.added {
            self.files.insert_as(id, file);
        }
        self.applied = Some(if staging.copying {
            watermark.commit_lsn
        } else {
            staging.last_lsn.max(self.applied.unwrap_or_default())
        });
        self.next_offsets.extend(&staging.next_offsets);
        self.generation = self.app_ids.generation().or(self.generation);
        self.watermark = Some(watermark.commit_lsn);
        self.version = Some(version);
        self.update_index(staging);
        self.commits_since_checkpoint += 1;
        if self.commits_since_checkpoint >= CHECKPOINT_COMMITS {
            self.commits_since_checkpoint = 0;
            self.start_checkpoint(version);
        }
        Committed { table_version: version, rows_written, rows_removed: plan.rows_removed }
    }

    fn update_index(&mut self, mut staging: Staging) {
        if staging.replaces {
            self.index = Some(std::mem::take(&mut staging.moved));
        } else if let Some(index) = &mut self.index {
            for key in &staging.gone {
                index.remove(*key);
            }
            for (key, row) in staging.moved.iter() {
                index.insert(key, row);
            }
        }
        self.staging = staging.next();
    }

    /// Writes a checkpoint beside the stream; without it readers only take longer.
    fn start_checkpoint(&self, version: u64) {
        let (location, name) = (self.location.clone(), self.name.clone());
        tokio::spawn(async move {
            match location.checkpoint(version).await {
                Ok(()) => tracing::debug!(table = %name, version, "wrote a checkpoint"),
                Err(error) => tracing::warn!(table = %name, version, %error, "could not write a checkpoint"),
            }
        });
    }
}
