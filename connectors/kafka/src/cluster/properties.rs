//! Properties of librdkafka that users may not set, each with the reason.
//!
//! <https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md>

const IDEMPOTENCE: &str = "events would be lost, doubled or reordered; sooner sets it";
const POSITIONS: &str = "where to read from is kept in the tables' logs, and nowhere else";
const OWN_KEY: &str = "[kafka] has a key of its own for it";
const SECRET: &str = "secrets do not belong in the file; use tls and sasl of [kafka], which take them from elsewhere";
const TOPICS: &str = "topics are created as configured or verified, never made in passing";
const ROUTING: &str = "events of one key must stay in one partition; use partition_by of [kafka]";

const FORMATS: &str = "old versions of the protocol know nothing of transactions, headers and isolation";
const SIZES: &str =
    "it follows from what the topics take, so that a row too large parks its table and stops nothing else";

const FORBIDDEN: &[(&str, &str)] = &[
    ("enable.idempotence", IDEMPOTENCE),
    ("enable.gapless.guarantee", IDEMPOTENCE),
    ("transactional.id", IDEMPOTENCE),
    ("acks", IDEMPOTENCE),
    ("request.required.acks", IDEMPOTENCE),
    ("max.in.flight", IDEMPOTENCE),
    ("max.in.flight.requests.per.connection", IDEMPOTENCE),
    ("retries", IDEMPOTENCE),
    ("message.send.max.retries", IDEMPOTENCE),
    ("message.timeout.ms", IDEMPOTENCE),
    ("delivery.timeout.ms", IDEMPOTENCE),
    ("queuing.strategy", IDEMPOTENCE),
    ("delivery.report.only.error", "nothing would tell which events are durable"),
    ("dr_cb", "nothing would tell which events are durable"),
    ("message.max.bytes", SIZES),
    ("batch.size", SIZES),
    ("queue.buffering.max.kbytes", SIZES),
    ("api.version.request", FORMATS),
    ("api.version.fallback.ms", FORMATS),
    ("broker.version.fallback", FORMATS),
    ("topic.blacklist", "topics would look as if they had been deleted"),
    ("isolation.level", "events of transactions that never committed would be merged"),
    ("check.crcs", "damaged messages would go unnoticed"),
    ("auto.offset.reset", POSITIONS),
    ("enable.auto.commit", POSITIONS),
    ("auto.commit.enable", POSITIONS),
    ("auto.commit.interval.ms", POSITIONS),
    ("enable.auto.offset.store", POSITIONS),
    ("enable.partition.eof", POSITIONS),
    ("partitioner", ROUTING),
    ("partitioner_cb", ROUTING),
    ("sticky.partitioning.linger.ms", ROUTING),
    ("allow.auto.create.topics", TOPICS),
    ("bootstrap.servers", OWN_KEY),
    ("metadata.broker.list", OWN_KEY),
    ("group.id", OWN_KEY),
    ("group.instance.id", OWN_KEY),
    ("group.protocol", OWN_KEY),
    ("partition.assignment.strategy", OWN_KEY),
    ("compression.codec", OWN_KEY),
    ("compression.type", OWN_KEY),
    ("security.protocol", OWN_KEY),
    ("sasl.mechanism", OWN_KEY),
    ("sasl.mechanisms", OWN_KEY),
    ("sasl.username", OWN_KEY),
    ("sasl.password", SECRET),
    ("sasl.oauthbearer.config", SECRET),
    ("sasl.oauthbearer.client.secret", SECRET),
    ("sasl.oauthbearer.client.credentials.client.secret", SECRET),
    ("sasl.oauthbearer.assertion.private.key.pem", SECRET),
    ("sasl.oauthbearer.assertion.private.key.passphrase", SECRET),
    ("ssl.key.password", SECRET),
    ("ssl.key.pem", SECRET),
    ("ssl.keystore.password", SECRET),
];

/// Reason why a property of librdkafka may not be set; none if it may.
pub fn refusal(name: &str) -> Option<&'static str> {
    FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_guarantee_is_refused_with_the_reason() {
        assert_eq!(refusal("acks"), Some(IDEMPOTENCE));
        assert_eq!(refusal("sasl.password"), Some(SECRET));
        assert_eq!(refusal("socket.keepalive.enable"), None);
    }
}
