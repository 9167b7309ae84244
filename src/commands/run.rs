//! `sooner run`: the pipeline, until SIGTERM or SIGINT.

use sooner_delta::LakeStore;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::config::Config;
use crate::pipeline::Pipeline;

/// Runs the pipeline.
pub async fn run(config: Config, recopy: bool) -> anyhow::Result<()> {
    std::fs::create_dir_all(&config.state_dir).map_err(|error| {
        anyhow::anyhow!(
            "cannot create the state folder {}: {error}. To do: set state_dir to a folder that this process may write.",
            config.state_dir.display()
        )
    })?;
    // Opened here too, so that a wrong url is told before anything else.
    LakeStore::open(&config.lake.url, &config.lake.s3)?;
    let (stop, stopped) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.send_replace(true);
        // A second signal ends the process at once, as without a handler.
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    tracing::info!(
        pipeline = config.name,
        lake = config.lake.url,
        source = config.source.connect.address(),
        "starting"
    );
    Pipeline::new(config, recopy)?.run(stopped).await?;
    tracing::info!("stopped");
    Ok(())
}
