//! One attempt of the source's side: every check that could show a gap, then the record, then the slot, then the loop.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use sooner_api::{
    Class, Code, CopyRequest, Database, Error, EventLog, EventWriter, Fact, FollowedTable, GoesOn, KnownNames, Result,
    Source, SourcePlan, SourceTable, TableStart, TableState, TableToCopy, TakesPart, Telemetry, WriterRequest,
};
use sooner_schemas::{Lsn, Relation, TableName};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::asking::Asking;
use super::attempts::End;
use super::changes::changes_since;
use super::continuity::Continuation;
use super::next_record::{Former, next_record};
use super::{continuity, source};
use crate::control::Requests;

/// What an attempt is made with.
pub struct SourceSide<'a, D, T> {
    /// The database.
    pub database: &'a D,
    /// Name of its slot.
    pub slot: &'a str,
    /// Whether all tables are copied again when the slot is gone.
    pub copies_when_slot_is_gone: bool,
    /// Whether a running source is told of requests for whole tables; otherwise somebody ends the attempt for them, so
    /// that the log's entrance learns again what its topics and schemas are by now.
    pub takes_whole_tables: bool,
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
        let prepared = match prepared {
            Err(error) if error.code == Code::SlotGone && self.copies_when_slot_is_gone => {
                tracing::warn!(code = %error.code, why = %error.why, "{}: all tables are copied again", error.what);
                *recopy = true;
                return Ok(End::Again);
            }
            prepared => prepared?,
        };
        let Begun { mut writer, tables, reads, slot_lsn, recorded_lsn, resumed } = prepared;
        // Only now is it stored what has to be copied.
        *recopy = false;
        let granted = resumed.into_iter().map(|table| CopyRequest { table, condition: None });
        self.requests.forget(&granted.collect::<Vec<_>>());
        let streamed = self.stream(&mut writer, tables, reads, slot_lsn, recorded_lsn, halted).await;
        let finished = writer.finish().await;
        if let (Err(_), Err(error)) = (&streamed, &finished) {
            tracing::warn!(%error, "the log's entrance has failed, too");
        }
        let source = streamed.map_err(|error| match error.code {
            // The next attempt replaces it.
            Code::SlotLost if self.copies_when_slot_is_gone => Error { class: Class::Retry, ..error },
            _ => error,
        })?;
        finished?;
        let Some(source) = source else { return Ok(End::Stopped) };
        // So that the next start repeats nothing that is durable.
        source.finish(writer.settle().await).await;
        Ok(End::Again)
    }

    /// Checks both ends, and stores the record to start with.
    async fn begin<L: EventLog>(&self, log: &mut L, recopy: bool) -> Result<Begun<L::Writer>> {
        let resumed = self.requests.whole_tables();
        for table in &resumed {
            self.requests.begin(&CopyRequest { table: table.clone(), condition: None });
        }
        let known = if self.database.keeps_names() { log.known_names().await? } else { KnownNames::new() };
        let inspection = self.database.inspect(known).await?;
        let mut tables = inspection.tables;
        let readable: Vec<_> = tables.iter().filter(|table| table.blocked.is_none()).cloned().collect();
        let request = WriterRequest { tables: &readable, slot_exists: inspection.slot.is_some(), recopy };
        let mut writer = log.open_writer(request).await?;
        if let (None, false, Some(unusable)) = (writer.stored(), recopy, inspection.unusable) {
            // Nothing shows that it is this pipeline's.
            return Err(unusable);
        }
        for (name, error) in writer.refused() {
            for table in tables.iter_mut().filter(|table| table.name() == name) {
                table.blocked = Some(error.clone());
            }
        }
        let identity = self.database.identify().await?;
        let continuation = match writer.stored() {
            Some(stored) => continuity::check(stored, self.slot, &identity, inspection.slot, &tables)?,
            None => Continuation::SameServer,
        };
        if continuation != Continuation::SameServer {
            tracing::warn!(?continuation, "this is another server than before, which has all that was read of it");
        }
        let record = {
            let former = Former { record: writer.stored(), keeps_columns: writer.keeps_columns() };
            next_record(former, identity, continuation, self.slot, &tables, &resumed)
        };
        for change in writer.stored().map(|stored| changes_since(stored, &tables, &record)).unwrap_or_default() {
            self.telemetry.record(Fact::Changed(&change));
        }
        let recorded_lsn = record.confirmed_lsn;
        let written: HashMap<_, _> =
            record.tables.iter().filter_map(|(name, table)| Some((name.clone(), table.relation.clone()?))).collect();
        let starts = writer.begin(record).await?;
        let shown = starts.iter().map(|start| {
            let table = tables.iter().find(|table| *table.name() == start.table);
            TakesPart {
                table: &start.table,
                state: &start.state,
                estimated_rows: table.and_then(|table| table.estimated_rows),
                unsent: table.map(|table| table.relation.unsent.as_slice()).unwrap_or_default(),
            }
        });
        self.telemetry.record(Fact::Tables(shown.collect()));
        self.tell_shapes(&tables, &starts, &written);
        let reads = Reads { starts, written };
        Ok(Begun { writer, tables, reads, slot_lsn: inspection.slot, recorded_lsn, resumed })
    }

    /// Tells what tables are: as their events were last written, or else as they are.
    fn tell_shapes(&self, tables: &[SourceTable], starts: &[TableStart], written: &HashMap<TableName, Arc<Relation>>) {
        let there: HashMap<_, _> = tables.iter().map(|table| (table.name(), table)).collect();
        for name in starts.iter().map(|start| &start.table) {
            let relation = written.get(name).cloned();
            let relation = relation.or_else(|| there.get(name).map(|table| Arc::new(table.relation.clone())));
            if let Some(relation) = relation {
                self.telemetry.record(Fact::Shape(name, &relation));
            }
        }
    }

    /// Reads until told to halt, and returns the source, unless there is none yet.
    async fn stream<W: EventWriter>(
        &self,
        writer: &mut W,
        tables: Vec<SourceTable>,
        reads: Reads,
        slot_lsn: Option<Lsn>,
        recorded_lsn: Lsn,
        mut halted: watch::Receiver<bool>,
    ) -> Result<Option<D::Source>> {
        let (start_lsn, snapshot) = match slot_lsn {
            Some(slot_lsn) => (slot_lsn.max(recorded_lsn), None),
            // Postgres creates a slot only once all transactions that run have ended.
            None => match unless_halted(&mut halted, self.database.create_slot()).await {
                Some(created) => created.map(|(lsn, snapshot)| (lsn, Some(snapshot)))?,
                None => return Ok(None),
            },
        };
        if recorded_lsn == Lsn::ZERO {
            // From here on a slot that is gone, or that somebody advanced, is missed.
            writer.start_at(start_lsn).await?;
        }
        let (asking, requests) = Asking::new(self.requests, self.takes_whole_tables);
        let mut plan = plan(tables, reads, start_lsn, snapshot, requests);
        plan.keeps_columns = writer.keeps_columns();
        for GoesOn { progress, followed, .. } in plan.copy.iter().filter_map(|copy| copy.goes_on.as_ref()) {
            self.telemetry.record(Fact::CopyBegun(followed.table.name(), progress.rows));
        }
        let mut source = self.database.open(plan).await?;
        self.telemetry.record(Fact::Running);
        source::run(&mut source, writer, asking, self.telemetry, halted).await?;
        Ok(Some(source))
    }
}

