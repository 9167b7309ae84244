//! Results of reports that hold rows of subjects: found in their rows, and removed if that is asked for.

use std::collections::BTreeSet;

use serde::Serialize;
use sooner_api::Clock;
use sooner_delta::erasure::results::search_results;
use sooner_delta::erasure::subject::Subject;

use super::remains::Remains;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::report_settings::ReportSettings;
use crate::reports::making::Maker;
use crate::reports::manifest::instant;
use crate::reports::runs::RunStore;

/// A run whose result holds values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FoundRun {
    /// Name of the report.
    pub report: String,
    /// Name of the run.
    pub run: String,
    /// Its files that hold values: below the lake, or as URLs where results lie elsewhere.
    pub files: Vec<String>,
    /// Whether the run was erased.
    pub erased: bool,
}

/// What was found in the results of a configuration's reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InReports {
    /// Number of objects that were searched.
    pub objects: usize,
    /// The runs.
    pub runs: Vec<FoundRun>,
    /// Parquet files that could not be read.
    pub unreadable: Vec<String>,
}

/// Searches the results of all reports. With the name of an erasure, erases the runs that hold values.
pub async fn in_reports(config: &Config, subjects: &[Subject], erasure: Option<&str>) -> anyhow::Result<InReports> {
    let mut found = InReports::default();
    if config.reports.is_empty() {
        return Ok(found);
    }
    let maker = Maker::new(config)?;
    for settings in &config.reports {
        let store = maker.runs(settings)?;
        let searched = search_results(&store.results(), subjects).await?;
        found.objects += searched.objects;
        let place = |name: &String| place_of(config, settings, &store, name);
        found.unreadable.extend(searched.unreadable.iter().map(place));
        let run_of = |name: &str| name.split_once('/').map(|(run, _)| run.to_owned());
        let runs: BTreeSet<_> = searched.holding.iter().filter_map(|name| run_of(name)).collect();
        for run in runs {
            if let Some(erasure) = erasure {
                store.erase(&run, erasure, instant(SystemClock.now_micros())).await?;
            }
            let files = searched.holding.iter().filter(|name| run_of(name).as_ref() == Some(&run)).map(place);
            let (report, erased) = (settings.name.clone(), erasure.is_some());
            found.runs.push(FoundRun { report, files: files.collect(), run, erased });
        }
    }
    Ok(found)
}

fn place_of(config: &Config, settings: &ReportSettings, store: &RunStore, name: &str) -> String {
    match &settings.output {
        Some(_) => format!("{}/{name}", store.url().trim_end_matches('/')),
        None => format!("_sooner/{}/reports/{}/{name}", config.name, settings.name),
    }
}

impl InReports {
    /// What is left.
    pub fn remains(&self) -> Vec<Remains> {
        let held = self.runs.iter().filter(|run| !run.erased).flat_map(|run| {
            run.files.iter().map(|file| Remains {
                place: file.clone(),
                why: format!("the report '{}' has made it of such rows, in its run {}", run.report, run.run),
                until: None,
                to_do: "erase again with --drop-reports, after which the run can be made again".to_owned(),
                found: true,
            })
        });
        let unreadable = self.unreadable.iter().map(|file| Remains {
            place: file.clone(),
            why: "it cannot be read, so nobody knows whether it has a value".to_owned(),
            until: None,
            to_do: "see the file, and delete it".to_owned(),
            found: true,
        });
        held.chain(unreadable).collect()
    }
}
