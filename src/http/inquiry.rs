//! What is worked out when somebody asks for it: it needs the database, the brokers or the lake.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};

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
    /// Reports that are asked for and not made yet.
    pub waiting: Waiting,
    /// The last entries of the audit trail: which ones and how many, the text says as a pair in JSON; null without
    /// `[audit]`.
    pub audit: Inquiry,
    /// What a check of the whole trail finds; null without `[audit]`.
    pub audit_check: Inquiry,
}

type Deed = dyn Fn(Value) -> BoxFuture<'static, anyhow::Result<Value>> + Send + Sync;

/// Something that is done when somebody asks for it, one at a time.
#[derive(Clone)]
pub struct Verb {
    deed: Arc<Deed>,
    one: Arc<Mutex<()>>,
}

impl Verb {
    /// Does what a value says; returns what is told of it.
    pub fn new(deed: impl Fn(Value) -> BoxFuture<'static, anyhow::Result<Value>> + Send + Sync + 'static) -> Verb {
        Verb { deed: Arc::new(deed), one: Arc::default() }
    }

    /// Does it, also when whoever asked does not wait for the end.
    pub async fn done(&self, asked: Value) -> anyhow::Result<Value> {
        let verb = self.clone();
        tokio::spawn(async move {
            let _one = verb.one.lock().await;
            (verb.deed)(asked).await
        })
        .await?
    }
}

/// Makes and releases legal holds, and has the audit trail told of it.
#[derive(Clone)]
pub struct HoldVerbs {
    /// Makes a hold, which it is given as it is to be stored.
    pub add: Verb,
    /// Releases the hold of a `name` for a `reason`.
    pub release: Verb,
}

/// Names of what was asked for and has not ended, so many at most, each once.
#[derive(Clone, Default)]
pub struct Waiting {
    names: Arc<std::sync::Mutex<BTreeSet<String>>>,
}

/// A place among those that wait, until it is dropped.
pub struct Place {
    waiting: Waiting,
    name: String,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// It is asked for already.
    Asked,
    /// So many are asked for already.
    Full,
}

impl Waiting {
    /// Takes a place for a name, of so many.
    pub fn enter(&self, name: &str, most: usize) -> Result<Place, NoPlace> {
        let mut names = self.names();
        if names.contains(name) {
            return Err(NoPlace::Asked);
        }
        if names.len() >= most {
            return Err(NoPlace::Full);
        }
        names.insert(name.to_owned());
        Ok(Place { waiting: self.clone(), name: name.to_owned() })
    }

    /// Whether a name waits.
    pub fn has(&self, name: &str) -> bool {
        self.names().contains(name)
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.names().remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_waits_once_and_so_many_at_most() {
        let waiting = Waiting::default();
        let first = waiting.enter("a", 2).map_err(|_| ()).unwrap();
        let _second = waiting.enter("b", 2).map_err(|_| ()).unwrap();
        assert_eq!(waiting.enter("a", 2).err(), Some(NoPlace::Asked));
        assert_eq!(waiting.enter("c", 2).err(), Some(NoPlace::Full));
        drop(first);
        assert!(!waiting.has("a") && waiting.has("b"));
        assert!(waiting.enter("c", 2).is_ok());
    }
}
