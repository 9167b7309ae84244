//! Login to Amazon MSK by IAM: tokens for SASL's `OAUTHBEARER`, made of the process' credentials for AWS.
//!
//! A token is a presigned request to connect, as AWS' own signers make it, for instance
//! <https://github.com/aws/aws-msk-iam-sasl-signer-go>. librdkafka asks for a token when a client polls. It neither
//! polls for a client that is only set up, nor ever for an admin client, so those are given their tokens.

use std::ffi::CString;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rdkafka::bindings::rd_kafka_oauthbearer_set_token;
use rdkafka::client::{Client, ClientContext, OAuthToken};
use rdkafka::types::RDKafkaRespErr;
use sooner_api::{Code, Error, Result};

use crate::aws::credentials::AwsCredentials;
use crate::aws::sigv4::{AwsKeys, Request, Signer};

/// How long brokers take a token.
const VALID: Duration = Duration::from_secs(900);
/// How long a token is said to be valid. librdkafka asks for the next one when four fifths of that are over, so that
/// there are minutes left in which that may fail.
const ANNOUNCED: Duration = Duration::from_secs(540);
/// How long a former token is announced again where no new one could be had.
const ANNOUNCED_AGAIN: Duration = Duration::from_secs(30);
/// Age of a token at which a client that seldom polls is given another one.
const RENEWED: Duration = Duration::from_secs(180);

/// What librdkafka shows as the name of who logs in; brokers go by the token.
const PRINCIPAL: &str = "sooner";

/// Login by IAM to the brokers of a region. Clones share credentials and the last token.
#[derive(Clone)]
pub struct MskIam {
    region: String,
    credentials: AwsCredentials,
    last: Arc<Mutex<Option<Token>>>,
}

/// A token, and when it was signed.
#[derive(Clone)]
struct Token {
    text: String,
    signed: SystemTime,
}

impl MskIam {
    /// Login to brokers of this region. Credentials are looked up with the first token.
    pub fn new(region: String) -> MskIam {
        MskIam { credentials: AwsCredentials::of_process(&region), region, last: Arc::default() }
    }

    /// Region of the brokers, for which tokens are signed.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Access key id of the credentials that are found. Blocks for some seconds at most.
    pub fn probe(&self) -> Result<String> {
        Ok(self.credentials.fetch()?.id)
    }

    /// A token that was signed now; where no credentials can be had, the last one as long as brokers take it. Blocks
    /// for some seconds at most.
    pub fn token(&self) -> Result<OAuthToken> {
        let now = SystemTime::now();
        let keys = self.credentials.fetch();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, until) = match (keys, &*last) {
            (Ok(keys), _) => (Token { text: token_text(&keys, &self.region, now), signed: now }, now + ANNOUNCED),
            (Err(error), Some(last)) if now + ANNOUNCED_AGAIN < last.signed + VALID => {
                tracing::warn!(%error, "brokers are shown the last token again");
                (last.clone(), now + ANNOUNCED_AGAIN)
            }
            (Err(error), _) => return Err(error),
        };
        *last = Some(token.clone());
        let lifetime_ms = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        Ok(OAuthToken {
            token: token.text,
            principal_name: PRINCIPAL.to_owned(),
            lifetime_ms: i64::try_from(lifetime_ms).unwrap_or(i64::MAX),
        })
    }

    /// Gives a client a token, which it needs before anything is asked of it.
    pub fn log_in<C: ClientContext>(&self, client: &Client<C>) -> Result<()> {
        let token = self.token()?;
        let refused = |why: &str| Error::internal("cannot log in to Kafka by IAM", why);
        let text = CString::new(token.token).map_err(|error| refused(&error.to_string()))?;
        let name = CString::new(token.principal_name).map_err(|error| refused(&error.to_string()))?;
        match set_token(client, &text, token.lifetime_ms, &name) {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            code => Err(Error::operator(
                Code::KafkaConfigurationRefused,
                "cannot log in to Kafka by IAM",
                format!("librdkafka does not take a token: {code:?}"),
                "correct [kafka.properties]: those of sasl.oauthbearer do not go with AWS_MSK_IAM",
            )),
        }
    }
}

