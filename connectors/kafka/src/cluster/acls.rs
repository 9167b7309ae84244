//! What the clients of a pipeline do at a cluster, as access control lists know it: what each side must be allowed.
//!
//! <https://kafka.apache.org/documentation/#operations_resources_and_protocols>

use super::settings::KafkaSettings;

/// What is accessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A topic.
    Topic(String),
    /// All topics whose names begin like this.
    TopicsWith(String),
    /// A consumer group.
    Group(String),
    /// The id of transactions.
    TransactionalId(String),
}

/// Operations on a resource that have to be allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What they are done to.
    pub resource: Resource,
    /// Their names, as Kafka's tools have them.
    pub operations: Vec<&'static str>,
}

/// What the source's side needs, which writes to these topics of tables.
pub fn of_source(settings: &KafkaSettings, tables: &[Resource]) -> Vec<Allowed> {
    let creates = settings.topics.create.then_some("Create");
    // It reads back what was written before a crash.
    let written = ["Describe", "DescribeConfigs", "Read", "Write"].into_iter().chain(creates);
    let topics = tables.iter().cloned().chain([Resource::Topic(settings.topics.progress.clone())]);
    let mut needed: Vec<_> =
        topics.map(|resource| Allowed { resource, operations: written.clone().collect() }).collect();
    needed.push(of_progress_reader(settings));
    needed.extend(
        settings
            .producer
            .transactional_id
            .clone()
            .map(|id| Allowed { resource: Resource::TransactionalId(id), operations: vec!["Describe", "Write"] }),
    );
    needed
}

/// What the sink's side needs, which reads these topics of tables.
pub fn of_sink(settings: &KafkaSettings, tables: &[Resource]) -> Vec<Allowed> {
    let read = vec!["Describe", "DescribeConfigs", "Read"];
    let topics = tables.iter().cloned().chain([Resource::Topic(settings.topics.progress.clone())]);
    let mut needed: Vec<_> = topics.map(|resource| Allowed { resource, operations: read.clone() }).collect();
    let group = Resource::Group(settings.consumer.group.clone());
    needed.push(Allowed { resource: group, operations: vec!["Describe", "Read"] });
    needed.push(of_progress_reader(settings));
    needed.extend(settings.consumer.dead_letters.clone().map(|topic| {
        let creates = settings.topics.create.then_some("Create");
        let operations = ["Describe", "DescribeConfigs", "Write"].into_iter().chain(creates).collect();
        Allowed { resource: Resource::Topic(topic), operations }
    }));
    needed
}

/// What `sooner dead-letters` needs besides, which reads letters and marks them; and, if it `resends` them, writes
/// their messages to these topics of tables again. Nothing where there are no dead letters.
pub fn of_letters(settings: &KafkaSettings, tables: &[Resource], resends: bool) -> Vec<Allowed> {
    let Some(topic) = &settings.consumer.dead_letters else { return Vec::new() };
    let id = Resource::TransactionalId(settings.letters_id(topic));
    let mut needed = vec![
        Allowed { resource: Resource::Topic(topic.clone()), operations: vec!["Read"] },
        Allowed { resource: id, operations: vec!["Describe", "Write"] },
    ];
    if resends {
        let write = |resource: &Resource| Allowed { resource: resource.clone(), operations: vec!["Write"] };
        needed.extend(tables.iter().map(write));
    }
    needed
}

/// What `sooner erase` needs besides, which writes tombstones where topics are compacted.
pub fn of_erasure(settings: &KafkaSettings) -> Vec<Allowed> {
    if !settings.topics.is_compacted() {
        return Vec::new();
    }
    let id = Resource::TransactionalId(settings.erasure_id());
    vec![Allowed { resource: id, operations: vec!["Describe", "Write"] }]
}

/// Readers of the progress topic are in no group, but librdkafka looks for the coordinator of one by this name.
fn of_progress_reader(settings: &KafkaSettings) -> Allowed {
    Allowed { resource: Resource::Group(settings.progress_group()), operations: vec!["Describe"] }
}
