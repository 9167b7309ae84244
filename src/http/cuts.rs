//! Cuts by the API: as `sooner cut` has them.

use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sooner_delta::DeltaLake;
use sooner_delta::cuts::{Cut, check_cut_name};
use sooner_schemas::{Lsn, TableName};
use tokio::time::timeout;

use super::Shared;
use super::api::{Answer, Nothing, failed, known, note, problem};
use super::lake::{answered, lake_of};
use crate::cut_sql::{self, Engine};
use crate::past_cut_request::{Past, PastCutRequest};
use crate::report_settings::check_not_reserved;
use crate::until::{Until, micros, parse_until};

/// How long the database may take to answer.
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

/// In whose language a cut's tables are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Language {
    engine: Engine,
}

/// `GET /api/v1/cuts/{name}/sql?engine=…`: what `sooner cut sql NAME --json` prints.
pub async fn sql(State(shared): State<Shared>, Path(name): Path<String>, Query(wanted): Query<Language>) -> Answer {
    let lake = match place(&shared, &name) {
        Ok(lake) => lake,
        Err(refused) => return refused,
    };
    match answered(lake.cut(&name)).await {
        Ok(Some(cut)) => (StatusCode::OK, Json(cut_sql::json(&cut, wanted.engine))),
        Ok(None) => no_cut(),
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
    /// At which position: `now`, an LSN or a UTC time, as `sooner cut create --at` takes it.
    #[serde(default)]
    at: Option<String>,
    /// The same, of an LSN.
    #[serde(default)]
    lsn: Option<Lsn>,
    /// How long it is kept, such as `7y`; until it is dropped, without it.
    #[serde(default)]
    keep: Option<String>,
}

/// What is wanted, once it is checked.
struct Checked {
    tables: Vec<TableName>,
    /// None for now.
    at: Option<Until>,
    until_millis: Option<i64>,
}

/// Where a cut is to be.
enum Place {
    /// In the logs of tables, which know it already.
    Passed(Past),
    /// At the first position that has all that was committed before these.
    ToCome(Option<Lsn>, Option<i64>),
}

/// `POST /api/v1/cuts` with `{"name": "q3"}`, and if need be `tables`, `at` and `keep`: as `sooner cut create`, which
/// is not waited for.
pub async fn create(State(shared): State<Shared>, Json(wanted): Json<Wanted>) -> Answer {
    let Checked { tables, at, until_millis } = match checked(&shared, &wanted) {
        Ok(checked) => checked,
        Err(refused) => return refused,
    };
    if let Err(refused) = is_free(&shared, &wanted.name).await {
        return refused;
    }
    let to_be = match place_of(&shared, at).await {
        Ok(to_be) => to_be,
        Err(refused) => return refused,
    };
    let at = at.map(|at| match at {
        Until::Lsn(lsn) => lsn.to_string(),
        Until::Time(time) => humantime::format_rfc3339(time).to_string(),
    });
    let asked = json!({ "name": wanted.name, "tables": wanted.tables, "at": at, "keep": wanted.keep });
    note(&shared, None, "cut create", asked);
    let requests = shared.cuts.requests();
    let (stored, answer) = match to_be {
        Place::Passed(at) => {
            let request = PastCutRequest::new(wanted.name.clone(), tables, at, until_millis);
            (requests.ask_past(&request), json!({ "asked": true, "has_passed": true }))
        }
        Place::ToCome(from_lsn, from_micros) => (
            requests.ask_for(&wanted.name, tables, (from_lsn, from_micros), until_millis),
            json!({ "asked": true, "has_passed": false, "from_lsn": from_lsn }),
        ),
    };
    match stored {
        Ok(()) => (StatusCode::ACCEPTED, Json(answer)),
        Err(error) => {
            let why = format!("cannot store the request: {error}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, &why, "see to the disk of state_dir")
        }
    }
}

/// Whether what is wanted has passed, as `sooner cut create` sees it: by where the source's log ends now, or by how far
/// the lake is where no source can be asked; and by this machine's clock.
async fn place_of(shared: &Shared, at: Option<Until>) -> std::result::Result<Place, Answer> {
    if let Some(Until::Time(time)) = at {
        let moment = micros(time);
        return Ok(match time < SystemTime::now() {
            true => Place::Passed(Past::Micros(moment)),
            false => Place::ToCome(None, Some(moment)),
        });
    }
    let unknown = |why: &str| {
        let remedy = "see that the database can be reached, and ask again";
        problem(StatusCode::SERVICE_UNAVAILABLE, why, remedy)
    };
    let end = match timeout(PATIENCE, shared.cuts.position()).await {
        Ok(Ok(end)) => end,
        Ok(Err(why)) => return Err(unknown(&why)),
        Err(_) => return Err(unknown("the database did not say in time where its log ends")),
    };
    let Some(Until::Lsn(lsn)) = at else { return Ok(Place::ToCome(end, None)) };
    Ok(match lsn <= end.unwrap_or_else(|| shared.board.look(|status| status.durable_lsn)) {
        true => Place::Passed(Past::Lsn(lsn)),
        false => Place::ToCome(Some(lsn), None),
    })
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

/// What is wanted, if it can be.
fn checked(shared: &Shared, wanted: &Wanted) -> std::result::Result<Checked, Answer> {
    let wrong = |why: &str, remedy: &str| Err(problem(StatusCode::BAD_REQUEST, why, remedy));
    if let Err(why) = check_cut_name(&wanted.name).and_then(|()| check_not_reserved(&wanted.name)) {
        return wrong(&why, "give it such a name");
    }
    let tables = wanted.tables.iter().map(|table| known(shared, table)).collect::<std::result::Result<_, _>>()?;
    let at = match (wanted.at.as_deref().filter(|at| !matches!(*at, "" | "now")), wanted.lsn) {
        (Some(_), Some(_)) => return wrong("at and lsn are two places for one cut", "leave one of them out"),
        (None, lsn) => lsn.map(Until::Lsn),
        (Some(text), None) => match parse_until(text) {
            Ok(at) => Some(at),
            Err(why) => return wrong(&format!("at is no position: {why}"), "write it so"),
        },
    };
    let Some(keep) = wanted.keep.as_deref().filter(|keep| !keep.is_empty()) else {
        return Ok(Checked { tables, at, until_millis: None });
    };
    let until = humantime::parse_duration(keep).ok().and_then(|keep| SystemTime::now().checked_add(keep));
    match until.map(|until| micros(until) / 1000) {
        Some(until) => Ok(Checked { tables, at, until_millis: Some(until) }),
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
    lake_of(shared, "cut")
}

fn no_cut() -> Answer {
    problem(StatusCode::NOT_FOUND, "there is no such cut", "see /api/v1/cuts")
}
