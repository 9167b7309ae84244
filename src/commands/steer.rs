//! Commands that ask something of a pipeline, whether it runs or not: `resume`, `copy`, `cancel`, `pause`.

use serde_json::{Value, json};
use sooner_api::{CopyRequest, Side};
use sooner_postgres::Client;
use sooner_postgres::chunk::check_condition;
use sooner_postgres::client::Mode;
use sooner_schemas::TableName;

use super::status::is_running;
use super::{parse_name, print};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;
use crate::control::{NamedSide, Requests, sides};
use crate::status::{Status, load};

/// The sides that a person means; an error for a side of a pipeline that has none.
fn meant(config: &Config, side: Option<NamedSide>) -> anyhow::Result<Vec<Side>> {
    anyhow::ensure!(
        side.is_none() || config.kafka.is_some(),
        "without Kafka source and sink rest and go on together. To do: leave --side out"
    );
    Ok(sides(side))
}

/// Prints what was done, as one JSON object or as text.
fn tell(as_json: bool, told: &Value, text: &str) {
    print(&if as_json { format!("{told}\n") } else { text.to_owned() });
}

/// Runs `sooner pause [--side SIDE]`: the pipeline, or one side of it, rests until `sooner resume`.
pub async fn pause(config: &Config, side: Option<NamedSide>, as_json: bool) -> anyhow::Result<()> {
    let act = Act::new("pause", json!({"side": side}));
    recorded(config, act, async { pause_now(config, side, as_json).map(|()| ((), Value::Null)) }).await
}

fn pause_now(config: &Config, side: Option<NamedSide>, as_json: bool) -> anyhow::Result<()> {
    let (requests, sides) = (Requests::new(&config.state_dir), meant(config, side)?);
    for side in &sides {
        requests.pause(*side)?;
    }
    let status = load(&config.state_dir)?;
    let mut text = format!("the pipeline '{}' rests from {} on, until `sooner resume`\n", config.name, when(&status));
    if config.source.is_some() && side != Some(NamedSide::Sink) {
        text.push_str(&kept(&status));
    }
    tell(as_json, &json!({"pipeline": config.name, "paused": sides, "when": when(&status)}), &text);
    Ok(())
}

/// What Postgres keeps while nobody reads the slot.
fn kept(status: &Option<Status>) -> String {
    let now = status.as_ref().and_then(|status| status.slot.as_ref());
    let now = now.map(|slot| format!(": {} by now", bytesize::ByteSize(slot.retained_bytes))).unwrap_or_default();
    format!("meanwhile its slot makes Postgres keep all log that is written{now}; max_retained_wal bounds that\n")
}

/// Runs `sooner resume [--side SIDE]`: the pipeline goes on where it was paused.
pub async fn resume_all(config: &Config, side: Option<NamedSide>, as_json: bool) -> anyhow::Result<()> {
    let act = Act::new("resume", json!({"side": side}));
    let resuming = async {
        let was_paused = resume_now(config, side, as_json)?;
        Ok(((), json!({"was_paused": was_paused})))
    };
    recorded(config, act, resuming).await
}

fn resume_now(config: &Config, side: Option<NamedSide>, as_json: bool) -> anyhow::Result<bool> {
    let requests = Requests::new(&config.state_dir);
    let mut was_paused = false;
    for side in meant(config, side)? {
        was_paused |= requests.unpause(side)?;
    }
    let when = when(&load(&config.state_dir)?);
    let text = match was_paused {
        true => format!("the pipeline '{}' goes on {when}\n", config.name),
        false => format!("the pipeline '{}' was not paused; to resume a table, name it\n", config.name),
    };
    tell(as_json, &json!({"pipeline": config.name, "was_paused": was_paused, "when": when}), &text);
    Ok(was_paused)
}

