//! Commits that somebody else made meanwhile: taken in one after the other, so that the next attempt builds on them.

use serde_json::Value;
use sooner_api::{Code, Error, Result};
use sooner_schemas::Lsn;

use crate::actions::{Commit, check_protocol};
use crate::columns::{Difference, LakeColumn, compare_older, widen};
use crate::commit::Outcome;
use crate::table::DeltaTable;

impl DeltaTable {
    /// Takes in the next version, and all that have come after it.
    pub(crate) async fn follow_all(&mut self, mut other: Commit) -> Result<()> {
        loop {
            self.follow(self.next_version(), other).await?;
            match self.read_version(self.next_version()).await? {
                Some(Outcome::Conflict(next)) => other = *next,
                _ => return Ok(()),
            }
        }
    }

    /// Takes in what somebody else committed, so that the next attempt builds on it.
    async fn follow(&mut self, version: u64, other: Commit) -> Result<()> {
        let beside_us = self.app_ids.next_offsets(&other.txns);
        let is_ours = !beside_us.is_empty();
        // Where all partitions are ours, nobody else is to commit any of them.
        let intrudes = is_ours && self.app_ids.knows_watermark();
        if intrudes || self.app_ids.collide(&other.txns, &self.staging.next_offsets) {
            return Err(Error::retry(
                Code::CommitOvertaken,
                format!("cannot commit to the lake table {}", self.name),
                "another process of the same pipeline has committed to it, or this one before it was interrupted",
                "if two processes run, stop one or give it another name; what is in the lake is looked up again",
            ));
        }
        if self.version.is_none() {
            if !is_ours {
                return Err(self.made_by_somebody_else());
            }
            // Another sink of this pipeline, which has other partitions, was first.
            self.applied = Some(Lsn::ZERO);
            // What began the table here began it there, too; its rows are of other keys than ours.
            (self.staging.replaces, self.staging.copying) = (false, false);
        }
        self.next_offsets.extend(beside_us);
        self.generation = self.app_ids.generation_in(&other.txns).or(self.generation);
        tracing::info!(table = %self.name, version, "another writer committed; following it");
        if let Some(protocol) = other.protocol {
            self.protocol = protocol;
        }
        check_protocol(&self.name.to_string(), &self.protocol, other.metadata.as_ref().unwrap_or(&self.metadata))?;
        if let Some(metadata) = other.metadata {
            let before = self.columns.clone();
            self.adopt_metadata(metadata)?;
            if self.columns != before && !self.staging.copying {
                self.follow_columns(before, is_ours)?;
            }
        }
        for remove in &other.removes {
            if let Some(path) = remove.get("path").and_then(Value::as_str)
                && !other.adds.iter().any(|add| add.get("path").and_then(Value::as_str) == Some(path))
            {
                self.files.remove(path);
            }
        }
        for add in other.adds {
            let file = self.location.live_file(add).await?;
            // A file whose rows only went away needs nothing; one that came back, or is new, is indexed.
            let known = self.files.find(file.key()).is_some_and(|known| known.deleted.is_subset(&file.deleted));
            let id = self.files.insert(file.clone());
            if !known && let Some(mut index) = self.index.take() {
                let indexed = self.index_file(id, &file, &mut index).await;
                self.index = Some(index);
                indexed?;
            }
        }
        self.version = Some(version);
        Ok(())
    }

    /// The table has other columns now. Another sink of this pipeline sees a column that was added when its partitions get there,
    /// before us or after; what is staged may have them, or may not.
    fn follow_columns(&mut self, before: Vec<LakeColumn>, is_ours: bool) -> Result<()> {
        let what = format!("cannot merge into the lake table {}", self.name);
        if !is_ours {
            let remedy = format!("`sooner resume {}` copies the table again", self.name);
            return Err(Error::operator(Code::TableColumnsChanged, what, "somebody else changed its columns", remedy));
        }
        let staged = self.staging.columns.take().unwrap_or(before);
        match compare_older(&self.columns, &staged) {
            Difference::None => {}
            Difference::Widened => self.staging.columns = Some(widen(&self.columns, &staged)),
            Difference::Incompatible(why) => {
                return Err(Error::retry(
                    Code::TableColumnsChanged,
                    what,
                    why,
                    "nothing; what is in the lake is looked up again",
                ));
            }
        }
        Ok(())
    }
}
