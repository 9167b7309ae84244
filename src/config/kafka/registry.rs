//! The section `[registry]` of the configuration: a registry with Confluent's API, or AWS Glue's.

use sooner_kafka::aws::credentials::AwsCredentials;
use sooner_kafka::registry::client::{Login, RegistrySettings};
use sooner_kafka::registry::glue::GlueSettings;
use sooner_kafka::registry::reader::RegistryKind;
use sooner_schemas::naming::SubjectStrategy;

use super::region::read_region;
use crate::config::reader::Section;

/// Reads `[registry]`: how to reach it and the naming of subjects; none if the URL is missing or refused.
/// `has_source` tells whether this configuration writes events, whose schemas have to be registered.
pub fn read_registry(section: &mut Section, has_source: bool) -> Option<(RegistryKind, SubjectStrategy)> {
    let is_glue = section.optional("type", |text| match text {
        "confluent" => Ok(false),
        "glue" => Ok(true),
        _ => Err("expected \"confluent\" or \"glue\"".to_owned()),
    });
    if !is_glue.unwrap_or(false) {
        return read_confluent(section);
    }
    if has_source {
        let why = "AWS Glue's registry is only read, by a sink of events that others write: take [source] out";
        section.problem("type", why);
    }
    read_glue(section).map(|settings| (RegistryKind::Glue(settings), SubjectStrategy::default()))
}

fn read_confluent(section: &mut Section) -> Option<(RegistryKind, SubjectStrategy)> {
    let url = section.unshown_text("url", |text, _| check_url(text));
    let subjects = section.optional("subjects", |text| match text {
        "topic" => Ok(SubjectStrategy::Topic),
        "record" => Ok(SubjectStrategy::Record),
        "topic-record" => Ok(SubjectStrategy::TopicRecord),
        _ => Err("expected \"topic\", \"record\" or \"topic-record\"".to_owned()),
    });
    let register = section.flag("register", true);
    let user = section.optional("user", |text| Ok(text.to_owned()));
    let password = section.secret("password");
    let token = section.secret("token");
    let ca = section.path("ca");
    let login = match (user, password, token) {
        (None, None, None) => Login::None,
        (Some(user), Some(password), None) => Login::Basic { user, password },
        (None, None, Some(token)) => Login::Token(token),
        _ => {
            section.problem("user", "set user and password, or token, or none of them");
            Login::None
        }
    };
    let settings = RegistrySettings { url: url?, login, ca, register };
    Some((RegistryKind::Confluent(settings), subjects.unwrap_or_default()))
}

fn read_glue(section: &mut Section) -> Option<GlueSettings> {
    let has_endpoint = section.has("url");
    section.knows("url");
    let endpoint = has_endpoint.then(|| section.unshown_text("url", |text, _| check_url(text))).flatten();
    let region = read_region(section, None);
    let ca = section.path("ca");
    let region = region?;
    Some(GlueSettings { credentials: AwsCredentials::of_process(&region), region, endpoint, ca })
}

fn check_url(text: &str) -> Result<String, String> {
    // What is refused may be a secret.
    match text.split_once("://") {
        Some(("http" | "https", rest)) if rest.contains('@') => {
            Err("secrets do not belong in the file; take user and password out, and set user and password".to_owned())
        }
        Some(("http" | "https", _)) => Ok(text.to_owned()),
        _ => Err("expected http://… or https://…".to_owned()),
    }
}
