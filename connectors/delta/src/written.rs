//! A table of the source as the lake holds it: its mirror, its history, or both. Each of them knows by its own log what
//! it has taken, so that a break between their commits leaves one of them ahead, which then passes over what it has.

use sooner_api::{
    Alteration, Class, Code, Committed, Error, Feed, LakeCopy, LakePosition, LakeTable, Positions, Result, Rows,
    Staged, Standing, TableSize, failpoint,
};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

use crate::history::table::HistoryTable;
use crate::table::DeltaTable;

/// A table in the ways in which it is written.
pub struct WrittenTable {
    name: TableName,
    mirror: Option<Box<DeltaTable>>,
    history: Option<Box<HistoryTable>>,
    /// Of a table that is written in both ways: what both have taken.
    positions: Option<Positions>,
    /// What the history has to do for itself is due.
    history_is_due: bool,
    /// Events come from a topic.
    is_topic: bool,
    knows_watermark: bool,
}

impl WrittenTable {
    /// Puts the parts of a table together. Beside a mirror, a history has to be fed in commit order.
    pub fn new(
        name: TableName,
        feed: &Feed,
        mirror: Option<DeltaTable>,
        history: Option<HistoryTable>,
    ) -> WrittenTable {
        let (mirror, history) = (mirror.map(Box::new), history.map(Box::new));
        let is_topic = matches!(feed, Feed::Topic { .. });
        let mut table = WrittenTable {
            name,
            mirror,
            history,
            positions: None,
            history_is_due: false,
            is_topic,
            knows_watermark: feed.knows_watermark(),
        };
        table.note_positions();
        table
    }

    /// A history that is new, beside a mirror of a topic, begins where that is.
    fn begins_later(&self) -> bool {
        let (Some(mirror), Some(history)) = (&self.mirror, &self.history) else { return false };
        self.is_topic && history.standing() == Standing::Absent && mirror.standing() == Standing::Follows
    }

    fn note_positions(&mut self) {
        let (Some(mirror), Some(history)) = (&self.mirror, &self.history) else { return };
        self.positions = match (mirror.positions(), history.positions()) {
            (mirror, _) if self.begins_later() => mirror.cloned(),
            (Some(mirror), Some(history)) => mirror.common(history),
            _ => None,
        };
    }

    /// Whether all events of a step are in the mirror already: it was ahead of the history when it was opened.
    fn mirror_has(&self, rows: &Rows) -> bool {
        let Some(positions) = self.mirror.as_ref().and_then(|mirror| mirror.positions()) else { return false };
        let mut offsets = rows.next_offsets.iter().peekable();
        self.history.is_some()
            && offsets.peek().is_some()
            && offsets.all(|(partition, next)| positions.covers_offset(*partition, *next - 1))
    }
}

impl LakeTable for WrittenTable {
    fn name(&self) -> &TableName {
        &self.name
    }

    fn standing(&self) -> Standing {
        let mirror = self.mirror.as_ref().map(|mirror| mirror.standing());
        let history = self.history.as_ref().map(|history| history.standing());
        match (mirror, history) {
            (Some(mirror), None) => mirror,
            (None, Some(history)) => history,
            (Some(mirror), Some(history)) if mirror == history || self.begins_later() => mirror,
            (Some(Standing::Foreign), _) | (_, Some(Standing::Foreign)) => Standing::Foreign,
            (Some(_), Some(_)) => Standing::FollowsOther,
            (None, None) => Standing::Absent,
        }
    }

    fn positions(&self) -> Option<&Positions> {
        match (&self.mirror, &self.history) {
            (Some(mirror), None) => mirror.positions(),
            (None, Some(history)) => history.positions(),
            _ => self.positions.as_ref(),
        }
    }

    fn watermark(&self) -> Option<Lsn> {
        let mirror = self.mirror.as_ref().map(|mirror| mirror.watermark());
        let history = self.history.as_ref().map(|history| history.watermark());
        match (mirror, history) {
            (Some(Some(mirror)), Some(Some(history))) => Some(mirror.min(history)),
            (Some(mirror), Some(_)) if self.begins_later() => mirror,
            (Some(_), Some(_)) | (None, None) => None,
            (Some(watermark), None) | (None, Some(watermark)) => watermark,
        }
    }

