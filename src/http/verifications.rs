//! What `sooner verify` last found, for the API: the tables of the pipeline alone, the worst first. Verifications can
//! be asked for.

use std::cmp::Reverse;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sooner_schemas::TableName;

use super::Shared;
use super::api::{Answer, note, problem};
use crate::verifications::{Outcome, Verified};
use crate::verify_request::{VerifyRequest, VerifyRequests};

/// So many reports are told unless a limit is asked for.
const TOLD: usize = 100;

/// How many reports are wanted.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// So many at most, the worst ones.
    limit: Option<usize>,
}

/// A report with its table.
#[derive(Debug, Serialize)]
struct Told<'a> {
    table: &'a TableName,
    #[serde(flatten)]
    report: &'a Verified,
}

/// Body of a request for a verification.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The tables, as schema.table; all of the pipeline if none are named.
    #[serde(default)]
    tables: Vec<TableName>,
    /// Have what differs copied again.
    #[serde(default)]
    repair: bool,
}

/// `POST /api/v1/verifications` with `{}`, and if need be `tables` and `repair`: as `sooner verify`, which is not
/// waited for. What it finds is in the reports.
pub async fn ask(State(shared): State<Shared>, Json(asked): Json<Asked>) -> Answer {
    let Some(requests) = &shared.verify_requests else {
        let why = "this process has no [source] and [lake] that it could compare";
        return problem(StatusCode::CONFLICT, why, "ask the process that has both, or use `sooner verify`");
    };
    let unknown = shared.board.look(|status| {
        asked.tables.iter().find(|table| !status.tables.contains_key(table)).map(|table| table.to_string())
    });
    if let Some(table) = unknown {
        let why = format!("there is no table '{table}' in this pipeline");
        return problem(StatusCode::NOT_FOUND, &why, "see /api/v1/tables");
    }
    let told = json!({ "tables": asked.tables, "repair": asked.repair });
    match requests.ask(&VerifyRequest { tables: asked.tables, repair: asked.repair }) {
        Ok(true) => {
            note(&shared, None, "verify", told);
            (StatusCode::ACCEPTED, Json(json!({ "asked": true })))
        }
        Ok(false) => {
            let why = "a verification is asked for already";
            problem(StatusCode::CONFLICT, why, "see /api/v1/verifications for what becomes of it, and ask again then")
        }
        Err(error) => {
            let why = format!("cannot store the request: {error}");
            problem(StatusCode::INTERNAL_SERVER_ERROR, &why, "see to the disk of state_dir")
        }
    }
}

/// `GET /api/v1/verifications?limit=…`: the last report of each table that was ever verified; what is asked for; and
/// why the last request came to nothing, if it did.
pub async fn verifications(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Answer {
    let reports = match shared.reports.read() {
        Ok(reports) => reports,
        Err(error) => {
            let why = format!("the reports cannot be read: {error}");
            let remedy = "remove verifications.json from the state folder; `sooner verify` writes it again";
            return problem(StatusCode::INTERNAL_SERVER_ERROR, &why, remedy);
        }
    };
    let (tables, mut told) = shared.board.look(|status| {
        let known = reports.iter().filter(|(table, _)| status.tables.contains_key(table));
        (status.tables.len(), known.map(|(table, report)| Told { table, report }).collect::<Vec<_>>())
    });
    let count = |verdict: Outcome| told.iter().filter(|told| told.report.verdict == verdict).count();
    let counts = json!({
        "equal": count(Outcome::Equal), "different": count(Outcome::Different), "unverified": count(Outcome::Unverified),
    });
    let never = tables.saturating_sub(told.len());
    // Of those that are equal, whoever was not verified for longest comes first.
    told.sort_by_key(|told| (told.report.verdict, Reverse(told.report.differing), told.report.at_micros));
    told.truncate(wanted.limit.unwrap_or(TOLD));
    let mut told = json!({ "tables": tables, "never": never, "counts": counts, "reports": told });
    told["asked"] = json!(shared.verify_requests.as_ref().and_then(VerifyRequests::pending));
    told["failed"] = json!(shared.verify_requests.as_ref().and_then(VerifyRequests::failure));
    (StatusCode::OK, Json(told))
}
