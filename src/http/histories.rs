//! The histories of tables for the API. Which tables have one, the configuration says; its version, its own log, which
//! is asked when somebody wants to know.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};
use sooner_api::Error;
use sooner_delta::LakeStore;
use sooner_delta::store::location::HISTORY_SUFFIX;
use sooner_schemas::TableName;
use tokio::runtime::Handle;

use super::Shared;
use super::api::{Answer, known, location, problem};
use super::lake::{answered, lake_of};
use crate::history_head::head_of;
use crate::history_query::{HistoryEngine, history_query};
use crate::until::parse_until;

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
    let origins = shared.shapes.origins();
    let (shape, trouble) = match shared.shapes.of_history(lake, table).await {
        Ok(shape) => (shape, None),
        Err(trouble) => (None, Some(trouble)),
    };
    json!({
        "table": table,
        "location": location(shared, table, HISTORY_SUFFIX),
        "version": shape.as_ref().map(|shape| shape.version),
        "columns": shape.as_ref().map(|shape| shape.columns.len()),
        "keep_history": origins.ways.of(table).keep_history.map(|keep| humantime::format_duration(keep).to_string()),
        "from": shape.as_ref().and_then(|shape| shape.whole_since.as_ref()),
        "untrimmed": shared.board.look(|status| status.untrimmed.get(table).cloned()),
        "trouble": trouble,
    })
}

/// `GET /api/v1/tables/{schema.table}/history/head`: what `sooner history TABLE --head --json` prints.
pub async fn head(State(shared): State<Shared>, Path(table): Path<String>) -> Answer {
    let (table, lake) = match known(&shared, &table).and_then(|table| Ok((table, lake_of(&shared, "history")?))) {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    match answered(head_of(&lake, &table)).await {
        Ok(head) => (StatusCode::OK, Json(json!({ "table": table, "head": head.to_string() }))),
        Err(refused) => refused,
    }
}

/// Which query of a history is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Moment {
    /// In whose SQL.
    engine: HistoryEngine,
    /// The table as of a UTC time, an LSN or now; each state of each row without it.
    as_of: Option<String>,
}

/// `GET /api/v1/tables/{schema.table}/history?engine=…&as_of=…`: what `sooner history TABLE --json` prints.
pub async fn query(State(shared): State<Shared>, Path(table): Path<String>, Query(wanted): Query<Moment>) -> Answer {
    let (table, lake) = match known(&shared, &table).and_then(|table| Ok((table, lake_of(&shared, "history")?))) {
        Ok(found) => found,
        Err(refused) => return refused,
    };
    let as_of = match wanted.as_of.as_deref().map(parse_until).transpose() {
        Ok(as_of) => as_of,
        Err(why) => return problem(StatusCode::BAD_REQUEST, &format!("as_of is no moment: {why}"), "write it so"),
    };
    let (of, here) = (table.clone(), Handle::current());
    // Reading a history holds on to what may not move between threads.
    let query = move || here.block_on(history_query(&lake, &of, as_of, wanted.engine));
    let query = async {
        let ended = tokio::task::spawn_blocking(query).await;
        ended.map_err(|error| Error::internal("cannot write a query of a history", error))?
    };
    match answered(query).await {
        Ok((location, sql)) => (StatusCode::OK, Json(json!({ "table": table, "location": location, "sql": sql }))),
        Err(refused) => refused,
    }
}
