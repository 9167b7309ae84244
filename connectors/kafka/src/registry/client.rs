//! Client of the schema registry: ids for schemas, and schemas for ids.
//!
//! <https://docs.confluent.io/platform/current/schema-registry/develop/api.html>. Compatibility is checked before a
//! schema is registered. Transient failures are retried for about a minute; meanwhile the caller waits.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sooner_api::{Code, Error, Result, SchemaRegistry};

use super::http::{Attempts, client, one_line, trouble, unreachable};
use super::schema_id::{SchemaId, uuid_text};
use crate::registry::difference::difference;

/// Error codes of the registry's API for something that does not exist.
const SUBJECT_NOT_FOUND: i64 = 40401;
const VERSION_NOT_FOUND: i64 = 40402;
const SCHEMA_NOT_FOUND: i64 = 40403;

/// How to reach a schema registry, and whether schemas may be registered.
#[derive(Clone)]
pub struct RegistrySettings {
    /// URL of the registry: `http://host:port`, with a path if there is one.
    pub url: String,
    /// Credentials for the registry.
    pub login: Login,
    /// Root certificates as a PEM file, trusted in addition to the system's.
    pub ca: Option<PathBuf>,
    /// Whether unknown schemas are registered; otherwise they are an error.
    pub register: bool,
}

/// Credentials for the registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// No authentication.
    None,
    /// Basic authentication.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: String,
    },
    /// A bearer token.
    Token(String),
}

/// Client of a schema registry. Ids never change, so they are cached without a limit in time.
pub struct Registry {
    settings: RegistrySettings,
    http: reqwest::Client,
    ids: Mutex<HashMap<(String, String), u32>>,
    schemas: Mutex<HashMap<SchemaId, Arc<str>>>,
}

/// Answer of the registry to a request. Server errors and throttling are errors instead.
enum Answer {
    Found(Value),
    Missing(i64),
    Refused(StatusCode, String),
}

/// State of a schema relative to the schemas of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// The schema is registered under the subject.
    Registered,
    /// The schema is not registered; it would be the subject's next one, and is compatible with those before it.
    Compatible,
    /// The subject has no schema yet; this would be the first one.
    First,
}

/// Result of looking up a schema under its subject.
enum Lookup {
    Known(u32),
    OtherSchemas,
    NoSubject,
}

impl Registry {
    /// Sets up a client; sends no request yet. Fails if the root certificates cannot be read.
    pub fn new(settings: RegistrySettings) -> Result<Registry> {
        let http = client(settings.ca.as_deref())?;
        Ok(Registry { settings, http, ids: Mutex::default(), schemas: Mutex::default() })
    }

