//! Runs for times that have passed, made of histories: the tables as of each of these times.

use std::collections::BTreeMap;
use std::path::Path;

use sooner_api::{Clock, Code, Error, Result};
use sooner_delta::cut_check::unlike_mirror;
use sooner_delta::cuts::Cut;
use sooner_delta::history::views::{AsOf, Engine};
use sooner_delta::replaying::knowledge::{Knowledge, history_knowledge};
use sooner_delta::report_data::LocalHistory;
use sooner_delta::trim::{Moment, check_within};
use sooner_schemas::TableName;

use super::completeness::{Beginning, check, parse, unproven};
use super::engine::{execute, failed};
use super::making::{Input, Maker, Run, cut_name, read_of, unusable};
use super::manifest::{MadeFrom, Manifest, TableRead};
use super::runs::RunStore;
use super::script::table_script;
use super::turn::Turn;
use crate::clock::SystemClock;
use crate::report_settings::{Format, ReportSettings};
use crate::schedule::Due;

/// A report whose runs are made of histories.
#[derive(Clone, Copy, Debug)]
pub struct Backfill<'a> {
    /// What runs are made with.
    pub maker: &'a Maker,
    /// The report.
    pub settings: &'a ReportSettings,
    /// Its runs.
    pub store: &'a RunStore,
    /// Whether runs are made of a history, too, of which it is not proved that nothing is missing; their manifests say
    /// so.
    pub takes_unproven: bool,
}

/// The histories of a report's tables, as files of this machine.
#[derive(Debug)]
struct Histories {
    cut: Cut,
    tables: BTreeMap<TableName, (LocalHistory, Vec<Beginning>)>,
    knowledge: BTreeMap<TableName, Knowledge>,
    /// In what a table as its history tells it may be another one than the lake has.
    doubts: BTreeMap<TableName, String>,
}

