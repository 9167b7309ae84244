//! Client of AWS Glue's schema registry: the schema of a schema version, by its id.
//!
//! <https://docs.aws.amazon.com/glue/latest/webapi/API_GetSchemaVersion.html>. Requests are signed with the process'
//! credentials for AWS. Transient failures are retried for about a minute; meanwhile the caller waits.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use reqwest::{StatusCode, Url};
use serde_json::{Value, json};
use sooner_api::{Code, Error, Result};

use super::http::{Attempts, client, one_line, trouble, unreachable};
use super::schema_id::{SchemaId, uuid_text};
use crate::aws::credentials::AwsCredentials;
use crate::aws::region::domain_of;
use crate::aws::sigv4::{AwsKeys, Request, Signer};

/// What a request asks for.
const TARGET: &str = "AWSGlue.GetSchemaVersion";
const JSON: &str = "application/x-amz-json-1.1";

/// Errors that pass by themselves.
const TRANSIENT: [&str; 3] = ["ThrottlingException", "InternalServiceException", "OperationTimeoutException"];
/// Errors by which AWS refuses the identity, or its rights.
const REFUSALS: [&str; 6] = [
    "AccessDeniedException",
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "UnrecognizedClientException",
];

/// How to reach AWS Glue.
#[derive(Clone)]
pub struct GlueSettings {
    /// Region of the registry.
    pub region: String,
    /// URL to ask instead of the region's own, such as that of a VPC endpoint.
    pub endpoint: Option<String>,
    /// Root certificates as a PEM file, trusted in addition to the system's.
    pub ca: Option<PathBuf>,
    /// Credentials that requests are signed with.
    pub credentials: AwsCredentials,
}

impl GlueSettings {
    /// URL that is asked.
    pub fn url(&self) -> String {
        let own = || format!("https://glue.{}.{}/", self.region, domain_of(&self.region));
        self.endpoint.clone().unwrap_or_else(own)
    }
}

/// Client of AWS Glue's schema registry.
pub struct Glue {
    settings: GlueSettings,
    http: reqwest::Client,
}

/// Answer of Glue to a request. Failures that may pass are errors instead.
enum Answer {
    Found(Value),
    /// AWS refuses the identity, or its rights: name and message of the error.
    Denied(String, String),
    /// Name and message of another error.
    Refused(String, String),
}

impl Glue {
    /// Sets up a client; sends no request yet. Fails if the root certificates cannot be read.
    pub fn new(settings: GlueSettings) -> Result<Glue> {
        let http = client(settings.ca.as_deref())?;
        Ok(Glue { settings, http })
    }

    /// Schema of a schema version, as JSON text. A version that the registry does not have, or that is no Avro schema,
    /// is an error for the operator.
    pub async fn schema(&self, version: &[u8; 16]) -> Result<Arc<str>> {
        let what = || format!("cannot read an event with {}", SchemaId::GlueVersion(*version));
        let answer = match self.ask(version).await? {
            Answer::Found(answer) => answer,
            Answer::Denied(name, why) => return Err(self.denied(what(), &name, &why)),
            Answer::Refused(name, why) => return Err(self.refused(what(), &name, &why)),
        };
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        match (text("DataFormat"), text("SchemaDefinition")) {
            (Some("AVRO"), Some(schema)) => Ok(schema.into()),
            (format, _) => Err(Error::operator(
                Code::SchemaUnknown,
                what(),
                format!(
                    "AWS Glue has it as {}, and only Avro can be read",
                    format.unwrap_or("something without a name")
                ),
                "have the producer write Avro; or set dead_letter_topic of [kafka] to set such messages aside",
            )),
        }
    }

    /// Checks, by asking for a schema version that nobody has, that Glue answers and lets this process read.
    pub async fn probe(&self) -> Result<()> {
        let what = || "cannot use AWS Glue's schema registry".to_owned();
        match self.attempt(&[0; 16]).await? {
            Answer::Denied(name, why) => Err(self.denied(what(), &name, &why)),
            Answer::Refused(name, why) if !name.ends_with("NotFoundException") => {
                Err(self.refused(what(), &name, &why))
            }
            _ => Ok(()),
        }
    }

