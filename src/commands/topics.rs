//! `sooner topics`: the topics of a pipeline, as it makes them, for those who make them another way: as Kubernetes
//! resources of Strimzi, or for Terraform. And what else is done with them, each in a file of its own.

use std::fmt::Write;

use serde_json::json;
use sooner_kafka::cluster::topic_plan::TopicPlan;

use super::advise::{AdviseArguments, advise};
use super::print;
use super::repartition::{RepartitionArguments, repartition};
use crate::config::{Config, KafkaConfig};
use crate::status;

/// In which form topics are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// A line for each.
    Lines,
    /// `KafkaTopic` of Strimzi, one YAML document for each.
    Kafkatopic,
    /// `kafka_topic` of the Terraform provider Mongey/kafka.
    Terraform,
}

/// What is done with topics, other than to print them.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum TopicsCommand {
    /// Measures what is written to topics, by which keys and for which consumers, and says how many partitions they
    /// should have, and what helps where keys are uneven. Reads only; it may run beside the pipeline.
    Advise(AdviseArguments),
    /// Gives a table's topic another number of partitions: its messages are written to a new topic, in order per key,
    /// and the pipeline's sinks go over to it. The former topic is kept.
    Repartition(RepartitionArguments),
}

/// Does what is asked with topics; prints them, if nothing is.
pub async fn run(config: &Config, command: Option<TopicsCommand>, form: Form) -> anyhow::Result<()> {
    match command {
        None => print_all(config, form),
        Some(TopicsCommand::Advise(arguments)) => advise(config, &arguments).await,
        Some(TopicsCommand::Repartition(arguments)) => repartition(config, &arguments).await,
    }
}

/// Prints the topics of the tables that the pipeline knows, and its own.
fn print_all(config: &Config, form: Form) -> anyhow::Result<()> {
    let kafka = config.kafka()?;
    let tables = status::load(&config.state_dir)?.map(|status| status.tables).unwrap_or_default();
    if tables.is_empty() {
        anyhow::bail!(
            "no tables are known yet. To do: start the pipeline; create_topics = false keeps it from making topics."
        );
    }
    let topics = &kafka.settings.topics;
    let mut plans = vec![TopicPlan::of_progress(topics)];
    plans.extend(kafka.settings.consumer.dead_letters.as_deref().map(TopicPlan::of_dead_letters));
    plans.extend(tables.iter().map(|(table, known)| match &known.topic {
        // It has got another number of partitions, and with them another name.
        Some(moved) => TopicPlan { partitions: moved.partitions as i32, ..TopicPlan::of_table(&moved.topic, topics) },
        None => TopicPlan::of_table(&kafka.topics.topic(table), topics),
    }));
    for plan in plans {
        print(&match form {
            Form::Lines => line(&plan),
            Form::Kafkatopic => kafka_topic(&plan, kafka),
            Form::Terraform => terraform(&plan, kafka),
        });
    }
    Ok(())
}

fn line(plan: &TopicPlan) -> String {
    let configs = plan.configs.iter().map(|(name, value)| format!(" {name}={value}")).collect::<String>();
    format!("{}: {} partition(s),{configs}\n", plan.name, plan.partitions)
}

/// Of <https://strimzi.io/docs/operators/latest/configuring.html#type-KafkaTopic-reference>; YAML takes JSON for texts.
fn kafka_topic(plan: &TopicPlan, kafka: &KafkaConfig) -> String {
    let configs: serde_json::Map<_, _> =
        plan.configs.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let mut text = format!(
        "---\napiVersion: kafka.strimzi.io/v1beta2\nkind: KafkaTopic\nmetadata:\n  name: {}\n  labels:\n    \
         strimzi.io/cluster: CLUSTER\nspec:\n  topicName: {}\n  partitions: {}\n",
        resource_name(&plan.name, '-', "."),
        json!(plan.name),
        plan.partitions
    );
    // Writing to a string cannot fail.
    if let Some(replicas) = kafka.settings.topics.replication {
        let _ = writeln!(text, "  replicas: {replicas}");
    }
    let _ = writeln!(text, "  config:");
    for (name, value) in configs {
        let _ = writeln!(text, "    {name}: {value}");
    }
    text
}

/// <https://registry.terraform.io/providers/Mongey/kafka/latest/docs/resources/topic>
fn terraform(plan: &TopicPlan, kafka: &KafkaConfig) -> String {
    let configs = plan.configs.iter().map(|(name, value)| format!("    \"{name}\" = {}\n", json!(value)));
    format!(
        "resource \"kafka_topic\" \"topic_{}\" {{\n  name               = {}\n  partitions         = {}\n  replication_factor = {}\n  \
         config = {{\n{}  }}\n}}\n",
        resource_name(&plan.name, '_', ""),
        json!(plan.name),
        plan.partitions,
        kafka.settings.topics.replication.unwrap_or(3),
        configs.collect::<String>()
    )
}

/// A topic's name as that of a resource: letters and digits, and what `keeps` says; of any other character, `escape`
/// and its number. So no two topics have one resource.
fn resource_name(topic: &str, escape: char, keeps: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || keeps.contains(c);
    topic.chars().map(|c| if plain(c) { c.to_string() } else { format!("{escape}{:02x}", u32::from(c)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_that_differ_are_different_resources() {
        let topics = ["shop.a_b", "shop.a.b", "shop.A.b", "shop.a-b", "shop.a-5fb"];
        let mut names: Vec<_> = topics.iter().map(|topic| resource_name(topic, '-', ".")).collect();
        assert_eq!(names[..2], ["shop.a-5fb", "shop.a.b"]);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), topics.len());
        assert_eq!(resource_name("a.b_c", '_', ""), "a_2eb_5fc");
    }
}
