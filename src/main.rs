//! The command line of `sooner`: parses arguments, sets up logging, runs a command and returns its exit code.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use sooner::bars::CopyBars;
use sooner::commands;
use sooner::commands::events::Shown;
use sooner::commands::run::{Sides, run};
use sooner::commands::steer;
use sooner::commands::wait::{Until, parse_until};
use sooner::config::Config;
use sooner::control::NamedSide;
use tracing_subscriber::EnvFilter;

/// Exit code of `sooner wait` for a table that is not complete, of `sooner cut create` for a cut that is not made, of
/// `sooner trace` for a row that is not up to date, and of `sooner erase` for what is left.
const NOT_COMPLETE: u8 = 3;
/// Exit code of `sooner plan --detailed-exitcode` where something would be done, as Terraform has it.
const WOULD_CHANGE: u8 = 2;

/// Postgres changes into Delta Lake tables, exactly once.
#[derive(Parser)]
#[command(version = version(), about)]
struct Arguments {
    /// Path of the configuration file.
    #[arg(long, short, global = true, default_value = "sooner.toml", env = "SOONER_CONFIG")]
    config: PathBuf,
    /// Format of log lines; by default text on a terminal, JSON elsewhere.
    #[arg(long, global = true, value_enum, env = "SOONER_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Inspects a database and writes a commented configuration for it.
    Init {
        /// URL of the database: postgres://user@host/database
        #[arg(long)]
        from: String,
        /// Location of the lake: a folder or s3://bucket/prefix
        #[arg(long)]
        to: String,
        /// Path of the file to write.
        #[arg(long, short, default_value = "sooner.toml")]
        output: PathBuf,
    },
    /// Checks every precondition, and reports a remedy for each that fails.
    Check {
        /// Print the findings as JSON.
        #[arg(long)]
        json: bool,
    },
    /// With Kafka: runs only the source's side, from the database to topics, until SIGTERM.
    Source {
        /// Forget the pipeline's position, and write all tables to their topics again.
        #[arg(long)]
        recopy: bool,
    },
    /// With Kafka: runs only the sink's side, from topics to the lake, until SIGTERM.
    Sink,
    /// Copies the tables, then follows every change, until SIGTERM.
    Run {
        /// Forget the pipeline's position, and copy all tables again.
        #[arg(long)]
        recopy: bool,
    },
    /// Shows each table's phase, lag, version and watermark.
    Status {
        /// Print the status as JSON.
        #[arg(long)]
        json: bool,
        /// Print the status again every second.
        #[arg(long, short)]
        watch: bool,
    },
    /// Shows the same, live, with rates: as `status --watch`.
    Top,
    /// Shows what the configuration would do, compared with what runs and what is stored: tables that are copied,
    /// copied again or followed no longer, settings that need a restart. Changes nothing.
    Plan {
        /// Print the plan as JSON.
        #[arg(long)]
        json: bool,
        /// Exit with 0 if nothing would be done, with 2 if something would, and with 1 if it cannot be told.
        #[arg(long)]
        detailed_exitcode: bool,
    },
    /// Shows what happened to the pipeline and its tables, and what was done about it: changes of schemas, copies,
    /// tables that were parked, interruptions.
    Events {
        /// Only those of one table: schema.table
        #[arg(long)]
        table: Option<String>,
        /// Only those of the last while, such as 1h or 3days.
        #[arg(long, value_parser = humantime::parse_duration)]
        since: Option<Duration>,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
        /// Go on with what happens from now on.
        #[arg(long, short)]
        follow: bool,
    },
    /// Says whether the pipeline runs and moves, and what is not well. Exits with 0 if it does, and with 1 if not.
    Health,
    /// Has the pipeline rest until `sooner resume`, also over restarts. The slot makes Postgres keep log meanwhile.
    Pause {
        /// Only this side.
        #[arg(long, value_enum)]
        side: Option<NamedSide>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Resumes a parked table: it is copied again, then follows the stream. Without a table: the pipeline goes on where
    /// it was paused.
    Resume {
        /// Name of the table: schema.table
        table: Option<String>,
        /// Only this side of a pipeline that was paused.
        #[arg(long, value_enum, conflicts_with = "table")]
        side: Option<NamedSide>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Withdraws what was asked for a table by `resume` or `copy`, as long as it has not begun.
    Cancel {
        /// Name of the table: schema.table
        table: String,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Copies a table again, or some of its rows, while it and all others are followed.
    Copy {
        /// Name of the table: schema.table
        table: String,
        /// SQL condition on its rows: only those that fulfil it are copied, over those in the lake. Rows that the
        /// source no longer has stay there; a copy of the whole table removes them.
        #[arg(long = "where", value_name = "CONDITION")]
        condition: Option<String>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Writes tables of the lake in as few files as possible, without the rows that are gone. The pipeline does so by
    /// itself, bit by bit; this may run beside it.
    Optimize(commands::upkeep::Optimizing),
    /// Deletes the files of tables of the lake that no version needs any more, and of histories what they keep no
    /// longer (`keep_history`). The pipeline does so by itself; this may run beside it.
    Vacuum(commands::upkeep::Vacuuming),
    /// Waits until a table of the lake is complete up to a moment or a position of the log. Exits with 0 once it
    /// is, and with 3 if it is not in time, or has stopped.
    Wait {
        /// Name of the table: schema.table
        table: String,
        /// now, a UTC time such as 2026-01-31T22:00:00Z, or an LSN such as 0/16B3748
        #[arg(long, default_value = "now", value_parser = parse_until)]
        until: Until,
        /// How long at most, such as 10m.
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<Duration>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Shows many pipelines on one page, by what their listeners say, until SIGTERM. The file of --config has an [http]
    /// of its own, and a [[pipeline]] with url, and if need be token and page, for each.
    Fleet,
    /// Compares tables of the lake with the source, row by row. Exits with 0 if all are equal, and with 1 if one
    /// differs or could not be verified.
    Verify {
        #[command(flatten)]
        asked: commands::verify::Asked,
    },
    /// Makes, shows and drops cuts: states of all tables as one transaction saw them, which stay readable.
    Cut {
        #[command(subcommand)]
        action: commands::cut::Action,
    },
    /// Removes all rows of a subject from the lake: from all files of all versions, histories and logs. Exits with 3 if
    /// something is left, such as what a cut holds.
    Erase(commands::erase::Asked),
    /// Makes, lists and releases legal holds, which keep tables, cuts and subjects.
    #[command(subcommand)]
    Hold(commands::hold::Action),
    /// Lists the pipeline's audit trail, and checks it with nothing but the lake's files. `verify` exits with 1 if an
    /// entry was changed, is missing or does not follow the one before.
    Audit {
        #[command(subcommand)]
        action: commands::audit::Action,
    },
    /// Lists and shows reports, and makes one now.
    Report {
        #[command(subcommand)]
        action: commands::report::Action,
    },
    /// Makes the runs of a report for times that have passed, from the histories of its tables. Runs that are complete
    /// stay as they are, so it may be broken off and repeated. Exits with 1 if one could not be made.
    Backfill {
        #[command(flatten)]
        asked: commands::backfill::Asked,
    },
    /// Writes the events of a table within a range again, in commit order; refuses a range that is not all known.
    Replay(commands::replay::Asked),
    /// Prints a query of a table's history, to paste into DuckDB or Spark: each state of each row, with the time for
    /// which it was so; or the table as of a moment. With --verify, checks the chain of a history with nothing but its
    /// files, and exits with 1 if a row was changed, is missing, or is there twice.
    History(commands::history::Asked),
    /// Lists, shows, replays and drops messages that could not be read, and went to dead_letter_topic of [kafka].
    DeadLetters {
        /// What to do with them.
        #[command(subcommand)]
        verb: commands::dead_letters::Verb,
    },
    /// Why is a row old? Follows it from Postgres by stream, topic and table version to its file. Exits with 0 if it is
    /// up to date, and with 3 if not.
    Trace(commands::trace::TraceArguments),
    /// Prints the topics of a pipeline as it makes them, for those who make them another way; or does what its
    /// subcommand says.
    Topics {
        #[command(subcommand)]
        command: Option<commands::topics::TopicsCommand>,
        /// Form.
        #[arg(long = "as", value_enum, default_value = "lines")]
        form: commands::topics::Form,
    },
    /// Prints what the configuration needs to be allowed: SQL grants, access control lists of Kafka, a policy for S3.
    Acls {
        /// Only one of these.
        #[arg(long = "of", value_enum)]
        only: Option<commands::acls::Of>,
        /// Who connects to Kafka; the user of [kafka.sasl] unless named.
        #[arg(long)]
        principal: Option<String>,
        /// ARN of the cluster that brokers of Amazon MSK belong to; any of the region unless named.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Prints the JSON Schema of the configuration, for editors.
    Schema,
    /// Prints completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Prints the manual page.
    Man,
    /// Removes the pipeline's slot, and its publication if sooner created it, from the database.
    Teardown {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    sooner::allocator::limit();
    let arguments = Arguments::parse();
    let bars = start_logging(arguments.log_format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let no = match arguments.command {
        Command::Wait { .. } | Command::Cut { .. } | Command::Trace(_) | Command::Erase(_) => {
            ExitCode::from(NOT_COMPLETE)
        }
        Command::Plan { .. } => ExitCode::from(WOULD_CHANGE),
        _ => ExitCode::FAILURE,
    };
    match runtime.block_on(execute(arguments, bars)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => no,
        Err(error) => fail(&error),
    }
}

async fn execute(arguments: Arguments, bars: Option<CopyBars>) -> anyhow::Result<bool> {
    if print_about_itself(&arguments.command)? {
        return Ok(true);
    }
    if let Command::Init { from, to, output } = &arguments.command {
        return commands::init::run(from, to, output).await.map(|()| true);
    }
    if let Command::Fleet = &arguments.command {
        return commands::fleet::run(&arguments.config).await.map(|()| true);
    }
    let config = Config::load(&arguments.config)?;
    let path = &arguments.config;
    match arguments.command {
        Command::Init { .. } | Command::Fleet => Ok(true),
        Command::Schema | Command::Completions { .. } | Command::Man => Ok(true),
        Command::Check { json } => commands::check(&config, json).await,
        Command::Run { recopy } => run(config, path, Sides::Both, recopy, bars).await.map(|()| true),
        Command::Source { recopy } => run(config, path, Sides::Source, recopy, bars).await.map(|()| true),
        Command::Sink => run(config, path, Sides::Sink, false, None).await.map(|()| true),
        Command::Status { json, watch } => commands::status::run(&config, json, watch).await.map(|()| true),
        Command::Plan { json, detailed_exitcode } => {
            commands::plan::run(&config, path, json).await.map(|changes| !(changes && detailed_exitcode))
        }
        Command::Top => commands::status::run(&config, false, true).await.map(|()| true),
        Command::Events { table, since, json, follow } => {
            commands::events::run(&config, Shown { table, since, json, follow }).await.map(|()| true)
        }
        Command::Health => commands::health::run(&config),
        Command::Pause { side, json } => steer::pause(&config, side, json).await.map(|()| true),
        Command::Resume { table: None, side, json } => steer::resume_all(&config, side, json).await.map(|()| true),
        Command::Resume { table: Some(table), json, .. } => steer::resume(&config, &table, json).await.map(|()| true),
        Command::Cancel { table, json } => steer::cancel(&config, &table, json).await.map(|()| true),
        Command::Copy { table, condition, json } => steer::copy(&config, &table, condition, json).await.map(|()| true),
        Command::Optimize(asked) => commands::upkeep::run_optimize(&config, &asked).await.map(|()| true),
        Command::Vacuum(asked) => commands::upkeep::run_vacuum(&config, &asked).await.map(|()| true),
        Command::Wait { table, until, timeout, json } => {
            commands::wait::run(&config, &table, until, timeout, json).await
        }
        Command::Verify { asked } => commands::verify::run(&config, asked).await,
        Command::Cut { action } => commands::cut::run(&config, action).await,
        Command::Erase(asked) => commands::erase::run(&config, asked).await,
        Command::Hold(action) => commands::hold::run(&config, action).await.map(|()| true),
        Command::Audit { action } => commands::audit::run(&config, action).await,
        Command::Report { action } => commands::report::run(&config, action).await.map(|()| true),
        Command::Backfill { asked } => commands::backfill::run(&config, asked).await,
        Command::History(asked) => commands::history::run(&config, asked).await,
        Command::Replay(asked) => commands::replay::run(&config, asked).await.map(|()| true),
        Command::DeadLetters { verb } => commands::dead_letters::run(&config, verb).await,
        Command::Trace(arguments) => commands::trace::run(&config, arguments).await,
        Command::Acls { only, principal, cluster } => {
            commands::acls::run(&config, only, principal.as_deref(), cluster.as_deref()).map(|()| true)
        }
        Command::Topics { command, form } => commands::topics::run(&config, command, form).await.map(|()| true),
        Command::Teardown { json } => commands::teardown::run(&config, json).await.map(|()| true),
    }
}

/// Prints what needs no configuration; false for any other command.
fn print_about_itself(command: &Command) -> anyhow::Result<bool> {
    let mut out = Vec::new();
    match command {
        Command::Schema => out.extend_from_slice(sooner::config::SCHEMA.as_bytes()),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "sooner", &mut out);
        }
        Command::Man => clap_mangen::Man::new(Arguments::command()).render(&mut out)?,
        _ => return Ok(false),
    }
    commands::print(&String::from_utf8_lossy(&out));
    Ok(true)
}

/// Version of the program, with the commit that it is built from, and that of the Kafka client.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let client = sooner_kafka::client_version();
        format!("{} ({}, librdkafka {client})", env!("CARGO_PKG_VERSION"), env!("SOONER_COMMIT"))
    })
}

/// Starts logging to standard error; where that is a terminal that shows text, also returns bars for below the log.
fn start_logging(format: Option<LogFormat>) -> Option<CopyBars> {
    let filter = EnvFilter::try_from_env("SOONER_LOG").unwrap_or_else(|_| EnvFilter::new("warn,sooner=info"));
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    match format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json }) {
        LogFormat::Text if terminal => {
            let bars = CopyBars::new();
            builder.with_target(false).compact().with_writer(bars.writer()).init();
            return Some(bars);
        }
        LogFormat::Text => {
            builder.with_ansi(false).with_target(false).compact().with_writer(std::io::stderr).init();
        }
        LogFormat::Json => builder.json().flatten_event(true).with_writer(std::io::stderr).init(),
    }
    None
}

#[allow(clippy::print_stderr, reason = "the last word of a failed command")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("sooner: {error:#}");
    ExitCode::FAILURE
}
