//! A history in the lake: opened from its log, fed with the events that its mirror gets, committed to. Nothing that it
//! holds is ever changed, so it needs no index.

use sooner_api::{Code, Committed, Error, Positions, Result, Rows, Standing, TableSize};
use sooner_schemas::TableName;
use sooner_schemas::event::Watermark;

use super::columns::{ORDER, extended};
use super::links::Links;
use super::reader::HistoryReader;
use crate::clock::now_millis;
use crate::generation::Generation;
use crate::log::commit::LogEntry;
use crate::log::committer::{Committer, MAX_CONFLICTS, Outcome, contended};
use crate::log::position_names::PositionNames;
use crate::log::provenance::Provenance;
use crate::maintenance::choice::Occasion;
use crate::maintenance::compaction::{Compaction, Subject};
use crate::merge::foreign;
use crate::merge::intake::covered_events;
use crate::merge::mirror::{self, RowSets};
use crate::merge::seal::next_columns;
use crate::merge::staging::Staging;
use crate::rows::column_mapping::{self, Mapping};
use crate::settings::TableSettings;
use crate::store::location::TableLocation;

/// Bytes of events that wait in memory to become rows of a file.
const BATCH_BYTES: usize = 1 << 20;

/// The history of one table.
pub struct HistoryTable {
    name: TableName,
    names: PositionNames,
    settings: TableSettings,
    generation: Generation,
    standing: Standing,
    positions: Option<Positions>,
    staging: Staging,
    reader: Option<Reading>,
    /// The copy whose rows are staged.
    copy: Option<u64>,
    links: Links,
    compaction: Compaction,
}

/// How events are read, and where their columns stand in the history.
struct Reading {
    reader: HistoryReader,
    places: Vec<usize>,
}

impl HistoryTable {
    /// Opens a history as its log says it is; it need not exist.
    pub async fn open(
        name: TableName,
        location: TableLocation,
        names: PositionNames,
        settings: TableSettings,
        compaction: Compaction,
    ) -> Result<HistoryTable> {
        let generation = Generation::open(location, &names, &settings).await?;
        let links = Links::new(settings.ways.of(&name).chain);
        let mut table = HistoryTable {
            name,
            names,
            settings,
            generation,
            standing: Standing::Absent,
            positions: None,
            staging: Staging::new(None),
            reader: None,
            copy: None,
            links,
            compaction,
        };
        table.compare_with_feed();
        Ok(table)
    }

    fn compare_with_feed(&mut self) {
        let base = &self.generation.base;
        (self.standing, self.positions) = (self.names.standing(base), self.names.recorded(base.txns()));
    }

    /// What it holds, compared with its feed.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// What its log says that has been taken of the feed; none unless it follows it.
    pub fn positions(&self) -> Option<&Positions> {
        self.positions.as_ref().filter(|_| self.standing == Standing::Follows)
    }

    /// The LSN up to which its log says that it is complete.
    pub fn watermark(&self) -> Option<sooner_schemas::Lsn> {
        self.names.watermark(self.generation.base.txns())
    }

    /// Its version; none before it exists.
    pub fn version(&self) -> Option<u64> {
        self.generation.base.number()
    }

    /// What readers of it have to read.
    pub fn size(&self) -> Option<TableSize> {
        self.generation.size()
    }

    /// The last copy whose rows it holds.
    pub fn last_copy(&self) -> Option<u64> {
        self.names.copy(self.generation.base.txns())
    }

    /// Whether nobody has committed since it was opened or last committed.
    pub async fn is_current(&self) -> Result<bool> {
        self.generation.is_current().await
    }

    /// Follows what others have done. An error if the last entry of the log is not the one that was written here, or if
    /// somebody else removed rows.
    pub async fn inspect(&mut self) -> Result<()> {
        if !self.generation.own_entry.is_kept(&self.generation.location).await? {
            return Err(self.generation.own_entry.lost(&self.name, &self.names));
        }
        if !self.generation.base.exists() {
            return Ok(());
        }
        let next = self.generation.read_other(&self.name, self.staging.commit_id).await?;
        self.follow_others(next).await
    }

    /// A copy begins: its rows are added to what is there, and to what is staged.
    pub fn begin_copy(&mut self) -> Result<()> {
        if self.standing == Standing::Foreign {
            let url = self.generation.location.url.as_str();
            return Err(foreign::made_by_somebody_else(&self.name, url));
        }
        self.copy = Some(rand::random::<u64>() >> 1);
        Ok(())
    }

