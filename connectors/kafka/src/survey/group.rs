//! Who reads a pipeline's topics: the members of its consumer group, and how far the group is.

use std::time::Duration;

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sooner_api::{Error, Result};

use crate::cluster::context::PlainContext;
use crate::cluster::errors::kafka_error;
use crate::cluster::settings::KafkaSettings;

/// How long brokers may take to answer a request.
const TIMEOUT: Duration = Duration::from_secs(15);
/// State of a group that brokers report to whoever asks by the classic protocol for one of another protocol.
const DEAD: &str = "Dead";

/// Asks brokers about the pipeline's consumer group, without joining it.
pub struct GroupInspector {
    consumer: BaseConsumer<PlainContext>,
    group: String,
}

impl GroupInspector {
    /// Sets up a client; no request is sent yet.
    pub fn open(settings: &KafkaSettings) -> Result<GroupInspector> {
        let group = settings.consumer.group.clone();
        let mut config = settings.client_config("inspector");
        config.set("group.id", &group);
        config.set("enable.auto.commit", "false");
        let consumer = BaseConsumer::from_config_and_context(&config, PlainContext::default())
            .map_err(|error| kafka_error("cannot set up a Kafka consumer", &error, None))?;
        Ok(GroupInspector { consumer, group })
    }

    /// Number of the group's members. None if brokers do not tell: of a group that does not exist, and of one that
    /// speaks KIP-848, whose members the request that the client library offers does not show.
    pub fn members(&self) -> Result<Option<usize>> {
        let groups = self.consumer.fetch_group_list(Some(&self.group), TIMEOUT);
        let groups = groups.map_err(|error| self.failed("members", &error))?;
        let group = groups.groups().iter().find(|group| group.name() == self.group);
        Ok(group.filter(|group| group.state() != DEAD).map(|group| group.members().len()))
    }

    /// The offsets that the group has committed for a topic's partitions; none where there is none.
    pub fn committed(&self, topic: &str, partitions: i32) -> Result<Vec<Option<i64>>> {
        let mut asked = TopicPartitionList::new();
        for partition in 0..partitions {
            asked.add_partition(topic, partition);
        }
        let told = self.consumer.committed_offsets(asked, TIMEOUT).map_err(|error| self.failed("offsets", &error))?;
        let offset = |partition| match told.find_partition(topic, partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok((0..partitions).map(offset).collect())
    }

    fn failed(&self, what: &str, error: &KafkaError) -> Error {
        let said = self.consumer.context().complaint.last();
        kafka_error(format!("cannot read the {what} of group {}", self.group), error, said)
    }
}
