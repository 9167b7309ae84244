//! Tasks by the API: what takes long, is asked for, and not waited for.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono_tz::Tz;
use serde::Deserialize;
use serde_json::{Value, json};
use sooner_delta::audit::chain::Head;
use sooner_delta::cuts::check_cut_name;
use sooner_schemas::TableName;

use super::Shared;
use super::api::{Answer, Nothing, known, note, problem};
use super::lake::{answered, lake_of};
use super::records::{is_report, run};
use crate::schedule::parse_moment;
use crate::tasks::desk::{Forgotten, Refusal, TaskDesk};
use crate::tasks::{EventFormat, EventSource, Task, Wanted};
use crate::until::{parse_from, parse_to};

/// Tables that are named for one verification, at most.
const MOST_TABLES: usize = 1000;
/// Of what was wrong, so much is told in a list of tasks.
const TOLD_IN_SHORT: usize = 5;

/// `GET /api/v1/tasks`: what was asked for, the last one first, and what has become of it, in short.
pub async fn list(State(shared): State<Shared>) -> Json<Value> {
    let tasks = shared.tasks.as_ref().map(TaskDesk::all);
    let asked: Vec<_> = tasks.iter().flatten().filter(|task| !task.is_over()).map(|task| &task.name).collect();
    let told = tasks.as_ref().map(|tasks| tasks.iter().map(in_short).collect::<Vec<_>>());
    Json(json!({ "tasks": told, "asked": asked }))
}

/// A task with the first of what was wrong.
fn in_short(task: &Task) -> Value {
    let mut told = json!(task);
    for list in ["reports", "failures", "findings"] {
        if let Some(items) = told["result"].get_mut(list).and_then(Value::as_array_mut) {
            items.truncate(TOLD_IN_SHORT);
            items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| drop(item.remove("differences")));
        }
    }
    told
}

/// `GET /api/v1/tasks/{name}`: one of them; 202 if it is not done yet.
pub async fn show(State(shared): State<Shared>, Path(name): Path<String>) -> Answer {
    match shared.tasks.as_ref().and_then(|tasks| tasks.task(&name)) {
        Some(task) if Task::is_over(&task) => (StatusCode::OK, Json(json!(task))),
        Some(task) => (StatusCode::ACCEPTED, Json(json!(task))),
        None => no_task(),
    }
}

/// `POST /api/v1/tasks/{name}/forget` with `{}`: forgets one that is over, or withdraws one that has not begun. What it
/// made stays.
pub async fn forget(State(shared): State<Shared>, Path(name): Path<String>, Json(Nothing {}): Json<Nothing>) -> Answer {
    let Some(tasks) = &shared.tasks else { return no_task() };
    match tasks.forget(&name) {
        Ok(Forgotten::Yes) => {
            note(&shared, None, "task forget", json!({ "name": name }));
            (StatusCode::OK, Json(json!({ "forgotten": true })))
        }
        Ok(Forgotten::Begun) => problem(StatusCode::CONFLICT, "the task has begun", "wait until it is over"),
        Ok(Forgotten::Unknown) => no_task(),
        Err(error) => unwritable(&error),
    }
}

/// `POST /api/v1/cuts/{name}/export` with `{}`: as `sooner cut export`, which is not waited for, to a folder of the
/// lake. Other places are named by the command alone: they are written with what the process may do in its store.
pub async fn export(State(shared): State<Shared>, Path(cut): Path<String>, Json(Nothing {}): Json<Nothing>) -> Answer {
    if let Err(refused) = has_cut(&shared, &cut).await {
        return refused;
    }
    let told = json!({ "name": cut });
    ask(&shared, Wanted::CutExport { cut }, ("cut export", None, told))
}

/// Body of a request for a verification of a cut.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// The tables, as schema.table; all of the cut if none are named.
    #[serde(default)]
    tables: Vec<TableName>,
}

/// `POST /api/v1/cuts/{name}/verify` with `{}`, and if need be `tables`: as `sooner verify --at NAME`, which is not
/// waited for.
pub async fn verify(
    State(shared): State<Shared>,
    Path(cut): Path<String>,
    Json(Verification { tables }): Json<Verification>,
) -> Answer {
    if let Err(refused) = has_cut(&shared, &cut).await {
        return refused;
    }
    if let Err(refused) = not_too_many(&tables) {
        return refused;
    }
    let told = json!({ "at": cut, "tables": tables });
    ask(&shared, Wanted::CutVerification { cut, tables }, ("verify", None, told))
}

