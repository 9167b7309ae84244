//! Whether the lake equals its source, row by row: both are looked at, the source in short transactions, the lake once
//! it is complete to where the source was looked at; and where they differ, again, until it is certain what differs.
//! Rows that change all the time are followed to a position at which both sides are known exactly.

pub mod at_cut;
mod following;
pub mod notes;
pub mod pace;
pub mod repair;
pub mod rounds;
pub mod scheduler;
mod seen;
pub mod source;
pub mod tables;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use serde::Serialize;
use sooner_api::{Result, SourceTable};
use sooner_delta::current_rows::LookedAt;
use sooner_delta::verification::{Fingerprinter, RecordBatch};
use sooner_delta::{DeltaLake, StoredRows};
use sooner_postgres::schedule::KeyTexts;
use sooner_schemas::{Lsn, TableName};

use self::pace::Pace;
use self::repair::{Repair, repair_of};
use self::rounds::{Buckets, Seen, Suspects, Wanted};
use self::seen::{MOST_SEEN, bounded, keep, keep_stored, known_texts};
use self::source::SourceRows;
use super::wait::{Standing, reached};
use crate::config::Config;

/// Looks at one table, at most. What is open then is not verified.
const MOST_LOOKS: u32 = 8;
/// Looks after which rows that are still open are followed to one position of both sides.
const FOLLOWED_AFTER: u32 = 4;
/// Groups of buckets whose rows are looked at, at most, until some are found to differ. What is left then is not
/// verified.
const MOST_GROUPS: usize = 8;
/// Differences that are told one by one, at most.
const MOST_TOLD: usize = 100;

/// What became of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Every row of the source is in the lake, with the same values, and no other row is.
    Equal,
    /// These rows differ.
    Different {
        /// How many rows.
        count: usize,
        /// There may be more: so many may differ that not all of them were looked at.
        at_least: bool,
        /// Some of them.
        differences: Vec<Difference>,
    },
    /// It is not known.
    Unverified {
        /// Why not.
        why: String,
    },
}

/// A row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its key.
    pub key: String,
    /// In what.
    #[serde(flatten)]
    pub kind: Kind,
}

/// In what a row differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
pub enum Kind {
    /// The source has it, and the lake does not.
    Missing,
    /// The lake has it, and the source does not.
    Extra,
    /// The lake has it more than once.
    Repeated,
    /// Both have it.
    Values {
        /// Columns with other values.
        columns: Vec<String>,
    },
}

/// What was found of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Table.
    pub table: TableName,
    /// What became of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Rows of the source that were looked at first.
    pub rows: u64,
    /// The lake was complete to here at least when it was looked at last.
    pub lsn: Option<Lsn>,
    /// Version of the lake table that was looked at last.
    pub version: Option<u64>,
    /// How often both were looked at.
    pub looks: u32,
    /// Rows that were read at the source in all: of those that may differ, only their own once their keys are known.
    pub rows_read: u64,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Its rows have no key, so that differences tell values.
    #[serde(skip)]
    pub tells_values: bool,
    /// What would make it equal, where rows differ. It has keys, which are values of rows, and is not told.
    #[serde(skip)]
    pub repair: Option<Repair>,
}

impl Report {
    /// Of a table that nobody could look at.
    pub fn unverified(table: &TableName, why: &str) -> Report {
        Report {
            table: table.clone(),
            verdict: Verdict::Unverified { why: why.to_owned() },
            rows: 0,
            lsn: None,
            version: None,
            looks: 0,
            rows_read: 0,
            millis: 0,
            tells_values: false,
            repair: None,
        }
    }
}

/// One table being compared.
struct Comparison<'a> {
    config: &'a Config,
    lake: &'a DeltaLake,
    looked_at: LookedAt<'a>,
    rows: SourceRows,
    pace: Pace,
    report: Report,
    /// Texts of the keys of rows that may differ, as far as they are known.
    key_texts: HashMap<u128, KeyTexts>,
    /// Keys from which rows come to those that may differ: they are followed as well.
    origins: BTreeSet<KeyTexts>,
}

/// Compares a table with the lake.
pub async fn verify(config: &Config, lake: &DeltaLake, table: SourceTable, pace: Pace) -> anyhow::Result<Report> {
    let started = Instant::now();
    let rows = SourceRows::open(config, table).await?;
    let report = Report::unverified(rows.name(), "it was not looked at");
    let ways = config.tables.ways(rows.name());
    let looked_at = LookedAt::new(lake, rows.name().clone(), ways.mirror || ways.append.is_some());
    let (key_texts, origins) = (HashMap::new(), BTreeSet::new());
    let mut comparison = Comparison { config, lake, looked_at, rows, pace, report, key_texts, origins };
    let verdict = match comparison.compare().await {
        Ok(verdict) => verdict,
        Err(error) => Verdict::Unverified { why: format!("{error:#}") },
    };
    if let Err(error) = comparison.looked_at.end().await {
        tracing::warn!(%error, "a table that was made to be compared is still there; it goes in a day");
    }
    Ok(Report { verdict, millis: started.elapsed().as_millis() as u64, ..comparison.report })
}

