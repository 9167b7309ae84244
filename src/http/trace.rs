//! `GET /api/v1/tables/{schema.table}/trace?key=…`: as `sooner trace`, without values of columns.
//!
//! It asks Postgres, brokers and the store, so it has a thread and a runtime of its own, and the loops never wait for
//! it; only one runs at a time, in bounded time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use sooner_schemas::TableName;
use tokio::sync::{Semaphore, oneshot};

use super::Shared;
use super::api::{Answer, known, problem};
use crate::config::Config;
use crate::status::StatusBoard;
use crate::trace::gather::{Question, Seen, trace};
use crate::trace::report::Report;

/// How long topic and files may be searched.
const SEARCH_LIMIT: Duration = Duration::from_secs(15);
/// How long an answer may take in all.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Follows rows for requests.
#[derive(Clone, Debug)]
pub struct Tracer {
    config: PathBuf,
    place: Arc<Semaphore>,
}

impl Tracer {
    /// A tracer that reads the configuration at this path for each request, so that it follows its changes.
    pub fn new(config: PathBuf) -> Tracer {
        Tracer { config, place: Arc::new(Semaphore::new(1)) }
    }
}

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
    let Ok(place) = shared.tracer.place.clone().try_acquire_owned() else {
        return problem(StatusCode::TOO_MANY_REQUESTS, "another row is being followed", "ask again in a moment");
    };
    let followed = on_a_thread(shared.tracer.config.clone(), shared.board.clone(), table, key, place);
    match followed.await {
        Ok(Ok(report)) => (StatusCode::OK, Json(json!(report))),
        Ok(Err(error)) => problem(StatusCode::BAD_REQUEST, &format!("{error:#}"), "see the message"),
        Err(_) => problem(
            StatusCode::GATEWAY_TIMEOUT,
            "Postgres, brokers or the store did not answer in time",
            "see /api/v1/health; `sooner trace` takes more time",
        ),
    }
}

/// Follows a row on a thread of its own. The answer does not come if that takes too long.
fn on_a_thread(
    path: PathBuf,
    board: StatusBoard,
    table: TableName,
    key: String,
    place: tokio::sync::OwnedSemaphorePermit,
) -> oneshot::Receiver<anyhow::Result<Report>> {
    let (done, report) = oneshot::channel();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        let following = async {
            let config = Config::load(&path)?;
            let question = Question { table, key, with_values: false, limit: SEARCH_LIMIT };
            let see = || Seen { status: Some(board.read_now()), is_running: true };
            trace(&config, &question, see).await
        };
        let followed = runtime.block_on(async { tokio::time::timeout(ANSWER_LIMIT, following).await });
        if let Ok(followed) = followed {
            // Whoever asked may have gone.
            let _ = done.send(followed);
        }
        // What still blocks, such as a broker that does not answer, has limits of its own.
        runtime.shutdown_background();
        drop(place);
    });
    report
}
