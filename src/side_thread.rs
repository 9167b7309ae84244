//! Work beside the pipeline, on a thread of its own that gives way to others.

use std::thread;

use sooner_api::{Error, Result};
use tokio::sync::watch;

use crate::priority::lower_this_thread;

/// The work goes on while this is kept.
#[derive(Debug)]
pub struct SideThread {
    stop: watch::Sender<bool>,
}

impl Drop for SideThread {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl SideThread {
    /// Starts what `work` makes, on a thread of this name.
    pub fn start<F: Future<Output = ()>>(
        name: &'static str,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<SideThread> {
        let (stop, mut stopped) = watch::channel(false);
        let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || {
            lower_this_thread();
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(async {
                    tokio::select! {
                        biased;
                        // The sender's end counts as a stop.
                        _ = stopped.wait_for(|stop| *stop) => {}
                        () = work() => {}
                    }
                }),
                Err(error) => tracing::error!(%error, thread = name, "its work is not done: it cannot be started"),
            }
        });
        spawned.map(|_| SideThread { stop }).map_err(|error| Error::internal("cannot start a thread", error))
    }
}
