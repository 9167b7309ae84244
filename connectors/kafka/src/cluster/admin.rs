//! Topics: inspected, created as configured, verified, and never altered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;
use rdkafka::types::RDKafkaErrorCode as KafkaCode;
use sooner_api::{Class, Code, Error, Result, failpoint};

use crate::cluster::context::{Complaint, PlainContext};
use crate::cluster::errors::kafka_error;
use crate::cluster::msk_iam::Renewal;
use crate::cluster::settings::{GroupProtocol, KafkaSettings};
use crate::cluster::topic_plan::TopicPlan;
use crate::cluster::topic_state::TopicState;

/// How long brokers may take to answer a request.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Length of one attempt to fetch metadata. A client does not give up by itself when it is refused, so its reports
/// are inspected after each attempt.
const PIECE: Duration = Duration::from_secs(2);
/// How long to wait until a broker reports a new topic's settings as they were created.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to poll for a client's reports of why brokers cannot be reached.
const REPORTS_TIMEOUT: Duration = Duration::from_millis(300);

/// Client that inspects and creates topics.
pub struct Admin {
    settings: KafkaSettings,
    client: AdminClient<PlainContext>,
    consumer: BaseConsumer<PlainContext>,
    complaint: Complaint,
    renewals: [Renewal; 2],
}

impl Admin {
    /// Sets up the clients; no request is sent yet.
    pub fn new(settings: &KafkaSettings) -> Result<Admin> {
        let context = PlainContext { iam: settings.iam().cloned(), ..PlainContext::default() };
        let config = settings.client_config("admin");
        let failed = |error: KafkaError| kafka_error("cannot set up a Kafka client", &error, None);
        let admin = Admin {
            settings: settings.clone(),
            complaint: context.complaint.clone(),
            client: AdminClient::from_config_and_context(&config, context.clone()).map_err(failed)?,
            consumer: BaseConsumer::from_config_and_context(&config, context).map_err(failed)?,
            renewals: Default::default(),
        };
        admin.log_in()?;
        Ok(admin)
    }

    /// Makes sure that both clients have what they need to connect. Called before each request, since neither polls.
    fn log_in(&self) -> Result<()> {
        let [of_client, of_consumer] = &self.renewals;
        of_client.renew(self.settings.iam(), self.client.inner())?;
        of_consumer.renew(self.settings.iam(), self.consumer.client())
    }

    fn failed(&self, what: impl Into<String>, error: &KafkaError) -> Error {
        kafka_error(what, error, self.complaint.last())
    }

    /// Topics of the cluster that this user may see, each with its number of partitions.
    pub fn list(&self) -> Result<HashMap<String, i32>> {
        let metadata = self.metadata()?;
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
        Ok(topics.map(|topic| (topic.name().to_owned(), topic.partitions().len() as i32)).collect())
    }

    /// Number of brokers in the cluster.
    pub fn brokers(&self) -> Result<usize> {
        Ok(self.metadata()?.brokers().len())
    }

    /// Fetches the cluster's metadata. Tries again until brokers answer, the error is not one to retry, or
    /// [`TIMEOUT`] is over.
    fn metadata(&self) -> Result<Metadata> {
        self.log_in()?;
        let asked = Instant::now();
        loop {
            let error = match self.consumer.fetch_metadata(None, PIECE) {
                Ok(metadata) => return Ok(metadata),
                Err(error) => error,
            };
            self.listen();
            let failed = self.failed(format!("cannot reach Kafka at {}", self.settings.brokers), &error);
            if failed.class != Class::Retry || asked.elapsed() > TIMEOUT {
                return Err(failed);
            }
        }
    }

    /// Polls for a while: only then does the client hand over its reports of why connections failed.
    fn listen(&self) {
        let asked = Instant::now();
        while asked.elapsed() < REPORTS_TIMEOUT {
            let _ = self.consumer.poll(Duration::from_millis(20));
        }
    }