    fn knows_watermark(&self) -> bool {
        self.knows_watermark
    }

    fn reached(&self) -> Option<Lsn> {
        let mirror = self.mirror.as_ref().and_then(|mirror| mirror.watermark());
        mirror.max(self.history.as_ref().and_then(|history| history.watermark()))
    }

    fn version(&self) -> Option<u64> {
        match &self.mirror {
            Some(mirror) => mirror.version(),
            None => self.history.as_ref().and_then(|history| history.version()),
        }
    }

    fn mirror_version(&self) -> Option<u64> {
        self.mirror.as_ref().and_then(|mirror| mirror.version())
    }

    fn history_version(&self) -> Option<u64> {
        self.history.as_ref().and_then(|history| history.version())
    }

    fn size(&self) -> Option<TableSize> {
        match &self.mirror {
            Some(mirror) => mirror.size(),
            None => self.history.as_ref().and_then(|history| history.size()),
        }
    }

    async fn altered_since(&self, stored: &LakePosition) -> Result<Option<Alteration>> {
        if let Some(mirror) = &self.mirror
            && let Some(alteration) = mirror.altered_since(stored).await?
        {
            return Ok(Some(alteration));
        }
        let Some(positions) = self.history.as_ref().and_then(|history| history.positions()) else { return Ok(None) };
        let is_behind = stored.positions.as_ref().is_some_and(|known| !positions.covers(known));
        Ok(is_behind.then(|| Alteration::SetBack("its history in the lake was set back".to_owned())))
    }

    async fn is_current(&self) -> Result<bool> {
        if let Some(mirror) = &self.mirror
            && !mirror.is_current().await?
        {
            return Ok(false);
        }
        match &self.history {
            Some(history) => history.is_current().await,
            None => Ok(true),
        }
    }

    async fn inspect(&mut self) -> Result<()> {
        if let Some(mirror) = &mut self.mirror {
            mirror.inspect().await?;
        }
        if let Some(history) = &mut self.history {
            history.inspect().await?;
        }
        self.note_positions();
        Ok(())
    }

    async fn begin_copy(&mut self, start: Rows) -> Result<Staged> {
        let has = self.mirror_has(&start);
        if let Some(history) = &mut self.history {
            history.begin_copy()?;
            history.stage(&start).await?;
        }
        let staged = match &mut self.mirror {
            Some(mirror) if !has => mirror.begin_copy(start).await,
            _ => Ok(Staged::Taken),
        };
        self.note_positions();
        staged
    }

    async fn truncate(&mut self, truncate: Rows) -> Result<Staged> {
        let has = self.mirror_has(&truncate);
        if let Some(history) = &mut self.history {
            history.stage(&truncate).await?;
        }
        let staged = match &mut self.mirror {
            Some(mirror) if !has => mirror.truncate(truncate).await,
            _ => Ok(Staged::Taken),
        };
        self.note_positions();
        staged
    }

    async fn stage(&mut self, rows: Rows) -> Result<Staged> {
        let staged = self.stage_both(rows).await;
        self.or_opened_again(staged).await
    }

    fn staged_bytes(&self) -> usize {
        let mirror = self.mirror.as_ref().map_or(0, |mirror| mirror.staged_bytes());
        mirror + self.history.as_ref().map_or(0, |history| history.staged_bytes())
    }

    async fn seal(&mut self) -> Result<()> {
        let sealed = self.seal_both().await;
        self.or_opened_again(sealed).await
    }

    async fn commit(&mut self, watermark: Watermark) -> Result<Committed> {
        let committed = self.commit_both(watermark, false).await;
        self.or_opened_again(committed).await
    }

    async fn end_copy(&mut self, watermark: Watermark) -> Result<Committed> {
        self.commit_both(watermark, true).await
    }

    fn expect_copy(&mut self) {
        if let Some(mirror) = &mut self.mirror {
            mirror.expect_copy();
        }
    }

    /// A history holds what was committed, and what was committed once stays; so its copies become visible at their
    /// end, and are read again after a break.
    fn keeps_copies(&self) -> bool {
        self.history.is_none() && self.mirror.as_ref().is_some_and(|mirror| mirror.keeps_copies())
    }

