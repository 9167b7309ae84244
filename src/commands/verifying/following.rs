//! Rows that change too often to be found equal between two changes: they are followed to the position of a cut, where
//! the lake has a version that is complete to exactly there.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sooner_delta::cuts::Cut;
use sooner_delta::verification::Fingerprinter;
use sooner_postgres::followed_rows::{FollowedRows, FollowingSlot};
use sooner_postgres::schedule::KeyTexts;

use super::Comparison;
use super::rounds::{Suspects, Wanted};
use super::seen::seen_in;
use crate::commands::cut::made;
use crate::commands::wait::source_end;
use crate::cut_desk::CutRequests;
use crate::pipeline::cutting::CutRequest;

/// Rows that are followed at once, at most.
const MOST_ROWS: usize = 10_000;
/// How long the cut is held if this process ends before it is dropped.
const HOLD: Duration = Duration::from_secs(3600);

impl Comparison<'_> {
    /// Finds out for certain about rows that are still open, as far as their keys are known.
    pub(super) async fn follow(&mut self, prints: &Fingerprinter, suspects: &mut Suspects) -> anyhow::Result<()> {
        let open = suspects.open();
        let texts = self.key_texts.iter().filter(|(key, _)| open.contains(key)).take(MOST_ROWS);
        let keys: HashMap<_, _> = texts.map(|(key, texts)| (texts.clone(), *key)).collect();
        if keys.is_empty() {
            return Ok(());
        }
        let source = self.config.source()?;
        let name = format!("verify-{:016x}", rand::random::<u64>());
        let (connect, patience) = (&source.connect, self.pace.patience);
        let followed = keys.keys().cloned().chain(self.origins.iter().cloned()).collect();
        let mut slot = FollowingSlot::create(connect, format!("sooner_{}", name.replace('-', "_")), patience).await?;
        let mut rows = FollowedRows::read(connect, &mut slot, &self.rows.copied, followed).await?;
        let cut = self.cut(&name).await?;
        let followed = rows.follow_to(slot, &source.publication, cut.lsn, patience).await;
        let compared = match followed {
            Ok(()) => self.compare_at(&cut, prints, &rows, &keys, suspects).await,
            Err(error) => Err(error.into()),
        };
        let origins: Vec<_> = rows.origins().iter().take(MOST_ROWS).cloned().collect();
        drop(rows);
        self.origins.extend(origins);
        self.lake.drop_cut(&name).await?;
        (self.report.lsn, self.report.version) = (Some(cut.lsn), compared?);
        Ok(())
    }

    /// Compares the rows with the cut's version of the table, and returns that.
    async fn compare_at(
        &self,
        cut: &Cut,
        prints: &Fingerprinter,
        rows: &FollowedRows<'_>,
        keys: &HashMap<KeyTexts, u128>,
        suspects: &mut Suspects,
    ) -> anyhow::Result<Option<u64>> {
        let messages = rows.messages()?;
        let source = prints.fingerprints(&prints.decode(messages.iter().map(Vec::as_slice))?)?;
        let source = source.into_iter().map(|row| (row.key, row.values)).collect();
        let known: HashSet<_> = rows.keys().iter().filter_map(|texts| keys.get(texts).copied()).collect();
        let (name, schema) = (self.rows.name(), self.rows.copied.encoder.schema());
        let table = self.looked_at.in_cut(cut.tables.get(name), schema, cut.lsn).await?;
        let lake = seen_in(&table.stored, prints, &Wanted::Keys(known.clone())).await?;
        suspects.settle(&known, &source, &lake);
        Ok(table.version)
    }

    async fn cut(&self, name: &str) -> anyhow::Result<Cut> {
        let asked = Instant::now();
        let until = (SystemTime::now() + HOLD).duration_since(UNIX_EPOCH)?.as_millis();
        let request = CutRequest {
            name: name.to_owned(),
            tables: vec![self.rows.name().clone()],
            from_lsn: Some(source_end(self.config).await?),
            from_micros: None,
            until_millis: Some(i64::try_from(until)?),
        };
        let left = || Some(self.pace.patience.saturating_sub(asked.elapsed()));
        let requests = CutRequests::new(&self.config.state_dir);
        let cut = made(&requests, self.lake, &request, left).await;
        requests.dismiss(name)?;
        cut?.ok_or_else(|| {
            anyhow::anyhow!(
                "the lake has no version at one position in time. To do: see that the pipeline runs (`sooner status`)"
            )
        })
    }
}
