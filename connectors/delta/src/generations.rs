//! The generations of a table: the one that readers see, and the next one while a copy builds it.

use sooner_api::{Class, Committed, LakeCopy, Positions, Result, Standing, failpoint};
use sooner_schemas::TableName;
use sooner_schemas::event::Watermark;
use uuid::Uuid;

use crate::clock::now_millis;
use crate::generation::Generation;
use crate::log::committer::{Committer, MAX_CONFLICTS, Outcome, contended};
use crate::log::position_names::PositionNames;
use crate::log::retention::RetentionSettings;
use crate::log::transaction::Transaction;
use crate::maintenance::compaction::Subject;
use crate::maintenance::leftovers::{discard_generation, discard_other_generations};
use crate::merge::append::Target;
use crate::merge::event_plan::EventPlan;
use crate::merge::foreign::{made_by_somebody_else, overtaken};
use crate::merge::seal::{next_columns, stored_keys};
use crate::merge::sealing::Sealer;
use crate::merge::staging::Staging;
use crate::rows::mark;
use crate::settings::TableSettings;
use crate::store::location::TableLocation;

/// The generations of a table.
pub struct Generations {
    /// What readers see.
    pub shown: Generation,
    /// What a copy builds. It has a log once something of it is durable.
    next: Option<Next>,
    settings: TableSettings,
}

struct Next {
    copy: u64,
    generation: Generation,
}

impl Next {
    fn is_durable(&self) -> bool {
        self.generation.base.exists()
    }
}

impl Generations {
    /// What a table's own log says.
    pub async fn open(
        table: &TableName,
        location: TableLocation,
        names: &PositionNames,
        settings: &TableSettings,
    ) -> Result<Generations> {
        let mut shown = Generation::open(location, names, settings).await?;
        shown.take_up_index(table).await?;
        Ok(Generations { shown, next: None, settings: settings.clone() })
    }

    /// The generation that events are merged into.
    pub fn target(&self) -> &Generation {
        self.next.as_ref().map_or(&self.shown, |next| &next.generation)
    }

    /// The generation that events are merged into.
    pub fn target_mut(&mut self) -> &mut Generation {
        self.next.as_mut().map_or(&mut self.shown, |next| &mut next.generation)
    }

