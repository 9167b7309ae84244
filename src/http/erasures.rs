//! Erasures by the API: as `sooner erase` has them. Nothing that is told has a subject's value, only its column, and in
//! certificates a hash.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sooner_delta::cuts::check_cut_name;
use sooner_delta::erasure::subject::Subject;
use sooner_delta::legal_holds::HashedSubject;
use sooner_delta::results::ResultFolder;

use super::Shared;
use super::api::{Answer, Nothing, failed, note, problem};
use super::erasure_view::certificate;
use super::lake::{answered, lake_of};
use crate::erasure_desk::{AskedErasure, ErasureDesk, ErasureOrder, Refusal, Standing};

/// So many certificates are told unless a limit is asked for.
const TOLD: usize = 20;
/// Subjects of one erasure.
const MOST_SUBJECTS: usize = 1000;

/// How many certificates are wanted.
#[derive(Debug, Default, Deserialize)]
pub struct Most {
    /// So many at most, the newest ones.
    limit: Option<usize>,
}

/// `GET /api/v1/erasures?limit=…`: certificates in short, the newest first; erasures that are asked for; those that
/// were not made, each with why; and what dry runs found.
pub async fn list(State(shared): State<Shared>, Query(most): Query<Most>) -> Answer {
    let Some(lake) = shared.shapes.origins().tables else {
        let none = json!({ "count": null, "erasures": null, "asked": [], "failed": [], "found": [] });
        return (StatusCode::OK, Json(none));
    };
    let limit = most.limit.unwrap_or(TOLD);
    let (count, erasures) = match answered(shared.erasing.last(&lake, limit)).await {
        Ok(told) => told,
        Err(refused) => return refused,
    };
    let (mut asked, mut failures, mut found) = (Vec::new(), Vec::new(), Vec::new());
    for (erasure, standing) in shared.erasing.desk.iter().flat_map(ErasureDesk::all) {
        let mut told = asked_in_short(&erasure);
        match standing {
            Standing::Waiting | Standing::Begun => {
                told["begun"] = json!(standing == Standing::Begun);
                asked.push(told);
            }
            Standing::Failed(error) => {
                told["error"] = json!(error);
                failures.push(told);
            }
            Standing::Found(_) => found.push(told),
        }
    }
    let told = json!({ "count": count, "erasures": erasures, "asked": asked, "failed": failures, "found": found });
    (StatusCode::OK, Json(told))
}

fn asked_in_short(asked: &AskedErasure) -> Value {
    let column = |subject: &HashedSubject| json!({ "table": subject.table, "column": subject.column });
    json!({
        "name": asked.name,
        "dry_run": asked.dry_run,
        "asked_micros": asked.asked_micros,
        "subjects": asked.subjects.iter().map(column).collect::<Vec<_>>(),
    })
}

/// `GET /api/v1/erasures/{name}`: its certificate; what it found, if it was a dry run; 202 if it is not made yet.
pub async fn show(State(shared): State<Shared>, Path(name): Path<String>) -> Answer {
    if check_cut_name(&name).is_err() {
        return no_erasure();
    }
    match shared.erasing.desk.as_ref().and_then(|desk| desk.standing(&name)) {
        Some((asked, Standing::Waiting | Standing::Begun)) => {
            let mut told = asked_in_short(&asked);
            told["asked"] = json!(true);
            return (StatusCode::ACCEPTED, Json(told));
        }
        Some((_, Standing::Failed(error))) => return failed(&error),
        Some((asked, Standing::Found(found))) => {
            let mut told = asked_in_short(&asked);
            told["found"] = found;
            return (StatusCode::OK, Json(told));
        }
        None => {}
    }
    let lake = match lake_of(&shared, "erase") {
        Ok(lake) => lake,
        Err(refused) => return refused,
    };
    let folder = ResultFolder::of_lake(&lake, "erasures");
    match answered(certificate(&folder, &name)).await {
        Ok(Some(certificate)) => (StatusCode::OK, Json(certificate)),
        Ok(None) => no_erasure(),
        Err(refused) => refused,
    }
}

/// Body of a request for an erasure.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Whose rows: each `COLUMN=VALUE` or `SCHEMA.TABLE.COLUMN=VALUE`.
    subjects: Vec<String>,
    /// Only say what there is, and what keeps it.
    #[serde(default)]
    dry_run: bool,
    /// Erase although the source still has the subject, or cannot be asked.
    #[serde(default)]
    allow_source: bool,
    /// Drop the cuts that hold rows of the subject, unless a legal hold keeps them.
    #[serde(default)]
    drop_cuts: bool,
    /// Erase the results of reports' runs that hold rows of the subject.
    #[serde(default)]
    drop_reports: bool,
}

