//! Leaves what was found where the pipeline's listener reads it. That it cannot be left there changes nothing of what
//! was found.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sooner_api::Clock;
use sooner_schemas::TableName;

use super::{Difference, Kind, Report, Verdict};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::verifications::{Example, MOST_EXAMPLES, Outcome, Repaired, Reports, Verified, store};

/// Reports are stored together with those of so long before them: the file is written whole.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reports on their way to the state folder.
pub struct Notes {
    state_dir: PathBuf,
    tables: BTreeSet<TableName>,
    found: Reports,
    stored: Instant,
}

impl Notes {
    /// Reports of a pipeline that has these tables.
    pub fn new(config: &Config, tables: BTreeSet<TableName>) -> Notes {
        Notes { state_dir: config.state_dir.clone(), tables, found: Reports::new(), stored: Instant::now() }
    }

    /// Takes a report, and how its table was asked to be repaired.
    pub fn take(&mut self, report: &Report, repair: Option<Repaired>) {
        let noted = Verified { repair, ..noted(report, SystemClock.now_micros()) };
        self.found.insert(report.table.clone(), noted);
        if self.stored.elapsed() > INTERVAL {
            self.store();
        }
    }

    /// Stores what was taken.
    pub fn store(&mut self) {
        if let Err(error) = store(&self.state_dir, std::mem::take(&mut self.found), &self.tables) {
            let folder = self.state_dir.display();
            tracing::warn!(%error, "cannot leave the reports in {folder}, so the pipeline's page and metrics lack them");
        }
        self.stored = Instant::now();
    }
}

fn noted(report: &Report, at_micros: i64) -> Verified {
    let (verdict, why, differing, examples) = match &report.verdict {
        Verdict::Equal => (Outcome::Equal, None, Some(0), Vec::new()),
        Verdict::Unverified { why } => (Outcome::Unverified, Some(why.clone()), None, Vec::new()),
        Verdict::Different { count, differences, .. } => {
            // Without keys, examples would be values of rows, which are not left there.
            let most = if report.tells_values { 0 } else { MOST_EXAMPLES };
            let examples = differences.iter().take(most).map(example).collect();
            (Outcome::Different, None, Some(*count as u64), examples)
        }
    };
    Verified {
        verdict,
        why,
        at_micros,
        equal_micros: None,
        differing,
        examples,
        repair: None,
        rows: report.rows,
        lsn: report.lsn,
        version: report.version,
        millis: report.millis,
    }
}

fn example(Difference { key, kind }: &Difference) -> Example {
    let (difference, columns) = match kind {
        Kind::Missing => ("missing", Vec::new()),
        Kind::Extra => ("extra", Vec::new()),
        Kind::Repeated => ("repeated", Vec::new()),
        Kind::Values { columns } => ("values", columns.clone()),
    };
    Example { key: key.clone(), difference: difference.to_owned(), columns }
}
