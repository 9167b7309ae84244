//! What `sooner verify` last found, for the API: the tables of the pipeline alone, the worst first.

use std::cmp::Reverse;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sooner_schemas::TableName;

use super::Shared;
use super::api::{Answer, problem};
use crate::verifications::{Outcome, Verified};

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

/// `GET /api/v1/verifications?limit=…`: the last report of each table that was ever verified.
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
    (StatusCode::OK, Json(json!({ "tables": tables, "never": never, "counts": counts, "reports": told })))
}
