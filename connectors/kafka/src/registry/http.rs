//! The HTTP client that registries are asked with, and what is said of one that cannot be reached.

use std::path::Path;
use std::time::Duration;

use sooner_api::{Class, Code, Error, Result};

/// Time limit of one request to the registry.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// First pause between attempts. Pauses double up to [`LONGEST_PAUSE`], and add up to about a minute.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
const ATTEMPTS: u32 = 12;

/// Sets up a client that trusts the root certificates of a PEM file in addition to the system's. Fails if those cannot
/// be read.
pub fn client(ca: Option<&Path>) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder().timeout(ANSWER_TIMEOUT);
    if let Some(path) = ca {
        let what = || format!("cannot read the registry's root certificates {}", path.display());
        let remedy = "ca of [registry] must name a PEM file";
        let pem =
            std::fs::read(path).map_err(|error| Error::operator(Code::RegistryMisconfigured, what(), error, remedy))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .map_err(|error| Error::operator(Code::RegistryMisconfigured, what(), error, remedy))?;
        builder = certificates.into_iter().fold(builder, reqwest::ClientBuilder::add_root_certificate);
    }
    builder.build().map_err(|error| Error::fatal(Code::Internal, "cannot set up an HTTP client", error, "report this"))
}

/// Attempts at a request that fails for the moment: there are twelve, within about a minute.
pub struct Attempts {
    left: u32,
    pause: Duration,
}

impl Attempts {
    /// Before the first attempt.
    pub fn new() -> Attempts {
        Attempts { left: ATTEMPTS, pause: FIRST_PAUSE }
    }

    /// Waits for the next attempt after one that failed. Returns whether there is to be one.
    pub async fn again(&mut self, error: &Error) -> bool {
        self.left = self.left.saturating_sub(1);
        if error.class != Class::Retry || self.left == 0 {
            return false;
        }
        tracing::warn!(%error, "the schema registry; trying again in {:.1} s", self.pause.as_secs_f64());
        tokio::time::sleep(self.pause.mul_f64(rand::random_range(0.8..1.2))).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}

/// Error to retry: the registry at a URL does not answer a request.
pub fn unreachable(url: &str, error: &reqwest::Error) -> Error {
    let mut why = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        why = cause.to_string();
        source = cause.source();
    }
    trouble(url, why)
}

/// Error to retry: the registry at a URL has trouble.
pub fn trouble(url: &str, why: String) -> Error {
    Error::retry(
        Code::RegistryUnreachable,
        format!("cannot reach the schema registry at {url}"),
        why,
        "check url of [registry] and that the registry runs; it is tried again",
    )
}

/// A text as one line of at most 300 characters, for messages.
pub fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}
