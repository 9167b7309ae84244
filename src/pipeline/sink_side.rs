//! One attempt of the sink's side: the tables of what is read are opened, and the loop starts from where each of them
//! stands; whenever something else is read, the loop ends with what is complete committed, and starts again.

use std::collections::HashMap;

use futures::StreamExt;
use sooner_api::{
    Alteration, Assigned, Class, Clock, Code, Error, EventReader, Fact, Feed, Lake, LakeTable, Opened, Result, Side,
    Standing, TableFact, TableState, Telemetry,
};
use sooner_schemas::TableName;
use tokio::sync::watch;

use super::sink::{OpenTable, SinkEnd, SinkLoop, SinkSettings};

/// Tables that are opened at the same time.
const OPENED_AT_ONCE: usize = 16;

/// Tables that a loop left in good order, so that their key indexes need not be built again.
pub type KnownTables<L> = HashMap<TableName, (Feed, L)>;

/// What an attempt is made with.
pub struct SinkSide<'a, L, C, T> {
    /// Where the tables are.
    pub lake: &'a L,
    /// For the loop.
    pub settings: &'a SinkSettings,
    /// The time of day.
    pub clock: C,
    /// Takes facts.
    pub telemetry: &'a T,
}

/// A table that could be opened or not.
struct Tried<L> {
    assigned: Assigned,
    opened: Result<L>,
    /// Why its rows are not those that it had when its position was last stored.
    altered: Option<Error>,
}

impl<L: Lake, C: Clock, T: Telemetry> SinkSide<'_, L, C, T> {
    /// Reads the log into the lake until it ends, a table has to be copied again, or it is told to halt.
    pub async fn attempt<R: EventReader>(
        &self,
        reader: &mut R,
        known: &mut KnownTables<L::Table>,
        mut halted: watch::Receiver<bool>,
    ) -> Result<SinkEnd> {
        loop {
            let assigned = tokio::select! {
                biased;
                // The sender's end counts as a halt.
                _ = halted.wait_for(|halted| *halted) => return Ok(SinkEnd::Drained),
                assigned = reader.assigned() => assigned?,
            };
            let Some(assigned) = assigned else { return Ok(SinkEnd::Drained) };
            let feeds: HashMap<_, _> =
                assigned.iter().map(|assigned| (assigned.table.clone(), assigned.feed.clone())).collect();
            let tried = self.open_all(assigned, known).await?;
            let opened = tried.iter().map(opened).collect();
            let (tables, unopened) = self.usable(tried);
            if let Err(error) = reader.start(opened).await {
                keep(known, tables.into_iter().map(|open| open.table).collect(), &feeds);
                return Err(error);
            }
            self.telemetry.record(Fact::Running);
            let sink = SinkLoop::start(tables, unopened, self.settings, self.clock.clone(), self.telemetry.clone());
            let (end, tables) = sink.run(reader, halted.clone()).await?;
            keep(known, tables, &feeds);
            if end == SinkEnd::CopyNeeded || *halted.borrow() {
                return Ok(end);
            }
        }
    }

    /// Opens the tables of what is read. One that needs a person is told so, and the others are read.
    async fn open_all(
        &self,
        assigned: Vec<Assigned>,
        known: &mut KnownTables<L::Table>,
    ) -> Result<Vec<Tried<L::Table>>> {
        let with_known: Vec<_> = assigned
            .into_iter()
            .map(|assigned| {
                let known = known.remove(&assigned.table);
                (assigned, known)
            })
            .collect();
        let opening = with_known.into_iter().map(|(assigned, known)| self.open(assigned, known));
        let mut opening = futures::stream::iter(opening).buffer_unordered(OPENED_AT_ONCE);
        let mut tried = Vec::new();
        while let Some(table) = opening.next().await {
            match &table.opened {
                Err(error) if error.class != Class::Operator => return Err(error.clone()),
                _ => tried.push(table),
            }
        }
        // In an order of their own, so that a run repeats.
        tried.sort_by(|a, b| a.assigned.table.cmp(&b.assigned.table));
        Ok(tried)
    }

    async fn open(&self, assigned: Assigned, known: Option<(Feed, L::Table)>) -> Tried<L::Table> {
        // For another feed, its log says something else.
        let known = known.filter(|(feed, _)| *feed == assigned.feed).map(|(_, table)| table);
        let opened = match known {
            Some(table) => match table.is_current().await {
                Ok(true) => Ok(table),
                Ok(false) => self.lake.open(&assigned.table, &assigned.feed).await,
                Err(error) => Err(error),
            },
            None => self.lake.open(&assigned.table, &assigned.feed).await,
        };
        match opened {
            Ok(table) => compared(assigned, table).await,
            Err(error) => Tried { assigned, opened: Err(error), altered: None },
        }
    }

    /// Tables that the loop feeds, each with its state; and those that could not be opened.
    fn usable(&self, tried: Vec<Tried<L::Table>>) -> (Vec<OpenTable<L::Table>>, Vec<TableName>) {
        let (mut tables, mut unopened) = (Vec::new(), Vec::new());
        for Tried { assigned, opened, altered } in tried {
            let name = &assigned.table;
            match opened {
                Ok(table) => {
                    let copy = assigned.copy.clone().filter(|_| table.unfinished_copy().is_some());
                    let state = state_of(&assigned, &table, altered);
                    self.telemetry.record(Fact::State(Side::Sink, name, &state));
                    tables.push(OpenTable { table, state, copy });
                }
                Err(error) => {
                    tracing::error!(table = %name, code = %error.code, %error, "the table stopped");
                    let (state, _) = assigned.state.step(TableFact::Failed(error));
                    self.telemetry.record(Fact::State(Side::Sink, name, &state));
                    unopened.push(assigned.table);
                }
            }
        }
        (tables, unopened)
    }
}