/// Body of a request for a backfill.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backfill {
    /// The first day by the report's time zone, or a UTC time.
    #[serde(default)]
    from: String,
    /// The last day, or a UTC time.
    #[serde(default)]
    to: String,
}

/// `POST /api/v1/reports/{name}/backfill` with `{"from": "2026-01-01", "to": "2026-01-31"}`: as `sooner backfill`,
/// which is not waited for.
pub async fn backfill(
    State(shared): State<Shared>,
    Path(report): Path<String>,
    Json(Backfill { from, to }): Json<Backfill>,
) -> Answer {
    if let Err(refused) = is_report(&shared, &report).await {
        return refused;
    }
    for (name, moment) in [("from", &from), ("to", &to)] {
        // Whether it can be understood is the same by any clock.
        if let Err(why) = parse_moment(moment, Tz::UTC, false) {
            return problem(StatusCode::BAD_REQUEST, &format!("{name} is no moment: {why}"), "write it so");
        }
    }
    let told = json!({ "report": report, "from": from, "to": to });
    ask(&shared, Wanted::Backfill { report, from, to }, ("backfill", None, told))
}

/// Body of a request for a replay.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replay {
    /// Transactions after this: an LSN, a UTC time, or `copy`.
    from: String,
    /// Transactions up to and with this: an LSN, a UTC time, or `now`.
    to: String,
    /// Where events are read; from the history if the table has one, otherwise from its topic.
    #[serde(default)]
    source: Option<EventSource>,
    /// How they are written.
    #[serde(default)]
    format: EventFormat,
}

/// `POST /api/v1/tables/{schema.table}/replay` with `{"from": "0/16B3748", "to": "now"}`, and if need be `source` and
/// `format`: as `sooner replay`, which is not waited for, into a file of the lake.
pub async fn replay(State(shared): State<Shared>, Path(table): Path<String>, Json(wanted): Json<Replay>) -> Answer {
    let table = match known(&shared, &table) {
        Ok(table) => table,
        Err(refused) => return refused,
    };
    let Replay { from, to, source, format } = wanted;
    for (name, parsed) in [("from", parse_from(&from)), ("to", parse_to(&to))] {
        if let Err(why) = parsed {
            return problem(StatusCode::BAD_REQUEST, &format!("{name} is no end of a range: {why}"), "write it so");
        }
    }
    let (told, of) = (json!({ "from": from, "to": to, "source": source, "format": format }), table.clone());
    ask(&shared, Wanted::Replay { table, from, to, source, format }, ("replay", Some(of), told))
}

/// Body of a request for a chain to be checked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chain {
    /// A former end of the chain, `SEQUENCE:HASH`.
    #[serde(default)]
    head: Option<String>,
}

/// `POST /api/v1/tables/{schema.table}/history/verify` with `{}` or `{"head": "…"}`: as `sooner history --verify`,
/// which is not waited for.
pub async fn check_history(
    State(shared): State<Shared>,
    Path(table): Path<String>,
    Json(Chain { head }): Json<Chain>,
) -> Answer {
    let table = match known(&shared, &table) {
        Ok(table) => table,
        Err(refused) => return refused,
    };
    if let Some(Err(why)) = head.as_deref().map(str::parse::<Head>) {
        return problem(StatusCode::BAD_REQUEST, &format!("head is no end of a chain: {why}"), "write it so");
    }
    let (told, of) = (json!({ "head": head }), table.clone());
    ask(&shared, Wanted::HistoryVerification { table, head }, ("history verify", Some(of), told))
}

/// `POST /api/v1/audit/verify` with `{}` or `{"head": "…"}`: as `sooner audit verify`, which is not waited for.
/// Signatures are checked with the configured key.
pub async fn check_audit(State(shared): State<Shared>, Json(Chain { head }): Json<Chain>) -> Answer {
    if let Some(Err(why)) = head.as_deref().map(str::parse::<Head>) {
        return problem(StatusCode::BAD_REQUEST, &format!("head is no end of a chain: {why}"), "write it so");
    }
    let told = json!({ "head": head });
    ask(&shared, Wanted::AuditVerification { head }, ("audit verify", None, told))
}

/// Body of a request for a report.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    /// The run that was due at this UTC time; one beside the schedule without it.
    #[serde(default)]
    due: Option<String>,
}