/// Runs `sooner resume TABLE`: requests that the pipeline copy a table again, now or when it starts. A table that the
/// pipeline does not know is an error.
pub async fn resume(config: &Config, table: &str, as_json: bool) -> anyhow::Result<()> {
    let table = parse_name(table)?;
    let act = Act::new("resume", json!({})).of_table(&table);
    recorded(config, act, async { ask(config, CopyRequest { table, condition: None }, as_json) }).await
}

/// Runs `sooner copy TABLE [--where CONDITION]`: requests that the pipeline copy a table again, or those of its rows
/// that fulfil an SQL condition. One that Postgres does not take is an error.
pub async fn copy(config: &Config, table: &str, condition: Option<String>, as_json: bool) -> anyhow::Result<()> {
    let table = parse_name(table)?;
    let act = Act::new("copy", json!({"where": condition})).of_table(&table);
    recorded(config, act, copy_now(config, table, condition, as_json)).await
}

async fn copy_now(
    config: &Config,
    table: TableName,
    condition: Option<String>,
    as_json: bool,
) -> anyhow::Result<((), Value)> {
    let source = config.source()?;
    anyhow::ensure!(
        condition.is_none() || config.tables.ways(&table).append.is_none(),
        "rows of {table} are only added (write = [\"append\"]): a copy of some would add them twice. To do: copy the \
         whole table, without --where"
    );
    // Where tables keep their names, only the pipeline knows what this one is called by now; it refuses what is wrong.
    if let Some(condition) = condition.as_ref().filter(|_| source.kept_names.is_none()) {
        let mut client = Client::connect(&source.connect, Mode::Sql).await?;
        check_condition(&mut client, &table, condition).await?;
    }
    ask(config, CopyRequest { table, condition }, as_json)
}

/// Runs `sooner cancel TABLE`: withdraws what was asked of the pipeline for a table and has not begun.
pub async fn cancel(config: &Config, table: &str, as_json: bool) -> anyhow::Result<()> {
    let table = parse_name(table)?;
    let act = Act::new("cancel", json!({})).of_table(&table);
    recorded(config, act, async { cancel_now(config, &table, as_json) }).await
}

fn cancel_now(config: &Config, table: &TableName, as_json: bool) -> anyhow::Result<((), Value)> {
    let (withdrawn, begun) = Requests::new(&config.state_dir).withdraw(table);
    anyhow::ensure!(
        withdrawn > 0,
        "nothing that was asked for {table} still waits, and {begun} request(s) have begun: a copy that has begun goes on, \
         since the table would lack rows without it. To do: nothing"
    );
    let told = json!({"table": table, "withdrawn": withdrawn});
    tell(as_json, &told, &format!("withdrew {withdrawn} request(s) for {table}\n"));
    Ok(((), json!({"withdrawn": withdrawn})))
}

fn ask(config: &Config, request: CopyRequest, as_json: bool) -> anyhow::Result<((), Value)> {
    let name = &request.table;
    let status = load(&config.state_dir)?;
    // One that has just started does not know its tables yet.
    if let Some(status) = status.as_ref().filter(|status| !status.tables.is_empty())
        && !status.tables.contains_key(name)
    {
        let known: Vec<_> = status.tables.keys().map(ToString::to_string).collect();
        anyhow::bail!("there is no table '{name}' in this pipeline. Its tables: {}", known.join(", "));
    }
    Requests::new(&config.state_dir).ask(&request)?;
    let what = match request.condition {
        None => format!("copy {name} again"),
        Some(_) => format!("copy those rows of {name} again"),
    };
    let is_paused = sides(None).into_iter().any(|side| Requests::new(&config.state_dir).is_paused(side));
    let when = if is_paused { "once it is resumed" } else { when(&status) };
    let text = format!("the pipeline '{}' will {what} {when}; follow it with `sooner status --watch`\n", config.name);
    let told = json!({"pipeline": config.name, "table": name, "where": request.condition, "when": when});
    tell(as_json, &told, &text);
    Ok(((), Value::Null))
}

/// When the pipeline hears of it.
fn when(status: &Option<Status>) -> &'static str {
    if status.as_ref().is_some_and(is_running) { "now" } else { "when it starts" }
}
