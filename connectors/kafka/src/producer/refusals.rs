//! Reasons for which the source parks a table, in words for the operator: what cannot be written, and what to do
//! about it.

use sooner_schemas::TableName;
use sooner_schemas::event::{Event, Op};

use crate::cluster::transactions::LARGEST_MESSAGE;
use crate::message::key_text::key_text;
use crate::producer::route::TopicRoute;

/// Why an event must not go to a compacted topic; none if it may.
pub fn unfit_for_compaction(event: &Event) -> Option<&'static str> {
    match event.op {
        Op::Truncate => Some("a truncate has no key, and brokers refuse such messages there"),
        Op::CopyStart => Some("the start of a copy has no key, and brokers refuse such messages there"),
        // A later reader would take an older value for the one that was left out.
        _ if !event.unavailable.is_empty() => Some(
            "Postgres left an unchanged large value out of a row, and compaction may remove the event that has it (REPLICA \
             IDENTITY FULL keeps it in each event)",
        ),
        _ => None,
    }
}

/// Park reason for a table whose topic is compacted and cannot take an event; `why` is from [`unfit_for_compaction`].
pub fn compacted(route: &TopicRoute, why: &str) -> String {
    let (table, topic) = (&route.table, &route.topic);
    format!(
        "topic {topic} is compacted: {why}. To do: kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
         --add-config cleanup.policy=delete, and cleanup_policy = \"delete\" in [kafka]; restart the source, then `sooner \
         resume {table}`."
    )
}

/// Park reason for a table with a row whose message, of `size` bytes, is too large for its topic or to be sent at all.
pub fn too_large(route: &TopicRoute, key: &[u8], size: usize) -> String {
    let key_text = route.key_schema().map(|schema| key_text(schema, key)).unwrap_or_default();
    let (table, topic, limit) = (&route.table, &route.topic, route.limit_bytes);
    if size > LARGEST_MESSAGE {
        return format!(
            "the row {key_text} makes a message of {size} bytes, and {LARGEST_MESSAGE} is the most that can be sent. To do: \
             make the row smaller, then `sooner resume {table}`; or leave the table out (exclude)."
        );
    }
    format!(
        "the row {key_text} makes a message of {size} bytes, and topic {topic} takes {limit}. To do: raise the topic's \
         max.message.bytes (kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config \
         max.message.bytes={}), then `sooner resume {table}`.",
        size.next_power_of_two()
    )
}

/// Park reason for a table whose columns were dropped, renamed or moved.
pub fn changed_shape(table: &TableName, what: &str) -> String {
    format!(
        "the table's shape changed: {what}. To do: `sooner resume {table}` copies the table again in its new shape."
    )
}