    /// Sends a request until there is an answer; transient failures are retried for about a minute.
    async fn ask(&self, version: &[u8; 16]) -> Result<Answer> {
        let mut attempts = Attempts::new();
        loop {
            match self.attempt(version).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    if !attempts.again(&error).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn attempt(&self, version: &[u8; 16]) -> Result<Answer> {
        let url = self.settings.url();
        let parsed = Url::parse(&url).map_err(|error| misconfigured(&url, &error.to_string()))?;
        let credentials = self.settings.credentials.clone();
        let fetched = tokio::task::spawn_blocking(move || credentials.fetch()).await;
        let keys = fetched.unwrap_or_else(|panic| Err(Error::internal("cannot get credentials for AWS", panic)))?;
        let body = json!({"SchemaVersionId": uuid_text(version)}).to_string();
        let mut request = self.http.post(parsed.clone()).header("content-type", JSON).header("x-amz-target", TARGET);
        for (name, value) in signed_headers(&keys, &self.settings.region, &parsed, &body, SystemTime::now()) {
            request = request.header(name, value);
        }
        let response = request.body(body).send().await.map_err(|error| unreachable(&url, &error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| unreachable(&url, &error))?;
        judge(status, &text).map_err(|why| trouble(&url, why))
    }

    fn said(&self, name: &str, why: &str) -> String {
        format!("AWS Glue at {} answers {name}: {}", self.settings.url(), one_line(why))
    }

    /// This concerns all tables, not just one: the pipeline cannot go on.
    fn denied(&self, what: String, name: &str, why: &str) -> Error {
        let remedy =
            "allow the process' role glue:GetSchemaVersion (`sooner acls --of registry`), in region of [registry]";
        Error::fatal(Code::RegistryLoginRefused, what, self.said(name, why), remedy)
    }

    fn refused(&self, what: String, name: &str, why: &str) -> Error {
        let why = self.said(name, why);
        if name.ends_with("NotFoundException") {
            let remedy = "check region of [registry], and that the role is of the account whose registry the events were \
                          written with; or set dead_letter_topic of [kafka] to set such messages aside";
            return Error::operator(Code::SchemaUnknown, what, why, remedy);
        }
        Error::operator(Code::RegistryRefused, what, why, "see what AWS Glue says, then `sooner resume` the table")
    }
}

/// What an answer is, or why it should be asked for again.
fn judge(status: StatusCode, text: &str) -> std::result::Result<Answer, String> {
    let parsed: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    if status.is_success() {
        return Ok(Answer::Found(parsed));
    }
    let field = |names: [&str; 2]| names.iter().find_map(|name| parsed.get(name)).and_then(Value::as_str);
    // Services name errors with or without the namespace of their shape.
    let name = field(["__type", "code"]).map(|name| name.rsplit('#').next().unwrap_or(name));
    let message = field(["message", "Message"]).unwrap_or(text);
    let is_transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    match name {
        Some(name) if is_transient || TRANSIENT.contains(&name) => {
            Err(format!("it answers {name}: {}", one_line(message)))
        }
        None if is_transient => Err(format!("it answers {status}: {}", one_line(text))),
        name => {
            let is_denied = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status)
                || name.is_some_and(|name| REFUSALS.contains(&name));
            let (name, message) = (name.map_or_else(|| status.to_string(), str::to_owned), message.to_owned());
            Ok(if is_denied { Answer::Denied(name, message) } else { Answer::Refused(name, message) })
        }
    }
}

/// Headers that sign a request, as of an instant.
fn signed_headers(keys: &AwsKeys, region: &str, url: &Url, body: &str, at: SystemTime) -> Vec<(&'static str, String)> {
    let name = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    let headers = [("content-type", JSON), ("host", host.as_str()), ("x-amz-target", TARGET)];
    let request = Request { method: "POST", path: url.path(), query: &[], headers: &headers, body: body.as_bytes() };
    Signer::new(keys, region, "glue", at).headers(&request)
}

fn misconfigured(url: &str, why: &str) -> Error {
    Error::operator(
        Code::RegistryMisconfigured,
        "cannot use AWS Glue's schema registry",
        format!("'{url}' is no URL: {why}"),
        "correct url of [registry], or leave it out to ask the region's own",
    )
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let refused = |status: u16, text: &str| match judge(StatusCode::from_u16(status).unwrap(), text) {
            Ok(Answer::Refused(name, message)) => Ok(format!("{name}: {message}")),
            Ok(Answer::Denied(name, message)) => Ok(format!("denied, {name}: {message}")),
            Ok(Answer::Found(_)) => panic!("{text} was found"),
            Err(why) => Err(why),
        };
        assert_eq!(
            refused(400, r#"{"__type":"com.amazonaws.glue#EntityNotFoundException","Message":"none"}"#),
            Ok("EntityNotFoundException: none".to_owned())
        );
        assert_eq!(refused(403, "<html>"), Ok("denied, 403 Forbidden: <html>".to_owned()));
        let denied = r#"{"__type":"AccessDeniedException","Message":"no"}"#;
        assert_eq!(refused(400, denied), Ok("denied, AccessDeniedException: no".to_owned()));
        let again = [
            (
                400,
                r#"{"__type":"ThrottlingException","message":"slow down"}"#,
                "it answers ThrottlingException: slow down",
            ),
            (500, r#"{"__type":"Other"}"#, "it answers Other: "),
            (502, "bad\ngateway", "it answers 502 Bad Gateway: bad gateway"),
        ];
        for (status, text, expected) in again {
            let why = refused(status, text).unwrap_err();
            assert!(why.starts_with(expected), "{why}");
        }
    }

    /// The signature of the same request by botocore's `SigV4Auth`.
    #[test]
    fn requests_are_signed_as_aws_own_clients_do() {
        let keys = AwsKeys { id: "AKIDEXAMPLE".to_owned(), secret: "secret".to_owned(), session: None };
        let url = Url::parse("http://127.0.0.1:5000/").unwrap();
        let body = r#"{"SchemaVersionId":"8a2b0001-0203-0405-0607-08090a0b0cff"}"#;
        let at = UNIX_EPOCH + Duration::from_secs(1_767_323_045);
        let (_, authorization) = signed_headers(&keys, "eu-west-1", &url, body, at).pop().unwrap();
        assert_eq!(
            authorization,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260102/eu-west-1/glue/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date;x-amz-target, \
             Signature=75737be54e593a1d2373a4fc7f021c6b7f6f22bdaab8992d52edcd64dc63167e"
        );
    }

    #[test]
    fn a_region_has_its_own_host_unless_another_is_named() {
        let settings = |region: &str, endpoint: Option<&str>| GlueSettings {
            region: region.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            ca: None,
            credentials: AwsCredentials::of_process(region),
        };
        assert_eq!(settings("eu-west-1", None).url(), "https://glue.eu-west-1.amazonaws.com/");
        assert_eq!(settings("cn-north-1", None).url(), "https://glue.cn-north-1.amazonaws.com.cn/");
        assert_eq!(settings("eu-west-1", Some("http://moto")).url(), "http://moto");
    }
}
