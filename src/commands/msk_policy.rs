//! The policy of AWS' IAM for a pipeline that logs in to Amazon MSK by IAM: what access control lists say elsewhere.
//!
//! <https://docs.aws.amazon.com/msk/latest/developerguide/kafka-actions.html>

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sooner_kafka::aws::region::partition_of;
use sooner_kafka::cluster::acls::{Allowed, Resource};

/// A cluster, as ARNs name it and what belongs to it.
pub struct Cluster {
    /// What comes before the kind of a resource: `arn:aws:kafka:eu-west-1:123456789012`.
    account: String,
    /// Name and id: `shop/5f6e…-1`.
    name: String,
}

impl Cluster {
    /// Any cluster of any account in a region.
    pub fn any(region: &str) -> Cluster {
        Cluster { account: format!("arn:{}:kafka:{region}:*", partition_of(region)), name: "*/*".to_owned() }
    }

    /// The cluster of an ARN, such as `arn:aws:kafka:eu-west-1:123456789012:cluster/shop/5f6e…-1`; none for another
    /// text.
    pub fn parse(arn: &str) -> Option<Cluster> {
        let (account, name) = arn.split_once(":cluster/")?;
        let is_whole = account.starts_with("arn:") && account.split(':').count() == 5 && name.split('/').count() == 2;
        is_whole.then(|| Cluster { account: account.to_owned(), name: name.to_owned() })
    }

    fn arn(&self, resource: &Resource) -> String {
        let (kind, name) = match resource {
            Resource::TopicsWith(prefix) => ("topic", format!("{prefix}*")),
            Resource::Topic(topic) => ("topic", topic.clone()),
            Resource::Group(group) => ("group", group.clone()),
            Resource::TransactionalId(id) => ("transactional-id", id.clone()),
        };
        format!("{}:{kind}/{}/{name}", self.account, self.name)
    }
}

/// The policy that allows this at a cluster; `writes` and `reads` say what else is done there: events are written, by
/// the source or as dead letters, and the sink asks a broker which group protocols it has.
pub fn policy(cluster: &Cluster, allowed: &[Allowed], writes: bool, reads: bool) -> Value {
    let mut of_cluster = vec!["kafka-cluster:Connect", "kafka-cluster:DescribeCluster"];
    if reads {
        of_cluster.push("kafka-cluster:DescribeClusterDynamicConfiguration");
    }
    if writes {
        of_cluster.push("kafka-cluster:WriteDataIdempotently");
    }
    let mut by_resource: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for Allowed { resource, operations } in allowed {
        let actions = operations.iter().filter_map(|operation| action(resource, operation));
        by_resource.entry(cluster.arn(resource)).or_default().extend(actions);
    }
    let mut by_actions: BTreeMap<BTreeSet<&str>, Vec<String>> = BTreeMap::new();
    for (arn, actions) in by_resource {
        by_actions.entry(actions).or_default().push(arn);
    }
    let whole = format!("{}:cluster/{}", cluster.account, cluster.name);
    let mut statements = vec![json!({"Effect": "Allow", "Action": of_cluster, "Resource": whole})];
    statements.extend(
        by_actions.into_iter().map(|(actions, arns)| json!({"Effect": "Allow", "Action": actions, "Resource": arns})),
    );
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// IAM's action for an operation of Kafka's access control lists; none if IAM knows none.
fn action(resource: &Resource, operation: &str) -> Option<&'static str> {
    let known = match (resource, operation) {
        (Resource::Topic(_) | Resource::TopicsWith(_), "Create") => "kafka-cluster:CreateTopic",
        (Resource::Topic(_) | Resource::TopicsWith(_), "Describe") => "kafka-cluster:DescribeTopic",
        (Resource::Topic(_) | Resource::TopicsWith(_), "DescribeConfigs") => {
            "kafka-cluster:DescribeTopicDynamicConfiguration"
        }
        (Resource::Topic(_) | Resource::TopicsWith(_), "Read") => "kafka-cluster:ReadData",
        (Resource::Topic(_) | Resource::TopicsWith(_), "Write") => "kafka-cluster:WriteData",
        (Resource::Group(_), "Describe") => "kafka-cluster:DescribeGroup",
        (Resource::Group(_), "Read") => "kafka-cluster:AlterGroup",
        (Resource::TransactionalId(_), "Describe") => "kafka-cluster:DescribeTransactionalId",
        (Resource::TransactionalId(_), "Write") => "kafka-cluster:AlterTransactionalId",
        _ => return None,
    };
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(resource: Resource, operations: &[&'static str]) -> Allowed {
        Allowed { resource, operations: operations.to_vec() }
    }

    #[test]
    fn each_operation_is_allowed_to_its_resource() {
        let needed = [
            allowed(
                Resource::TopicsWith("shop.".to_owned()),
                &["Describe", "DescribeConfigs", "Read", "Write", "Create"],
            ),
            allowed(Resource::Topic("dead".to_owned()), &["Describe", "Write"]),
            allowed(Resource::Topic("dead".to_owned()), &["Create"]),
            allowed(Resource::Group("g".to_owned()), &["Describe", "Read"]),
            allowed(Resource::TransactionalId("t".to_owned()), &["Describe", "Write"]),
        ];
        let cluster = Cluster::parse("arn:aws:kafka:eu-west-1:1:cluster/shop/id-1").unwrap();
        let found = policy(&cluster, &needed, true, false);
        let of = |action: &str| {
            let statements = found["Statement"].as_array().unwrap().iter();
            let fitting = statements.filter(|one| one["Action"].as_array().unwrap().contains(&json!(action)));
            fitting.map(|one| one["Resource"].to_string()).collect::<String>()
        };
        let at = "arn:aws:kafka:eu-west-1:1";
        assert_eq!(of("kafka-cluster:Connect"), format!("\"{at}:cluster/shop/id-1\""));
        assert_eq!(of("kafka-cluster:WriteDataIdempotently"), of("kafka-cluster:Connect"));
        assert_eq!(of("kafka-cluster:DescribeClusterDynamicConfiguration"), "");
        assert_eq!(of("kafka-cluster:ReadData"), format!("[\"{at}:topic/shop/id-1/shop.*\"]"));
        for action in ["CreateTopic", "WriteData"] {
            let resources = of(&format!("kafka-cluster:{action}"));
            assert!(resources.contains("/shop.*\"") && resources.contains("/dead\""), "{action}: {resources}");
        }
        assert_eq!(of("kafka-cluster:AlterGroup"), format!("[\"{at}:group/shop/id-1/g\"]"));
        assert_eq!(of("kafka-cluster:AlterTransactionalId"), format!("[\"{at}:transactional-id/shop/id-1/t\"]"));
        let every: usize = needed.iter().map(|one| one.operations.len()).sum();
        let mapped = needed.iter().flat_map(|one| one.operations.iter().filter_map(|what| action(&one.resource, what)));
        assert_eq!(mapped.count(), every, "none is left out");
    }

    #[test]
    fn a_cluster_is_one_of_an_arn_or_any() {
        let topic = Resource::Topic("t".to_owned());
        assert_eq!(Cluster::any("cn-north-1").arn(&topic), "arn:aws-cn:kafka:cn-north-1:*:topic/*/*/t");
        for text in ["shop", "arn:aws:kafka:eu-west-1:1:topic/a/b", "arn:aws:kafka:eu-west-1:1:cluster/shop"] {
            assert!(Cluster::parse(text).is_none(), "{text}");
        }
    }
}
