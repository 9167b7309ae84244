//! The API: JSON of what the board has, and the verbs of the command line.

use std::io;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use sooner_api::{Class, Clock, CopyRequest, Error};
use sooner_delta::store::folder_name::folder_name;
use sooner_delta::store::location::HISTORY_SUFFIX;
use sooner_kafka::producer::repartition_rules::RepartitionRequest;
use sooner_schemas::TableName;

use super::Shared;
use super::caller::caller;
use super::health::{Health, checks, is_live, readiness};
use crate::clock::SystemClock;
use crate::control::{NamedSide, sides};
use crate::journal::{Entry, Kind};
use crate::status::Status;

/// An answer: a status and JSON.
pub type Answer = (StatusCode, Json<Value>);

/// The answer to what cannot be done.
pub fn problem(status: StatusCode, why: &str, remedy: &str) -> Answer {
    (status, Json(json!({ "error": why, "remedy": remedy })))
}

/// The answer that says what failed, why, and what to do.
pub fn failed(error: &Error) -> Answer {
    let status = match error.class {
        Class::Retry => StatusCode::SERVICE_UNAVAILABLE,
        Class::Operator => StatusCode::CONFLICT,
        Class::Fatal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    problem(status, &format!("{}: {}", error.what, error.why), &error.remedy)
}

/// `GET /livez`: 200 while the loops turn, 503 otherwise.
pub async fn live(State(shared): State<Shared>) -> (StatusCode, &'static str) {
    if shared.board.look(is_live) { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "stalled\n") }
}

/// `GET /readyz`: 200 while tables are streamed or copied, or a sink waits for partitions; 503 otherwise.
pub async fn ready(State(shared): State<Shared>) -> (StatusCode, String) {
    match shared.board.look(readiness) {
        Some(phase) => (StatusCode::OK, format!("{phase}\n")),
        None => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned()),
    }
}

/// `GET /healthz`: all checks, the worst first; 503 if one is an error.
pub async fn healthz(State(shared): State<Shared>) -> Answer {
    let (worst, answer) = judged(&shared, None);
    let status = if worst == Health::Error { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, answer)
}

/// How many checks are wanted.
#[derive(Debug, Default, Deserialize)]
pub struct Most {
    /// So many at most, the worst ones.
    limit: Option<usize>,
}

/// `GET /api/v1/health?limit=…`: the same, for a reader rather than a probe.
pub async fn health(State(shared): State<Shared>, Query(most): Query<Most>) -> Json<Value> {
    judged(&shared, most.limit).1
}

fn judged(shared: &Shared, most: Option<usize>) -> (Health, Json<Value>) {
    let mut checks = shared.board.look(checks);
    let worst = checks.iter().map(|check| check.health).max().unwrap_or(Health::Ok);
    let ill = checks.iter().filter(|check| check.health != Health::Ok).count();
    checks.truncate(most.unwrap_or(usize::MAX));
    let control = shared.settings.allow_control;
    (worst, Json(json!({ "health": worst, "ill": ill, "checks": checks, "control": control })))
}

/// `GET /api/v1/status`: what `sooner status --json` prints.
pub async fn status(State(shared): State<Shared>) -> Json<Status> {
    Json(shared.board.read_now())
}

/// `GET /api/v1/plan`: what `sooner plan --json` prints.
pub async fn plan(State(shared): State<Shared>) -> Answer {
    match shared.planner.answer("").await {
        Ok(plan) => (StatusCode::OK, Json(plan)),
        Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, &why, "`sooner plan` beside the process says the same"),
    }
}

/// `GET /api/v1/tables/{schema.table}`: the status of one table, and what happened to it.
pub async fn table(State(shared): State<Shared>, Path(table): Path<String>) -> Answer {
    match known(&shared, &table) {
        Err(answer) => answer,
        Ok(name) => {
            let status = shared.board.look(|status| status.tables.get(&name).cloned());
            let events: Vec<_> = entries(&shared, Some(&name)).take(100).collect();
            (StatusCode::OK, Json(trust(&shared, &name, json!({ "table": name, "status": status, "events": events }))))
        }
    }
}

