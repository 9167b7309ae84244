//! `sooner topics advise`: measures the topics of tables as they are at the brokers, and prints advice on each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use sooner_api::{Clock, Code, Error};
use sooner_kafka::cluster::admin::Admin;
use sooner_kafka::producer::present_names::PresentNames;
use sooner_kafka::producer::topic_names::TopicNames;
use sooner_kafka::progress::load::load;
use sooner_kafka::registry::reader::SchemaReader;
use sooner_kafka::registry::schema_id::SchemaId;
use sooner_kafka::survey::group::GroupInspector;
use sooner_kafka::survey::topic_sample::{SampleLimits, Survey};
use sooner_schemas::TableName;
use sooner_schemas::avro::Schema;
use tokio::runtime::Handle;

use super::readers::{ConsumerRate, Consumers, consumer_rate, consumers};
use super::{parse_name, print};
use crate::advice::advise as judge;
use crate::advice::figures::{Advice, Figures, Surroundings, percent};
use crate::advice::partitions::rate;
use crate::clock::SystemClock;
use crate::config::{Config, KafkaConfig};
use crate::status;

/// Of each partition, so many bytes are read at most.
const BYTES_READ: u64 = 32 << 20;

/// Arguments of `sooner topics advise`.
#[derive(Clone, Debug, clap::Args)]
pub struct AdviseArguments {
    /// Names of tables: schema.table; all tables of the pipeline if none are named.
    tables: Vec<String>,
    /// The time until now that is looked at. Its busiest twelfth counts as the peak.
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    sample: Duration,
    /// Of each partition, so many of the last messages are read at most, for their keys and sizes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    messages: u32,
    /// Messages per second that one consumer reads; measured while a sink on this machine has a backlog, or else taken
    /// to be 10000.
    #[arg(long)]
    consumer_rate: Option<f64>,
    /// Number of consumers that share the topics; the members of the group unless it is given.
    #[arg(long)]
    consumers: Option<usize>,
    /// Replicas of partitions that a broker bears, of all topics together.
    #[arg(long, default_value_t = 1_000)]
    broker_partitions: u32,
    /// Print the figures and the advice as JSON.
    #[arg(long)]
    json: bool,
}

/// What the brokers say.
struct Surveyed {
    brokers: usize,
    /// Partitions of all topics of the cluster that may be seen.
    partitions: i32,
    replication: i32,
    members: Option<usize>,
    tables: Vec<(TableName, String, Figures)>,
}

/// What is printed.
#[derive(Serialize)]
struct Report {
    pipeline: String,
    consumers: Consumers,
    consumer_rate: ConsumerRate,
    brokers: usize,
    cluster_partitions: i32,
    replication: i32,
    tables: Vec<TableReport>,
}

#[derive(Serialize)]
struct TableReport {
    table: TableName,
    topic: String,
    #[serde(flatten)]
    figures: Figures,
    #[serde(flatten)]
    advice: Advice,
}

/// Measures the topics of the named tables, or of all, and prints advice on each.
pub async fn advise(config: &Config, arguments: &AdviseArguments) -> anyhow::Result<()> {
    let kafka = config.kafka()?;
    anyhow::ensure!(
        arguments.sample >= Duration::from_secs(1) && arguments.consumer_rate.is_none_or(|rate| rate > 0.0),
        "nothing can be measured in no time, and by nobody. To do: --sample of a second or more, --consumer-rate above 0"
    );
    let named = arguments.tables.iter().map(|table| parse_name(table)).collect::<anyhow::Result<Vec<_>>>()?;
    let known = status::load(&config.state_dir)?;
    let tables = match (&known, named.is_empty()) {
        (_, false) => named.clone(),
        (Some(status), true) if !status.tables.is_empty() => status.tables.keys().cloned().collect(),
        _ => anyhow::bail!("no tables are known yet. To do: name them, as schema.table; or start the pipeline."),
    };
    let rate = consumer_rate(&config.state_dir, known.as_ref(), arguments.consumer_rate).await?;
    let window = arguments.sample;
    let limits = SampleLimits { window, messages: arguments.messages as usize, bytes: BYTES_READ };
    let (of_brokers, handle, must_be) = (kafka.clone(), Handle::current(), !named.is_empty());
    let work = move || survey(&of_brokers, &tables, limits, must_be, &handle);
    let surveyed = tokio::task::spawn_blocking(work).await??;
    let of_topics = surveyed.tables.iter().map(|(table, _, figures)| (table.clone(), figures.partitions)).collect();
    let consumers = consumers(arguments.consumers, surveyed.members, known.as_ref(), &of_topics);
    let report = report(config, surveyed, consumers, rate, arguments.broker_partitions);
    print(&match arguments.json {
        true => format!("{}\n", serde_json::to_string_pretty(&report)?),
        false => render(&report),
    });
    Ok(())
}

