//! `sooner fleet`: one page over many pipelines, until SIGTERM or SIGINT. It needs no database and no lake.

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use crate::config::fleet::FleetConfig;
use crate::http;
use crate::http::fleet::{Fleet, serve};

/// Serves the page over the pipelines that the file names.
pub async fn run(path: &Path) -> anyhow::Result<()> {
    let FleetConfig { http, pipelines } = FleetConfig::load(path)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = http::bind(&http).await?;
    let fleet = Fleet::new(pipelines)?;
    let looking = tokio::spawn(fleet.clone().keep_looking());
    tokio::select! {
        () = serve(listener, fleet, http) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    looking.abort();
    tracing::info!("stopped");
    Ok(())
}