/// Adds to what is told of a table where it lies, in which ways it is written, and how it was verified last.
fn trust(shared: &Shared, name: &TableName, mut told: Value) -> Value {
    let origins = shared.shapes.origins();
    let ways = origins.lake.as_ref().map(|_| origins.ways.of(name));
    let (rows, history) = ways.map_or((true, false), |ways| (ways.mirror || ways.append.is_some(), ways.history));
    told["location"] = json!(location(shared, name, "").filter(|_| rows));
    told["history_location"] = json!(location(shared, name, HISTORY_SUFFIX).filter(|_| history));
    told["write"] = json!(ways.map(|ways| {
        [("mirror", ways.mirror), ("append", ways.append.is_some()), ("history", ways.history)]
            .into_iter()
            .filter(|way| way.1)
            .map(|way| way.0)
            .collect::<Vec<_>>()
    }));
    told["verification"] = json!(shared.reports.read().ok().and_then(|reports| reports.get(name).cloned()));
    told
}

/// Where a table lies, or what is beside it; none in a process without a lake.
pub fn location(shared: &Shared, table: &TableName, suffix: &str) -> Option<String> {
    let (schema, folder) = (folder_name(&table.schema), folder_name(&table.table));
    shared.live.lake().map(|lake| format!("{}/{schema}/{folder}{suffix}", lake.trim_end_matches('/')))
}

/// `GET /api/v1/topics?limit=…`: the topics, with what this process knows of them; no topic is read for it. With a
/// limit, those with most that is unread.
pub async fn topics(State(shared): State<Shared>, Query(most): Query<Most>) -> Json<Value> {
    let dead_letters = shared.board.totals().dead_letters;
    Json(shared.board.look(|status| shared.topics.show(status, dead_letters, most.limit)))
}

/// What of the journal is wanted.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// Only the entries of this table.
    table: Option<String>,
    /// So many at most.
    limit: Option<usize>,
}

/// `GET /api/v1/events?table=…&limit=…`: the last entries of the journal, the newest first.
pub async fn events(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Answer {
    let table = match wanted.table.map(|table| table.parse::<TableName>()).transpose() {
        Ok(table) => table,
        Err(_) => return problem(StatusCode::BAD_REQUEST, "this is not a table's name", "write it as schema.table"),
    };
    let events: Vec<_> = entries(&shared, table.as_ref()).take(wanted.limit.unwrap_or(100)).collect();
    (StatusCode::OK, Json(json!(events)))
}

fn entries(shared: &Shared, table: Option<&TableName>) -> impl Iterator<Item = Entry> {
    let entries = shared.board.recent_entries().into_iter();
    entries.filter(move |entry| table.is_none_or(|table| entry.table.as_ref() == Some(table)))
}

/// Body of a request for rows to be copied.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// SQL condition on the rows; all of them without one.
    #[serde(rename = "where")]
    condition: Option<String>,
}

/// Body of a verb that needs nothing: `{}`. That it is JSON keeps pages of other sites from asking.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// `POST /api/v1/tables/{schema.table}/resume` with `{}`: as `sooner resume`.
pub async fn resume(
    State(shared): State<Shared>,
    Path(table): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Answer {
    ask(&shared, &table, None)
}

/// `POST /api/v1/tables/{schema.table}/copy` with `{}` or `{"where": "…"}`: as `sooner copy`. A condition that Postgres
/// does not take is told in the log, and the request is dropped.
pub async fn copy(State(shared): State<Shared>, Path(table): Path<String>, Json(copy): Json<Copy>) -> Answer {
    ask(&shared, &table, copy.condition)
}

/// `POST /api/v1/tables/{schema.table}/cancel` with `{}`: as `sooner cancel`.
pub async fn cancel(
    State(shared): State<Shared>,
    Path(table): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Answer {
    match known(&shared, &table) {
        Ok(table) => {
            let (withdrawn, begun) = shared.requests.withdraw(&table);
            note(&shared, Some(&table), "cancel", Value::Null);
            (StatusCode::OK, Json(json!({ "withdrawn": withdrawn, "begun": begun })))
        }
        Err(answer) => answer,
    }
}

/// Body of a request for a topic with another number of partitions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repartition {
    partitions: i32,
}

/// `POST /api/v1/tables/{schema.table}/repartition` with `{"partitions": 5}`: as `sooner topics repartition`.
/// What the source refuses is told in its log, and the request is dropped.
pub async fn repartition(
    State(shared): State<Shared>,
    Path(table): Path<String>,
    Json(Repartition { partitions }): Json<Repartition>,
) -> Answer {
    let table = match known(&shared, &table) {
        Ok(table) => table,
        Err(answer) => return answer,
    };
    if !shared.live.has_kafka() || partitions < 1 {
        let why = "only a topic of Kafka can have another number of partitions, from 1 on";
        return problem(StatusCode::CONFLICT, why, "name a number of partitions, of a pipeline with Kafka");
    }
    note(&shared, Some(&table), "repartition", json!({ "partitions": partitions }));
    let asked = shared.requests.repartitions().ask(&RepartitionRequest { table, partitions });
    stored(asked, json!({ "asked": true }))
}

/// Body of a verb for a side; both without one.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OfSide {
    side: Option<NamedSide>,
}

