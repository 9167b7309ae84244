//! `GET /api/v1/tables/{schema.table}/trace?key=…`: as `sooner trace --json`, without values of columns.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use sooner_schemas::TableName;
use tokio::sync::oneshot;

use super::Shared;
use super::api::{Answer, known, problem};

/// Follows the row of a table that has a key, apart from the loops and the listener: what comes of it is what is known
/// of the row, or why nothing is; nothing if that takes too long. None while another one is being followed.
pub type Tracer = Arc<dyn Fn(TableName, String) -> Option<oneshot::Receiver<Result<Value, String>>> + Send + Sync>;

/// The row that is asked for.
#[derive(Debug, Deserialize)]
pub struct Asked {
    /// Its key, as `sooner trace` takes it.
    key: Option<String>,
}

/// Follows a row.
pub async fn trace_row(State(shared): State<Shared>, Path(table): Path<String>, Query(asked): Query<Asked>) -> Answer {
    let table = match known(&shared, &table) {
        Ok(table) => table,
        Err(answer) => return answer,
    };
    let Some(key) = asked.key else {
        return problem(StatusCode::BAD_REQUEST, "no key is given", "add ?key=…, such as key=42 or key=tenant=7,id=42");
    };
    let Some(followed) = (shared.tracer)(table, key) else {
        return problem(StatusCode::TOO_MANY_REQUESTS, "another row is being followed", "ask again in a moment");
    };
    match followed.await {
        Ok(Ok(report)) => (StatusCode::OK, Json(report)),
        Ok(Err(why)) => problem(StatusCode::BAD_REQUEST, &why, "do what the message says, and ask again"),
        Err(_) => problem(
            StatusCode::GATEWAY_TIMEOUT,
            "Postgres, brokers or the store did not answer in time",
            "see /api/v1/health; `sooner trace` takes more time",
        ),
    }
}
