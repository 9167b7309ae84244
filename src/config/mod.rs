//! The configuration: one TOML file, read into checked settings in one step. All problems are reported at once.

mod audit;
pub mod fleet;
mod http;
mod kafka;
mod lake;
mod lines;
mod masking;
mod names;
pub mod pattern;
mod reader;
mod reports;
mod secret_files;
mod table;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sooner_api::{Code, Error};
use sooner_kafka::WrittenBy;
use sooner_postgres::encoders::ValuePolicies;
use sooner_postgres::inspection::TableFilter;
use sooner_postgres::kept_names::KeptNames;
use sooner_postgres::{ConnectOptions, Secret};
use sooner_schemas::policy::ValuePolicy;
use sooner_schemas::{Column, ColumnType, Scalar, TableName};

pub use audit::AuditSettings;
use audit::read_audit;
use http::{STALLED_AFTER, read_http};
pub use kafka::KafkaConfig;
use kafka::{read_kafka, read_registry};
pub use lake::LakeConfig;
use lake::{read_lake, refuse_kept_histories_of_others, refuse_short_histories};
use lines::Lines;
use names::{check_name, check_slot};
pub use pattern::TablePattern;
use reader::Section;
use reports::read_reports;
use secret_files::SecretFiles;
pub use table::TableBlocks;
use verify::read_verify;

use crate::http::settings::HttpSettings;
use crate::report_settings::ReportSettings;
use crate::verify_settings::VerifySettings;

/// JSON Schema of the configuration, for editors.
pub const SCHEMA: &str = include_str!("schema.json");

/// Checked configuration of a pipeline.
#[derive(Clone, Debug)]
pub struct Config {
    /// The pipeline's name.
    pub name: String,
    /// Folder in which a running pipeline writes its status and finds requests.
    pub state_dir: PathBuf,
    /// Limit in bytes of the events that wait in memory.
    pub memory_bytes: usize,
    /// The source database; a process that runs only the sink's side needs none.
    pub source: Option<SourceConfig>,
    /// The lake; a process that runs only the source's side needs none.
    pub lake: Option<LakeConfig>,
    /// Settings of single tables.
    pub tables: TableBlocks,
    /// Kafka and the schema registry between source and lake; none in direct mode.
    pub kafka: Option<KafkaConfig>,
    /// The listener of metrics, health and API; none without the section.
    pub http: Option<HttpSettings>,
    /// The audit trail in the lake; none without the section.
    pub audit: Option<AuditSettings>,
    /// Its reports.
    pub reports: Vec<ReportSettings>,
    /// When its tables are verified; none if only somebody who asks for it has them verified.
    pub verify: Option<VerifySettings>,
    /// Files of its secrets.
    pub secrets: SecretFiles,
}

/// Checked settings of the section `[source]`.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// How to connect: server, role, password and database.
    pub connect: ConnectOptions,
    /// Name of the replication slot.
    pub slot: String,
    /// Name of the publication.
    pub publication: String,
    /// Patterns of the tables to capture.
    pub tables: Vec<TablePattern>,
    /// Patterns of the tables to leave out, although `tables` matches them.
    pub exclude: Vec<TablePattern>,
    /// Number of parts of tables that are copied at the same time.
    pub copy_tables_at_once: usize,
    /// How many bytes a second tables are copied at most, all together; none for as fast as it goes.
    pub copy_bytes_per_second: Option<usize>,
    /// Log in bytes that the slot may make Postgres keep before a person is warned, or it is given up.
    pub max_retained_wal: Option<usize>,
    /// Whether a slot that is lost, or keeps too much log, is replaced, and all tables are copied again.
    pub copies_when_slot_is_lost: bool,
    /// Whether standbys follow the slot; none to leave it as it is.
    pub failover: Option<bool>,
    /// Whether a partitioned table is one table in the lake, rather than each of its partitions.
    pub through_roots: bool,
    /// Whether rows of partitions that are detached or dropped stay in the lake.
    pub keeps_gone_partitions: bool,
    /// Names that tables keep, whatever they are called later; none where a name is its table.
    pub kept_names: Option<KeptNames>,
    /// Settings of single tables.
    pub blocks: TableBlocks,
}

impl SourceConfig {
    /// Which tables are captured: a pattern of `tables` matches them, and none of `exclude` does.
    pub fn filter(&self) -> TableFilter {
        let (tables, exclude) = (self.tables.clone(), self.exclude.clone());
        let names = move |table: &TableName| {
            tables.iter().any(|pattern| pattern.matches(table)) && !exclude.iter().any(|pattern| pattern.matches(table))
        };
        let (masks, kept_names) = (self.blocks.mask_rules(), self.kept_names.clone());
        let (through_roots, keeps_gone_partitions) = (self.through_roots, self.keeps_gone_partitions);
        TableFilter { through_roots, keeps_gone_partitions, kept_names, masks, ..TableFilter::new(names) }
    }
}