/// An attempt that has stored what it starts with.
struct Begun<W> {
    writer: W,
    tables: Vec<SourceTable>,
    reads: Reads,
    slot_lsn: Option<Lsn>,
    recorded_lsn: Lsn,
    resumed: Vec<TableName>,
}

/// How tables are to be read.
struct Reads {
    starts: Vec<TableStart>,
    /// What their events were last written by.
    written: HashMap<TableName, Arc<Relation>>,
}

/// What the source is to do: copy what is copying, follow what is streaming, and watch the rest.
fn plan<S>(
    tables: Vec<SourceTable>,
    mut reads: Reads,
    start_lsn: Lsn,
    snapshot: Option<S>,
    requests: UnboundedReceiver<CopyRequest>,
) -> SourcePlan<S> {
    let mut starts: HashMap<_, _> = reads.starts.into_iter().map(|start| (start.table.clone(), start)).collect();
    let (copy, stream, apart) = (Vec::new(), Vec::new(), Vec::new());
    let mut plan = SourcePlan { start_lsn, snapshot, copy, stream, apart, keeps_columns: false, requests };
    for table in tables {
        match starts.remove(table.name()) {
            Some(TableStart { state: TableState::Copying, covered, copy, .. }) => {
                let written = reads.written.remove(table.name());
                let followed = || FollowedTable { table: table.clone(), written, covered };
                let goes_on = copy.map(|(progress, reached)| GoesOn { progress, followed: followed(), reached });
                plan.copy.push(TableToCopy { table, goes_on });
            }
            Some(TableStart { state: TableState::Streaming { .. }, covered, .. }) => {
                let written = reads.written.remove(table.name());
                plan.stream.push(FollowedTable { table, written, covered });
            }
            _ => plan.apart.push(table),
        }
    }
    plan
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
    use super::*;
    use sooner_api::{Code, Error, Positions};
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn what_is_copying_is_copied_and_what_streams_is_followed() {
        let name = |table: &str| TableName::new("public", table);
        let table = |table: &str| SourceTable::new(Relation::new(name(table), Vec::new(), Vec::new()));
        let parked = TableState::Parked { error: Error::operator(Code::ShapeChanged, "w", "y", "r"), copied_lsn: None };
        let start = |table: &str, state: TableState| TableStart {
            table: name(table),
            state,
            covered: Positions::whole(Lsn(5)),
            copy: None,
        };
        let starts = vec![
            start("a", TableState::Copying),
            start("b", TableState::Streaming { copied_lsn: None }),
            start("c", parked),
        ];
        let written = Arc::new(table("b").relation);
        let reads = Reads { starts, written: HashMap::from([(name("b"), written.clone())]) };
        let (_asks, requests) = unbounded_channel();
        let plan = plan::<()>(vec![table("a"), table("b"), table("c")], reads, Lsn(9), None, requests);
        assert_eq!(plan.copy, [TableToCopy { table: table("a"), goes_on: None }]);
        let followed = FollowedTable { table: table("b"), written: Some(written), covered: Positions::whole(Lsn(5)) };
        assert_eq!(plan.stream, [followed]);
        assert_eq!(plan.apart, [table("c")]);
        assert_eq!(plan.start_lsn, Lsn(9));
    }
}
