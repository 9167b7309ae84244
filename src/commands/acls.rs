//! `sooner acls`: what a configuration needs to be allowed, as statements and commands for those who allow it: grants
//! in Postgres, access control lists of Kafka (a policy where brokers go by AWS' IAM), a policy for S3.

use serde_json::json;
use sooner_kafka::WrittenBy;
use sooner_kafka::cluster::acls::{Allowed, Resource, of_erasure, of_letters, of_sink, of_source};
use sooner_kafka::cluster::msk_iam::MskIam;
use sooner_kafka::cluster::settings::Sasl;
use sooner_kafka::registry::reader::RegistryKind;
use sooner_postgres::client::{quote_name, quote_text};

use super::msk_policy::{Cluster, policy};
use super::print;
use crate::config::{Config, KafkaConfig, LakeConfig, SourceConfig, TablePattern};

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Of {
    /// SQL for psql, to be run by a superuser.
    Postgres,
    /// Commands with Kafka's tools; a policy of AWS' IAM where brokers go by that.
    Kafka,
    /// A policy of AWS' IAM.
    S3,
    /// A policy of AWS' IAM, for a registry of AWS Glue.
    Registry,
}

/// Prints what the configuration needs; of one part alone if it is named. `principal` is who connects to Kafka, and
/// `cluster` the ARN of a cluster that goes by IAM.
pub fn run(config: &Config, only: Option<Of>, principal: Option<&str>, cluster: Option<&str>) -> anyhow::Result<()> {
    let wanted = |of: Of| only.is_none_or(|only| only == of);
    if let Some(source) = config.source.as_ref().filter(|_| wanted(Of::Postgres)) {
        print(&postgres(source));
    }
    if let Some(kafka) = config.kafka.as_ref().filter(|_| wanted(Of::Kafka)) {
        match kafka.settings.iam() {
            Some(iam) => print(&format!("{}\n", msk_policy(config, kafka, iam, cluster)?)),
            None => print(&acls(config, kafka, principal)),
        }
    }
    if let Some(policy) = config.lake.as_ref().filter(|_| wanted(Of::S3)).and_then(s3_policy) {
        print(&format!("{}\n", serde_json::to_string_pretty(&policy)?));
    }
    if config.kafka.as_ref().filter(|_| wanted(Of::Registry)).is_some_and(reads_glue) {
        print(&format!("{}\n", serde_json::to_string_pretty(&glue_policy())?));
    }
    Ok(())
}

/// The statements, for psql: `\gexec` runs what a query returns.
fn postgres(source: &SourceConfig) -> String {
    let (role, database) = (quote_name(&source.connect.user), quote_name(&source.connect.database));
    let like = |patterns: &[TablePattern]| {
        let patterns: Vec<_> = patterns.iter().map(|pattern| quote_text(&pattern.as_like())).collect();
        format!("n.nspname || '.' || c.relname LIKE ANY (ARRAY[{}]::text[])", patterns.join(", "))
    };
    let tables = format!(
        "FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace\n\
         WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'\n  \
         AND {}\n  AND NOT {}",
        like(&source.tables),
        like(&source.exclude)
    );
    // A table without a key would fail its application's updates once it is published.
    let parts = if source.through_roots { "NOT c.relispartition" } else { "c.relkind = 'r'" };
    let published = format!(
        "{tables}\n  AND {parts} AND EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)"
    );
    let (publication, roots) = (quote_text(&source.publication), source.through_roots);
    format!(
        "-- Run by a superuser with psql, in the database {database}.\n\
         SELECT 'CREATE ROLE {role} LOGIN' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {user}) \\gexec\n\
         ALTER ROLE {role} REPLICATION;\n\
         GRANT CONNECT ON DATABASE {database} TO {role};\n\
         SELECT DISTINCT pg_catalog.format('GRANT USAGE ON SCHEMA %I TO {role}', n.nspname) {tables} \\gexec\n\
         SELECT pg_catalog.format('GRANT SELECT ON TABLE %I.%I TO {role}', n.nspname, c.relname) {tables} \\gexec\n\
         SELECT pg_catalog.format('CREATE PUBLICATION %I FOR TABLE %s WITH (publish_via_partition_root = {roots})', {publication}, \
         pg_catalog.string_agg(pg_catalog.format('%I.%I', n.nspname, c.relname), ', ')) {published}\n  \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = {publication}) HAVING count(*) > 0 \\gexec\n",
        user = quote_text(&source.connect.user),
    )
}

