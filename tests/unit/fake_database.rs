//! A database that notes what it is asked.

use std::sync::Mutex;

use sooner_api::{
    Database, EventBatch, Inspection, KnownNames, Result, Source, SourcePlan, SourceTable, SystemIdentity,
};
use sooner_schemas::{Lsn, Relation};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::fake_log::Batches;
use crate::support::{Steps, name};

/// Where a new slot stands.
pub const NEW_SLOT: u64 = 100;

/// A database with some tables.
pub struct FakeDatabase {
    pub steps: Steps,
    pub slot: Option<Lsn>,
    pub tables: Vec<SourceTable>,
    batches: Mutex<Option<UnboundedReceiver<Result<EventBatch>>>>,
}

impl FakeDatabase {
    pub fn new(steps: Steps, tables: &[&str], slot: Option<u64>) -> (Batches, FakeDatabase) {
        let (sender, batches) = unbounded_channel();
        let tables = tables.iter().map(|table| source_table(table)).collect();
        (sender, FakeDatabase { steps, slot: slot.map(Lsn), tables, batches: Mutex::new(Some(batches)) })
    }
}

/// A table without columns.
pub fn source_table(table: &str) -> SourceTable {
    let relation = Relation { oid: 1, ..Relation::new(name(table), Vec::new(), Vec::new()) };
    SourceTable::new(relation)
}

impl Database for FakeDatabase {
    type Source = FakeSource;
    type Snapshot = ();

    fn keeps_names(&self) -> bool {
        false
    }

    async fn inspect(&self, _known: KnownNames) -> Result<Inspection> {
        self.steps.reach("inspect").await?;
        Ok(Inspection { tables: self.tables.clone(), slot: self.slot, unusable: None })
    }

    async fn identify(&self) -> Result<SystemIdentity> {
        self.steps.reach("identify").await?;
        Ok(SystemIdentity {
            system_id: "7".into(),
            timeline: 1,
            flushed_lsn: Lsn(1000),
            forks: Vec::new(),
            version: 180_000,
            run: String::new(),
        })
    }

    async fn create_slot(&self) -> Result<(Lsn, ())> {
        self.steps.reach("create_slot").await?;
        Ok((Lsn(NEW_SLOT), ()))
    }

    async fn open(&self, plan: SourcePlan<()>) -> Result<FakeSource> {
        let copied: String = plan.copy.iter().map(|copy| format!(" {}", copy.table.name().table)).collect();
        let followed: String = plan.stream.iter().map(|followed| format!(" {}", followed.table.name().table)).collect();
        let snapshot = if plan.snapshot.is_some() { "a" } else { "no" };
        let text = format!("open at {}, {snapshot} snapshot, copy{copied}, follow{followed}", plan.start_lsn.0);
        self.steps.reach(&text).await?;
        let batches = self.batches.lock().unwrap().take().expect("opened once");
        Ok(FakeSource { steps: self.steps.clone(), batches })
    }
}

/// A source that yields what a test puts in.
pub struct FakeSource {
    steps: Steps,
    batches: UnboundedReceiver<Result<EventBatch>>,
}

impl FakeSource {
    pub fn new(steps: Steps) -> (Batches, FakeSource) {
        let (sender, batches) = unbounded_channel();
        (sender, FakeSource { steps, batches })
    }
}

impl Source for FakeSource {
    async fn next(&mut self) -> Result<EventBatch> {
        match self.batches.recv().await {
            Some(batch) => batch,
            None => std::future::pending().await,
        }
    }

    fn confirm(&mut self, durable_lsn: Lsn) {
        self.steps.notes.note(format!("confirm {}", durable_lsn.0));
    }

    async fn finish(self, durable_lsn: Lsn) {
        self.steps.notes.note(format!("end at {}", durable_lsn.0));
    }
}