    /// Bounds of a partition: the first offset that is still there, and the offset after the last.
    pub fn offsets(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        self.log_in()?;
        self.consumer
            .fetch_watermarks(topic, partition, TIMEOUT)
            .map_err(|error| self.failed(format!("cannot read the offsets of {topic}/{partition}"), &error))
    }

    /// Settings of a topic that has just been created. Asks again for up to [`SETTLE_TIMEOUT`], because a busy
    /// broker may still report its own defaults for the topic.
    async fn describe_new(&self, topic: &str) -> Result<TopicState> {
        let settings = &self.settings.topics;
        let asked = Instant::now();
        loop {
            let state = self.describe(topic, settings.partitions).await?;
            if state.cleanup_policy == settings.cleanup_policy || asked.elapsed() > SETTLE_TIMEOUT {
                return Ok(state);
            }
            tracing::debug!(topic, ?state, "the topic is not as it was created yet");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Settings of a topic. `partitions` is its number of partitions, known from [`Admin::list`].
    pub async fn describe(&self, topic: &str, partitions: i32) -> Result<TopicState> {
        let configs = self.configs(topic).await?;
        let value = |name: &str| configs.get(name).cloned().unwrap_or_default();
        Ok(TopicState {
            partitions,
            replication: self.replication(topic),
            cleanup_policy: value("cleanup.policy"),
            compression: value("compression.type"),
            max_message_bytes: value("max.message.bytes").parse().unwrap_or(1_048_588),
            retention_ms: value("retention.ms").parse().unwrap_or(-1),
        })
    }

    /// All settings of a topic, by the names that Kafka gives them.
    pub async fn configs(&self, topic: &str) -> Result<HashMap<String, String>> {
        self.log_in()?;
        let what = || format!("cannot read the settings of topic {topic}");
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let asked = self.client.describe_configs(&[ResourceSpecifier::Topic(topic)], &options).await;
        let resources = asked.map_err(|error| self.failed(what(), &error))?;
        let resource = match resources.into_iter().next() {
            Some(Ok(resource)) => resource,
            Some(Err(code)) => return Err(self.failed(what(), &KafkaError::AdminOp(code))),
            None => return Err(self.failed(what(), &KafkaError::AdminOp(KafkaCode::UnknownTopic))),
        };
        Ok(resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
    }

    /// Checks that a topic missing from the brokers' list is not one that this user may not see: brokers leave such
    /// topics out of the list, but report the missing right when asked for the topic by name.
    pub fn check_not_hidden(&self, topic: &str) -> Result<()> {
        self.log_in()?;
        let what = || format!("cannot look at topic {topic}");
        let metadata =
            self.consumer.fetch_metadata(Some(topic), TIMEOUT).map_err(|error| self.failed(what(), &error))?;
        let code = metadata.topics().first().and_then(|topic| topic.error()).map(KafkaCode::from);
        match code {
            Some(code @ KafkaCode::TopicAuthorizationFailed) => Err(self.failed(what(), &KafkaError::AdminOp(code))),
            _ => Ok(()),
        }
    }

    /// Number of replicas of a topic's partitions: the smallest that any partition has. None while brokers do not
    /// know the topic yet.
    fn replication(&self, topic: &str) -> Option<i32> {
        let metadata = self.consumer.fetch_metadata(Some(topic), PIECE).ok()?;
        let partitions = metadata.topics().first()?.partitions();
        partitions.iter().map(|partition| partition.replicas().len() as i32).min()
    }

    /// Group protocol for the consumer: the configured one, or for `auto` the `consumer` protocol if a broker
    /// offers it and no group instance is configured. A broker whose settings cannot be read counts as one that
    /// does not offer it.
    pub async fn group_protocol(&self) -> Result<GroupProtocol> {
        let configured = self.settings.consumer.protocol;
        if configured != GroupProtocol::Auto {
            return Ok(configured);
        }
        // With the `consumer` protocol, a static member that was killed keeps its successor out until its session
        // times out.
        if self.settings.consumer.instance.is_some() {
            return Ok(GroupProtocol::Classic);
        }
        let metadata = self.metadata()?;
        let Some(broker) = metadata.brokers().first() else { return Ok(GroupProtocol::Classic) };
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT));
        let asked = self.client.describe_configs(&[ResourceSpecifier::Broker(broker.id())], &options).await;
        let protocols = asked.ok().and_then(|resources| {
            let resource = resources.into_iter().next()?.ok()?;
            resource.get("group.coordinator.rebalance.protocols")?.value.clone()
        });
        let has_it = protocols.is_some_and(|protocols| protocols.split(',').any(|name| name.trim() == "consumer"));
        Ok(if has_it { GroupProtocol::Consumer } else { GroupProtocol::Classic })
    }

    /// Makes sure that the dead-letter topic exists, creating it if not. Returns the largest message that it takes,
    /// in bytes.
    pub async fn ensure_dead_letter_topic(&self, topic: &str) -> Result<usize> {
        let existing = self.list()?;
        if !existing.contains_key(topic) {
            self.create(&TopicPlan::of_dead_letters(topic)).await?;
        }
        Ok(self.describe(topic, 1).await?.max_message_bytes)
    }

    /// Makes sure that a data topic exists, creating it as configured if no events were written to it before.
    /// `existing` is from [`Admin::list`]; `recorded` is the number of partitions in the progress record. A topic
    /// that is gone or has another number of partitions than recorded is an operator error; other differences from
    /// the configuration are only logged.
    pub async fn ensure_data_topic(
        &self,
        topic: &str,
        existing: &HashMap<String, i32>,
        recorded: Option<i32>,
    ) -> Result<TopicState> {
        let settings = &self.settings.topics;
        let Some(&partitions) = existing.get(topic) else {
            self.check_not_hidden(topic)?;
            if recorded.is_some() {
                return Err(topic_gone(topic, "it does not exist any more"));
            }
            self.create(&TopicPlan::of_table(topic, settings)).await?;
            return self.describe_new(topic).await;
        };
        if let Some(recorded) = recorded
            && recorded != partitions
        {
            return Err(Error::operator(
                Code::TopicRepartitioned,
                format!("topic {topic} has another number of partitions than it had"),
                format!(
                    "it has {partitions}, and events were written to {recorded}: keys would change their partition"
                ),
                "give the table a topic of the former number of partitions, or start with --recopy, which writes all \
                 tables again",
            ));
        }
        let state = self.describe(topic, partitions).await?;
        let differences = state.differences(settings);
        if !differences.is_empty() {
            let differences = differences.join(", ");
            tracing::warn!(topic, differences, "the topic is not as configured; it is left as it is");
        }
        Ok(state)
    }

    /// Makes sure that a topic exists as it is planned, and waits until brokers report it so. `existing` is from
    /// [`Admin::list`].
    pub async fn ensure_planned_topic(&self, plan: &TopicPlan, existing: &HashMap<String, i32>) -> Result<TopicState> {
        if !existing.contains_key(&plan.name) {
            self.check_not_hidden(&plan.name)?;
            self.create(plan).await?;
        }
        let asked = Instant::now();
        while self.list()?.get(&plan.name) != Some(&plan.partitions) {
            if asked.elapsed() > SETTLE_TIMEOUT {
                let what = format!("cannot use topic {}", plan.name);
                let why = format!("brokers do not report it with {} partitions", plan.partitions);
                return Err(Error::retry(Code::TopicMissing, what, why, "nothing; it is tried again"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.describe(&plan.name, plan.partitions).await
    }

    /// Makes sure that the progress topic exists, creating it with one partition and compaction only. One that
    /// exists already is checked by [`Admin::check_progress_topic`].
    pub async fn ensure_progress_topic(&self, existing: &HashMap<String, i32>) -> Result<()> {
        let topic = &self.settings.topics.progress;
        if !existing.contains_key(topic) {
            return self.create(&TopicPlan::of_progress(&self.settings.topics)).await;
        }
        self.check_progress_topic(existing).await
    }

    /// Checks that the progress topic exists, has one partition, and is compacted only. A missing topic is an error
    /// to retry; another number of partitions or cleanup policy is an operator error.
    pub async fn check_progress_topic(&self, existing: &HashMap<String, i32>) -> Result<()> {
        let topic = &self.settings.topics.progress;
        let Some(&partitions) = existing.get(topic) else {
            self.check_not_hidden(topic)?;
            return Err(nothing_written(topic, "is missing"));
        };
        if partitions != 1 {
            return Err(Error::operator(
                Code::ProgressTopicUnusable,
                format!("the progress topic {topic} cannot be used"),
                format!("it has {partitions} partitions, and only one keeps records in order"),
                "name another one with progress_topic of [kafka]; it is created as it should be",
            ));
        }
        let state = self.describe(topic, 1).await?;
        if state.cleanup_policy != "compact" {
            return Err(Error::operator(
                Code::ProgressTopicUnusable,
                format!("the progress topic {topic} cannot be used"),
                format!("its cleanup.policy is '{}': the last record would be removed some day", state.cleanup_policy),
                format!(
                    "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} \
                     --add-config cleanup.policy=compact",
                    self.settings.brokers
                ),
            ));
        }
        Ok(())
    }

    async fn create(&self, plan: &TopicPlan) -> Result<()> {
        self.log_in()?;
        let TopicPlan { name: topic, partitions, configs } = plan;
        let what = || format!("cannot create topic {topic}");
        if !self.settings.topics.create {
            let remedy = format!(
                "kafka-topics.sh --bootstrap-server {} --create --topic {topic} --partitions {partitions}; \
                 or set create_topics = true in [kafka]",
                self.settings.brokers
            );
            return Err(Error::operator(
                Code::TopicMissing,
                what(),
                "it does not exist, and create_topics is off",
                remedy,
            ));
        }
        let replication = TopicReplication::Fixed(self.settings.topics.replication.unwrap_or(-1));
        let mut new = NewTopic::new(topic, *partitions, replication);
        for (name, value) in configs {
            new = new.set(name, value);
        }
        let options = AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT));
        let created = self.client.create_topics([&new], &options).await.map_err(|error| self.failed(what(), &error))?;
        match created.into_iter().next() {
            Some(Err((_, code @ (KafkaCode::InvalidTopic | KafkaCode::PolicyViolation)))) => Err(Error::operator(
                Code::TopicRefused,
                what(),
                format!(
                    "the brokers refuse its name or its settings: {code}; a topic that differs only in . and _ may exist"
                ),
                "give the table another topic ([[table]] with match and topic), or exclude it; then restart",
            )),
            Some(Err((_, code))) if code != KafkaCode::TopicAlreadyExists => {
                Err(self.failed(what(), &KafkaError::AdminOp(code)))
            }
            _ => {
                failpoint("topic_created");
                tracing::info!(topic, partitions, "created the topic");
                Ok(())
            }
        }
    }
}

/// Error to retry: the progress topic holds no record yet. `state` completes the sentence: "is missing", "is
/// empty".
pub fn nothing_written(topic: &str, state: &str) -> Error {
    Error::retry(
        Code::ProgressMissing,
        format!("the progress topic {topic} {state}"),
        "no source has written to this pipeline's topics yet, or somebody removed it",
        "start the source; or correct progress_topic of [kafka]; it is looked for again",
    )
}

/// Operator error: the topic that events were written to was deleted, or deleted and created again. `why` says what
/// shows it.
pub fn topic_gone(topic: &str, why: &str) -> Error {
    Error::operator(
        Code::TopicReplaced,
        format!("topic {topic} was deleted, or deleted and created again"),
        why,
        "start with --recopy, which writes all tables to their topics again",
    )
}
