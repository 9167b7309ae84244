//! Cuts by the API: as `sooner cut` has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sooner_api::{Error, Result};
use sooner_delta::DeltaLake;
use sooner_delta::cuts::{Cut, check_cut_name};
use sooner_schemas::{Lsn, TableName};
use tokio::time::timeout;

use super::Shared;
use super::api::{Answer, Nothing, failed, known, note, problem};

/// How long the lake and the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Cuts that may be asked for at the same time.
const MOST_ASKED: usize = 100;

/// `GET /api/v1/cuts`: the cuts, the last one first, those that are asked for, and why others were not made.
pub async fn list(State(shared): State<Shared>) -> Answer {
    let requests = shared.cuts.requests();
    let asked = requests.asked();
    let failures: Vec<_> =
        requests.failures().into_iter().map(|(name, error)| json!({ "name": name, "error": error })).collect();
    let Some(lake) = shared.shapes.origins().tables else {
        return (StatusCode::OK, Json(json!({ "cuts": null, "asked": asked, "failed": failures })));
    };
    match answered(shared.cuts.list(&lake)).await {
        Ok(cuts) => {
            let cuts: Vec<Value> = cuts.iter().map(shown).collect();
            (StatusCode::OK, Json(json!({ "cuts": cuts, "asked": asked, "failed": failures })))
        }
        Err(refused) => refused,
    }
}

/// A cut without its tables.
fn shown(cut: &Cut) -> Value {
    json!({
        "name": cut.name,
        "lsn": cut.lsn,
        "commit_micros": cut.commit_micros,
        "made_micros": cut.made_micros,
        "until_millis": cut.until_millis,
        "tables": cut.tables.len(),
    })
}

/// `GET /api/v1/cuts/{name}`: a cut with its tables and their versions; 202 if it is not made yet.
pub async fn show(State(shared): State<Shared>, Path(name): Path<String>) -> Answer {
    let (lake, requests) = match place(&shared, &name) {
        Ok(lake) => (lake, shared.cuts.requests()),
        Err(refused) => return refused,
    };
    match answered(lake.cut(&name)).await {
        Ok(Some(cut)) => (StatusCode::OK, Json(json!(cut))),
        Ok(None) if requests.is_asked(&name) => (StatusCode::ACCEPTED, Json(json!({ "name": name, "asked": true }))),
        Ok(None) => match requests.failure(&name) {
            Some(error) => failed(&error),
            None => no_cut(),
        },
        Err(refused) => refused,
    }
}

/// Body of a request for a cut.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its name.
    name: String,
    /// Its tables; all of the pipeline without any.
    #[serde(default)]
    tables: Vec<String>,
    /// Everything that was committed before this position is in it; what was committed before now, without it.
    #[serde(default)]
    lsn: Option<Lsn>,
    /// How long it is kept, such as `7y`; until it is dropped, without it.
    #[serde(default)]
    keep: Option<String>,
}

