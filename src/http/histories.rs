//! The histories of tables for the API. Which tables have one, the configuration says; its version, its own log, which
//! is asked when somebody wants to know.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use sooner_delta::LakeStore;
use sooner_delta::store::location::HISTORY_SUFFIX;
use sooner_schemas::TableName;

use super::Shared;
use super::api::{Answer, location};

/// So many histories are told unless a limit is asked for.
const TOLD: usize = 20;
/// So many at most: the log of each is asked.
const MOST_TOLD: usize = 100;

/// Which histories are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// So many are left out.
    offset: usize,
    /// So many follow at most.
    limit: Option<usize>,
}

/// `GET /api/v1/histories?offset=…&limit=…`: the tables whose events are all kept, each with its history's version.
pub async fn histories(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Answer {
    let origins = shared.shapes.origins();
    let Some(lake) = &origins.lake else {
        return (StatusCode::OK, Json(json!({ "count": null, "histories": [] })));
    };
    let named: Vec<TableName> = shared
        .board
        .look(|status| status.tables.keys().filter(|table| origins.ways.of(table).history).cloned().collect());
    let asked = named.iter().skip(wanted.offset).take(wanted.limit.unwrap_or(TOLD).min(MOST_TOLD));
    let told = join_all(asked.map(|table| told(&shared, lake, table))).await;
    (StatusCode::OK, Json(json!({ "count": named.len(), "histories": told })))
}

async fn told(shared: &Shared, lake: &LakeStore, table: &TableName) -> Value {
    let (shape, trouble) = match shared.shapes.of_history(lake, table).await {
        Ok(shape) => (shape, None),
        Err(trouble) => (None, Some(trouble)),
    };
    json!({
        "table": table,
        "location": location(shared, table, HISTORY_SUFFIX),
        "version": shape.as_ref().map(|shape| shape.version),
        "columns": shape.as_ref().map(|shape| shape.columns.len()),
        "trouble": trouble,
    })
}