impl SourceConfig {
    /// The same where nobody reads the events but the lake: there a `numeric` without precision is a text anyway.
    pub fn policies_of_lake(&self) -> ValuePolicies {
        let policies = self.policies();
        Arc::new(move |table: &TableName, column: &Column| match column.column_type {
            ColumnType::Scalar(Scalar::Numeric) => ValuePolicy::Text,
            _ => policies(table, column),
        })
    }

    /// What becomes of values that their target cannot hold.
    pub fn policies(&self) -> ValuePolicies {
        let blocks = self.blocks.clone();
        Arc::new(move |table: &TableName, column: &Column| blocks.value_policy(table, column))
    }
}

impl Config {
    /// Reads and checks a configuration file. The error lists all of its problems.
    pub fn load(path: &Path) -> anyhow::Result<Config> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            anyhow::anyhow!(
                "cannot read the configuration {}: {error}. To do: name it with --config, or write one with `sooner init`.",
                path.display()
            )
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Config::parse(&text, folder).map_err(|problems| {
            let list = problems.iter().map(|problem| format!("\n  - {problem}")).collect::<String>();
            anyhow::anyhow!("the configuration {} has {} problem(s):{list}", path.display(), problems.len())
        })
    }

    /// Checks a configuration's text, and returns all of its problems as the error. Relative paths of secrets and
    /// certificates start from `folder`, and so does the default of `state_dir`.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, Vec<String>> {
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| vec![error.to_string()])?;
        Config::read(table, folder).map_err(|problems| Lines::of(text).place_all(problems))
    }

    fn read(table: toml::Table, folder: &Path) -> Result<Config, Vec<String>> {
        let secrets = SecretFiles::of(&table, folder);
        let mut root = Section::root(table, folder);
        let name = root.text("name", check_name);
        let state_dir = root.optional("state_dir", |text| Ok(PathBuf::from(text)));
        let memory_bytes = root.size("memory", 128 << 20, 8 << 20);
        let tables = TableBlocks::read(&mut root);
        let reports = read_reports(&mut root);
        let has_kafka = root.has("kafka");
        let read_source = |section: &mut Section| read_source(section, name.as_deref(), &tables);
        // Without brokers one process does everything; with them, a process may do its part.
        let (source, lake) = match has_kafka {
            true => (root.optional_section("source", read_source), root.optional_section("lake", read_lake)),
            false => (root.section("source", read_source), root.section("lake", read_lake)),
        };
        let kafka = match has_kafka {
            true => {
                let registry = root.section("registry", |section| read_registry(section, source.is_some()));
                root.section("kafka", |section| read_kafka(section, name.as_deref(), memory_bytes, registry, &tables))
            }
            false => root.optional_section("kafka", |_| None),
        };
        let http = root.optional_section("http", read_http);
        let audit = root.optional_section("audit", read_audit);
        if audit.is_some() && has_kafka && lake.is_none() {
            root.problem("audit", "the trail is a table of the lake: set [lake], too");
        }
        let verify = root.optional_section("verify", read_verify);
        if verify.is_some() && has_kafka && (source.is_none() || lake.is_none()) {
            root.problem("verify", "the source is compared with the lake: set [source] and [lake], too");
        }
        if has_kafka && source.is_none() && lake.is_none() {
            root.problem("source", "set [source], [lake] or both");
        }
        if let Some(lake) = &lake {
            refuse_short_histories(&mut root, &tables, lake);
            if kafka.as_ref().is_some_and(|kafka| kafka.written_by == WrittenBy::Debezium) {
                refuse_kept_histories_of_others(&mut root, &tables);
            }
        }
        let problems = root.finish();
        match name {
            Some(name) if problems.is_empty() => {
                let state_dir = state_dir.unwrap_or_else(|| folder.join(".sooner").join(&name));
                Ok(Config {
                    name,
                    state_dir,
                    memory_bytes,
                    source,
                    lake,
                    tables,
                    kafka,
                    http,
                    audit,
                    reports,
                    verify,
                    secrets,
                })
            }
            _ => Err(problems),
        }
    }

    /// Silence after which the process counts as stalled.
    pub fn stalled_after(&self) -> Duration {
        self.http.as_ref().map_or(STALLED_AFTER, |http| http.stalled_after)
    }

    /// The section `[source]`, for a command that needs it; an operator error if it is missing.
    pub fn source(&self) -> Result<&SourceConfig, Error> {
        self.source.as_ref().ok_or_else(|| missing("source"))
    }

    /// The section `[lake]`, for a command that needs it; an operator error if it is missing.
    pub fn lake(&self) -> Result<&LakeConfig, Error> {
        self.lake.as_ref().ok_or_else(|| missing("lake"))
    }

    /// The section `[kafka]`, for a command that needs it; an operator error if it is missing.
    pub fn kafka(&self) -> Result<&KafkaConfig, Error> {
        self.kafka.as_ref().ok_or_else(|| missing("kafka"))
    }
}

fn missing(section: &str) -> Error {
    let why = format!("the configuration has no [{section}]");
    Error::operator(
        Code::ConfigurationIncomplete,
        "cannot run this command",
        why,
        "add the section; config/ has examples",
    )
}

