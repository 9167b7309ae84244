//! The preconditions between source and lake: brokers, topics, registry.

use std::collections::HashMap;

use sooner_api::Result;
use sooner_kafka::admin::Admin;
use sooner_kafka::progress;
use sooner_kafka::registry::Registry;

use super::Finding;
use crate::config::{KafkaConfig, WrittenBy};

/// Looks at brokers, topics and registry.
pub async fn look(kafka: &KafkaConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    match Admin::new(&kafka.settings).and_then(|admin| Ok((admin.brokers()?, admin.list()?, admin))) {
        Err(error) => findings.push(Finding::error("kafka", &error)),
        Ok((brokers, topics, admin)) => {
            let reached = format!("reached {}, {brokers} broker(s)", kafka.settings.brokers);
            findings.push(Finding::ok("kafka", reached));
            if let Err(error) = look_at_topics(kafka, &admin, &topics, &mut findings).await {
                findings.push(Finding::error("topics", &error));
            }
        }
    }
    findings.push(registry(kafka).await);
    findings
}

async fn look_at_topics(
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
        let policy = &state.cleanup_policy;
        let found = format!(
            "{partitions} partition(s), {events} offsets, {policy}, {kept}, messages up to {} bytes",
            state.max_message_bytes
        );
        let as_configured = *policy == wanted.cleanup_policy || kafka.written_by == WrittenBy::Debezium;
        findings.push(match as_configured {
            true => Finding::ok(topic.clone(), found),
            false => Finding::warning(
                topic.clone(),
                found,
                format!(
                    "cleanup_policy of [kafka] is \"{}\"; a topic is never altered: change one of the two",
                    wanted.cleanup_policy
                ),
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
    let found = match progress::load(&kafka.settings)? {
        Some(record) => format!("{topic} says that the topics are complete to {}", record.record.confirmed_lsn),
        None => format!("{topic} is empty"),
    };
    Ok(Finding::ok("progress topic", found))
}

async fn registry(kafka: &KafkaConfig) -> Finding {
    let url = &kafka.registry.url;
    let probed = match Registry::new(kafka.registry.clone()) {
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
