//! The topic that is to take another one's place: made as that one is, but for its partitions, or found again.
//!
//! Brokers may take seconds to answer, and events go on meanwhile: all of it happens on a thread of its own.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;
use tokio::runtime::Handle;

use super::partition_ends::PartitionEnds;
use super::repartition_rules::{check_topic_state, next_name, refused};
use crate::cluster::admin::{Admin, topic_gone};
use crate::cluster::settings::KafkaSettings;
use crate::cluster::topic_plan::TopicPlan;
use crate::cluster::topic_state::TopicState;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct SuccessorPlan {
    /// Table.
    pub table: TableName,
    /// Name that the configuration gives its topic.
    pub base: String,
    /// Topic that its events are on.
    pub present: String,
    /// Number of partitions of that.
    pub present_partitions: i32,
    /// Number of partitions that the successor is to have.
    pub partitions: i32,
    /// Name of the successor, if it was made before.
    pub known: Option<String>,
}

/// A topic that is there, and what is left of the one before it.
pub struct PreparedSuccessor {
    /// Name of the topic.
    pub topic: String,
    /// Its settings.
    pub state: TopicState,
    /// For each partition of the present topic, the first offset that is still there.
    pub first_offsets: Vec<i64>,
    /// Inspects the ends of the topic's partitions.
    pub ends: PartitionEnds,
}

/// Prepares a successor on a thread of its own.
pub fn prepare(settings: &KafkaSettings, runtime: &Handle, plan: SuccessorPlan) -> Receiver<Result<PreparedSuccessor>> {
    let (sender, prepared) = channel();
    let (settings, runtime) = (settings.clone(), runtime.clone());
    thread::spawn(move || {
        // Nobody waits any more only when the writer ends.
        let _ = sender.send(runtime.block_on(make(&settings, &plan)));
    });
    prepared
}

/// Checks the topic that a table's events are on, and says how its successor is called.
pub async fn name_successor(admin: &Admin, existing: &HashMap<String, i32>, plan: &SuccessorPlan) -> Result<TopicPlan> {
    let state = admin.describe(&plan.present, plan.present_partitions).await?;
    check_topic_state(&plan.table, &plan.present, &state)?;
    let is_unused = |name: &str| (0..plan.partitions).all(|partition| is_empty(admin, name, partition));
    let name = next_name(&plan.base, existing, plan.partitions, is_unused).map_err(|why| {
        refused(
            &plan.table,
            why,
            "give the table a shorter topic ([[table]] with match and topic), and restart the source",
        )
    })?;
    let configs = [
        ("cleanup.policy", state.cleanup_policy),
        ("compression.type", state.compression),
        ("max.message.bytes", state.max_message_bytes.to_string()),
        ("retention.ms", state.retention_ms.to_string()),
    ];
    Ok(TopicPlan { name, partitions: plan.partitions, configs: configs.into() })
}

fn is_empty(admin: &Admin, topic: &str, partition: i32) -> bool {
    admin.offsets(topic, partition).is_ok_and(|(_, end)| end == 0)
}

async fn make(settings: &KafkaSettings, plan: &SuccessorPlan) -> Result<PreparedSuccessor> {
    let admin = Admin::new(settings)?;
    let existing = admin.list()?;
    let (topic, state) = match &plan.known {
        Some(known) if existing.get(known) != Some(&plan.partitions) => {
            return Err(topic_gone(known, "it does not exist any more, or has another number of partitions"));
        }
        Some(known) => (known.clone(), admin.describe(known, plan.partitions).await?),
        None => {
            let planned = name_successor(&admin, &existing, plan).await?;
            let state = admin.ensure_planned_topic(&planned, &existing).await?;
            (planned.name, state)
        }
    };
    let mut first_offsets = Vec::new();
    for partition in 0..plan.present_partitions {
        first_offsets.push(admin.offsets(&plan.present, partition)?.0);
    }
    let ends = PartitionEnds::open(settings)?;
    // The first question costs a connection.
    ends.stable_end(&topic, 0)?;
    Ok(PreparedSuccessor { topic, state, first_offsets, ends })
}

/// Error to retry: brokers do not show what was committed to a successor.
pub fn hanging(topic: &str, partition: i32) -> Error {
    Error::retry(
        Code::TransactionHanging,
        format!("what was committed to {topic}/{partition} cannot be seen"),
        "the broker has lost the end of a transaction there",
        "nothing; the source starts over and writes it again",
    )
}
