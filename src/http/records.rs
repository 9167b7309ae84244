//! Reports and the audit trail by the API: as `sooner report` and `sooner audit` have them.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Shared;
use super::api::{Answer, note, problem};
use super::inquiry::{Inquiry, NoPlace};
use crate::wanted_entries as wanted;

/// How long the lake may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many entries of the audit trail are told unless a limit is asked for.
const TOLD: usize = 20;
/// So many at most.
const MOST_TOLD: usize = 1000;
/// Reports that are asked for and not made yet, at most.
const MOST_WAITING: usize = 20;

/// `GET /api/v1/reports`: what `sooner report list --json` prints.
pub async fn reports(State(shared): State<Shared>) -> Answer {
    answered(&shared.records.reports, "").await
}

/// `GET /api/v1/reports/{name}`: what `sooner report show NAME --json` prints, and whether it is asked for.
pub async fn report(State(shared): State<Shared>, Path(name): Path<String>) -> Answer {
    match is_report(&shared, &name).await {
        Ok(()) => {
            let (code, Json(mut told)) = answered(&shared.records.reports, &name).await;
            if code == StatusCode::OK && shared.records.waiting.has(&name) {
                told["asked"] = json!(true);
            }
            (code, Json(told))
        }
        Err(refused) => refused,
    }
}

/// Has a report made now, beside its schedule, which is not waited for. A run that fails is told of by the report's
/// runs.
pub fn run(shared: &Shared, name: String) -> Answer {
    let place = match shared.records.waiting.enter(&name, MOST_WAITING) {
        Ok(place) => place,
        Err(NoPlace::Asked) => {
            let remedy = format!("see /api/v1/reports/{name} for what becomes of it");
            return problem(StatusCode::CONFLICT, "the report is asked for already", &remedy);
        }
        Err(NoPlace::Full) => {
            let why = format!("{MOST_WAITING} reports are asked for already, and made one after the other");
            return problem(StatusCode::TOO_MANY_REQUESTS, &why, "ask again when some of them are made");
        }
    };
    note(shared, None, "report run", json!({ "report": name }));
    let making = shared.records.making.clone();
    tokio::spawn(async move {
        let _place = place;
        if let Err(error) = making.answer(&name).await {
            tracing::error!(report = %name, %error, "the report that was asked for was not made");
        }
    });
    (StatusCode::ACCEPTED, Json(json!({ "asked": true })))
}

/// That there is a report of this name.
pub async fn is_report(shared: &Shared, name: &str) -> Result<(), Answer> {
    let (code, Json(all)) = answered(&shared.records.reports, "").await;
    let is_named = |report: &Value| report["report"] == name;
    match (code, all.as_array()) {
        (StatusCode::OK, Some(all)) if all.iter().any(is_named) => Ok(()),
        (StatusCode::OK, _) => Err(problem(StatusCode::NOT_FOUND, "there is no such report", "see /api/v1/reports")),
        _ => Err((code, Json(all))),
    }
}

/// How much of the audit trail is wanted.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// So many entries at most.
    limit: Option<usize>,
    /// Only those of a kind.
    kind: Option<String>,
    /// Only those of a table.
    table: Option<String>,
    /// Only those of the last while, such as 1h or 3days.
    since: Option<String>,
}

/// `GET /api/v1/audit?limit=…&kind=…&table=…&since=…`: the end of the audit trail's chain, and its last entries that
/// are wanted, the newest first.
pub async fn audit(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Answer {
    let Wanted { limit, kind, table, since } = wanted;
    let since = match since.as_deref().map(humantime::parse_duration).transpose() {
        Ok(since) => since,
        Err(why) => return problem(StatusCode::BAD_REQUEST, &format!("since is no while: {why}"), "write it as 3days"),
    };
    let wanted = wanted::Wanted::new(kind, table, since);
    let limit = limit.unwrap_or(TOLD).min(MOST_TOLD);
    answered(&shared.records.audit, &json!([wanted, limit]).to_string()).await
}

/// `GET /api/v1/audit/check`: what `sooner audit verify --json` prints, which reads the whole trail.
pub async fn audit_check(State(shared): State<Shared>) -> Answer {
    answered(&shared.records.audit_check, "").await
}

async fn answered(inquiry: &Inquiry, question: &str) -> Answer {
    match timeout(PATIENCE, inquiry.answer(question)).await {
        Ok(Ok(answer)) => (StatusCode::OK, Json(answer)),
        Ok(Err(why)) => problem(StatusCode::SERVICE_UNAVAILABLE, &why, "the command beside the process says the same"),
        Err(_) => problem(
            StatusCode::GATEWAY_TIMEOUT,
            "the lake did not answer in time",
            "see to its store, or use the command beside the process",
        ),
    }
}
