//! What of the listener changes while it listens, shared by those who answer and those who change it.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// What changes. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<RwLock<Current>>);

#[derive(Default)]
struct Current {
    token: Option<Arc<str>>,
    lake: Option<Arc<str>>,
    has_kafka: bool,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

impl Live {
    /// Requests have to bear this token, if there is one.
    pub fn new(token: Option<&str>) -> Live {
        Live(Arc::new(RwLock::new(Current { token: token.map(Arc::from), ..Current::default() })))
    }

    /// The token that requests have to bear.
    pub fn token(&self) -> Option<Arc<str>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).token.clone()
    }

    /// Location of the lake; none in a process that runs only the source's side.
    pub fn lake(&self) -> Option<Arc<str>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).lake.clone()
    }

    /// Whether there is Kafka between source and lake.
    pub fn has_kafka(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).has_kafka
    }

    /// The pipeline runs into this lake from now on, through Kafka or not.
    pub fn runs(&self, lake: Option<&str>, has_kafka: bool) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        (current.lake, current.has_kafka) = (lake.map(Arc::from), has_kafka);
    }

    fn set_token(&self, token: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).token = Some(token.into());
    }

    /// Reads the token's file again whenever it holds another one, for ever. The former one counts as long as the file
    /// holds none.
    pub async fn renew_token(self, file: Option<PathBuf>) {
        let Some(file) = file else { return std::future::pending().await };
        let mut is_missed = false;
        loop {
            tokio::time::sleep(INTERVAL).await;
            // Of a pipe, whoever reads it first takes what it holds.
            let text = if file.is_file() { tokio::fs::read_to_string(&file).await.ok() } else { None };
            let held = text.as_deref().map(|text| text.trim_end_matches(['\n', '\r'])).filter(|held| !held.is_empty());
            match held {
                Some(held) if self.token().as_deref() != Some(held) => {
                    self.set_token(held);
                    tracing::info!("the token of [http] was read again");
                }
                None if !is_missed => {
                    tracing::warn!(file = %file.display(), "the file holds no token of [http]; the former one counts on");
                }
                _ => {}
            }
            is_missed = held.is_none();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn another_token_counts_from_then_on_and_none_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "one\n").unwrap();
        let live = Live::new(Some("one"));
        let renewing = tokio::spawn(live.clone().renew_token(Some(file.clone())));
        let token_after = async |text: &str, wanted: &str| {
            std::fs::write(&file, text).unwrap();
            for _ in 0..100 {
                tokio::time::sleep(INTERVAL).await;
                if live.token().as_deref() == Some(wanted) {
                    return true;
                }
            }
            false
        };
        assert!(token_after("two\n", "two").await);
        assert!(!token_after("\n", "").await);
        assert_eq!(live.token().as_deref(), Some("two"));
        renewing.abort();
    }
}
