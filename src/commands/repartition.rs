//! `sooner topics repartition`: asks the pipeline's source to give a table's topic another number of partitions.
//!
//! What can be refused is refused here, by what the progress topic and the brokers say; the source looks again.

use serde_json::{Value, json};
use sooner_kafka::WrittenBy;
use sooner_kafka::cluster::admin::Admin;
use sooner_kafka::producer::repartition_rules::{RepartitionRequest, check_request};
use sooner_kafka::producer::successor::{SuccessorPlan, name_successor};
use sooner_kafka::progress::load::load;
use sooner_kafka::progress::record::TopicProgress;
use sooner_schemas::TableName;

use super::status::is_running;
use super::{parse_name, print};
use crate::audit::trail::{Act, recorded};
use crate::config::{Config, KafkaConfig};
use crate::repartitions::RepartitionRequests;
use crate::status;

/// Arguments of `sooner topics repartition`.
#[derive(Clone, Debug, clap::Args)]
pub struct RepartitionArguments {
    /// Name of the table: schema.table
    table: String,
    /// Number of partitions of the new topic.
    #[arg(long, allow_negative_numbers = true)]
    partitions: i32,
    /// Print what was asked for as JSON.
    #[arg(long)]
    json: bool,
}

/// Checks the request, stores it for the pipeline's source, and says what comes.
pub async fn repartition(config: &Config, arguments: &RepartitionArguments) -> anyhow::Result<()> {
    let table = parse_name(&arguments.table)?;
    let act = Act::new("repartition", json!({"partitions": arguments.partitions})).of_table(&table);
    let asking = ask(config, arguments, table);
    recorded(config, act, async { asking.await.map(|()| ((), Value::Null)) }).await
}

async fn ask(config: &Config, arguments: &RepartitionArguments, table: TableName) -> anyhow::Result<()> {
    let kafka = config.kafka()?;
    let request = RepartitionRequest { table, partitions: arguments.partitions };
    anyhow::ensure!(
        kafka.written_by == WrittenBy::Sooner,
        "cannot repartition the topic of {}: another producer writes it (written_by of [kafka]), and would go on in the \
         former topic. To do: repartition it with that producer's tools.",
        request.table
    );
    let record = load(&kafka.settings)?;
    let Some(record) = record else {
        anyhow::bail!(
            "cannot repartition the topic of {}: the progress topic {} is empty, so nothing is known of its events. To \
             do: start the source, then ask again.",
            request.table,
            kafka.settings.topics.progress
        );
    };
    check_request(&kafka.settings, &record, &request)?;
    let plan = plan(kafka, &record, &request);
    let admin = Admin::new(&kafka.settings)?;
    let existing = admin.list()?;
    let next = name_successor(&admin, &existing, &plan).await?;
    if !kafka.settings.topics.create && !existing.contains_key(&next.name) {
        let configs: String = next.configs.iter().map(|(name, value)| format!(" --config {name}={value}")).collect();
        anyhow::bail!(
            "cannot create topic {}: create_topics of [kafka] is off. To do: kafka-topics.sh --bootstrap-server {} \
             --create --topic {} --partitions {}{configs}; then ask again.",
            next.name,
            kafka.settings.brokers,
            next.name,
            next.partitions
        );
    }
    RepartitionRequests::new(&config.state_dir).ask(&request)?;
    tell(config, &plan, &next.name, arguments.json)
}

fn plan(kafka: &KafkaConfig, record: &TopicProgress, request: &RepartitionRequest) -> SuccessorPlan {
    let present = record.topics.get(&request.table);
    SuccessorPlan {
        table: request.table.clone(),
        base: kafka.topics.topic(&request.table),
        present: present.map(|topic| topic.topic.clone()).unwrap_or_default(),
        present_partitions: present.map_or(0, |topic| topic.next_offsets.len() as i32),
        partitions: request.partitions,
        known: None,
    }
}

fn tell(config: &Config, plan: &SuccessorPlan, next: &str, as_json: bool) -> anyhow::Result<()> {
    let runs = status::load(&config.state_dir)?.as_ref().is_some_and(is_running);
    if as_json {
        let asked = json!({
            "pipeline": config.name,
            "table": plan.table,
            "topic": plan.present,
            "partitions": plan.present_partitions,
            "new_topic": next,
            "new_partitions": plan.partitions,
            "is_running": runs,
        });
        print(&format!("{}\n", serde_json::to_string_pretty(&asked)?));
        return Ok(());
    }
    let when = if runs { "now" } else { "when the source starts" };
    print(&format!(
        "the source of pipeline '{}' will write the messages of {} ({} partitions) to {next} ({}) {when}, and then all that \
         follows; follow it with `sooner status --watch`. {} is kept; other consumers of it have to go over by themselves\n",
        config.name, plan.present, plan.present_partitions, plan.partitions, plan.present
    ));
    Ok(())
}
