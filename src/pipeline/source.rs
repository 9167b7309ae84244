//! The source loop: from the database into the event log, and back to the database what became durable.

use sooner_api::{EventWriter, Result, Source};
use tokio::sync::watch;

/// Runs until it is told to stop, or the source or the log fails.
pub async fn run<S: Source, W: EventWriter>(
    source: &mut S,
    log: &mut W,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    loop {
        let batch = tokio::select! {
            biased;
            // The sender's end counts as a stop.
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            batch = source.next() => batch?,
        };
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
            appended = log.append(batch) => appended?,
        }
        source.confirm(log.durable_lsn());
    }
}
