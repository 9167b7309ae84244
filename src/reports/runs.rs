//! The runs of a report, as its folder of results has them: `<output>/<report>/<run>/`. A run that has begun has
//! `begun.json`, one that has failed `failed.json`, and one that is complete `manifest.json`, which is put once. One
//! that was erased because it held rows of a subject has `erased.json` in place of all that, and can be made again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sooner_api::{Code, Error, Result, failpoint};
use sooner_delta::results::ResultFolder;
use sooner_delta::{DeltaLake, LakeStore, S3Settings};

use super::manifest::{Manifest, ResultFile};
use crate::report_settings::ReportSettings;
use crate::schedule::Due;

const SINCE: &str = "since.json";
const BEGUN: &str = "begun.json";
const FAILED: &str = "failed.json";
const MANIFEST: &str = "manifest.json";
const ERASED: &str = "erased.json";

/// What is known of a run by the names of its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunFiles {
    /// The scheduler has begun it.
    pub begun: bool,
    /// It has failed, and was given up.
    pub failed: bool,
    /// It is complete.
    pub made: bool,
    /// What it had made was erased.
    pub erased: bool,
}

/// What is left of a run that was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasedRun {
    /// Name of the erasure, which is that of its certificate.
    pub erasure: String,
    /// When it was erased.
    pub at: String,
    /// What it had been before; none of a run that was not complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<FormerResult>,
}

/// What a result had been that was erased. Not its query, which may name whoever was erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerResult {
    /// When it was due.
    pub due: String,
    /// When it was complete.
    pub finished: String,
    /// SHA-256 of the query, as hexadecimal digits.
    pub query_sha256: String,
    /// Number of rows.
    pub rows: u64,
    /// Its files, which are gone.
    pub files: Vec<ResultFile>,
}

/// Since when a report is known, so that what was due before counts as missed by nobody.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Since {
    pipeline: String,
    since: String,
    since_seconds: i64,
}

/// Where the schedule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What was due up to here has been made, has failed, was left out, or is unfinished.
    pub handled: Due,
    /// Runs that have begun and have no result.
    pub unfinished: BTreeSet<Due>,
}

/// The runs of one report.
#[derive(Clone, Debug)]
pub struct RunStore {
    report: String,
    pipeline: String,
    folder: ResultFolder,
}

impl RunStore {
    /// The runs of a report: where its settings say, or in the lake.
    pub fn open(lake: &DeltaLake, s3: &S3Settings, settings: &ReportSettings) -> Result<RunStore> {
        let folder = match &settings.output {
            Some(output) => ResultFolder::at(&LakeStore::open(output, s3)?),
            None => ResultFolder::of_lake(lake, "reports"),
        };
        let (report, pipeline) = (settings.name.clone(), lake.pipeline().to_owned());
        Ok(RunStore { folder: folder.below(&report), report, pipeline })
    }

    /// Where the runs lie.
    pub fn url(&self) -> &str {
        self.folder.url()
    }

    /// The folder of all runs.
    pub fn results(&self) -> ResultFolder {
        self.folder.clone()
    }

    /// The folder of a run.
    pub fn folder(&self, run: &str) -> ResultFolder {
        self.folder.below(run)
    }

    /// Where the schedule stands; a report that nobody knows yet begins now.
    pub async fn progress(&self, now: Due) -> Result<Progress> {
        let since = self.since(now).await?;
        let runs = self.list().await?;
        let begun = || runs.iter().filter(|(_, files)| files.begun).filter_map(|(run, _)| Due::of_name(run));
        let handled = begun().max().map_or(since, |last| last.max(since));
        // One that was erased is made again only if somebody asks for it.
        let is_done = |files: &RunFiles| files.made || files.failed || files.erased;
        let is_open = |due: &Due| runs.get(&due.name()).is_some_and(|files| !is_done(files));
        Ok(Progress { handled, unfinished: begun().filter(is_open).collect() })
    }

    async fn since(&self, now: Due) -> Result<Due> {
        if let Some(text) = self.folder.get(SINCE).await? {
            return self.parse_since(&text);
        }
        let since = Since { pipeline: self.pipeline.clone(), since: now.to_string(), since_seconds: now.0 };
        if self.folder.put_new(SINCE, json(&since)?).await? {
            return Ok(now);
        }
        match self.folder.get(SINCE).await? {
            Some(text) => self.parse_since(&text),
            None => Ok(now),
        }
    }

    fn parse_since(&self, text: &[u8]) -> Result<Due> {
        let since: Since = self.parse(SINCE, text)?;
        if since.pipeline == self.pipeline {
            return Ok(Due(since.since_seconds));
        }
        Err(Error::operator(
            Code::ReportFailed,
            format!("cannot make the report '{}'", self.report),
            format!("{} has results of the pipeline '{}'", self.url(), since.pipeline),
            "give the report another name, or another output",
        ))
    }

    /// All runs by their names, with what is known of them.
    pub async fn list(&self) -> Result<BTreeMap<String, RunFiles>> {
        let mut runs: BTreeMap<String, RunFiles> = BTreeMap::new();
        for path in self.folder.names().await? {
            let Some((run, file)) = path.split_once('/') else { continue };
            let files = runs.entry(run.to_owned()).or_default();
            match file {
                BEGUN => files.begun = true,
                FAILED => files.failed = true,
                MANIFEST => files.made = true,
                ERASED => files.erased = true,
                _ => {}
            }
        }
        Ok(runs)
    }