/// `POST /api/v1/pause` with `{}` or `{"side": "source"}`: as `sooner pause`.
pub async fn pause(State(shared): State<Shared>, Json(OfSide { side }): Json<OfSide>) -> Answer {
    if let Some(refused) = no_sides(&shared, side) {
        return refused;
    }
    let paused = sides(side).into_iter().try_for_each(|side| shared.requests.pause(side));
    note(&shared, None, "pause", json!({ "side": side }));
    stored(paused, json!({ "paused": true }))
}

/// `POST /api/v1/resume` with `{}` or `{"side": "source"}`: as `sooner resume` without a table.
pub async fn resume_all(State(shared): State<Shared>, Json(OfSide { side }): Json<OfSide>) -> Answer {
    if let Some(refused) = no_sides(&shared, side) {
        return refused;
    }
    let resumed = sides(side).into_iter().try_for_each(|side| shared.requests.unpause(side).map(drop));
    note(&shared, None, "resume", json!({ "side": side }));
    stored(resumed, json!({ "paused": false }))
}

/// The answer to whoever names a side of a pipeline that has none.
fn no_sides(shared: &Shared, side: Option<NamedSide>) -> Option<Answer> {
    let is_wrong = side.is_some() && !shared.live.has_kafka();
    let why = "without Kafka source and sink rest and go on together";
    is_wrong.then(|| problem(StatusCode::CONFLICT, why, "leave side out"))
}

/// `GET /api/v1/openapi.json`: this API, as OpenAPI 3.1 describes it.
pub async fn openapi() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

fn stored(outcome: io::Result<()>, answer: Value) -> Answer {
    match outcome {
        Ok(()) => (StatusCode::ACCEPTED, Json(answer)),
        Err(error) => {
            let why = format!("cannot store the request: {error}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, &why, "see to the disk of state_dir")
        }
    }
}

fn ask(shared: &Shared, table: &str, condition: Option<String>) -> Answer {
    let table = match known(shared, table) {
        Ok(table) => table,
        Err(answer) => return answer,
    };
    if condition.is_some() && shared.shapes.origins().ways.of(&table).append.is_some() {
        let why = "rows of this table are only added: a copy of some would add them twice";
        return problem(StatusCode::CONFLICT, why, "copy the whole table, without where");
    }
    note(shared, Some(&table), "copy", json!({ "where": condition }));
    stored(shared.requests.ask(&CopyRequest { table, condition }), json!({ "asked": true }))
}

/// Writes to the journal that somebody asks for something here.
pub fn note(shared: &Shared, table: Option<&TableName>, verb: &str, details: Value) {
    let by = caller().map(|caller| format!(" by {caller}")).unwrap_or_default();
    let what = format!("'{verb}' was asked for through HTTP{by}");
    let entry = Entry::new(SystemClock.now_micros(), Kind::Asked, what);
    let details = (!details.is_null()).then_some(details);
    shared.board.note(Entry { table: table.cloned(), details, ..entry });
}

/// A table of the pipeline, by its name; or the answer to whoever names one that is none.
pub fn known(shared: &Shared, table: &str) -> Result<TableName, Answer> {
    let is_known = |name: &TableName| shared.board.look(|status| status.tables.contains_key(name));
    let name = table.parse::<TableName>().ok().filter(is_known);
    name.ok_or_else(|| problem(StatusCode::NOT_FOUND, "there is no such table", "see /api/v1/tables"))
}
