//! Preconditions between source and lake: brokers, topics and schema registry.

use std::collections::HashMap;

use sooner_api::{Error, Result};
use sooner_kafka::WrittenBy;
use sooner_kafka::cluster::admin::Admin;
use sooner_kafka::progress::load::load;
use sooner_kafka::registry::client::{Registry, RegistrySettings};
use sooner_kafka::registry::glue::{Glue, GlueSettings};
use sooner_kafka::registry::reader::RegistryKind;

use super::{Finding, Verdict, schemas};
use crate::config::{KafkaConfig, SourceConfig};

/// Checks brokers, topics and schema registry; and, where the source is known, the schemas of its tables.
pub async fn inspect(kafka: &KafkaConfig, source: Option<&SourceConfig>) -> Vec<Finding> {
    let mut findings: Vec<_> = credentials(kafka).await.into_iter().collect();
    match Admin::new(&kafka.settings).and_then(|admin| Ok((admin.brokers()?, admin.list()?, admin))) {
        Err(error) => findings.push(Finding::error("kafka", &error)),
        Ok((brokers, topics, admin)) => {
            let reached = format!("reached {}, {brokers} broker(s)", kafka.settings.brokers);
            findings.push(Finding::ok("kafka", reached));
            if let Err(error) = inspect_topics(kafka, &admin, &topics, &mut findings).await {
                findings.push(Finding::error("topics", &error));
            }
        }
    }
    let registry = match &kafka.registry {
        RegistryKind::Confluent(settings) => registry(settings).await,
        RegistryKind::Glue(settings) => glue(settings).await,
    };
    let reached = registry.verdict != Verdict::Failed;
    findings.push(registry);
    if let Some(source) = source.filter(|_| reached) {
        findings.extend(schemas::inspect(kafka, source).await);
    }
    findings
}

/// Whether the process has credentials for AWS, where brokers are logged in to with them.
async fn credentials(kafka: &KafkaConfig) -> Option<Finding> {
    let iam = kafka.settings.iam()?.clone();
    let region = iam.region().to_owned();
    let probed = tokio::task::spawn_blocking(move || iam.probe()).await;
    Some(match probed.unwrap_or_else(|panic| Err(Error::internal("cannot look for credentials", panic))) {
        Ok(id) => Finding::ok("aws credentials", format!("found those of access key {id}, for brokers in {region}")),
        Err(error) => Finding::error("aws credentials", &error),
    })
}

async fn inspect_topics(
    kafka: &KafkaConfig,
    admin: &Admin,
    topics: &HashMap<String, i32>,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    if kafka.written_by == WrittenBy::Sooner {
        findings.push(progress_topic(kafka, admin, topics).await?);
    }
    let mut ours: Vec<_> = topics.iter().filter(|(topic, _)| kafka.topics.table(topic).is_some()).collect();
    ours.sort();
    if ours.is_empty() {
        let found = "no topic's name fits yet";
        findings.push(match kafka.written_by {
            WrittenBy::Sooner => Finding::ok("topics", format!("{found}; the source creates them")),
            WrittenBy::Debezium => Finding::failed("topics", found, "correct prefix or topic of [kafka]"),
        });
    }
    let wanted = &kafka.settings.topics;
    for (topic, partitions) in ours {
        let state = admin.describe(topic, *partitions).await?;
        let mut events = 0;
        for partition in 0..*partitions {
            let (first, end) = admin.offsets(topic, partition)?;
            events += end - first;
        }
        let kept = match state.retention_ms {
            ..0 => "kept for ever".to_owned(),
            millis => format!("kept {} h", millis / 3_600_000),
        };
        let found = format!(
            "{partitions} partition(s), {events} offsets, {}, {kept}, {} compression, messages up to {} bytes",
            state.cleanup_policy, state.compression, state.max_message_bytes
        );
        let differences = match kafka.written_by {
            WrittenBy::Sooner => state.differences(wanted),
            WrittenBy::Debezium => Vec::new(),
        };
        findings.push(match differences.is_empty() {
            true => Finding::ok(topic.clone(), found),
            false => Finding::warning(
                topic.clone(),
                differences.join(", "),
                "a topic is never altered: change it, or [kafka]",
            ),
        });
    }
    Ok(())
}

async fn progress_topic(kafka: &KafkaConfig, admin: &Admin, topics: &HashMap<String, i32>) -> Result<Finding> {
    let topic = &kafka.settings.topics.progress;
    if !topics.contains_key(topic) {
        return Ok(Finding::ok("progress topic", format!("{topic} does not exist yet; the source creates it")));
    }
    if let Err(error) = admin.check_progress_topic(topics).await {
        return Ok(Finding::error("progress topic", &error));
    }
    let found = match load(&kafka.settings)? {
        Some(record) => format!("{topic} says that the topics are complete to {}", record.record.confirmed_lsn),
        None => format!("{topic} is empty"),
    };
    Ok(Finding::ok("progress topic", found))
}

async fn glue(settings: &GlueSettings) -> Finding {
    let probed = match Glue::new(settings.clone()) {
        Ok(glue) => glue.probe().await,
        Err(error) => Err(error),
    };
    match probed {
        Ok(()) => Finding::ok("schema registry", format!("reached AWS Glue at {}", settings.url())),
        Err(error) => Finding::error("schema registry", &error),
    }
}

async fn registry(settings: &RegistrySettings) -> Finding {
    let url = &settings.url;
    let probed = match Registry::new(settings.clone()) {
        Ok(registry) => registry.probe().await,
        Err(error) => Err(error),
    };
    match probed {
        Ok(level) if level == "NONE" => Finding::warning(
            "schema registry",
            format!("reached {url}; its compatibility level is NONE, so nothing is checked before a schema changes"),
            format!(
                "curl -X PUT {url}/config -H 'Content-Type: application/json' -d '{{\"compatibility\": \"BACKWARD\"}}'"
            ),
        ),
        Ok(level) => Finding::ok("schema registry", format!("reached {url}; compatibility is {level}")),
        Err(error) => Finding::error("schema registry", &error),
    }
}