    /// Notes that the scheduler begins a run.
    pub async fn begin(&self, due: Due, now: Due) -> Result<()> {
        let text = serde_json::json!({ "due": due.to_string(), "begun": now.to_string() });
        self.folder(&due.name()).put(BEGUN, json(&text)?).await
    }

    /// The manifest of a run; none if it is not complete.
    pub async fn manifest(&self, run: &str) -> Result<Option<Manifest>> {
        match self.folder(run).get(MANIFEST).await? {
            Some(text) => self.parse(&format!("{run}/{MANIFEST}"), &text).map(Some),
            None => Ok(None),
        }
    }

    /// Why a run has failed; none if it has not.
    pub async fn failure(&self, run: &str) -> Result<Option<Error>> {
        match self.folder(run).get(FAILED).await? {
            Some(text) => self.parse(&format!("{run}/{FAILED}"), &text).map(Some),
            None => Ok(None),
        }
    }

    /// Completes a run, unless somebody else has; returns the manifest that counts. Files of the run that it does not
    /// name are removed: they are of attempts that were broken off.
    pub async fn complete(&self, manifest: Manifest) -> Result<Manifest> {
        let folder = self.folder(&manifest.run);
        let manifest = match folder.put_new(MANIFEST, json(&manifest)?).await? {
            true => manifest,
            false => self.manifest(&manifest.run).await?.unwrap_or(manifest),
        };
        let is_of_it = |name: &str| {
            matches!(name, BEGUN | MANIFEST | ERASED) || manifest.files.iter().any(|file| file.name == name)
        };
        for name in folder.names().await?.iter().filter(|name| !is_of_it(name)) {
            folder.discard(name).await;
        }
        Ok(manifest)
    }

    /// What is left of a run that was erased; none of one that was not.
    pub async fn erased(&self, run: &str) -> Result<Option<ErasedRun>> {
        match self.folder(run).get(ERASED).await? {
            Some(text) => self.parse(&format!("{run}/{ERASED}"), &text).map(Some),
            None => Ok(None),
        }
    }

    /// Erases what a run has made. Whoever is killed meanwhile leaves files that are found again.
    pub async fn erase(&self, run: &str, erasure: &str, at: String) -> Result<()> {
        let folder = self.folder(run);
        let made = self.manifest(run).await?.map(|manifest| FormerResult {
            due: manifest.due,
            finished: manifest.finished,
            query_sha256: manifest.query_sha256,
            rows: manifest.rows,
            files: manifest.files,
        });
        let made = match made {
            Some(made) => Some(made),
            None => self.erased(run).await?.and_then(|erased| erased.made),
        };
        folder.put(ERASED, json(&ErasedRun { erasure: erasure.to_owned(), at, made })?).await?;
        failpoint("report_erased");
        // It counts as made no more before its files go.
        let mut names = folder.names().await?;
        names.sort_by_key(|name| name != MANIFEST);
        for name in names.iter().filter(|name| !matches!(name.as_str(), BEGUN | ERASED)) {
            folder.remove(name).await?;
        }
        Ok(())
    }

    /// Notes that a run is given up.
    pub async fn fail(&self, run: &str, error: &Error) -> Result<()> {
        self.folder(run).put(FAILED, json(error)?).await
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, name: &str, text: &[u8]) -> Result<T> {
        serde_json::from_slice(text).map_err(|error| {
            let what = format!("cannot understand {}{name}", self.url());
            let remedy = "restore it from a former version, or remove the folder that it is in to have it made again";
            Error::operator(Code::ProgressUnreadable, what, error, remedy)
        })
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| Error::internal("cannot write what a report says of itself", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let text = r#"{"report":"r","run":"one","pipeline":"shop","due":"d","made_from":"cut","as_of":"a",
            "late_seconds":0,"cut":{"name":"c","lsn":"0/1","committed":"c","made":"m"},"started":"s","finished":"f",
            "tables":{},"query":"SELECT 'jane'","query_sha256":"q","engine":[],"engine_version":"e","written_by":"w",
            "format":"csv","rows":3,"files":[{"name":"r.csv","bytes":4,"sha256":"h"}]}"#;
        serde_json::from_str(text).unwrap()
    }

    #[tokio::test]
    async fn a_run_that_is_erased_leaves_only_that_it_was_and_can_be_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = LakeStore::open(folder.path().to_str().unwrap(), &S3Settings::default()).unwrap();
        let runs = RunStore { report: "r".into(), pipeline: "shop".into(), folder: ResultFolder::at(&store) };
        let names = async || {
            let mut names = runs.folder("one").names().await.unwrap();
            names.sort_unstable();
            names
        };
        runs.folder("one").put("r.csv", b"jane".to_vec()).await.unwrap();
        runs.complete(manifest()).await.unwrap();
        runs.erase("one", "erase-1", "now".into()).await.unwrap();
        assert_eq!(names().await, [ERASED]);
        let erased = runs.erased("one").await.unwrap().unwrap();
        assert_eq!((erased.erasure.as_str(), erased.made.unwrap().files), ("erase-1", manifest().files));
        let of_run = async || runs.list().await.unwrap()["one"];
        assert_eq!(of_run().await, RunFiles { erased: true, ..RunFiles::default() });
        // Somebody was killed before the files were gone: the next one still knows what the result had been.
        runs.folder("one").put("r.csv", b"jane".to_vec()).await.unwrap();
        runs.erase("one", "erase-2", "later".into()).await.unwrap();
        assert_eq!(names().await, [ERASED]);
        assert!(runs.erased("one").await.unwrap().unwrap().made.is_some());
        runs.complete(manifest()).await.unwrap();
        assert!(of_run().await.made && of_run().await.erased);
    }
}
