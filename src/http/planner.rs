//! Works out what the configuration's file would do if it were read again now, for `GET /api/v1/plan`.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Mutex;

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

    /// A plan; an error says why there is none.
    pub async fn plan(&self) -> Result<Value, String> {
        let _one = self.one.lock().await;
        (self.work)().await
    }
}
