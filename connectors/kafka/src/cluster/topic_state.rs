//! A topic as the brokers describe it, and how it differs from its configuration.

use crate::cluster::settings::{TopicSettings, is_compacted};

/// Partitions and configuration of a topic, as the brokers describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicState {
    /// Number of partitions.
    pub partitions: i32,
    /// Number of replicas of each partition; none where brokers did not report it.
    pub replication: Option<i32>,
    /// `cleanup.policy` of the topic.
    pub cleanup_policy: String,
    /// `compression.type` of the topic.
    pub compression: String,
    /// `max.message.bytes` of the topic.
    pub max_message_bytes: usize,
    /// `retention.ms` of the topic; negative for unlimited retention.
    pub retention_ms: i64,
}

impl TopicState {
    /// Whether the topic is compacted.
    pub fn is_compacted(&self) -> bool {
        is_compacted(&self.cleanup_policy)
    }

    /// Differences from the configuration, such as `partitions is 1 (configured: 6)`. A property that is not
    /// configured may have any value.
    pub fn differences(&self, settings: &TopicSettings) -> Vec<String> {
        let retention = settings.retention.map(|retention| retention.as_millis().to_string());
        // Brokers leave messages of a topic with `producer` as producers compressed them.
        let compression = Some(settings.compression_type().to_owned()).filter(|_| self.compression != "producer");
        let compared = [
            ("partitions", self.partitions.to_string(), Some(settings.partitions.to_string())),
            (
                "replication",
                self.replication.map(|copies| copies.to_string()).unwrap_or_default(),
                settings.replication.filter(|_| self.replication.is_some()).map(|copies| copies.to_string()),
            ),
            ("cleanup.policy", sorted(&self.cleanup_policy), Some(sorted(&settings.cleanup_policy))),
            ("compression.type", self.compression.clone(), compression),
            ("retention.ms", self.retention_ms.to_string(), retention),
            (
                "max.message.bytes",
                self.max_message_bytes.to_string(),
                settings.max_message_bytes.map(|bytes| bytes.to_string()),
            ),
        ];
        let differing = compared.into_iter().filter_map(|(name, found, configured)| {
            let configured = configured.filter(|configured| *configured != found)?;
            Some(format!("{name} is {found} (configured: {configured})"))
        });
        differing.collect()
    }
}

/// A comma-separated list in sorted order, since brokers may report its parts in another order.
fn sorted(list: &str) -> String {
    let mut parts: Vec<_> = list.split(',').map(str::trim).collect();
    parts.sort_unstable();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_configured_is_compared_and_nothing_else() {
        let mut settings = TopicSettings {
            create: true,
            partitions: 6,
            replication: None,
            cleanup_policy: "compact,delete".into(),
            compression: "lz4".into(),
            retention: None,
            max_message_bytes: None,
            progress: "p".into(),
        };
        let state = TopicState {
            partitions: 6,
            replication: Some(3),
            cleanup_policy: "delete,compact".into(),
            compression: "producer".into(),
            max_message_bytes: 1_048_588,
            retention_ms: 604_800_000,
        };
        assert!(state.differences(&settings).is_empty());
        settings.partitions = 12;
        settings.replication = Some(2);
        settings.retention = Some(Duration::from_secs(3600));
        let zstd = TopicState { compression: "zstd".into(), ..state };
        assert_eq!(
            zstd.differences(&settings),
            [
                "partitions is 6 (configured: 12)",
                "replication is 3 (configured: 2)",
                "compression.type is zstd (configured: lz4)",
                "retention.ms is 604800000 (configured: 3600000)"
            ]
        );
    }
}
