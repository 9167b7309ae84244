//! Errors for which the source parks a table: what its topic cannot take, with the way on.

use sooner_api::{Code, Error};
use sooner_schemas::TableName;
use sooner_schemas::event::{Event, Op};

use super::route::TopicRoute;
use crate::cluster::transactions::LARGEST_MESSAGE;
use crate::message::key_text::key_text;

/// Reason why an event must not go to a compacted topic; none if it may.
pub fn unfit_for_compaction(event: &Event) -> Option<&'static str> {
    match event.op {
        Op::Truncate => Some("a truncate has no key, and brokers refuse such messages there"),
        Op::CopyStart => Some("the start of a copy has no key, and brokers refuse such messages there"),
        // A later reader would take an older value for it.
        _ if !event.unavailable.is_empty() => Some(
            "Postgres left an unchanged large value out of a row, and compaction may remove the event that has it (REPLICA \
             IDENTITY FULL keeps it in each event)",
        ),
        _ => None,
    }
}

/// Error of a table whose topic is compacted and cannot take an event.
pub fn compacted(route: &TopicRoute, why: &str) -> Error {
    let (table, topic) = (&route.table, &route.topic);
    Error::operator(
        Code::TopicCompacted,
        format!("cannot write an event of {table}"),
        format!("topic {topic} is compacted: {why}"),
        format!(
            "kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config cleanup.policy=delete, and \
             cleanup_policy = \"delete\" in [kafka]; restart the source, then `sooner resume {table}`"
        ),
    )
}

/// Error of a row whose message, of so many bytes, is larger than its topic takes.
pub fn too_large(route: &TopicRoute, key: &[u8], size: usize) -> Error {
    let key_text = route.key_schema().map(|schema| key_text(schema, key)).unwrap_or_default();
    let (table, topic, limit) = (&route.table, &route.topic, route.limit_bytes);
    let what = format!("cannot write an event of {table}");
    if size > LARGEST_MESSAGE {
        let why = format!(
            "the row {key_text} makes a message of {size} bytes, and {LARGEST_MESSAGE} is the most that can be sent"
        );
        let remedy = format!("make the row smaller, then `sooner resume {table}`; or leave the table out (exclude)");
        return Error::operator(Code::MessageTooLarge, what, why, remedy);
    }
    Error::operator(
        Code::MessageTooLarge,
        what,
        format!("the row {key_text} makes a message of {size} bytes, and topic {topic} takes {limit}"),
        format!(
            "raise the topic's max.message.bytes (kafka-configs.sh --alter --entity-type topics --entity-name {topic} \
             --add-config max.message.bytes={}), then `sooner resume {table}`",
            size.next_power_of_two()
        ),
    )
}

/// Error of a table whose key lacks columns that decide about the partition.
pub fn missing_partition_columns(table: &TableName, missing: &[String]) -> Error {
    Error::operator(
        Code::PartitionColumnsMissing,
        format!("cannot write events of {table}"),
        format!("partition_by names columns that are not in the key of {table}: {}", missing.join(", ")),
        format!("correct partition_by of [kafka], then `sooner resume {table}`"),
    )
}
