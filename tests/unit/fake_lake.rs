//! A lake whose tables note what they are asked, and answer as they are told.

use std::time::Duration;

use sooner_api::{
    Alteration, Committed, Error, Feed, Lake, LakeCopy, LakePosition, LakeTable, Positions, Result, Rows, Staged,
    Standing, TableSize,
};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

use crate::support::{Notes, name};

/// A table of no lake.
pub struct FakeTable {
    pub name: TableName,
    /// What it was asked.
    pub notes: Notes,
    /// The answer to what is staged next.
    pub on_stage: Option<Result<Staged>>,
    /// The error of the next commit.
    pub on_commit: Option<Error>,
    /// How long a commit takes.
    pub commit_takes: Duration,
    /// What it holds.
    pub standing: Standing,
    /// Nobody else commits.
    pub is_current: bool,
    pub positions: Option<Positions>,
    pub version: u64,
    /// A copy becomes durable before it has ended.
    pub keeps_copies: bool,
    /// What is durable of a copy that has not ended.
    pub copy: Option<LakeCopy>,
    pub held: Vec<Rows>,
}

impl FakeTable {
    /// A table that takes everything at once.
    pub fn new(table: &str) -> FakeTable {
        FakeTable {
            name: name(table),
            notes: Notes::default(),
            on_stage: None,
            on_commit: None,
            commit_takes: Duration::ZERO,
            standing: Standing::Follows,
            is_current: true,
            positions: None,
            version: 0,
            keeps_copies: false,
            copy: None,
            held: Vec::new(),
        }
    }

    fn take(&mut self, what: &str, rows: Rows) -> Result<Staged> {
        self.notes.note(format!("{what} {}", rows.last_lsn().unwrap_or_default().0));
        let answer = self.on_stage.take().unwrap_or(Ok(Staged::Taken))?;
        if answer == Staged::Taken {
            self.held.push(rows);
        }
        Ok(answer)
    }
}

impl LakeTable for FakeTable {
    fn name(&self) -> &TableName {
        &self.name
    }

    fn standing(&self) -> Standing {
        self.standing
    }

    fn positions(&self) -> Option<&Positions> {
        self.positions.as_ref()
    }

    fn watermark(&self) -> Option<Lsn> {
        None
    }

    fn version(&self) -> Option<u64> {
        (self.version > 0).then_some(self.version)
    }

    fn history_version(&self) -> Option<u64> {
        None
    }

    fn size(&self) -> Option<TableSize> {
        None
    }

    async fn altered_since(&self, stored: &LakePosition) -> Result<Option<Alteration>> {
        Ok((self.version < stored.version).then(|| Alteration::SetBack("an earlier version".to_owned())))
    }

    async fn is_current(&self) -> Result<bool> {
        Ok(self.is_current)
    }

    async fn inspect(&mut self) -> Result<()> {
        self.notes.note("inspect");
        Ok(())
    }

    async fn begin_copy(&mut self, start: Rows) -> Result<Staged> {
        self.take("copy", start)
    }

    async fn truncate(&mut self, truncate: Rows) -> Result<Staged> {
        self.take("truncate", truncate)
    }

    async fn stage(&mut self, rows: Rows) -> Result<Staged> {
        self.take("stage", rows)
    }

    fn staged_bytes(&self) -> usize {
        self.held.iter().map(|rows| rows.events.size_bytes()).sum()
    }

    async fn seal(&mut self) -> Result<()> {
        self.notes.note("seal");
        self.held.clear();
        Ok(())
    }

    async fn commit(&mut self, watermark: Watermark) -> Result<Committed> {
        self.notes.note(format!("commit {}", watermark.commit_lsn.0));
        if !self.commit_takes.is_zero() {
            tokio::time::sleep(self.commit_takes).await;
        }
        if let Some(error) = self.on_commit.take() {
            return Err(error);
        }
        self.held.clear();
        self.version += 1;
        self.positions = Some(Positions::whole(watermark.commit_lsn));
        self.copy = self.keeps_copies.then_some(LakeCopy { id: 7, version: self.version });
        Ok(Committed { table_version: self.version, ..Committed::default() })
    }

    async fn end_copy(&mut self, watermark: Watermark) -> Result<Committed> {
        self.notes.note("end copy");
        (self.keeps_copies, self.copy) = (false, None);
        self.commit(watermark).await
    }

    fn expect_copy(&mut self) {}

    fn keeps_copies(&self) -> bool {
        self.keeps_copies
    }

    async fn resume_copy(&mut self, copy: Option<LakeCopy>) -> Result<bool> {
        self.copy = self.copy.filter(|known| copy.is_some_and(|copy| copy.id == known.id));
        Ok(self.copy.is_some())
    }

    fn unfinished_copy(&self) -> Option<LakeCopy> {
        self.copy
    }

    fn last_copy(&self) -> Option<u64> {
        None
    }

    fn discard(&mut self) {
        self.notes.note("discard");
        self.held.clear();
    }
}

type Make = Box<dyn Fn(&TableName) -> Result<FakeTable> + Send + Sync>;

/// A lake that makes its tables up.
pub struct FakeLake {
    /// Tables that were opened.
    pub opened: Notes,
    make: Make,
}

impl FakeLake {
    pub fn new(make: impl Fn(&TableName) -> Result<FakeTable> + Send + Sync + 'static) -> FakeLake {
        FakeLake { opened: Notes::default(), make: Box::new(make) }
    }
}

impl Lake for FakeLake {
    type Table = FakeTable;

    async fn probe(&self) -> Result<()> {
        Ok(())
    }

    async fn open(&self, table: &TableName, _feed: &Feed) -> Result<FakeTable> {
        self.opened.note(&table.table);
        (self.make)(table)
    }
}