/// Asks the brokers. A table that `must_be` there and has no topic is an error; others are left out.
fn survey(
    kafka: &KafkaConfig,
    tables: &[TableName],
    limits: SampleLimits,
    must_be: bool,
    handle: &Handle,
) -> anyhow::Result<Surveyed> {
    let admin = Admin::new(&kafka.settings)?;
    let topics = admin.list()?;
    let registry = SchemaReader::new(&kafka.registry)?;
    let mut known: HashMap<u32, Arc<Schema>> = HashMap::new();
    let mut find = |id: u32| {
        if let Some(schema) = known.get(&id) {
            return Ok(schema.clone());
        }
        let text = handle.block_on(registry.schema(SchemaId::Number(id)))?;
        let schema = Schema::parse(&text).map_err(|why| {
            let what = format!("cannot read the schema with id {id}");
            Error::operator(Code::SchemaUnknown, what, why, "check url of [registry]: keys have to be Avro")
        })?;
        Ok(known.entry(id).or_insert(Arc::new(schema)).clone())
    };
    let (survey, group) = (Survey::open(&kafka.settings, limits)?, GroupInspector::open(&kafka.settings)?);
    let record = load(&kafka.settings)?;
    let names = TopicNames { pattern: &kafka.topics, subjects: kafka.subjects };
    let names = PresentNames::new(names, record.as_ref());
    let mut measured = Vec::new();
    let mut replication = kafka.settings.topics.replication;
    for table in tables {
        let topic = names.topic(table);
        let Some(&partitions) = topics.get(&topic) else {
            admin.check_not_hidden(&topic)?;
            anyhow::ensure!(!must_be, "topic {topic} of {table} does not exist. To do: see `sooner topics`");
            continue;
        };
        if replication.is_none() {
            replication = handle.block_on(admin.describe(&topic, partitions))?.replication;
        }
        let now_millis = SystemClock.now_micros() / 1000;
        let sample = survey.topic(&topic, partitions, now_millis, &mut find)?;
        let ends: Vec<_> = sample.partitions.iter().map(|partition| partition.end_offset).collect();
        let unread = told(group.committed(&topic, partitions)).and_then(|committed| unread(&ends, &committed));
        measured.push((table.clone(), topic, Figures::of(sample, &kafka.settings.producer.partition_by, unread)));
    }
    Ok(Surveyed {
        brokers: admin.brokers()?,
        partitions: topics.values().sum(),
        replication: replication.unwrap_or(1).max(1),
        members: told(group.members()).flatten(),
        tables: measured,
    })
}

/// What brokers say of the group. Whoever may not ask about it gets advice all the same.
fn told<T>(answer: sooner_api::Result<T>) -> Option<T> {
    answer.inspect_err(|error| tracing::warn!(code = %error.code, %error, "the group is not known")).ok()
}

