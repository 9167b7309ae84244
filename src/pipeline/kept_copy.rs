//! What is durable of a table's copy that has not ended, with how far the copy was at the source then. Without I/O.

use std::collections::VecDeque;

use sooner_api::{CopyProgress, LakeCopy, UnfinishedCopy};
use sooner_schemas::Lsn;

/// Keys in reports that wait at most, all together: one is told with each batch that holds rows known in part.
const KEYS_WAITING: usize = 50_000;

/// A copy that goes on after a break, if there is one.
#[derive(Debug, Default)]
pub struct KeptCopy {
    /// How far the copy was at the source after so many steps; not all of them are durable.
    reported: VecDeque<(u64, CopyProgress)>,
    /// Steps that are durable.
    durable_steps: u64,
    copy: Option<UnfinishedCopy>,
}

impl KeptCopy {
    /// One that was stored by a former process.
    pub fn resumed(copy: UnfinishedCopy) -> KeptCopy {
        KeptCopy { copy: Some(copy), ..KeptCopy::default() }
    }

    /// The copy does not go on; returns whether there was something of it.
    pub fn clear(&mut self) -> bool {
        self.reported.clear();
        self.copy.take().is_some()
    }

    /// So far the copy is at the source, after so many steps; none if it could not go on from there. Returns whether
    /// that counts at once.
    pub fn report(&mut self, steps: u64, progress: Option<CopyProgress>) -> bool {
        let waiting: usize = self.reported.iter().map(|(_, waiting)| waiting.rest.keys.len()).sum();
        let Some(progress) = progress.filter(|progress| waiting + progress.rest.keys.len() <= KEYS_WAITING) else {
            // What was told before says nothing of rows that came since.
            self.reported.clear();
            return self.copy.as_mut().and_then(|copy| copy.source.take()).is_some();
        };
        self.reported.push_back((steps, progress));
        self.take_reported()
    }

    /// So many steps are durable, with everything of the table before an LSN; none of `lake` if the copy has ended.
    pub fn commit(&mut self, steps: u64, lake: Option<LakeCopy>, complete_lsn: Lsn) {
        self.durable_steps = self.durable_steps.max(steps);
        let former = self.copy.take();
        let Some(lake) = lake else { return };
        let former = former.filter(|copy| copy.lake.is_none_or(|known| known.id == lake.id));
        let source = former.and_then(|copy| copy.source);
        self.copy = Some(UnfinishedCopy { source, lake: Some(lake), complete_lsn });
        self.take_reported();
    }

    fn take_reported(&mut self) -> bool {
        let Some(copy) = &mut self.copy else { return false };
        let mut is_news = false;
        while let Some((_, progress)) = self.reported.pop_front_if(|(steps, _)| *steps <= self.durable_steps) {
            copy.source = Some(progress);
            is_news = true;
        }
        is_news
    }

    /// Whether a break costs only what is on its way: then nothing after it may be forgotten.
    pub fn goes_on(&self) -> bool {
        self.copy.as_ref().is_some_and(|copy| copy.source.is_some())
    }

    /// What is to be stored. `clean_to` is up to where nothing of the table is on its way, if nothing is.
    pub fn to_store(&self, clean_to: Option<Lsn>) -> Option<UnfinishedCopy> {
        let mut copy = self.copy.clone()?;
        copy.complete_lsn = copy.complete_lsn.max(clean_to.unwrap_or_default());
        Some(copy)
    }
}

#[cfg(test)]
mod tests {
    use sooner_api::CopyRest;

    use super::*;

    fn progress(rows: u64) -> CopyProgress {
        CopyProgress { id: 7, rows, rest: CopyRest::default() }
    }

    fn stored(kept: &KeptCopy) -> Option<u64> {
        kept.to_store(None)?.source.map(|source| source.rows)
    }

    #[test]
    fn progress_counts_once_its_rows_are_durable() {
        let mut kept = KeptCopy::default();
        kept.report(1, Some(progress(5)));
        kept.report(2, Some(progress(6)));
        assert!(!kept.goes_on());
        kept.commit(1, Some(LakeCopy { id: 7, version: 0 }), Lsn(20));
        assert_eq!((stored(&kept), kept.goes_on()), (Some(5), true));
        kept.commit(2, Some(LakeCopy { id: 7, version: 1 }), Lsn(30));
        assert_eq!(stored(&kept), Some(6));
        assert!(kept.report(2, Some(progress(9))), "no rows came with it");
        assert_eq!(stored(&kept), Some(9));
        assert_eq!(kept.to_store(Some(Lsn(40))).unwrap().complete_lsn, Lsn(40));
        kept.report(3, Some(progress(10)));
        assert!(kept.report(3, None) && !kept.goes_on(), "it could not go on");
        kept.commit(3, None, Lsn(50));
        assert_eq!(stored(&kept), None, "it has ended");
    }

    #[test]
    fn reports_that_wait_are_bounded_and_the_copy_goes_on_from_a_later_one() {
        let mut kept = KeptCopy::default();
        kept.report(0, Some(progress(1)));
        kept.commit(0, Some(LakeCopy { id: 7, version: 0 }), Lsn(20));
        let keys = vec![Box::from([Box::from("k")]); KEYS_WAITING / 2];
        let large =
            |rows| CopyProgress { rest: CopyRest { keys: keys.clone(), ..CopyRest::default() }, ..progress(rows) };
        kept.report(1, Some(large(2)));
        kept.report(2, Some(large(3)));
        assert_eq!(stored(&kept), Some(1));
        kept.report(3, Some(large(4)));
        assert!(kept.reported.is_empty() && !kept.goes_on(), "the first one lacks what came since");
        kept.report(4, Some(progress(5)));
        kept.commit(4, Some(LakeCopy { id: 7, version: 1 }), Lsn(30));
        assert_eq!(stored(&kept), Some(5));
    }

    #[test]
    fn another_copy_takes_nothing_of_the_former_ones_progress() {
        let mut kept = KeptCopy::default();
        kept.report(1, Some(progress(5)));
        kept.commit(1, Some(LakeCopy { id: 7, version: 3 }), Lsn(20));
        kept.commit(2, Some(LakeCopy { id: 8, version: 0 }), Lsn(30));
        assert_eq!(stored(&kept), None);
        assert!(kept.clear());
        assert!(!kept.clear());
    }
}