    /// The generation that events are merged into, as what rows are added to.
    pub fn added_to(&self) -> Target<'_> {
        let Generation { location, base, .. } = self.target();
        Target { location, base, limits: &self.settings.limits }
    }

    /// The generation that readers see, and the next one; none unless a copy builds that.
    pub fn both_mut(&mut self) -> Option<(&Generation, &mut Generation)> {
        self.next.as_mut().map(|next| (&self.shown, &mut next.generation))
    }

    /// The generation whose log says what has been taken.
    pub fn durable(&self) -> &Generation {
        let next = self.next.as_ref().filter(|next| next.is_durable());
        next.map_or(&self.shown, |next| &next.generation)
    }

    /// A copy begins, in a generation of its own or not. That has a new name, also if the same copy is read once more.
    pub fn begin_copy(&mut self, has_generation: bool) {
        self.shown.index = None;
        let copy = rand::random::<u64>() >> 1;
        self.next = has_generation.then(|| Next { copy, generation: self.shown.beside(copy) });
    }

    /// Whether a copy builds a generation of its own.
    pub fn keep_copies(&self) -> bool {
        self.next.is_some()
    }

    /// The generation whose files may be written again; none while a copy replaces it, or nothing is merged into it.
    /// Where rows are only added (`is_appended`), nothing has to be found by its key.
    pub fn compactable<'a>(
        &'a self,
        table: &TableName,
        is_appended: bool,
        plan: Option<&'a EventPlan>,
        settings: &'a TableSettings,
    ) -> Option<Subject<'a>> {
        let Generation { location, base, index, .. } = &self.shown;
        let limits = &settings.limits;
        if self.keep_copies() {
            return None;
        }
        if is_appended {
            let sort_by = settings.sort_columns.of(table, &base.provenance().key);
            return Some(Subject { location, base, keys: None, sort_by, limits });
        }
        let keys = &plan.filter(|_| index.is_some())?.keys;
        let sort_by = settings.sort_columns.of(table, &keys.columns());
        Some(Subject { location, base, keys: Some(keys), sort_by, limits })
    }

    /// Nothing has to be found by its key any more.
    pub fn forget_index(&mut self, table: &TableName) {
        self.shown.index = None;
        self.settings.indexes.forget(table);
    }

    /// Moves what is staged of a table from memory into parts.
    pub async fn seal(&mut self, table: &TableName, names: &PositionNames, staging: &mut Staging) -> Result<()> {
        if staging.pending.is_empty() {
            return Ok(());
        }
        let keeps_deleted = mark::of(next_columns(staging, &self.target().base)).is_some();
        let needed = stored_keys(staging, keeps_deleted);
        let sealed = staging.parts.rows_of(&needed).await?;
        let located = self.target_mut().locate(table, staging, needed).await?;
        let Generation { location, base, .. } = self.target();
        let sealer = Sealer {
            table,
            location,
            base,
            located: &located,
            sealed: &sealed,
            indexes: &self.settings.indexes,
            in_commit_order: names.is_in_commit_order(),
            from_topic: names.is_topic(),
            is_copy: self.keep_copies() || !base.exists() && names.generation().is_some(),
            limits: &self.settings.limits,
        };
        sealer.seal(staging).await
    }

    /// The copy that has not ended, as far as it is durable.
    pub fn unfinished_copy(&self) -> Option<LakeCopy> {
        let Next { copy, generation } = self.next.as_ref()?;
        generation.base.number().map(|version| LakeCopy { id: *copy, version })
    }

    /// Goes on without a generation of its own for the copy; returns which copy that is.
    pub fn take_next(&mut self) -> Option<u64> {
        self.next.take().map(|next| next.copy)
    }

    /// What is not durable of a copy is lost.
    pub fn discard(&mut self) {
        self.next.take_if(|next| !next.is_durable());
    }

    /// Before the next generation begins to be durable: what earlier copies have left goes.
    pub async fn discard_leftovers(&self) {
        if let Some(Next { copy, .. }) = self.next.as_ref().filter(|next| !next.is_durable()) {
            discard_other_generations(&self.shown.location, *copy).await;
        }
    }

    /// Goes on with a copy that was broken off, or with none; true if it is there and at least as far as is said.
    pub async fn resume_copy(
        &mut self,
        table: &TableName,
        names: &PositionNames,
        copy: Option<LakeCopy>,
    ) -> Result<bool> {
        let is_as_far = |found: LakeCopy, copy: LakeCopy| found.id == copy.id && found.version >= copy.version;
        if self.unfinished_copy().zip(copy).is_some_and(|(found, copy)| is_as_far(found, copy)) {
            return Ok(true);
        }
        self.next = None;
        let ended = names.copy(self.shown.base.txns());
        let Some(copy) = copy.filter(|copy| ended != Some(copy.id) && names.orders_whole_table()) else {
            return Ok(false);
        };
        let location = self.shown.location.next_generation(copy.id);
        let generation = match Generation::open(location, names, &self.settings).await {
            Ok(generation) => generation,
            Err(error) if error.class == Class::Operator => {
                tracing::warn!(%table, %error, "a copy that was broken off cannot go on");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let follows = names.standing(&generation.base) == Standing::Follows;
        let resumes = follows && generation.base.number().is_some_and(|version| version >= copy.version);
        self.next = resumes.then_some(Next { copy: copy.id, generation });
        Ok(resumes)
    }

    /// The next generation takes the place of the one that readers see, by a commit of this id. The table keeps as much
    /// as `retention` says.
    pub async fn show_next(
        &mut self,
        table: &TableName,
        names: &PositionNames,
        (id, retention): (Uuid, RetentionSettings),
        watermark: Watermark,
    ) -> Result<Committed> {
        let Some(Next { copy, generation }) = self.next.take() else { return Ok(Committed::default()) };
        let transaction = Transaction { retention, ..replacement(names, &generation, copy, id, watermark) };
        let name = table.to_string();
        for _ in 0..MAX_CONFLICTS {
            self.refresh_shown(table, names, copy).await?;
            let plan = transaction.plan(&self.shown.base, now_millis());
            let committer = Committer::new(&self.shown.location, &name);
            match committer.commit(self.shown.base.next_number(), id, &plan).await? {
                Outcome::Committed => {
                    failpoint("next_generation_shown");
                    let former = std::mem::replace(&mut self.shown, generation);
                    let committed = plan.committed();
                    let table_version = self.shown.take_place(former, table, plan, id);
                    discard_generation(self.shown.location.clone(), copy);
                    return Ok(Committed { table_version, ..committed });
                }
                Outcome::Conflict(_) => {}
                Outcome::Unknown(error) => return Err(error),
            }
        }
        Err(contended(&name))
    }

    /// Looks whether somebody else has ended the copy that goes on here.
    pub async fn inspect_shown(&mut self, table: &TableName, names: &PositionNames) -> Result<()> {
        let Some(copy) = self.next.as_ref().map(|next| next.copy) else { return Ok(()) };
        self.refresh_shown(table, names, copy).await
    }

    async fn refresh_shown(&mut self, table: &TableName, names: &PositionNames, copy: u64) -> Result<()> {
        if self.shown.is_current().await? {
            return Ok(());
        }
        let ids = self.shown.base.files().ids();
        self.shown = Generation::open(self.shown.location.clone(), names, &self.settings).await?;
        // What is staged has numbers of the sequence.
        let base = std::mem::take(&mut self.shown.base);
        self.shown.base = base.renumbered(|files| files.numbered_anew(ids));
        self.check_replaceable(table, names, copy)
    }

    /// Whether what others have made of the table meanwhile may be replaced.
    fn check_replaceable(&self, table: &TableName, names: &PositionNames, copy: u64) -> Result<()> {
        let base = &self.shown.base;
        if names.copy(base.txns()) == Some(copy) {
            return Err(overtaken(table));
        }
        match names.standing(base) {
            Standing::Foreign => Err(made_by_somebody_else(table, self.shown.location.url.as_str())),
            _ => Ok(()),
        }
    }
}

/// The transaction by which a copy's generation replaces whatever is shown. A copy from a stream is complete up to the
/// watermark; one from a topic has taken what its own log says.
fn replacement(names: &PositionNames, next: &Generation, copy: u64, id: Uuid, watermark: Watermark) -> Transaction {
    let positions = match names.is_topic() {
        true => names.recorded(next.base.txns()),
        false => Some(Positions::whole(watermark.commit_lsn)),
    };
    let watermark_told = names.knows_watermark().then_some(watermark);
    let mut transaction = Transaction { watermark: watermark_told, ..next.replacement(id, names.pipeline()) };
    transaction.txns.extend(positions.into_iter().flat_map(|taken| names.versions(&taken, watermark)));
    transaction.txns.extend([names.version_of_copy(copy)]);
    transaction
}