/// `POST /api/v1/erasures` with `{"subjects": ["email=jane@example.org"]}`, and if need be `dry_run`, `drop_cuts`,
/// `drop_reports` and `allow_source`: as `sooner erase`, which is not waited for. The answer has the name that its
/// certificate will have.
pub async fn ask(State(shared): State<Shared>, Json(wanted): Json<Wanted>) -> Answer {
    let subjects = match checked(&wanted.subjects) {
        Ok(subjects) => subjects,
        Err(refused) => return refused,
    };
    if let Err(refused) = lake_of(&shared, "erase") {
        return refused;
    }
    let Some(desk) = &shared.erasing.desk else { return closed() };
    let name = new_name();
    let columns: Vec<_> = subjects.iter().map(Subject::place).collect();
    let Wanted { dry_run, allow_source, drop_cuts, drop_reports, .. } = wanted;
    let order = ErasureOrder { name: name.clone(), subjects, dry_run, allow_source, drop_cuts, drop_reports };
    match desk.ask(order) {
        Ok(()) => {}
        Err(Refusal::Full) => {
            let why = "several erasures are asked for already, and made one after the other";
            return problem(StatusCode::TOO_MANY_REQUESTS, why, "ask again when one of them is made");
        }
        Err(Refusal::Closed) => return closed(),
        Err(Refusal::Unwritable(error)) => {
            let why = format!("cannot store the request: {error}");
            return problem(StatusCode::INTERNAL_SERVER_ERROR, &why, "see to the disk of state_dir");
        }
    }
    let asked = json!({
        "name": name, "columns": columns, "dry_run": dry_run, "allow_source": allow_source, "drop_cuts": drop_cuts,
        "drop_reports": drop_reports,
    });
    note(&shared, None, "erase", asked);
    (StatusCode::ACCEPTED, Json(json!({ "asked": true, "name": name, "dry_run": dry_run })))
}

/// The subjects of a request. What is wrong is told without their values.
fn checked(subjects: &[String]) -> Result<Vec<Subject>, Answer> {
    let wrong = |why: &str, remedy: &str| Err(problem(StatusCode::BAD_REQUEST, why, remedy));
    if subjects.is_empty() {
        return wrong("there is nobody to erase", "name subjects");
    }
    if subjects.len() > MOST_SUBJECTS {
        let why = format!("these are more than {MOST_SUBJECTS} subjects");
        return wrong(&why, "ask for several erasures, or use `sooner erase --keys`");
    }
    let parsed = subjects.iter().enumerate().map(|(at, subject)| {
        let wrong = |why| problem(StatusCode::BAD_REQUEST, &format!("subject {}: {why}", at + 1), "write it so");
        subject.parse::<Subject>().map_err(wrong)
    });
    parsed.collect()
}

/// The name of an erasure that begins now.
fn new_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("erase-{}-{:08x}", since.as_millis(), rand::random::<u32>())
}

/// `POST /api/v1/erasures/{name}/forget` with `{}`: forgets a failure or what a dry run found, or withdraws an erasure
/// that has not begun. Certificates stay.
pub async fn forget(State(shared): State<Shared>, Path(name): Path<String>, Json(Nothing {}): Json<Nothing>) -> Answer {
    let Some(desk) = &shared.erasing.desk else { return no_erasure() };
    match (desk.standing(&name), desk.forget(&name)) {
        (_, Ok(true)) => {
            note(&shared, None, "erase forget", json!({ "name": name }));
            (StatusCode::OK, Json(json!({ "forgotten": true })))
        }
        (Some(_), Ok(false)) => {
            let remedy = "wait until it has ended; it can be repeated at any time";
            problem(StatusCode::CONFLICT, "the erasure has begun", remedy)
        }
        (None, Ok(false)) => no_erasure(),
        (_, Err(error)) => {
            let why = format!("cannot withdraw the request: {error}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, &why, "see to the disk of state_dir")
        }
    }
}

fn no_erasure() -> Answer {
    problem(StatusCode::NOT_FOUND, "there is no such erasure", "see /api/v1/erasures")
}

fn closed() -> Answer {
    let why = "this process makes no erasures any more";
    problem(StatusCode::SERVICE_UNAVAILABLE, why, "see its log, start it again, or use `sooner erase`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_subjects_are_refused_without_their_values() {
        for wrong in [vec![], vec!["email=jane@doe.org".to_owned(), "users.email=jane@doe.org".to_owned()]] {
            let (code, Json(told)) = checked(&wrong).unwrap_err();
            assert!(code == StatusCode::BAD_REQUEST && !told.to_string().contains("jane"), "{told}");
        }
    }
}
