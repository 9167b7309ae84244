//! One attempt of the source's side: every check that could show a gap, then the record, then the slot, then the loop.

use std::future::Future;

use sooner_api::{
    Database, EventLog, EventWriter, Fact, Result, SourcePlan, SourceTable, TableStart, TableState, Telemetry,
    WriterRequest,
};
use sooner_schemas::{Lsn, TableName};
use tokio::sync::watch;

use super::attempts::End;
use super::{continuity, source};
use crate::control::Requests;

/// What an attempt is made with.
pub struct SourceSide<'a, D, T> {
    /// The database.
    pub database: &'a D,
    /// Name of its slot.
    pub slot: &'a str,
    /// Tables that somebody asked to be copied.
    pub requests: &'a Requests,
    /// Takes facts.
    pub telemetry: &'a T,
}

impl<D: Database, T: Telemetry> SourceSide<'_, D, T> {
    /// Reads the database into the log until told to halt. `recopy` copies all tables again, and is done once that is
    /// stored.
    pub async fn attempt<L: EventLog>(
        &self,
        log: &mut L,
        recopy: &mut bool,
        mut halted: watch::Receiver<bool>,
    ) -> Result<End> {
        let Some(prepared) = unless_halted(&mut halted, self.begin(log, *recopy)).await else {
            return Ok(End::Stopped);
        };
        let Begun { mut writer, tables, starts, slot_lsn, recorded_lsn, resumed } = prepared?;
        // Only now is it stored what has to be copied.
        *recopy = false;
        self.requests.forget(&resumed);
        let ended = self.stream(&mut writer, tables, starts, slot_lsn, recorded_lsn, halted).await;
        let finished = writer.finish().await;
        if let (Err(_), Err(error)) = (&ended, &finished) {
            tracing::warn!(%error, "the log's entrance has failed, too");
        }
        let end = ended?;
        finished?;
        Ok(end)
    }

    /// Checks both ends, and stores the record to start with.
    async fn begin<L: EventLog>(&self, log: &mut L, recopy: bool) -> Result<Begun<L::Writer>> {
        let resumed = self.requests.pending();
        let inspection = self.database.inspect().await?;
        let tables = inspection.tables;
        let request = WriterRequest { tables: &tables, slot_exists: inspection.slot.is_some(), recopy };
        let mut writer = log.open_writer(request).await?;
        let identity = self.database.identify().await?;
        if let Some(stored) = writer.stored() {
            continuity::check(stored, self.slot, &identity, inspection.slot)?;
        }
        let record = continuity::next_record(writer.stored(), identity, self.slot, &tables, &resumed);
        let recorded_lsn = record.confirmed_lsn;
        let starts = writer.begin(record).await?;
        let shown = starts.iter().map(|start| {
            let table = tables.iter().find(|table| *table.name() == start.table);
            (&start.table, &start.state, table.and_then(|table| table.estimated_rows))
        });
        self.telemetry.record(Fact::Tables(shown.collect()));
        Ok(Begun { writer, tables, starts, slot_lsn: inspection.slot, recorded_lsn, resumed })
    }

    async fn stream<W: EventWriter>(
        &self,
        writer: &mut W,
        tables: Vec<SourceTable>,
        starts: Vec<TableStart>,
        slot_lsn: Option<Lsn>,
        recorded_lsn: Lsn,
        mut halted: watch::Receiver<bool>,
    ) -> Result<End> {
        let (start_lsn, snapshot) = match slot_lsn {
            Some(slot_lsn) => (slot_lsn.max(recorded_lsn), None),
            // Postgres creates a slot only once all transactions that run have ended.
            None => match unless_halted(&mut halted, self.database.create_slot()).await {
                Some(created) => created.map(|(lsn, snapshot)| (lsn, Some(snapshot)))?,
                None => return Ok(End::Stopped),
            },
        };
        if recorded_lsn == Lsn::ZERO {
            // From here on a slot that is gone, or that somebody advanced, is missed.
            writer.start_at(start_lsn).await?;
        }
        let plan = plan(tables, starts, start_lsn, snapshot);
        let mut source = self.database.open(plan).await?;
        self.telemetry.record(Fact::Running);
        source::run(&mut source, writer, self.telemetry, halted).await?;
        Ok(End::Again)
    }
}

/// An attempt that has stored what it starts with.
struct Begun<W> {
    writer: W,
    tables: Vec<SourceTable>,
    starts: Vec<TableStart>,
    slot_lsn: Option<Lsn>,
    recorded_lsn: Lsn,
    resumed: Vec<TableName>,
}

/// What the source is to do: copy what is copying, and follow what is streaming.
fn plan<S>(tables: Vec<SourceTable>, starts: Vec<TableStart>, start_lsn: Lsn, snapshot: Option<S>) -> SourcePlan<S> {
    let (mut copy, mut stream) = (Vec::new(), Vec::new());
    for start in starts {
        match start.state {
            TableState::Copying => copy.extend(tables.iter().find(|table| *table.name() == start.table).cloned()),
            TableState::Streaming { .. } => stream.push((start.table, start.covered)),
            _ => {}
        }
    }
    SourcePlan { start_lsn, snapshot, copy, stream }
}

/// Does something unless, or until, the attempt is to halt.
async fn unless_halted<O>(halted: &mut watch::Receiver<bool>, work: impl Future<Output = O>) -> Option<O> {
    tokio::select! {
        biased;
        // The sender's end counts as a halt.
        _ = halted.wait_for(|halted| *halted) => None,
        done = work => Some(done),
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, Error, Positions};
    use sooner_schemas::Relation;

    use super::*;

    #[test]
    fn what_is_copying_is_copied_and_what_streams_is_followed() {
        let name = |table: &str| TableName::new("public", table);
        let table = |table: &str| SourceTable {
            relation: Relation::new(name(table), Vec::new(), Vec::new()),
            estimated_rows: None,
            size_bytes: 0,
            file_node: 0,
        };
        let parked = TableState::Parked { error: Error::operator(Code::ShapeChanged, "w", "y", "r"), copied_lsn: None };
        let start = |table: &str, state: TableState| TableStart {
            table: name(table),
            state,
            covered: Positions::whole(Lsn(5)),
        };
        let starts = vec![
            start("a", TableState::Copying),
            start("b", TableState::Streaming { copied_lsn: None }),
            start("c", parked),
        ];
        let plan = plan::<()>(vec![table("a"), table("b"), table("c")], starts, Lsn(9), None);
        assert_eq!(plan.copy, [table("a")]);
        assert_eq!(plan.stream, [(name("b"), Positions::whole(Lsn(5)))]);
        assert_eq!(plan.start_lsn, Lsn(9));
    }
}
