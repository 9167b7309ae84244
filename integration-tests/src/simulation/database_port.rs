//! A simulated database as the pipeline meets it.

use sooner_api::{Database, Inspection, KnownNames, Result, SourcePlan, SourceTable, SystemIdentity};
use sooner_schemas::Lsn;

use super::database::{SimulatedDatabase, relation};
use super::history::{START, TABLES, end_of};
use super::source::SimulatedSource;

impl Database for SimulatedDatabase {
    type Source = SimulatedSource;
    type Snapshot = ();

    fn keeps_names(&self) -> bool {
        false
    }

    async fn inspect(&self, _known: KnownNames) -> Result<Inspection> {
        self.answer("cannot inspect").await?;
        let tables = (0..TABLES).map(|table| SourceTable::new(relation(table)));
        Ok(Inspection { tables: tables.collect(), slot: self.confirmed(), unusable: None })
    }

    async fn identify(&self) -> Result<SystemIdentity> {
        self.answer("cannot identify").await?;
        let flushed_lsn = end_of(self.committed());
        Ok(SystemIdentity {
            system_id: "simulated".to_owned(),
            timeline: 1,
            flushed_lsn,
            forks: Vec::new(),
            version: 180_000,
            run: String::new(),
        })
    }

    async fn create_slot(&self) -> Result<(Lsn, ())> {
        self.answer("cannot create the slot").await?;
        let lsn = end_of(self.committed()).max(START);
        self.create_slot_at(lsn);
        self.answer("the answer was lost").await?;
        Ok((lsn, ()))
    }

    async fn open(&self, plan: SourcePlan<()>) -> Result<SimulatedSource> {
        self.answer("cannot stream").await?;
        let confirmed = self.confirmed().expect("a slot is created first");
        assert!(plan.start_lsn >= confirmed, "the slot cannot send what was confirmed");
        Ok(SimulatedSource::new(self.clone(), plan))
    }
}
