//! Credentials for AWS, from where a process is given them: the environment, a web identity (IRSA), Pod Identity, the
//! container, or the instance.
//!
//! They are looked up by object_store, as those of a lake in S3 are, and renewed before they expire. Its clients are
//! asynchronous; those who ask here may not be, and may stand on a thread that must not wait for a runtime. So a thread
//! of its own asks, and whoever waits for it waits for a bounded time.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use sooner_api::{Code, Error, Result};
use tokio::runtime::{Builder, Runtime};

use crate::aws::sigv4::AwsKeys;

/// How long credentials may take to be had.
const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// How much longer whoever asked waits for the thread, which may still be busy with another's question.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Where the answer to a question goes: the keys, or why there are none.
type Answer = Sender<std::result::Result<AwsKeys, String>>;

/// Credentials of this process at AWS. Clones share what has been fetched.
#[derive(Clone)]
pub struct AwsCredentials {
    region: String,
    /// Questions to the thread; none before the first one, or after the thread has ended.
    questions: Arc<Mutex<Option<Sender<Answer>>>>,
}

impl AwsCredentials {
    /// Credentials that are looked up with the first [`AwsCredentials::fetch`]; a web identity is exchanged for them
    /// in this region.
    pub fn of_process(region: &str) -> AwsCredentials {
        AwsCredentials { region: region.to_owned(), questions: Arc::default() }
    }

    /// Keys that are valid now. Blocks for some seconds at most; call it where that is allowed. Its error is one to
    /// retry: where keys come from may be unreachable for a while.
    pub fn fetch(&self) -> Result<AwsKeys> {
        let (answer, answered) = channel();
        let answered = match self.ask(answer) {
            true => answered.recv_timeout(ANSWER_LIMIT).unwrap_or_else(|_| Err(too_late())),
            false => Err("no thread could be started".to_owned()),
        };
        answered.map_err(|why| no_credentials(&why))
    }

    /// Asks the thread, which is started if there is none. Returns whether somebody will answer.
    fn ask(&self, answer: Answer) -> bool {
        let mut questions = self.questions.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = match &*questions {
            Some(known) => match known.send(answer) {
                Ok(()) => return true,
                Err(unsent) => unsent.0,
            },
            None => answer,
        };
        let (sender, received) = channel();
        let region = self.region.clone();
        let started =
            thread::Builder::new().name("aws-credentials".to_owned()).spawn(move || serve(&region, &received));
        let asked = started.is_ok() && sender.send(answer).is_ok();
        *questions = asked.then_some(sender);
        asked
    }
}

/// Answers questions until nobody can ask any more.
fn serve(region: &str, questions: &Receiver<Answer>) {
    let mut provider = Err("not asked yet".to_owned());
    for answer in questions {
        // What could not be set up is tried again: files that it names may be there by now.
        if provider.is_err() {
            provider = set_up(region);
        }
        let keys = match &provider {
            Ok((runtime, provider)) => runtime.block_on(keys(provider)),
            Err(why) => Err(why.clone()),
        };
        // Whoever asked may have given up.
        let _ = answer.send(keys);
    }
}

fn set_up(region: &str) -> std::result::Result<(Runtime, AwsCredentialProvider), String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: Duration::from_millis(50), ..BackoffConfig::default() },
        max_retries: 3,
        retry_timeout: FETCH_LIMIT,
    };
    let client = ClientOptions::new().with_connect_timeout(Duration::from_secs(3)).with_timeout(FETCH_LIMIT / 2);
    let store = runtime.block_on(async {
        // No bucket is ever opened: the store is only made for the credentials that it would have.
        let builder = AmazonS3Builder::from_env().with_bucket_name("none").with_region(region);
        builder.with_retry(retry).with_client_options(client).build()
    });
    let provider = store.map_err(|error| error.to_string())?.credentials().clone();
    Ok((runtime, provider))
}

async fn keys(provider: &AwsCredentialProvider) -> std::result::Result<AwsKeys, String> {
    let fetched = tokio::time::timeout(FETCH_LIMIT, provider.get_credential()).await.map_err(|_| too_late())?;
    let found = fetched.map_err(|error| error.to_string())?;
    Ok(AwsKeys { id: found.key_id.clone(), secret: found.secret_key.clone(), session: found.token.clone() })
}

fn too_late() -> String {
    format!("nothing gave any within {} s", FETCH_LIMIT.as_secs())
}

fn no_credentials(why: &str) -> Error {
    Error::retry(
        Code::AwsCredentialsMissing,
        "cannot get credentials for AWS",
        why,
        "give the process a role (IRSA, Pod Identity, a task's or an instance's), or set AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY; it is tried again",
    )
}