    /// Takes the events of a step that it does not have yet.
    pub async fn stage(&mut self, rows: &Rows) -> Result<()> {
        let covered = self.positions().cloned();
        let is_repeated = !rows.next_offsets.is_empty()
            && covered.as_ref().is_some_and(|covered| {
                rows.next_offsets.iter().all(|(partition, next)| covered.covers_offset(*partition, *next - 1))
            });
        if is_repeated || self.standing == Standing::Foreign {
            return Ok(());
        }
        self.staging.note(rows.positions());
        if rows.whole.lacks_first {
            return Ok(());
        }
        let first = self.first_new(rows);
        let events = &rows.events;
        if first == events.events.len() {
            return Ok(());
        }
        self.staging.span.note(&events.events[first..]);
        self.adopt(rows).await?;
        for event in &events.events[first..] {
            let Some(Reading { reader, .. }) = &mut self.reader else { break };
            reader.append(event, &events.bytes[event.value.clone()])?;
            if reader.bytes() >= BATCH_BYTES {
                self.seal().await?;
            }
        }
        Ok(())
    }

    /// Index of the first event that the history lacks: a step is repeated from its start where the mirror was behind.
    fn first_new(&self, rows: &Rows) -> usize {
        if self.standing != Standing::Follows {
            return 0;
        }
        match self.names.is_topic() {
            false => covered_events(self.positions.as_ref(), rows),
            true => covered_events(self.watermark().map(Positions::whole).as_ref(), rows),
        }
    }

    /// Learns how the events of a step are read, and adds their columns.
    async fn adopt(&mut self, rows: &Rows) -> Result<()> {
        let schema = &rows.events.schema;
        if self.reader.as_ref().is_some_and(|reading| std::sync::Arc::ptr_eq(&reading.reader.schema, schema)) {
            return Ok(());
        }
        self.seal().await?;
        let reader = HistoryReader::new(schema)?;
        let known = next_columns(&self.staging, &self.generation.base).to_vec();
        let (columns, places) = extended(&self.name, &known, &reader.columns, self.links.is_on())?;
        let former = self.staging.provenance_after(&self.generation.base);
        let provenance = Provenance::of_history(schema, &former);
        if columns != known {
            let mapping = self.generation.base.mapping(self.settings.maps_columns);
            let mapping = Mapping { last_id: mapping.last_id.max(self.staging.last_column_id), ..mapping };
            if !mapping.fits(&columns) {
                return Err(odd_names(&self.name));
            }
            // The open file has the former columns.
            self.staging.parts.close(&self.generation.location).await?;
            let columns = column_mapping::stored(columns, &known, mapping.last_id);
            self.staging.set_columns(columns, provenance);
        } else if provenance.says_other_than(&former) {
            self.staging.set_columns(known, provenance);
        }
        self.reader = Some(Reading { reader, places });
        Ok(())
    }

    /// Bytes of events held in memory.
    pub fn staged_bytes(&self) -> usize {
        self.reader.as_ref().map_or(0, |reading| reading.reader.bytes())
    }

    /// Moves events from memory into a file that is not visible yet.
    pub async fn seal(&mut self) -> Result<()> {
        let Some(Reading { reader, places }) = &mut self.reader else { return Ok(()) };
        let columns = next_columns(&self.staging, &self.generation.base).to_vec();
        let Some(batch) = reader.take(&columns, places)? else { return Ok(()) };
        let Generation { location, base, .. } = &self.generation;
        let batch = self.links.chain(batch, &columns, location, base, self.names.sequence(base.txns())).await?;
        self.staging.parts.append(&batch, &self.generation.base.files().ids())?;
        self.staging.parts.close_if_full(&self.generation.location, &self.settings.limits).await
    }