fn read_source(section: &mut Section, name: Option<&str>, blocks: &TableBlocks) -> Option<SourceConfig> {
    let default_name = format!("sooner_{}", name.unwrap_or_default().replace('-', "_"));
    let connect = section.unshown_text("url", |text, is_variable| match ConnectOptions::parse(text) {
        Ok(options) if options.password.is_some() && !is_variable => {
            Err("secrets do not belong in the file; take the password out and set password = { env = … }".to_owned())
        }
        parsed => parsed.map_err(|error| error.to_string()),
    });
    let password = section.secret("password");
    let slot = section.optional("slot", check_slot).unwrap_or_else(|| default_name.clone());
    let publication = section.optional("publication", |text| Ok(text.to_owned())).unwrap_or(default_name);
    let tables = section.list("tables", TablePattern::parse);
    let exclude = section.list("exclude", TablePattern::parse);
    let copy_tables_at_once = section.count("copy_tables_at_once", 2, 1..=32);
    let copy_bytes_per_second = section.optional_size("copy_bytes_per_second", 64 << 10);
    let max_retained_wal = section.optional_size("max_retained_wal", 16 << 20);
    let copies_when_slot_is_lost = section.optional("when_slot_is_lost", |text| match text {
        "stop" => Ok(false),
        "copy" => Ok(true),
        _ => Err("expected \"stop\" or \"copy\"".to_owned()),
    });
    let partitions = section.optional("partitions", |text| match text {
        "root" => Ok(true),
        "leaf" => Ok(false),
        _ => Err("expected \"root\" or \"leaf\"".to_owned()),
    });
    let dropped_partitions = section.optional("dropped_partitions", |text| match text {
        "remove" => Ok(false),
        "keep" => Ok(true),
        _ => Err("expected \"remove\" or \"keep\"".to_owned()),
    });
    let keeps_names = section.optional("follow", |text| match text {
        "name" => Ok(false),
        "table" => Ok(true),
        _ => Err("expected \"name\" or \"table\"".to_owned()),
    });
    let failover = section.has("failover").then(|| section.flag("failover", false));
    section.knows("failover");
    let mut connect = connect?;
    if let Some(password) = password {
        connect.password = Some(Secret::new(password));
    }
    let tables = tables.unwrap_or_else(|| vec![TablePattern::any()]);
    Some(SourceConfig {
        connect,
        slot,
        publication,
        tables,
        exclude: exclude.unwrap_or_default(),
        copy_tables_at_once,
        copy_bytes_per_second,
        max_retained_wal,
        copies_when_slot_is_lost: copies_when_slot_is_lost.unwrap_or(false),
        failover,
        through_roots: partitions.unwrap_or(true),
        keeps_gone_partitions: dropped_partitions.unwrap_or(false),
        kept_names: keeps_names.unwrap_or(false).then(KeptNames::default),
        blocks: blocks.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        Config::parse(text, Path::new(".")).unwrap_err()
    }

    #[test]
    fn the_smallest_configuration() {
        let text = "name = 'shop'\n[source]\nurl = 'postgres://me@db/shop'\n[lake]\nurl = '/lake'";
        let config = Config::parse(text, Path::new("/etc")).unwrap();
        let source = config.source().unwrap();
        assert_eq!(source.slot, "sooner_shop");
        assert_eq!(config.lake().unwrap().freshness, Duration::from_secs(1));
        assert_eq!(config.state_dir, Path::new("/etc/.sooner/shop"));
        assert!((source.filter().names)(&TableName::new("any", "table")));
    }

    #[test]
    fn all_problems_are_told_at_once_with_their_place() {
        let text = "nmae = 'shop'\nmemory = 'lots'\n[source]\nurl = 'postgres://me@db/shop'\n\
                    password = { env = 'SOONER_NO_SUCH_VARIABLE' }\ntables = ['orders']\n\
                    [lake]\nfreshness = '1 parsec'\n[kafak]\n";
        let found = problems(text).join("\n");
        for expected in [
            "name: is missing",
            "nmae: is not known; did you mean 'name'?",
            "memory: 'lots'",
            "source.password: the environment variable SOONER_NO_SUCH_VARIABLE is not set",
            "source.tables[0]: 'orders'",
            "lake.url: is missing",
            "lake.freshness: '1 parsec'",
            "kafak: is not known",
        ] {
            assert!(found.contains(expected), "'{expected}' not in:\n{found}");
        }
    }

    #[test]
    fn a_password_in_the_file_is_refused_and_not_shown() {
        let text = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\npassword = 'hunter2'\n[lake]\nurl = '/l'";
        let found = problems(text).join("\n");
        assert!(found.contains("source.password: secrets do not belong in the file"), "{found}");
        assert!(!found.contains("hunter2"));
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_shown() {
        for url in ["postgres://me:hunter2@db/s", "postgres://me:hunter2@db/s?sslmode=never", "mysql://me:hunter2@db/s"]
        {
            let found = problems(&format!("name = 's'\n[source]\nurl = '{url}'\n[lake]\nurl = '/l'")).join("\n");
            assert!(found.contains("source.url: "), "{found}");
            assert!(!found.contains("hunter2"), "{found}");
        }
    }
}
