//! Topics as they are created: name, partitions, and the settings that differ from the brokers' defaults.

use super::settings::TopicSettings;
use super::transactions::PROGRESS_BYTES;

/// `segment.bytes` of the progress topic: small, because compaction leaves the active segment alone.
const PROGRESS_SEGMENT_BYTES: &str = "16777216";
/// `segment.ms` of the progress topic: cuts segments by age too, because compaction leaves the active one alone.
const PROGRESS_SEGMENT_MS: &str = "600000";

/// A topic that is to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// Number of its partitions.
    pub partitions: i32,
    /// Settings, by the names that Kafka gives them.
    pub configs: Vec<(&'static str, String)>,
}

impl TopicPlan {
    /// The topic of a table.
    pub fn of_table(name: &str, settings: &TopicSettings) -> TopicPlan {
        let mut configs = vec![
            ("cleanup.policy", settings.cleanup_policy.clone()),
            ("compression.type", settings.compression_type().to_owned()),
        ];
        configs.extend(settings.retention.map(|retention| ("retention.ms", retention.as_millis().to_string())));
        configs.extend(settings.max_message_bytes.map(|bytes| ("max.message.bytes", bytes.to_string())));
        TopicPlan { name: name.to_owned(), partitions: settings.partitions, configs }
    }

    /// The topic of the pipeline's progress: one partition keeps its records in order, and the last one stays.
    pub fn of_progress(settings: &TopicSettings) -> TopicPlan {
        let configs = vec![
            ("cleanup.policy", "compact".to_owned()),
            ("max.message.bytes", PROGRESS_BYTES.to_string()),
            ("segment.bytes", PROGRESS_SEGMENT_BYTES.to_owned()),
            ("segment.ms", PROGRESS_SEGMENT_MS.to_owned()),
            ("min.cleanable.dirty.ratio", "0.1".to_owned()),
        ];
        TopicPlan { name: settings.progress.clone(), partitions: 1, configs }
    }

    /// The topic of dead letters.
    pub fn of_dead_letters(name: &str) -> TopicPlan {
        TopicPlan { name: name.to_owned(), partitions: 1, configs: vec![("cleanup.policy", "delete".to_owned())] }
    }
}