    /// Makes what is staged visible, together with its positions and the watermark.
    pub async fn commit(&mut self, watermark: Watermark, ends_copy: bool) -> Result<Committed> {
        self.seal().await?;
        self.staging.parts.close(&self.generation.location).await?;
        let copy = self.copy.filter(|_| ends_copy);
        if self.staging.is_empty() {
            return Ok(Committed { table_version: self.version().unwrap_or_default(), ..Committed::default() });
        }
        let name = self.name.to_string();
        for _ in 0..MAX_CONFLICTS {
            let Generation { location, base, .. } = &self.generation;
            let mut transaction = mirror::transaction(&self.staging, base, RowSets::new(), &self.names, watermark);
            transaction.retention = self.settings.retention;
            let chained = self.links.staged_sequence().map(|sequence| self.names.version_of_sequence(sequence));
            transaction.txns.extend(chained);
            if copy.is_some() && !self.names.is_topic() {
                transaction.txns.extend(self.names.versions(&Positions::whole(watermark.commit_lsn), watermark));
            }
            transaction.end_copy(copy.map(|id| self.names.version_of_copy(id)), watermark);
            if ends_copy {
                // Also of a copy whose start was not told: a topic may begin with its rows.
                transaction.span.end_copy(watermark);
            }
            let plan = transaction.plan(base, now_millis());
            match Committer::new(location, &name).commit(base.next_number(), transaction.id, &plan).await? {
                Outcome::Committed => {
                    let staging = std::mem::replace(&mut self.staging, Staging::new(None));
                    let committed = plan.committed();
                    self.generation.finish_commit(&self.name, plan, staging).await;
                    self.copy = None;
                    self.links.committed();
                    self.compare_with_feed();
                    self.consider_compaction(Occasion::Merged);
                    return Ok(Committed { table_version: self.version().unwrap_or_default(), ..committed });
                }
                Outcome::Conflict(entry) => self.follow_others(Some(*entry)).await?,
                Outcome::Unknown(error) => return Err(error),
            }
        }
        Err(contended(&name))
    }

    async fn follow_others(&mut self, mut next: Option<LogEntry>) -> Result<()> {
        while let Some(entry) = next {
            let url = self.generation.location.url.as_str();
            let (version, base) = (self.generation.base.next_number(), &self.generation.base);
            let judged = foreign::author(&self.name, url, &self.names, base, &self.staging, &entry);
            judged.map_err(|error| self.judged(error, version))?;
            let chained = self.links.follow(&self.name, &entry);
            if entry.erases {
                self.compaction.void();
            }
            let before = base.columns().len();
            let committer = Committer::new(&self.generation.location, "");
            let commit = committer.load(entry).await?;
            self.generation.follow(commit);
            self.compare_with_feed();
            chained?;
            if self.generation.base.columns().len() != before {
                return Err(columns_changed(&self.name));
            }
            next = self.generation.read_other(&self.name, self.staging.commit_id).await?;
        }
        Ok(())
    }

    /// What somebody else took from a history cannot be written again.
    fn judged(&self, error: Error, version: u64) -> Error {
        match error.code {
            Code::CopyNeeded | Code::TableAltered => rows_lost(&self.name, version),
            _ => error,
        }
    }

    /// Waits until files are written again. May be cancelled.
    pub async fn maintenance_due(&mut self) {
        self.compaction.due().await;
    }

    /// Commits files that were written again, or has some written.
    pub async fn maintain(&mut self) -> Result<()> {
        if self.compaction.is_written() {
            self.inspect().await?;
        }
        let Generation { location, base, .. } = &self.generation;
        let Some(rewritten) = self.compaction.take(location, base).await else {
            self.consider_compaction(self.compaction.quietness());
            return Ok(());
        };
        if let Some(entry) = self.generation.rearrange(&self.name, self.names.pipeline(), &rewritten).await? {
            self.compaction.put_back(rewritten);
            return self.follow_others(Some(entry)).await;
        }
        self.consider_compaction(Occasion::Merged);
        Ok(())
    }

    fn consider_compaction(&mut self, occasion: Occasion) {
        let Generation { location, base, .. } = &self.generation;
        let sort_by = ORDER.map(str::to_owned).to_vec();
        self.compaction
            .consider(Subject { location, base, keys: None, sort_by, limits: &self.settings.limits }, occasion);
    }

    /// Forgets what is staged.
    pub fn discard(&mut self) {
        self.staging = Staging::new(None);
        self.reader = None;
        self.copy = None;
        self.links.discard();
    }
}

fn odd_names(table: &TableName) -> Error {
    Error::operator(
        Code::TypeUnsupported,
        format!("cannot keep a history of {table}"),
        "columns have names that lake tables take by column mapping alone, and that is switched off",
        "set column_mapping = true in [lake], rename the columns, or leave history out of write for this table",
    )
}

fn rows_lost(table: &TableName, version: u64) -> Error {
    Error::operator(
        Code::TableAltered,
        format!("the history of {table} has lost rows"),
        format!("somebody else has removed or changed rows of it (version {version})"),
        format!(
            "RESTORE it to version {}, then `sooner resume {table}`; what is gone comes from nowhere else",
            version.saturating_sub(1)
        ),
    )
}

fn columns_changed(table: &TableName) -> Error {
    Error::retry(
        Code::TableColumnsChanged,
        format!("cannot commit to the history of {table}"),
        "another writer has added columns to it",
        "nothing; what is in the lake is read again",
    )
}