impl Comparison<'_> {
    async fn compare(&mut self) -> anyhow::Result<Verdict> {
        let schema = self.rows.copied.encoder.schema();
        let prints = match self.looked_at.has_mirror() {
            true => {
                let Some(table) = self.lake.rows_of(self.rows.name()).await? else {
                    return Ok(unverified("there is no such table in the lake"));
                };
                if table.version.provenance().ignores_changes {
                    return Ok(unverified(
                        "changes of its rows are ignored (on_change = \"ignore\"), so it differs from its source",
                    ));
                }
                Fingerprinter::new(schema, table.version.columns())?
            }
            false => {
                self.looked_at.check(schema).await?;
                Fingerprinter::of_events(schema)?
            }
        };
        let estimate = self.rows.copied.table.estimated_rows.unwrap_or_default();
        let (mut source, mut lake) = (Buckets::for_rows(estimate), Buckets::for_rows(estimate));
        let count = |buckets: &mut Buckets, rows: &RecordBatch| -> Result<()> {
            prints.fingerprints(rows)?.into_iter().for_each(|row| buckets.count(row));
            Ok(())
        };
        let lsn = self.rows.scan(&self.pace, |rows, _| count(&mut source, &prints.decode(rows)?)).await?;
        let table = self.lake_at(lsn).await?;
        prints.scan(&table, |rows| count(&mut lake, &rows)).await?;
        (self.report.rows, self.report.rows_read) = (source.rows, source.rows);
        self.report.tells_values = !prints.has_key();
        let groups = source.differing(&lake);
        let is_one = groups.len() <= 1;
        for (number, wanted) in groups.into_iter().enumerate() {
            if number == MOST_GROUPS {
                return Ok(unverified("more rows changed while they were looked at than are looked at one by one"));
            }
            match self.settle(&prints, wanted, is_one).await? {
                Verdict::Equal => {}
                found => return Ok(found),
            }
        }
        Ok(Verdict::Equal)
    }

    /// Looks again at rows that may differ, until it is certain which do; `are_all` if no others may.
    async fn settle(&mut self, prints: &Fingerprinter, mut wanted: Wanted, are_all: bool) -> anyhow::Result<Verdict> {
        let (mut suspects, mut looks) = (Suspects::default(), 0);
        self.key_texts.clear();
        while looks < MOST_LOOKS {
            looks += 1;
            let (source, table) = self.look(prints, &wanted).await?;
            let lake = self.look_in(&table, prints, &wanted).await?;
            suspects.look(&source, &lake);
            if looks >= FOLLOWED_AFTER {
                self.follow(prints, &mut suspects).await?;
            }
            wanted = Wanted::Keys(suspects.keys());
            if suspects.open().is_empty() {
                return self.told(prints, &suspects, &table, are_all).await;
            }
        }
        Ok(unverified(&format!("{} rows changed each time that they were looked at", suspects.open().len())))
    }

    async fn look(&mut self, prints: &Fingerprinter, wanted: &Wanted) -> anyhow::Result<(Seen, StoredRows)> {
        let (mut source, mut read) = (Seen::new(), 0);
        let mut texts = std::mem::take(&mut self.key_texts);
        let known = known_texts(&texts, wanted);
        let each = |rows: Vec<&[u8]>, keys: &[KeyTexts]| {
            read += rows.len() as u64;
            let rows = prints.fingerprints(&prints.decode(rows)?)?;
            for (at, row) in rows.iter().enumerate().filter(|(_, row)| wanted.has(row.key)) {
                keep(&mut source, *row, prints);
                if let Some(key) = keys.get(at).filter(|_| prints.has_key() && texts.len() as u64 <= MOST_SEEN) {
                    texts.entry(row.key).or_insert_with(|| key.clone());
                }
            }
            Ok(())
        };
        let lsn = match known {
            Some(keys) => self.rows.look_up(&keys, &self.pace, each).await?,
            None => self.rows.scan(&self.pace, each).await?,
        };
        self.key_texts = texts;
        self.report.rows_read += read;
        Ok((bounded(source)?, self.lake_at(lsn).await?))
    }

    /// The same in the lake. Of rows that only the lake has, it has the keys' texts.
    async fn look_in(&mut self, table: &StoredRows, prints: &Fingerprinter, wanted: &Wanted) -> anyhow::Result<Seen> {
        let (mut seen, texts) = (Seen::new(), &mut self.key_texts);
        let look = |rows: RecordBatch| {
            for (at, row) in prints.fingerprints(&rows)?.into_iter().enumerate() {
                if wanted.has(row.key) {
                    keep_stored(&mut seen, row, prints);
                    if !texts.contains_key(&row.key) && texts.len() as u64 <= MOST_SEEN {
                        texts.extend(prints.key_texts(&rows, at).map(|text| (row.key, text)));
                    }
                }
            }
            Ok(())
        };
        prints.scan(table, look).await?;
        bounded(seen)
    }

    /// The table in the lake, once it is complete to a position.
    async fn lake_at(&mut self, lsn: Lsn) -> anyhow::Result<StoredRows> {
        let asked = Instant::now();
        let patience = self.pace.patience;
        let left = || Some(patience.saturating_sub(asked.elapsed()));
        match reached(self.config, self.rows.name(), lsn, left).await? {
            Standing::Complete => {}
            Standing::Stopped(why) => anyhow::bail!("it does not follow its source: {why}"),
            Standing::Behind | Standing::Unknown => anyhow::bail!(
                "the lake is not complete to {lsn} in time. To do: see that the pipeline runs (`sooner status`)"
            ),
        }
        let schema = self.rows.copied.encoder.schema();
        let table = self.looked_at.latest(schema, lsn).await?;
        let table = table.ok_or_else(|| anyhow::anyhow!("there is no such table in the lake"))?;
        self.report.looks += 1;
        (self.report.lsn, self.report.version) = (Some(lsn), table.version);
        Ok(table.stored)
    }

    /// The rows that differ for certain, with their keys and columns.
    async fn told(
        &mut self,
        prints: &Fingerprinter,
        suspects: &Suspects,
        table: &StoredRows,
        are_all: bool,
    ) -> anyhow::Result<Verdict> {
        let certain: HashMap<_, _> = suspects.certain().collect();
        if certain.is_empty() {
            return Ok(Verdict::Equal);
        }
        let relation = &self.rows.copied.table.relation;
        let is_appended = self.config.tables.ways(&relation.name).append.is_some();
        self.report.repair = match are_all && !is_appended {
            // While it is written to, a copy would stop it: a person decides.
            _ if !prints.has_key() => None,
            true => Some(repair_of(relation, &certain, &self.key_texts, self.report.rows)),
            false => Some(Repair::Table),
        };
        let told: HashMap<_, _> = certain.iter().take(MOST_TOLD).map(|(key, pair)| (*key, *pair)).collect();
        let (mut source, mut lake, mut repeated) = (HashMap::new(), HashMap::new(), HashSet::new());
        let keep = |kept: &mut HashMap<u128, RecordBatch>, rows: &RecordBatch| -> Result<Vec<u128>> {
            let mut again = Vec::new();
            for (row, print) in prints.fingerprints(rows)?.into_iter().enumerate() {
                if told.contains_key(&print.key) && kept.insert(print.key, rows.slice(row, 1)).is_some() {
                    again.push(print.key);
                }
            }
            Ok(again)
        };
        let mut read = 0;
        let each = |rows: Vec<&[u8]>, _: &[KeyTexts]| {
            read += rows.len() as u64;
            keep(&mut source, &prints.decode(rows)?).map(drop)
        };
        match known_texts(&self.key_texts, &Wanted::Keys(told.keys().copied().collect())) {
            Some(keys) => self.rows.look_up(&keys, &self.pace, each).await?,
            None => self.rows.scan(&self.pace, each).await?,
        };
        self.report.rows_read += read;
        let each = |rows: RecordBatch| {
            repeated.extend(keep(&mut lake, &rows)?);
            Ok(())
        };
        prints.scan(table, each).await?;
        if prints.has_key() && !repeated.is_empty() {
            // A copy of single rows replaces one of them.
            self.report.repair = Some(Repair::Table);
        }
        let differences = told.iter().filter_map(|(key, pair)| {
            let (source, lake) = (source.get(key), lake.get(key));
            let text = prints.key_text(source.or(lake)?, 0);
            let kind = match (pair, source.zip(lake)) {
                _ if prints.has_key() && repeated.contains(key) => Kind::Repeated,
                ((_, None), _) => Kind::Missing,
                ((None, _), _) => Kind::Extra,
                // Without a key it is known how many such rows there are.
                ((Some(source), Some(lake)), _) if !prints.has_key() => match source > lake {
                    true => Kind::Missing,
                    false => Kind::Extra,
                },
                (_, Some((source, lake))) => Kind::Values { columns: prints.differing((source, 0), (lake, 0)) },
                (_, None) => Kind::Values { columns: Vec::new() },
            };
            Some(Difference { key: text, kind })
        });
        let mut differences: Vec<_> = differences.collect();
        differences.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Verdict::Different { count: certain.len(), at_least: !are_all, differences })
    }
}

fn unverified(why: &str) -> Verdict {
    Verdict::Unverified { why: why.to_owned() }
}