impl Backfill<'_> {
    /// Makes the runs that were due at these times, in their order, and tells what became of each. An error if none can
    /// be made at all.
    pub async fn run(&self, dues: &[Due], turn: &Turn, mut told: impl FnMut(Due, Result<Manifest>)) -> Result<()> {
        let Some(last) = dues.last() else { return Ok(()) };
        if self.settings.format == Format::Views {
            let what = format!("cannot fill the report '{}'", self.settings.name);
            let why = "its runs are views of cuts, and no engine is there to prove what its histories tell";
            let remedy = "`sooner cut create NAME --at TIME` makes a cut of a time that has passed, and `sooner cut sql \
                          NAME` the statements that read it";
            return Err(failed(&what, why.to_owned(), remedy));
        }
        self.refuse_without_histories().await?;
        let started = Due::of_micros(SystemClock.now_micros());
        let cut_name = cut_name(self.settings, &format!("backfill-{}", started.name()));
        let made = self.run_from(&cut_name, (dues, *last), turn, &mut told).await;
        let _ = turn.clear();
        if made.is_ok() || self.settings.keep.is_none() {
            self.maker.release(&cut_name, self.settings).await;
        }
        made
    }

    async fn run_from(
        &self,
        cut_name: &str,
        (dues, last): (&[Due], Due),
        turn: &Turn,
        told: &mut impl FnMut(Due, Result<Manifest>),
    ) -> Result<()> {
        let cut = self.maker.cut(cut_name, self.settings, last).await?;
        let folder = turn.scratch().map_err(|error| unusable(&self.maker.state_dir, error))?;
        let histories = self.histories(cut, &folder).await?;
        for due in dues {
            told(*due, self.one(*due, &histories, &folder).await);
        }
        Ok(())
    }

    /// Before a cut is waited for.
    async fn refuse_without_histories(&self) -> Result<()> {
        let mut missing = Vec::new();
        for table in &self.settings.tables {
            if self.maker.lake.describe_history(table).await?.is_none() {
                missing.push(table.to_string());
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(without_history(self.settings, &missing)) }
    }

    async fn histories(&self, cut: Cut, folder: &Path) -> Result<Histories> {
        let missing = cut.tables.iter().filter(|(_, versions)| versions.history.is_none());
        let missing: Vec<_> = missing.map(|(table, _)| table.to_string()).collect();
        if !missing.is_empty() {
            return Err(without_history(self.settings, &missing));
        }
        let local = self.maker.lake.histories_to(&cut, &folder.join("in")).await?;
        let (mut tables, mut knowledge, mut doubts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for (number, (table, history)) in local.into_iter().enumerate() {
            let found = folder.join(format!("complete-{number}.csv"));
            let beginnings = self.beginnings(&table, &history, &found).await?;
            let known = history_knowledge(&self.maker.lake, &table).await?;
            knowledge.extend(known.map(|known| (table.clone(), known)));
            let has_mirror = cut.tables.get(&table).is_some_and(|versions| versions.mirror.is_some());
            let doubt = if has_mirror { unlike_mirror(&self.maker.lake, &table).await? } else { None };
            doubts.extend(doubt.map(|doubt| (table.clone(), doubt.to_owned())));
            tables.insert(table, (history, beginnings));
        }
        Ok(Histories { cut, tables, knowledge, doubts })
    }

    /// From when on a history knows its whole table.
    async fn beginnings(&self, table: &TableName, history: &LocalHistory, to: &Path) -> Result<Vec<Beginning>> {
        let what = format!("cannot make runs of the report '{}' from the history of {table}", self.settings.name);
        let Some(query) = history.described.completeness(Engine::DuckDbFiles) else {
            let why = "the table has no key, so that its rows cannot be told apart as of a moment".to_owned();
            return Err(failed(&what, why, "give it a primary key, or leave it out of tables of the [[report]]"));
        };
        let folder = to.parent().unwrap_or(to);
        let script = table_script(&query, to);
        execute(&self.settings.engine, &script, folder, self.settings.time_limit, &what).await?;
        let read = std::fs::read_to_string(to).map_err(|error| error.to_string());
        let remedy = "name an engine that runs DuckDB's SQL from standard input";
        read.and_then(|text| parse(&text)).map_err(|why| failed(&what, why, remedy))
    }

    async fn one(&self, due: Due, histories: &Histories, folder: &Path) -> Result<Manifest> {
        let name = due.name();
        let run = Run { settings: self.settings, store: self.store, name: &name, due };
        if let Some(made) = self.store.manifest(&name).await? {
            return Ok(made);
        }
        let what = format!("cannot make the report '{}' that was due at {due}", self.settings.name);
        let (mut views, mut tables) = (Vec::new(), BTreeMap::new());
        for (table, (history, beginnings)) in &histories.tables {
            let remedy = "begin with a later day; a history knows its table from the end of its first copy on";
            check(beginnings, due).map_err(|why| failed(&what, format!("{table}: {why}"), remedy))?;
            let moment = Moment::Micros(due.micros());
            check_within(table, history.described.horizon, &moment)?;
            if let Some(knowledge) = histories.knowledge.get(table) {
                knowledge.check(table, Some(&moment))?;
            }
            let unproven = unproven(beginnings, due).or_else(|| histories.doubts.get(table).cloned());
            if let Some(why) = unproven.clone().filter(|_| !self.takes_unproven) {
                return Err(failed(&what, format!("{table}: {why}"), "see `sooner backfill`, which tells it"));
            }
            let read = TableRead { unproven, ..read_of(&history.table) };
            tables.insert(table.clone(), read);
            let as_of = AsOf::Time(due.to_string());
            let query = history.described.as_of(Engine::DuckDbFiles, &as_of).unwrap_or_default();
            views.push((table.clone(), query.trim_end().trim_end_matches(';').to_owned()));
        }
        let input = Input {
            cut: &histories.cut,
            made_from: MadeFrom::History,
            tables,
            views,
            started_micros: SystemClock.now_micros(),
        };
        self.maker.produce(run, input, folder).await
    }
}

fn without_history(settings: &ReportSettings, missing: &[String]) -> Error {
    Error::operator(
        Code::ReportFailed,
        format!("cannot make runs of the report '{}' for times that have passed", settings.name),
        format!("the lake has no history of {}, and a mirror knows only what is there now", missing.join(", ")),
        "give them write = [\"mirror\", \"history\"] in a [[table]] block: times from the end of its first copy on can \
         be filled then; or name in tables of the [[report]] only tables that have one",
    )
}