/// `POST /api/v1/cuts` with `{"name": "q3"}`, and if need be `tables`, `lsn` and `keep`: as `sooner cut create`, which
/// is not waited for.
pub async fn create(State(shared): State<Shared>, Json(wanted): Json<Wanted>) -> Answer {
    let (tables, until_millis) = match checked(&shared, &wanted) {
        Ok(checked) => checked,
        Err(refused) => return refused,
    };
    if let Err(refused) = is_free(&shared, &wanted.name).await {
        return refused;
    }
    let from_lsn = match wanted.lsn {
        Some(lsn) => Some(lsn),
        None => match timeout(PATIENCE, shared.cuts.position()).await {
            Ok(Ok(now)) => now,
            Ok(Err(why)) => {
                let remedy = "see that the database can be reached, or name an lsn";
                return problem(StatusCode::SERVICE_UNAVAILABLE, &why, remedy);
            }
            Err(_) => {
                let why = "the database did not say in time where its log ends";
                return problem(StatusCode::SERVICE_UNAVAILABLE, why, "ask again, or name an lsn");
            }
        },
    };
    note(&shared, None, "cut create", json!({ "name": wanted.name, "tables": wanted.tables, "keep": wanted.keep }));
    match shared.cuts.requests().ask_for(&wanted.name, tables, from_lsn, until_millis) {
        Ok(()) => (StatusCode::ACCEPTED, Json(json!({ "asked": true, "from_lsn": from_lsn }))),
        Err(error) => {
            let why = format!("cannot store the request: {error}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, &why, "see to the disk of state_dir")
        }
    }
}

/// That a cut may be asked for under a name.
async fn is_free(shared: &Shared, name: &str) -> std::result::Result<(), Answer> {
    let (lake, requests) = (place(shared, name)?, shared.cuts.requests());
    if requests.asked().len() >= MOST_ASKED {
        let why = "many cuts are asked for already";
        return Err(problem(StatusCode::TOO_MANY_REQUESTS, why, "see /api/v1/cuts"));
    }
    if answered(lake.cut(name)).await?.is_some() || requests.is_asked(name) {
        let why = format!("there is a cut '{name}' already");
        return Err(problem(StatusCode::CONFLICT, &why, "give it another name, or drop that one"));
    }
    Ok(())
}

/// The tables that are wanted, and until when the cut is kept.
fn checked(shared: &Shared, wanted: &Wanted) -> std::result::Result<(Vec<TableName>, Option<i64>), Answer> {
    let wrong = |why: &str, remedy: &str| Err(problem(StatusCode::BAD_REQUEST, why, remedy));
    if let Err(why) = check_cut_name(&wanted.name) {
        return wrong(&why, "give it such a name");
    }
    let tables = wanted.tables.iter().map(|table| known(shared, table)).collect::<std::result::Result<_, _>>()?;
    let Some(keep) = wanted.keep.as_deref().filter(|keep| !keep.is_empty()) else { return Ok((tables, None)) };
    let until = humantime::parse_duration(keep).ok().and_then(|keep| SystemTime::now().checked_add(keep));
    let until = until.and_then(|until| until.duration_since(UNIX_EPOCH).ok());
    match until.and_then(|until| i64::try_from(until.as_millis()).ok()) {
        Some(until) => Ok((tables, Some(until))),
        None => wrong("keep is no span of time", "write it as 7y or 90days"),
    }
}

/// `POST /api/v1/cuts/{name}/drop` with `{}`: as `sooner cut drop`.
pub async fn drop_cut(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Json(Nothing {}): Json<Nothing>,
) -> Answer {
    let lake = match place(&shared, &name) {
        Ok(lake) => lake,
        Err(refused) => return refused,
    };
    note(&shared, None, "cut drop", json!({ "name": name }));
    let was_asked = shared.cuts.requests().is_asked(&name);
    if let Err(error) = shared.cuts.requests().dismiss(&name) {
        let why = format!("cannot withdraw the request: {error}");
        return problem(StatusCode::INTERNAL_SERVER_ERROR, &why, "see to the disk of state_dir");
    }
    // It goes on when whoever asked hangs up: half of the holds released would be neither here nor there.
    let dropping = tokio::spawn(async move { lake.drop_cut(&name).await }).await;
    shared.cuts.forget_list().await;
    match dropping {
        Ok(Ok(true)) => (StatusCode::OK, Json(json!({ "dropped": true }))),
        Ok(Ok(false)) if was_asked => (StatusCode::OK, Json(json!({ "dropped": false, "withdrawn": true }))),
        Ok(Ok(false)) => no_cut(),
        Ok(Err(error)) => failed(&error),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), "ask again, and report this"),
    }
}

/// The lake that has cuts, for one of this name.
fn place(shared: &Shared, name: &str) -> std::result::Result<DeltaLake, Answer> {
    if check_cut_name(name).is_err() {
        return Err(no_cut());
    }
    shared.shapes.origins().tables.ok_or_else(|| {
        let why = "this process has no lake";
        problem(StatusCode::CONFLICT, why, "ask the listener of the sink's process, or use `sooner cut`")
    })
}

/// What the lake says, in a time that somebody waits for.
async fn answered<T>(asking: impl Future<Output = Result<T>>) -> std::result::Result<T, Answer> {
    let late =
        || problem(StatusCode::GATEWAY_TIMEOUT, "the lake did not answer in time", "see to its store, and ask again");
    timeout(PATIENCE, asking).await.map_err(|_| late())?.map_err(|error: Error| failed(&error))
}

fn no_cut() -> Answer {
    problem(StatusCode::NOT_FOUND, "there is no such cut", "see /api/v1/cuts")
}
