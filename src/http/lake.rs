//! The lake as handlers ask it: the one of this process, in a time that somebody waits for.

use std::time::Duration;

use axum::http::StatusCode;
use sooner_api::{Error, Result};
use sooner_delta::DeltaLake;
use tokio::time::timeout;

use super::Shared;
use super::api::{Answer, failed, problem};

/// How long the lake may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The lake of this process; or the answer that it has none, and which command knows of one.
pub fn lake_of(shared: &Shared, command: &str) -> std::result::Result<DeltaLake, Answer> {
    shared.shapes.origins().tables.ok_or_else(|| {
        let remedy = format!("ask the listener of the sink's process, or use `sooner {command}`");
        problem(StatusCode::CONFLICT, "this process has no lake", &remedy)
    })
}

/// What the lake says, or the answer to whoever waits for it.
pub async fn answered<T>(asking: impl Future<Output = Result<T>>) -> std::result::Result<T, Answer> {
    let late =
        || problem(StatusCode::GATEWAY_TIMEOUT, "the lake did not answer in time", "see to its store, and ask again");
    timeout(PATIENCE, asking).await.map_err(|_| late())?.map_err(|error: Error| failed(&error))
}
