//! Legal holds by the API: as `sooner hold` has them. A subject's value is hashed before anything else sees it.

use std::time::SystemTime;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sooner_api::{Clock, Code};
use sooner_delta::DeltaLake;
use sooner_delta::cuts::check_cut_name;
use sooner_delta::erasure::subject::Subject;
use sooner_delta::legal_holds::{HashedSubject, LegalHold, LegalHolds};

use super::Shared;
use super::api::{Answer, failed, known, note, problem};
use super::lake::{answered, lake_of};
use crate::clock::SystemClock;
use crate::told::operator_error;
use crate::until::micros;

/// `GET /api/v1/holds`: what `sooner hold list --json` prints, and of each whether it is in force; also of those that
/// have ended.
pub async fn list(State(shared): State<Shared>) -> Answer {
    let Some(lake) = shared.shapes.origins().tables else {
        return (StatusCode::OK, Json(json!({ "holds": null })));
    };
    match answered(LegalHolds::of(&lake).all()).await {
        Ok(holds) => {
            let holds: Vec<Value> = holds.iter().map(shown).collect();
            (StatusCode::OK, Json(json!({ "holds": holds })))
        }
        Err(refused) => refused,
    }
}

fn shown(hold: &LegalHold) -> Value {
    let mut told = json!(hold);
    told["in_force"] = json!(hold.is_in_force());
    told
}

/// Body of a request for a legal hold.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Its name.
    name: String,
    /// Why there is to be one.
    reason: String,
    /// Tables of which nothing is to be deleted.
    #[serde(default)]
    tables: Vec<String>,
    /// The cut that is to be kept.
    #[serde(default)]
    cut: Option<String>,
    /// Whose rows are not to be erased: `COLUMN=VALUE` or `SCHEMA.TABLE.COLUMN=VALUE`.
    #[serde(default)]
    subject: Option<String>,
    /// When it ends, as a UTC time; when it is released, without it.
    #[serde(default)]
    until: Option<String>,
}

/// `POST /api/v1/holds` with `{"name": "case-7", "reason": "litigation", "tables": ["public.orders"]}`, or with a `cut`
/// or a `subject`, and perhaps `until`: as `sooner hold add`.
pub async fn add(State(shared): State<Shared>, Json(wanted): Json<Wanted>) -> Answer {
    let hold = match checked(&shared, wanted) {
        Ok(hold) => hold,
        Err(refused) => return refused,
    };
    let told = json!({ "name": hold.name, "tables": hold.tables, "cut": hold.cut, "reason": hold.reason });
    note(&shared, None, "hold add", told);
    match shared.holds.add.done(json!(hold)).await {
        Ok(_) => (StatusCode::CREATED, Json(shown(&hold))),
        Err(error) => failed(&operator_error(error, Code::Held, "cannot make the legal hold")),
    }
}

fn checked(shared: &Shared, wanted: Wanted) -> Result<LegalHold, Answer> {
    let wrong = |why: &str, remedy: &str| problem(StatusCode::BAD_REQUEST, why, remedy);
    if let Err(why) = check_cut_name(&wanted.name) {
        return Err(wrong(&why.replace("a cut", "a hold"), "give it such a name"));
    }
    if wanted.reason.trim().is_empty() {
        return Err(wrong("a hold has a reason", "say why there is to be one, such as the number of a case"));
    }
    let cut = wanted.cut.filter(|cut| !cut.is_empty());
    if cut.as_deref().is_some_and(|cut| check_cut_name(cut).is_err()) {
        return Err(wrong("this is no name of a cut", "see /api/v1/cuts"));
    }
    let subject = wanted.subject.filter(|subject| !subject.is_empty());
    let subject = subject.map(|subject| subject.parse::<Subject>()).transpose();
    let subject = subject.map_err(|why| wrong(&format!("this is no subject: {why}"), "write it so"))?;
    let tables = wanted.tables.iter().map(|table| known(shared, table)).collect::<Result<Vec<_>, _>>()?;
    if tables.is_empty() && cut.is_none() && subject.is_none() {
        return Err(wrong("the hold would keep nothing", "name tables, a cut or a subject"));
    }
    let until = wanted.until.filter(|until| !until.is_empty());
    let until = until.map(|until| humantime::parse_rfc3339_weak(&until)).transpose();
    let until = until.map_err(|_| wrong("until is no UTC time", "write it as 2030-12-31T00:00:00Z"))?;
    if until.is_some_and(|until| until <= SystemTime::now()) {
        return Err(wrong("until has passed", "name a time to come"));
    }
    lake_of(shared, "hold")?;
    Ok(LegalHold {
        name: wanted.name,
        reason: wanted.reason,
        made_millis: SystemClock.now_micros() / 1000,
        until_millis: until.map(|until| micros(until) / 1000),
        tables,
        cut,
        subject: subject.as_ref().map(HashedSubject::of),
        released: None,
    })
}

/// Body of a request to release a legal hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Why.
    #[serde(default)]
    reason: String,
}

/// `POST /api/v1/holds/{name}/release` with `{"reason": "settled"}`: as `sooner hold release`.
pub async fn release(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Json(Release { reason }): Json<Release>,
) -> Answer {
    let lake = match lake_of(&shared, "hold") {
        Ok(lake) => lake,
        Err(refused) => return refused,
    };
    if let Err(refused) = is_hold(&lake, &name).await {
        return refused;
    }
    if reason.trim().is_empty() {
        let why = "a hold is released for a reason";
        return problem(StatusCode::BAD_REQUEST, why, "say why it no longer applies");
    }
    let asked = json!({ "name": name, "reason": reason });
    note(&shared, None, "hold release", asked.clone());
    match shared.holds.release.done(asked).await {
        Ok(_) => (StatusCode::OK, Json(json!({ "released": true }))),
        Err(error) => failed(&operator_error(error, Code::Held, "cannot release the legal hold")),
    }
}

async fn is_hold(lake: &DeltaLake, name: &str) -> Result<(), Answer> {
    let holds = answered(LegalHolds::of(lake).all()).await?;
    match holds.iter().any(|hold| hold.name == name) {
        true => Ok(()),
        false => Err(problem(StatusCode::NOT_FOUND, "there is no such legal hold", "see /api/v1/holds")),
    }
}