/// Offsets between what the group has committed and the ends of partitions; none if it has committed nothing.
fn unread(ends: &[i64], committed: &[Option<i64>]) -> Option<u64> {
    let behind = ends.iter().zip(committed).filter_map(|(end, committed)| Some((end - (*committed)?).max(0) as u64));
    committed.iter().any(Option::is_some).then(|| behind.sum())
}

/// Judges each topic. What the brokers may still get goes to the busiest topics first.
fn report(
    config: &Config,
    surveyed: Surveyed,
    consumers: Consumers,
    consumer_rate: ConsumerRate,
    broker_partitions: u32,
) -> Report {
    let Surveyed { brokers, partitions, replication, mut tables, .. } = surveyed;
    let all: f64 = tables.iter().map(|(_, _, figures)| figures.peak_messages_per_second).sum();
    let bearable = broker_partitions as f64 * brokers as f64 / f64::from(replication);
    let mut spare_partitions = bearable.min(f64::from(i32::MAX)) as i32 - partitions;
    let peak = |figures: &Figures| figures.peak_messages_per_second;
    tables.sort_by(|(_, _, one), (_, _, other)| peak(other).total_cmp(&peak(one)));
    let mut reports: Vec<_> = tables
        .into_iter()
        .map(|(table, topic, figures)| {
            let load_share = peak(&figures) / all.max(f64::MIN_POSITIVE);
            let (members, consumer_rate) = (consumers.count, consumer_rate.messages_per_second);
            let around = Surroundings { members, consumer_rate, load_share, spare_partitions };
            let advice = judge(&table.to_string(), &figures, &around);
            spare_partitions -= advice.partitions - figures.partitions;
            TableReport { table, topic, figures, advice }
        })
        .collect();
    reports.sort_by(|one, other| one.table.cmp(&other.table));
    let pipeline = config.name.clone();
    Report { pipeline, consumers, consumer_rate, brokers, cluster_partitions: partitions, replication, tables: reports }
}

fn render(report: &Report) -> String {
    let mut text = format!(
        "{}: {}, each reads {} messages/s ({}); {} broker(s) with {} partition(s), {} replica(s) each\n",
        report.pipeline,
        report.consumers,
        rate(report.consumer_rate.messages_per_second),
        report.consumer_rate.origin.text(),
        report.brokers,
        report.cluster_partitions,
        report.replication
    );
    report.tables.iter().for_each(|table| text.push_str(&table_text(table)));
    text
}

fn table_text(report: &TableReport) -> String {
    let TableReport { table, topic, figures, advice } = report;
    let unread = figures.unread_offsets.map(|unread| format!("; {unread} offset(s) unread")).unwrap_or_default();
    let mut text = format!(
        "\n{table}, topic {topic}: {} partition(s), {} advised\n  {} messages in the last {} ({} read), {} a second, {} at \
         the peak, {}/s{unread}\n",
        figures.partitions,
        advice.partitions,
        figures.messages,
        figures.window(),
        figures.messages_read,
        rate(figures.messages_per_second),
        rate(figures.peak_messages_per_second),
        ByteSize(figures.bytes_per_second as u64)
    );
    if let Some(largest) = figures.largest_partition {
        let even = percent(1.0 / f64::from(figures.partitions));
        let share = percent(largest.share);
        text.push_str(&format!("  largest partition: {}, with {share} (even: {even})\n", largest.partition));
    }
    let keys: Vec<_> = figures.heaviest_keys.iter().map(|key| format!("{} {}", key.key, percent(key.share))).collect();
    if !keys.is_empty() {
        text.push_str(&format!("  heaviest keys: {}\n", keys.join("; ")));
    }
    for finding in &advice.findings {
        text.push_str(&format!("  - {}\n", finding.reason));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("    To do: {remedy}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unread_is_what_the_group_has_not_committed() {
        assert_eq!(unread(&[10, 20], &[Some(4), None]), Some(6));
        assert_eq!(unread(&[10], &[Some(12)]), Some(0), "committed in the meantime");
        assert_eq!(unread(&[10, 20], &[None, None]), None);
    }
}
