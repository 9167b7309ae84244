//! What is worked out when somebody asks for it: it needs the database, the brokers or the lake.

use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::Value;
use tokio::sync::Mutex;

type Work = dyn Fn(String) -> BoxFuture<'static, Result<Value, String>> + Send + Sync;

/// Answers to one kind of question, worked out one at a time.
#[derive(Clone)]
pub struct Inquiry {
    work: Arc<Work>,
    one: Arc<Mutex<()>>,
}

impl Inquiry {
    /// Answers are worked out so from a question's text; an error says why there is none, and what to do.
    pub fn new(work: impl Fn(String) -> BoxFuture<'static, Result<Value, String>> + Send + Sync + 'static) -> Inquiry {
        Inquiry { work: Arc::new(work), one: Arc::default() }
    }

    /// The answer to a question; an error says why there is none.
    pub async fn answer(&self, question: &str) -> Result<Value, String> {
        let _one = self.one.lock().await;
        (self.work)(question.to_owned()).await
    }
}

/// What the answers about records come from.
#[derive(Clone)]
pub struct Records {
    /// All reports, for an empty name, or the one of a name with its runs.
    pub reports: Inquiry,
    /// Makes the report of a name, and says what became of it.
    pub making: Inquiry,
    /// The last entries of the audit trail, so many as the text says; null without `[audit]`.
    pub audit: Inquiry,
    /// What a check of the whole trail finds; null without `[audit]`.
    pub audit_check: Inquiry,
}
