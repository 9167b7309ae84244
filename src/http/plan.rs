//! `GET /api/v1/plan`: what the configuration's file would do if it were read again now.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Mutex;

use super::Shared;
use super::api::{Answer, problem};

type Work = dyn Fn() -> BoxFuture<'static, Result<Value, String>> + Send + Sync;

/// Works out plans, one at a time: each asks the database, and the brokers.
#[derive(Clone)]
pub struct Planner {
    work: Arc<Work>,
    one: Arc<Mutex<()>>,
}

impl Planner {
    /// Plans are made so; an error says why one cannot be made, and what to do.
    pub fn new(work: impl Fn() -> BoxFuture<'static, Result<Value, String>> + Send + Sync + 'static) -> Planner {
        Planner { work: Arc::new(work), one: Arc::default() }
    }
}

/// `GET /api/v1/plan`: what `sooner plan --json` prints.
pub async fn plan(State(shared): State<Shared>) -> Answer {
    let Planner { work, one } = &shared.planner;
    let _one = one.lock().await;
    match work().await {
        Ok(plan) => (StatusCode::OK, Json(plan)),
        Err(why) => problem(StatusCode::SERVICE_UNAVAILABLE, &why, "`sooner plan` beside the process says the same"),
    }
}