fn acls(config: &Config, kafka: &KafkaConfig, principal: Option<&str>) -> String {
    let own = match &kafka.settings.sasl {
        Some(Sasl::Password { user, .. }) => format!("User:{user}"),
        Some(Sasl::OauthBearer { client_id, .. }) => format!("User:{client_id}"),
        Some(Sasl::AwsMskIam(_)) | None => "User:sooner".to_owned(),
    };
    let principal = principal.unwrap_or(&own);
    let command = |allowed: Allowed| {
        let operations: String =
            allowed.operations.iter().map(|operation| format!(" --operation {operation}")).collect();
        let resource = match allowed.resource {
            // Kafka has no empty prefix.
            Resource::TopicsWith(prefix) if prefix.is_empty() => "--topic '*'".to_owned(),
            Resource::TopicsWith(prefix) => format!("--topic '{prefix}' --resource-pattern-type prefixed"),
            Resource::Topic(topic) => format!("--topic '{topic}'"),
            Resource::Group(group) => format!("--group '{group}'"),
            Resource::TransactionalId(id) => format!("--transactional-id '{id}'"),
        };
        let brokers = &kafka.settings.brokers;
        format!(
            "kafka-acls.sh --bootstrap-server {brokers} --add --allow-principal '{principal}'{operations} {resource}\n"
        )
    };
    needed(config, kafka).into_iter().map(command).collect()
}

/// What the sides that the configuration has need at the brokers.
fn needed(config: &Config, kafka: &KafkaConfig) -> Vec<Allowed> {
    let tables: Vec<_> = [Resource::TopicsWith(kafka.topics.before().to_owned())]
        .into_iter()
        .chain(kafka.topics.exceptions().map(|topic| Resource::Topic(topic.to_owned())))
        .collect();
    let source = config.source.iter().flat_map(|_| of_source(&kafka.settings, &tables));
    let sink = config.lake.iter().flat_map(|_| of_sink(&kafka.settings, &tables));
    // Where our own source writes, rows are copied again instead of sent.
    let letters = of_letters(&kafka.settings, &tables, kafka.written_by == WrittenBy::Debezium);
    let erasure = config.lake.iter().flat_map(|_| of_erasure(&kafka.settings));
    source.chain(sink).chain(letters).chain(erasure).collect()
}

fn msk_policy(config: &Config, kafka: &KafkaConfig, iam: &MskIam, cluster: Option<&str>) -> anyhow::Result<String> {
    let cluster = match cluster {
        None => Cluster::any(iam.region()),
        Some(arn) => Cluster::parse(arn).ok_or_else(|| {
            anyhow::anyhow!(
                "'{arn}' is not the ARN of a cluster. To do: write arn:aws:kafka:REGION:ACCOUNT:cluster/NAME/ID, as \
                 `aws kafka list-clusters-v2` shows it."
            )
        })?,
    };
    let writes = config.source.is_some() || kafka.settings.consumer.dead_letters.is_some();
    let policy = policy(&cluster, &needed(config, kafka), writes, config.lake.is_some());
    Ok(serde_json::to_string_pretty(&policy)?)
}

fn reads_glue(kafka: &KafkaConfig) -> bool {
    matches!(kafka.registry, RegistryKind::Glue(_))
}

/// The policy for a registry of AWS Glue. A schema version is asked for by its id alone, so no resource narrows it.
fn glue_policy() -> serde_json::Value {
    json!({
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": "glue:GetSchemaVersion", "Resource": "*"}],
    })
}

/// The policy for a lake in S3; none for one that lies elsewhere.
fn s3_policy(lake: &LakeConfig) -> Option<serde_json::Value> {
    let (bucket, prefix) = match lake.url.strip_prefix("s3://")?.trim_end_matches('/').split_once('/') {
        Some((bucket, prefix)) => (bucket, format!("{prefix}/")),
        None => (lake.url.strip_prefix("s3://")?.trim_end_matches('/'), String::new()),
    };
    Some(json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": "s3:ListBucket",
                "Resource": format!("arn:aws:s3:::{bucket}"),
                "Condition": {"StringLike": {"s3:prefix": [format!("{prefix}*")]}},
            },
            {
                "Effect": "Allow",
                "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
                "Resource": format!("arn:aws:s3:::{bucket}/{prefix}*"),
            },
        ],
    }))
}
