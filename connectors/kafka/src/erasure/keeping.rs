//! How long a topic keeps messages, by its settings. Without I/O.

use std::collections::HashMap;

use serde::Serialize;

use crate::cluster::settings::is_compacted;

/// Settings of a topic that say when brokers remove messages. Kafka's defaults stand for those that a broker does not
/// report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Keeping {
    /// `cleanup.policy`.
    pub cleanup_policy: String,
    /// `retention.ms`; negative for ever.
    pub retention_ms: i64,
    /// `segment.ms`: no longer than that does the segment of a message take others.
    pub segment_ms: i64,
    /// `delete.retention.ms`: tombstones stay so long.
    pub delete_retention_ms: i64,
    /// `min.compaction.lag.ms`: messages stay at least so long.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`: a message that a newer one has taken the place of is removed after that;
    /// `i64::MAX` where nothing says so.
    pub max_compaction_lag_ms: i64,
}

impl Keeping {
    /// From all settings of a topic.
    pub fn of(configs: &HashMap<String, String>) -> Keeping {
        let number = |name: &str, default: i64| configs.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        Keeping {
            cleanup_policy: configs.get("cleanup.policy").cloned().unwrap_or_else(|| "delete".to_owned()),
            retention_ms: number("retention.ms", -1),
            segment_ms: number("segment.ms", 7 * 24 * 3_600_000),
            delete_retention_ms: number("delete.retention.ms", 24 * 3_600_000),
            min_compaction_lag_ms: number("min.compaction.lag.ms", 0),
            max_compaction_lag_ms: number("max.compaction.lag.ms", i64::MAX),
        }
    }

    /// Whether compaction removes messages that a newer one of their key has taken the place of.
    pub fn is_compacted(&self) -> bool {
        is_compacted(&self.cleanup_policy)
    }

    /// Until when retention may keep a message that was written at this time, in milliseconds since 1970: a segment
    /// goes as a whole, once its last message is old enough. None if retention removes nothing.
    pub fn retention_end(&self, written_millis: i64) -> Option<i64> {
        let deletes = self.cleanup_policy.split(',').any(|policy| policy.trim() == "delete");
        let is_bounded = deletes && self.retention_ms >= 0;
        is_bounded.then(|| written_millis.saturating_add(self.segment_ms).saturating_add(self.retention_ms))
    }

    /// Until when compaction may leave messages alone that were replaced at this time, in milliseconds since 1970. None
    /// if nothing says when it comes.
    pub fn compaction_end(&self, replaced_millis: i64) -> Option<i64> {
        let is_bounded = self.is_compacted() && self.max_compaction_lag_ms < i64::MAX;
        let lag = self.max_compaction_lag_ms.max(self.min_compaction_lag_ms);
        is_bounded.then(|| replaced_millis.saturating_add(lag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeping(settings: &[(&str, &str)]) -> Keeping {
        Keeping::of(&settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn retention_ends_with_the_segment_and_compaction_only_where_a_setting_says_so() {
        let deleted = keeping(&[("cleanup.policy", "delete"), ("retention.ms", "1000"), ("segment.ms", "10")]);
        assert_eq!((deleted.retention_end(5), deleted.compaction_end(5)), (Some(1015), None));
        let forever = keeping(&[("cleanup.policy", "delete"), ("retention.ms", "-1")]);
        assert_eq!(forever.retention_end(5), None);
        let compacted = keeping(&[("cleanup.policy", "compact"), ("retention.ms", "1000")]);
        assert_eq!((compacted.retention_end(5), compacted.compaction_end(5)), (None, None));
        let both = keeping(&[
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "1000"),
            ("segment.ms", "0"),
            ("min.compaction.lag.ms", "40"),
            ("max.compaction.lag.ms", "30"),
        ]);
        assert_eq!((both.retention_end(5), both.compaction_end(5)), (Some(1005), Some(45)));
    }
}
