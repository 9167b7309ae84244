//! Where cuts are asked for by HTTP. What is asked for becomes a file, as a command's request does; the cuts themselves
//! are objects in the lake, which are listed again after a while only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use sooner_api::Result;
use sooner_delta::DeltaLake;
use sooner_delta::cuts::Cut;
use sooner_schemas::Lsn;
use tokio::sync::Mutex;

use crate::cut_desk::CutRequests;

/// How long a list of cuts counts.
const LISTED_FOR: Duration = Duration::from_secs(5);

type Position = dyn Fn() -> BoxFuture<'static, std::result::Result<Option<Lsn>, String>> + Send + Sync;

/// The desk at which cuts are asked for by HTTP.
#[derive(Clone)]
pub struct CutCounter {
    requests: CutRequests,
    position: Arc<Position>,
    listed: Arc<Mutex<Option<Listed>>>,
}

/// The cuts of the lake at a moment.
struct Listed {
    at: Instant,
    cuts: Arc<Vec<Cut>>,
}

impl CutCounter {
    /// Puts requests here. `position` says where the source's log ends now, if there is a source to ask.
    pub fn new(
        requests: CutRequests,
        position: impl Fn() -> BoxFuture<'static, std::result::Result<Option<Lsn>, String>> + Send + Sync + 'static,
    ) -> CutCounter {
        CutCounter { requests, position: Arc::new(position), listed: Arc::default() }
    }

    /// Where requests lie.
    pub fn requests(&self) -> &CutRequests {
        &self.requests
    }

    /// Where the source's log ends now; none without a source. The error says why that is not known.
    pub async fn position(&self) -> std::result::Result<Option<Lsn>, String> {
        (self.position)().await
    }

    /// The cuts of the lake, as they were a few seconds ago at most; one look at a time.
    pub async fn list(&self, lake: &DeltaLake) -> Result<Arc<Vec<Cut>>> {
        let mut listed = self.listed.lock().await;
        if let Some(Listed { cuts, .. }) = listed.as_ref().filter(|listed| listed.at.elapsed() < LISTED_FOR) {
            return Ok(cuts.clone());
        }
        let mut cuts = lake.cuts().await?;
        cuts.sort_by_key(|cut| std::cmp::Reverse(cut.made_micros));
        let cuts = Arc::new(cuts);
        *listed = Some(Listed { at: Instant::now(), cuts: cuts.clone() });
        Ok(cuts)
    }

    /// The cuts are others by now.
    pub async fn forget_list(&self) {
        *self.listed.lock().await = None;
    }
}