/// `POST /api/v1/reports/{name}/run` with `{}` or `{"due": "2026-01-31T22:00:00Z"}`: as `sooner report run NAME`, which
/// is not waited for. One that was due is a task.
pub async fn run_report(
    State(shared): State<Shared>,
    Path(report): Path<String>,
    Json(Running { due }): Json<Running>,
) -> Answer {
    if let Err(refused) = is_report(&shared, &report).await {
        return refused;
    }
    let Some(due) = due else { return run(&shared, report) };
    if let Err(why) = parse_moment(&due, Tz::UTC, false) {
        return problem(StatusCode::BAD_REQUEST, &format!("due is no moment: {why}"), "write it so");
    }
    let told = json!({ "report": report, "due": due });
    ask(&shared, Wanted::ReportRun { report, due }, ("report run", None, told))
}

/// Body of a request for the upkeep of tables.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upkeep {
    /// The tables, as schema.table; all of the pipeline if none are named.
    #[serde(default)]
    tables: Vec<TableName>,
}

/// `POST /api/v1/optimize` with `{}`, and if need be `tables`: as `sooner optimize`, which is not waited for.
pub async fn optimize(State(shared): State<Shared>, Json(Upkeep { tables }): Json<Upkeep>) -> Answer {
    if let Err(refused) = not_too_many(&tables) {
        return refused;
    }
    let told = json!({ "tables": tables });
    ask(&shared, Wanted::Optimize { tables }, ("optimize", None, told))
}

/// Body of a request for a vacuum.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vacuum {
    /// The tables, as schema.table; all of the pipeline if none are named.
    #[serde(default)]
    tables: Vec<TableName>,
    /// It is only found out what would be deleted.
    #[serde(default)]
    dry_run: bool,
}

/// `POST /api/v1/vacuum` with `{}`, and if need be `tables` and `dry_run`: as `sooner vacuum`, which is not waited for.
pub async fn vacuum(State(shared): State<Shared>, Json(Vacuum { tables, dry_run }): Json<Vacuum>) -> Answer {
    if let Err(refused) = not_too_many(&tables) {
        return refused;
    }
    let told = json!({ "tables": tables, "dry_run": dry_run });
    ask(&shared, Wanted::Vacuum { tables, dry_run }, ("vacuum", None, told))
}

fn not_too_many(tables: &[TableName]) -> Result<(), Answer> {
    let why = format!("these are more than {MOST_TABLES} tables");
    match tables.len() > MOST_TABLES {
        true => Err(problem(StatusCode::BAD_REQUEST, &why, "name none, for all of them, or fewer")),
        false => Ok(()),
    }
}

fn ask(shared: &Shared, wanted: Wanted, (verb, table, told): (&str, Option<TableName>, Value)) -> Answer {
    let Some(tasks) = &shared.tasks else {
        let remedy = "ask the listener of the sink's process, or use the command";
        return problem(StatusCode::CONFLICT, "this process has no lake", remedy);
    };
    match tasks.ask(wanted) {
        Ok(name) => {
            let mut told = told;
            told["task"] = json!(name);
            note(shared, table.as_ref(), verb, told);
            (StatusCode::ACCEPTED, Json(json!({ "asked": true, "task": name })))
        }
        Err(Refusal::Full) => {
            let why = "many tasks are asked for already, and done one after the other";
            problem(StatusCode::TOO_MANY_REQUESTS, why, "see /api/v1/tasks, and ask again when some are done")
        }
        Err(Refusal::Unwritable(error)) => unwritable(&error),
    }
}

/// That there is a cut of this name.
async fn has_cut(shared: &Shared, name: &str) -> Result<(), Answer> {
    let no_cut = || problem(StatusCode::NOT_FOUND, "there is no such cut", "see /api/v1/cuts");
    if check_cut_name(name).is_err() {
        return Err(no_cut());
    }
    answered(lake_of(shared, "cut")?.cut(name)).await?.map(drop).ok_or_else(no_cut)
}

fn no_task() -> Answer {
    problem(StatusCode::NOT_FOUND, "there is no such task", "see /api/v1/tasks")
}

fn unwritable(error: &std::io::Error) -> Answer {
    let why = format!("cannot write the state folder: {error}");
    problem(StatusCode::INTERNAL_SERVER_ERROR, &why, "see to the disk of state_dir")
}