impl std::fmt::Debug for MskIam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MskIam").field("region", &self.region).finish_non_exhaustive()
    }
}

impl PartialEq for MskIam {
    fn eq(&self, other: &MskIam) -> bool {
        self.region == other.region
    }
}

impl Eq for MskIam {}

/// Tokens of a client that seldom polls, or never: it is given another one before the last is too old.
#[derive(Default)]
pub struct Renewal(Mutex<Option<SystemTime>>);

impl Renewal {
    /// Gives the client a token, if it logs in by IAM and its last one is not fresh.
    pub fn renew<C: ClientContext>(&self, iam: Option<&MskIam>, client: &Client<C>) -> Result<()> {
        let Some(iam) = iam else { return Ok(()) };
        let mut given = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemTime::now();
        let is_fresh = given.is_some_and(|given| now.duration_since(given).is_ok_and(|age| age < RENEWED));
        if !is_fresh {
            iam.log_in(client)?;
            *given = Some(now);
        }
        Ok(())
    }
}

/// Answers librdkafka, which asks a client's context for a token.
pub fn answer(iam: Option<&MskIam>) -> std::result::Result<OAuthToken, Box<dyn std::error::Error>> {
    let iam = iam.ok_or("this mechanism needs no token of ours")?;
    iam.token().map_err(|error| format!("{}: {}", error.what, error.why).into())
}

#[allow(unsafe_code, reason = "rdkafka offers no safe way to give an admin client a token, which it needs to connect")]
fn set_token<C: ClientContext>(client: &Client<C>, token: &CString, until_ms: i64, name: &CString) -> RDKafkaRespErr {
    let mut why = [0; 256];
    // SAFETY: the client lives for the call, which copies the texts, takes no extensions, and ends `why` within it.
    unsafe {
        rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            token.as_ptr(),
            until_ms,
            name.as_ptr(),
            std::ptr::null_mut(),
            0,
            why.as_mut_ptr(),
            why.len(),
        )
    }
}

/// The token: a presigned URL, and the user agent that AWS logs.
fn token_text(keys: &AwsKeys, region: &str, at: SystemTime) -> String {
    let host = format!("kafka.{region}.amazonaws.com");
    let request = Request {
        method: "GET",
        path: "/",
        query: &[("Action", "kafka-cluster:Connect")],
        headers: &[("host", &host)],
        body: b"",
    };
    let query = Signer::new(keys, region, "kafka-cluster", at).presigned_query(&request, VALID);
    let agent = concat!("sooner%2F", env!("CARGO_PKG_VERSION"));
    BASE64_URL_SAFE_NO_PAD.encode(format!("https://{host}/?{query}&User-Agent={agent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signatures of the same request by botocore's `SigV4QueryAuth`, which AWS' signer for Python uses.
    #[test]
    fn tokens_are_those_of_aws_own_signers() {
        let at = UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        let known = [
            (None, "", "a849e3047a394346a9d022cdc5878ecc38b1b9119a6d3b4d033d6e881848e02a"),
            (
                Some("FwoGZXIvYXdzE+/=Token=="),
                "&X-Amz-Security-Token=FwoGZXIvYXdzE%2B%2F%3DToken%3D%3D",
                "157d38aabb5c03f8811613ecb482be248b53042453340c0b8252bdfb47ded7b6",
            ),
        ];
        for (session, parameter, signature) in known {
            let keys = AwsKeys {
                id: "AKIDEXAMPLE".to_owned(),
                secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
                session: session.map(str::to_owned),
            };
            let url = BASE64_URL_SAFE_NO_PAD.decode(token_text(&keys, "us-west-2", at)).unwrap();
            let expected = format!(
                "https://kafka.us-west-2.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=AKIDEXAMPLE%2F20260102%2Fus-west-2%2Fkafka-cluster%2Faws4_request\
                 &X-Amz-Date=20260102T030405Z&X-Amz-Expires=900{parameter}&X-Amz-SignedHeaders=host\
                 &X-Amz-Signature={signature}&User-Agent=sooner%2F{}",
                env!("CARGO_PKG_VERSION")
            );
            assert_eq!(String::from_utf8(url).unwrap(), expected);
        }
    }
}
