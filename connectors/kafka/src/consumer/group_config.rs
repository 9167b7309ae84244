//! What librdkafka is told of a member of the consumer group.

use crate::cluster::settings::{GroupProtocol, KafkaSettings};

/// The client's configuration. Positions are the lake's: the group's offsets only inform others.
pub fn group_config(settings: &KafkaSettings) -> rdkafka::ClientConfig {
    let group = &settings.consumer;
    let mut config = settings.client_config("sink");
    config.set("group.id", &group.group);
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error");
    config.set("isolation.level", "read_committed");
    config.set("check.crcs", "true");
    settings.set_default(&mut config, &["fetch.wait.max.ms"], "100");
    settings.set_default(
        &mut config,
        &["queued.max.messages.kbytes"],
        (group.fetch_bytes / 1024).max(1024).to_string(),
    );
    settings.set_default(
        &mut config,
        &["fetch.message.max.bytes", "max.partition.fetch.bytes"],
        (1 << 20).min(group.fetch_bytes).to_string(),
    );
    settings.set_default(&mut config, &["max.poll.interval.ms"], "300000");
    // Statistics report the ends of partitions, for the lag.
    settings.set_default(&mut config, &["statistics.interval.ms"], "1000");
    if let Some(instance) = &group.instance {
        config.set("group.instance.id", instance);
    }
    match group.protocol {
        // In this protocol the brokers set the session timeout.
        GroupProtocol::Consumer => {
            config.set("group.protocol", "consumer");
        }
        GroupProtocol::Classic | GroupProtocol::Auto => {
            config.set("partition.assignment.strategy", "cooperative-sticky");
            settings.set_default(&mut config, &["heartbeat.interval.ms"], "2000");
            settings.set_default(&mut config, &["session.timeout.ms"], "10000");
        }
    }
    config
}
