//! Follows rows for whoever must not wait for it, such as a listener beside the loops: on a thread and a runtime of its
//! own, one row at a time, in bounded time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sooner_schemas::TableName;
use tokio::sync::{Semaphore, oneshot};

use super::gather::{Question, Seen, trace};
use crate::config::Config;
use crate::status::StatusBoard;

/// How long topic and files may be searched.
const SEARCH_LIMIT: Duration = Duration::from_secs(15);
/// How long an answer may take in all.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What becomes known of a row, or why nothing does. Nothing comes if that takes too long.
pub type Followed = oneshot::Receiver<Result<Value, String>>;

/// Follows the row of a table that has a key, as a person wrote it; none while another one is being followed.
pub type Follower = Arc<dyn Fn(TableName, String) -> Option<Followed> + Send + Sync>;

/// A follower of rows for a running pipeline. It reads the configuration at this path each time, so that it follows its
/// changes.
pub fn follower(config: PathBuf, board: StatusBoard) -> Follower {
    let place = Arc::new(Semaphore::new(1));
    Arc::new(move |table, key| {
        let place = place.clone().try_acquire_owned().ok()?;
        let (done, followed) = oneshot::channel();
        let (config, board) = (config.clone(), board.clone());
        std::thread::spawn(move || {
            let found = follow(&config, &board, table, key);
            drop(place);
            if let Some(found) = found {
                // Whoever asked may have gone.
                let _ = done.send(found);
            }
        });
        Some(followed)
    })
}

fn follow(path: &std::path::Path, board: &StatusBoard, table: TableName, key: String) -> Option<Result<Value, String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let following = async {
        let config = Config::load(path)?;
        let question = Question { table, key, with_values: false, limit: SEARCH_LIMIT };
        let see = || Seen { status: Some(board.read_now()), is_running: true };
        trace(&config, &question, see).await
    };
    let followed = runtime.block_on(async { tokio::time::timeout(ANSWER_LIMIT, following).await });
    // What still blocks, such as a broker that does not answer, has limits of its own.
    runtime.shutdown_background();
    Some(followed.ok()?.map(|report| json!(report)).map_err(|error| format!("{error:#}")))
}