/// A table that was opened, with what was stored of it: its copy goes on, or it may have been altered since.
async fn compared<L: LakeTable>(assigned: Assigned, mut table: L) -> Tried<L> {
    let copy = assigned.copy.as_ref().and_then(|copy| copy.lake);
    let altered = match table.resume_copy(copy).await {
        Ok(true) => {
            tracing::info!(table = %assigned.table, version = copy.map(|copy| copy.version), "its copy in the lake goes on");
            Ok(None)
        }
        Ok(false) => alteration(&assigned, &table).await,
        Err(error) => Err(error),
    };
    match altered {
        Ok(altered) => Tried { assigned, opened: Ok(table), altered },
        Err(error) => Tried { assigned, opened: Err(error), altered: None },
    }
}

/// Why a table's rows are not those that it had when its position was last stored, if they have to be copied for it:
/// from a slot by itself, from a topic once a person asks for it.
async fn alteration<L: LakeTable>(assigned: &Assigned, table: &L) -> Result<Option<Error>> {
    let follows = table.standing() == Standing::Follows && assigned.state.takes_events();
    let Some(stored) = assigned.lake.as_ref().filter(|_| follows) else { return Ok(None) };
    let name = &assigned.table;
    let copied_again = |why: String| {
        tracing::warn!(table = %name, %why, "the table is copied again");
        Error::retry(Code::CopyNeeded, format!("{name} is copied again"), why, "nothing")
    };
    Ok(match (&assigned.feed, table.altered_since(stored).await?) {
        (_, None) => None,
        (Feed::Slot(_), Some(Alteration::SetBack(why) | Alteration::Rows(why))) => Some(copied_again(why)),
        // Its own positions say what of the topic is to be read again.
        (Feed::Topic { .. }, Some(Alteration::SetBack(why))) => {
            tracing::warn!(table = %name, %why, "what came since is read from the topic again");
            None
        }
        (Feed::Topic { .. }, Some(Alteration::Rows(why))) => Some(Error::operator(
            Code::TableAltered,
            format!("{name} in the lake differs from its source"),
            why,
            format!("`sooner resume {name}` copies the table again; let others only read it"),
        )),
    })
}

/// What a table does at first. A source decides what is copied; here a table of a slot that is not there is, too.
fn state_of<L: LakeTable>(assigned: &Assigned, table: &L, altered: Option<Error>) -> TableState {
    let (standing, is_copied) = (table.standing(), assigned.copy.is_some() && table.unfinished_copy().is_some());
    let copy = assigned.copy.as_ref().and_then(|copy| copy.lake).map(|copy| copy.id);
    // A copy may have ended just before a break.
    let ended = table.watermark().filter(|_| copy.is_some() && table.last_copy() == copy);
    let ended = ended.map(|watermark| assigned.state.step(TableFact::CopyEnded(watermark)));
    // The log tells when the table's last copy ends, also to whoever comes later.
    let copy_comes = is_copied || standing == Standing::Absent && assigned.state.copied_lsn().is_some();
    match (&assigned.feed, standing, altered) {
        (Feed::Slot(_), Standing::Follows, None) => ended.map_or(assigned.state.clone(), |(state, _)| state),
        (Feed::Slot(_), ..) => TableState::Copying,
        (Feed::Topic { .. }, _, Some(error)) => assigned.state.step(TableFact::Failed(error)).0,
        (Feed::Topic { .. }, _, None) => match &assigned.state {
            TableState::Copying => TableState::Copying,
            TableState::Streaming { .. } if copy_comes => TableState::Copying,
            // What the source has parked may still have events on its topic.
            _ => TableState::Streaming { copied_lsn: assigned.state.copied_lsn() },
        },
    }
}

fn opened<L: LakeTable>(tried: &Tried<L>) -> Opened {
    let table = tried.assigned.table.clone();
    match &tried.opened {
        Ok(open) => Opened {
            table,
            standing: open.standing(),
            positions: open.positions().cloned(),
            watermark: open.watermark(),
            error: None,
            needs_copy: tried.altered.is_some(),
            copy: open.unfinished_copy(),
            copied: open.last_copy(),
        },
        Err(error) => Opened {
            table,
            standing: Standing::Absent,
            positions: None,
            watermark: None,
            error: Some(Error::clone(error)),
            needs_copy: false,
            copy: None,
            copied: None,
        },
    }
}

fn keep<L: LakeTable>(known: &mut KnownTables<L>, tables: Vec<L>, feeds: &HashMap<TableName, Feed>) {
    for table in tables {
        if let Some(feed) = feeds.get(table.name()) {
            known.insert(table.name().clone(), (feed.clone(), table));
        }
    }
}