    async fn resume_copy(&mut self, copy: Option<LakeCopy>) -> Result<bool> {
        let copy = copy.filter(|_| self.history.is_none());
        let resumed = match &mut self.mirror {
            Some(mirror) => mirror.resume_copy(copy).await?,
            None => false,
        };
        self.note_positions();
        Ok(resumed)
    }

    fn unfinished_copy(&self) -> Option<LakeCopy> {
        self.mirror.as_ref().filter(|_| self.history.is_none())?.unfinished_copy()
    }

    fn last_copy(&self) -> Option<u64> {
        match &self.mirror {
            Some(mirror) => mirror.last_copy(),
            None => self.history.as_ref().and_then(|history| history.last_copy()),
        }
    }

    async fn maintenance_due(&mut self) {
        self.history_is_due = match (&mut self.mirror, &mut self.history) {
            (Some(mirror), Some(history)) => tokio::select! {
                biased;
                () = mirror.maintenance_due() => false,
                () = history.maintenance_due() => true,
            },
            (Some(mirror), None) => {
                mirror.maintenance_due().await;
                false
            }
            (None, Some(history)) => {
                history.maintenance_due().await;
                true
            }
            (None, None) => std::future::pending().await,
        };
    }

    async fn maintain(&mut self) -> Result<()> {
        let maintained = match (&mut self.mirror, &mut self.history) {
            (_, Some(history)) if self.history_is_due => history.maintain().await,
            (Some(mirror), _) => mirror.maintain().await,
            (None, _) => Ok(()),
        };
        self.note_positions();
        maintained
    }

    fn discard(&mut self) {
        if let Some(mirror) = &mut self.mirror {
            mirror.discard();
        }
        if let Some(history) = &mut self.history {
            history.discard();
        }
        self.note_positions();
    }
}

impl WrittenTable {
    async fn stage_both(&mut self, rows: Rows) -> Result<Staged> {
        let has = self.mirror_has(&rows);
        if let Some(history) = &mut self.history {
            history.stage(&rows).await?;
        }
        let staged = match &mut self.mirror {
            Some(mirror) if !has => mirror.stage(rows).await,
            _ => Ok(Staged::Taken),
        };
        self.note_positions();
        staged
    }

    async fn seal_both(&mut self) -> Result<()> {
        if let Some(history) = &mut self.history {
            history.seal().await?;
        }
        match &mut self.mirror {
            Some(mirror) => mirror.seal().await,
            None => Ok(()),
        }
    }

    /// A file may be gone because somebody else has taken it out of the table, and deleted it at once, as an erasure
    /// does. Then the table is fine: it is opened again.
    async fn or_opened_again<T>(&self, outcome: Result<T>) -> Result<T> {
        match outcome {
            Err(error) if error.code == Code::ObjectMissing && !self.is_current().await? => {
                Err(Error { class: Class::Retry, remedy: "nothing; the table is opened again".into(), ..error })
            }
            outcome => outcome,
        }
    }

    /// Commits the history first: what it lacks could not be told from the mirror, which holds the last state only.
    async fn commit_both(&mut self, watermark: Watermark, ends_copy: bool) -> Result<Committed> {
        let kept = match &mut self.history {
            Some(history) => Some(history.commit(watermark, ends_copy).await?),
            None => None,
        };
        if kept.is_some() {
            failpoint("history_committed");
        }
        let committed = match (&mut self.mirror, ends_copy) {
            (Some(mirror), true) => Some(mirror.end_copy(watermark).await?),
            (Some(mirror), false) => Some(mirror.commit(watermark).await?),
            (None, _) => None,
        };
        self.note_positions();
        Ok(committed.or(kept).unwrap_or_default())
    }
}

/// The error of a table whose history cannot be fed beside its mirror.
pub fn unordered(table: &TableName) -> Error {
    Error::operator(
        Code::PartitionsUnordered,
        format!("cannot keep a history of {table} beside its mirror"),
        "its topic's partitions are not all read here in commit order, so that after a break one could not be told to \
         be ahead of the other",
        "set write = [\"history\"] or [\"mirror\"] for this table, or let one sink read all partitions of a topic that \
         sooner writes",
    )
}