    /// Schema of an id or a GUID, as JSON text. One that the registry does not know is an error for the operator.
    pub async fn schema(&self, id: SchemaId) -> Result<Arc<str>> {
        if let Some(schema) = self.schemas.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(schema.clone());
        }
        let what = format!("cannot read an event with {id}");
        let (path, is_number) = match &id {
            SchemaId::Number(number) => (format!("schemas/ids/{number}"), true),
            SchemaId::Guid(guid) | SchemaId::GlueVersion(guid) => (format!("schemas/guids/{}", uuid_text(guid)), false),
        };
        let answer = match self.ask(Method::GET, &path, None).await? {
            Answer::Found(answer) => answer,
            Answer::Missing(_) => return Err(self.unknown(what, is_number)),
            // Registries that know no GUIDs do not have this path.
            Answer::Refused(StatusCode::NOT_FOUND, _) if !is_number => return Err(self.unknown(what, is_number)),
            Answer::Refused(status, why) => return Err(self.refused(&what, status, &why)),
        };
        let Some(schema) = answer.get("schema").and_then(Value::as_str) else {
            let why = format!("the answer of {} has no schema", self.settings.url);
            let remedy = "check url of [registry], and its path";
            return Err(Error::fatal(Code::RegistryMisconfigured, what, why, remedy));
        };
        let schema: Arc<str> = schema.into();
        self.schemas.lock().unwrap_or_else(PoisonError::into_inner).insert(id, schema.clone());
        Ok(schema)
    }

    /// Operator error: the registry does not know the schema of an event.
    fn unknown(&self, what: String, is_number: bool) -> Error {
        let hint = if is_number { "" } else { ", and know GUIDs, which older ones do not" };
        let why = format!("the schema registry at {} does not know it", self.settings.url);
        let remedy = format!(
            "check url of [registry]: the registry must be the one that the events were written with{hint}; or set \
             dead_letter_topic of [kafka] to set such messages aside"
        );
        Error::operator(Code::SchemaUnknown, what, why, remedy)
    }

    /// Checks, with one harmless request, that the registry answers and accepts the credentials. Returns its
    /// compatibility level.
    pub async fn probe(&self) -> Result<String> {
        let what = "cannot use the schema registry";
        match self.attempt(&Method::GET, "config", None).await? {
            Answer::Found(answer) => {
                let level = answer.get("compatibilityLevel").and_then(Value::as_str);
                Ok(level.unwrap_or("unknown").to_owned())
            }
            Answer::Missing(_) => Ok("not set".to_owned()),
            Answer::Refused(status, why) => Err(self.refused(what, status, &why)),
        }
    }

    /// Latest schema of a subject, as JSON text; none if the subject does not exist.
    pub async fn latest(&self, subject: &str) -> Result<Option<String>> {
        let path = format!("subjects/{}/versions/latest", escaped(subject));
        match self.ask(Method::GET, &path, None).await? {
            Answer::Found(answer) => Ok(answer.get("schema").and_then(Value::as_str).map(str::to_owned)),
            Answer::Missing(_) => Ok(None),
            Answer::Refused(status, why) => Err(self.refused(&format!("cannot read subject {subject}"), status, &why)),
        }
    }

    /// Examines a schema against its subject without registering it. Fails where registering it would fail because
    /// it is incompatible, or because registering is off.
    pub async fn examine(&self, subject: &str, schema: &str) -> Result<SchemaState> {
        let (what, body) = (cannot_register(subject), body_of(schema));
        match self.find(subject, &what, &body).await? {
            Lookup::Known(_) => Ok(SchemaState::Registered),
            Lookup::OtherSchemas => {
                self.check_compatibility(subject, schema, &body).await?;
                Ok(SchemaState::Compatible)
            }
            Lookup::NoSubject => Ok(SchemaState::First),
        }
    }

    async fn find_or_register(&self, subject: &str, schema: &str) -> Result<u32> {
        let (what, body) = (cannot_register(subject), body_of(schema));
        match self.find(subject, &what, &body).await? {
            Lookup::Known(id) => return Ok(id),
            Lookup::OtherSchemas => self.check_compatibility(subject, schema, &body).await?,
            Lookup::NoSubject => {}
        }
        let path = format!("subjects/{}/versions?normalize=true", escaped(subject));
        match self.ask(Method::POST, &path, Some(&body)).await? {
            Answer::Found(answer) => id_of(&answer, &what),
            Answer::Missing(code) => Err(self.refused(&what, StatusCode::NOT_FOUND, &format!("error code {code}"))),
            Answer::Refused(StatusCode::CONFLICT, why) => Err(self.incompatible(subject, schema, &why).await),
            Answer::Refused(status, why) => Err(self.refused(&what, status, &why)),
        }
    }

    /// Looks up a schema under its subject. A missing schema is an error where registering is off.
    async fn find(&self, subject: &str, what: &str, body: &Value) -> Result<Lookup> {
        let path = format!("subjects/{}?normalize=true", escaped(subject));
        let missing = match self.ask(Method::POST, &path, Some(body)).await? {
            Answer::Found(answer) => return id_of(&answer, what).map(Lookup::Known),
            Answer::Missing(SUBJECT_NOT_FOUND) => Lookup::NoSubject,
            // Some registries do not look up a schema that they would not accept.
            Answer::Missing(_) | Answer::Refused(StatusCode::UNPROCESSABLE_ENTITY | StatusCode::CONFLICT, _) => {
                Lookup::OtherSchemas
            }
            Answer::Refused(status, why) => return Err(self.refused(what, status, &why)),
        };
        if !self.settings.register {
            return Err(Error::operator(
                Code::SchemaUnregistered,
                what,
                "it is not registered, and register of [registry] is off",
                "have the schema registered, or set register = true; then `sooner resume` the table",
            ));
        }
        Ok(missing)
    }

    async fn check_compatibility(&self, subject: &str, schema: &str, body: &Value) -> Result<()> {
        let of =
            |versions: &str| format!("compatibility/subjects/{}/versions{versions}?verbose=true", escaped(subject));
        // Under a transitive level, all versions count. Not all registries compare with more than one.
        let answer = match self.ask(Method::POST, &of(""), Some(body)).await? {
            Answer::Found(answer) => Answer::Found(answer),
            _ => self.ask(Method::POST, &of("/latest"), Some(body)).await?,
        };
        match answer {
            Answer::Found(answer) if answer.get("is_compatible").and_then(Value::as_bool) == Some(false) => {
                let messages = answer.get("messages").and_then(Value::as_array).cloned().unwrap_or_default();
                let why = messages.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ");
                Err(self.incompatible(subject, schema, &why).await)
            }
            // The schema is compatible, or there is nothing to compare it with; the registration itself decides.
            _ => Ok(()),
        }
    }

    async fn incompatible(&self, subject: &str, schema: &str, why: &str) -> Error {
        let latest = self.latest(subject).await.ok().flatten().unwrap_or_default();
        let changes = difference(&latest, schema);
        let said = if why.is_empty() { String::new() } else { format!("; the registry says: {}", one_line(why)) };
        Error::operator(
            Code::SchemaIncompatible,
            format!("the new schema of subject {subject} is not compatible with former ones"),
            format!("{changes}{said}"),
            format!(
                "undo the change; or, once all readers can take it, relax the subject (PUT {}/config/{subject} \
                 {{\"compatibility\": \"NONE\"}}); or begin a new topic with new subjects (topic in a [[table]] block, and a \
                 restart); then `sooner resume` the table",
                self.settings.url
            ),
        )
    }

    /// Sends a request until there is an answer; transient failures are retried for about a minute.
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let mut attempts = Attempts::new();
        loop {
            match self.attempt(&method, path, body).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    if !attempts.again(&error).await {
                        return Err(error);
                    }
                }
            }
        }
    }

    async fn attempt(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        let url = format!("{}/{path}", self.settings.url.trim_end_matches('/'));
        let mut request = self.http.request(method.clone(), &url);
        request = match &self.settings.login {
            Login::None => request,
            Login::Basic { user, password } => request.basic_auth(user, Some(password)),
            Login::Token(token) => request.bearer_auth(token),
        };
        if let Some(body) = body {
            request = request.header("Content-Type", "application/vnd.schemaregistry.v1+json").body(body.to_string());
        }
        let response = request.send().await.map_err(|error| unreachable(&self.settings.url, &error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| unreachable(&self.settings.url, &error))?;
        let parsed: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(Answer::Found(parsed));
        }
        let code = parsed.get("error_code").and_then(Value::as_i64).unwrap_or_default();
        let message = parsed.get("message").and_then(Value::as_str).map_or(text.as_str(), |message| message);
        let is_transient = [StatusCode::TOO_MANY_REQUESTS, StatusCode::REQUEST_TIMEOUT].contains(&status);
        if status.is_server_error() || is_transient {
            return Err(trouble(&self.settings.url, format!("it answers {status}: {}", one_line(message))));
        }
        if [SUBJECT_NOT_FOUND, VERSION_NOT_FOUND, SCHEMA_NOT_FOUND].contains(&code) {
            return Ok(Answer::Missing(code));
        }
        Ok(Answer::Refused(status, message.to_owned()))
    }

    fn refused(&self, what: &str, status: StatusCode, why: &str) -> Error {
        let why = format!("the schema registry at {} answers {status}: {}", self.settings.url, one_line(why));
        match status {
            // This concerns all tables, not just one: the pipeline cannot go on.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::fatal(
                Code::RegistryLoginRefused,
                what,
                why,
                "give [registry] a user and password, or a token, that may read and register",
            ),
            StatusCode::NOT_FOUND => {
                Error::fatal(Code::RegistryMisconfigured, what, why, "check url of [registry], and its path")
            }
            _ => Error::operator(
                Code::RegistryRefused,
                what,
                why,
                "see what the registry says, then `sooner resume` the table",
            ),
        }
    }
}

impl SchemaRegistry for Registry {
    async fn register(&self, subject: &str, schema: &str) -> Result<u32> {
        let key = (subject.to_owned(), schema.to_owned());
        if let Some(id) = self.ids.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(*id);
        }
        let id = self.find_or_register(subject, schema).await?;
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).insert(key, id);
        Ok(id)
    }
}

fn cannot_register(subject: &str) -> String {
    format!("cannot register a schema under subject {subject}")
}

fn body_of(schema: &str) -> Value {
    json!({"schema": escape_braces(schema)})
}

fn id_of(answer: &Value, what: &str) -> Result<u32> {
    let id = answer.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| {
        Error::fatal(
            Code::RegistryMisconfigured,
            what,
            "the registry's answer has no id",
            "check url of [registry], and its path",
        )
    })
}

/// Equivalent JSON in which the braces of a default `"{}"`, of a `jsonb` column, are escaped. Apicurio (seen in
/// 3.0.9) does not recognise a schema with that default as Avro.
fn escape_braces(schema: &str) -> String {
    schema.replace(r#""default":"{}""#, r#""default":"\u007b\u007d""#)
}

fn escaped(subject: &str) -> String {
    utf8_percent_encode(subject, NON_ALPHANUMERIC).to_string()
}
