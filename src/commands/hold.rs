//! `sooner hold`: legal holds, which keep tables, cuts and subjects from whatever deletes.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sooner_delta::cuts::check_cut_name;
use sooner_delta::erasure::subject::Subject;
use sooner_delta::legal_holds::{HashedSubject, LegalHold, LegalHolds};

use super::erasing::holdable::check_holdable;
use super::upkeep::open_lake;
use super::{parse_name, print};
use crate::audit::trail::{Act, recorded};
use crate::config::Config;

/// What is to be done about legal holds.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Makes a hold: nothing of its tables is deleted, its cut cannot be dropped, and its subject cannot be erased,
    /// until it ends or is released.
    Add {
        /// Its name: letters, digits, '-', '_' and '.'
        #[arg(value_parser = parse_hold_name)]
        name: String,
        /// A table of which nothing is deleted, as schema.table; may be given several times.
        #[arg(long = "table", value_name = "TABLE")]
        tables: Vec<String>,
        /// A cut that is kept, also beyond its own end.
        #[arg(long)]
        cut: Option<String>,
        /// Whose rows are not erased: COLUMN=VALUE or SCHEMA.TABLE.COLUMN=VALUE. Only a hash of the value is stored.
        #[arg(long)]
        subject: Option<Subject>,
        /// When it ends, as a UTC time such as 2030-12-31T00:00:00Z; when it is released if left out.
        #[arg(long, value_parser = humantime::parse_rfc3339_weak)]
        until: Option<SystemTime>,
        /// Why, such as a case's number.
        #[arg(long)]
        reason: String,
        /// Print the hold as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Lists the holds, also those that have ended.
    List {
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Releases a hold. What only it kept is deleted by its tables' upkeep.
    Release {
        /// Its name.
        name: String,
        /// Why.
        #[arg(long)]
        reason: String,
        /// Print the hold as JSON.
        #[arg(long)]
        json: bool,
    },
}

fn parse_hold_name(name: &str) -> Result<String, String> {
    check_cut_name(name).map(|()| name.to_owned()).map_err(|why| why.replace("a cut", "a hold"))
}

/// Runs `sooner hold …`.
pub async fn run(config: &Config, action: Action) -> anyhow::Result<()> {
    match action {
        Action::Add { name, tables, cut, subject, until, reason, json } => {
            anyhow::ensure!(
                !tables.is_empty() || cut.is_some() || subject.is_some(),
                "the hold '{name}' would keep nothing. To do: name a --table, a --cut or a --subject"
            );
            let since = until.map(|until| until.duration_since(UNIX_EPOCH)).transpose()?;
            let hold = LegalHold {
                name,
                reason,
                made_millis: millis(SystemTime::now()),
                until_millis: since.map(|since| i64::try_from(since.as_millis())).transpose()?,
                tables: tables.iter().map(|table| parse_name(table)).collect::<anyhow::Result<_>>()?,
                cut,
                subject: subject.as_ref().map(HashedSubject::of),
                released: None,
            };
            let act = Act::new("hold_added", json!(hold));
            recorded(config, act, add(config, &hold, json)).await
        }
        Action::List { json } => list(config, json).await,
        Action::Release { name, reason, json } => {
            let act = Act::new("hold_released", json!({"name": name, "reason": reason}));
            recorded(config, act, release(config, &name, &reason, json)).await
        }
    }
}

fn millis(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Makes the hold that is given, as a running process was asked to, and records it.
pub async fn add_asked(config: &Config, hold: Value) -> anyhow::Result<Value> {
    let hold: LegalHold = serde_json::from_value(hold)?;
    let lake = open_lake(config)?;
    let act = Act::new("hold_added", json!(hold)).through_http();
    let adding = async {
        if let Some(subject) = &hold.subject {
            check_holdable(config, &lake, subject).await?;
        }
        Ok((LegalHolds::of(&lake).add(&hold).await?, Value::Null))
    };
    recorded(config, act, adding).await?;
    Ok(Value::Null)
}

/// Releases the hold of a `name` for a `reason`, as a running process was asked to, and records it.
pub async fn release_asked(config: &Config, asked: Value) -> anyhow::Result<Value> {
    let text = |field: &str| asked[field].as_str().unwrap_or_default().to_owned();
    let (name, reason, lake) = (text("name"), text("reason"), open_lake(config)?);
    let act = Act::new("hold_released", asked).through_http();
    let releasing = async { Ok((LegalHolds::of(&lake).release(&name, &reason).await?, Value::Null)) };
    let released = recorded(config, act, releasing).await?;
    anyhow::ensure!(released.is_some(), "there is no hold '{name}'. To do: see /api/v1/holds");
    Ok(Value::Null)
}

async fn add(config: &Config, hold: &LegalHold, json: bool) -> anyhow::Result<((), Value)> {
    let lake = open_lake(config)?;
    if let Some(subject) = &hold.subject {
        check_holdable(config, &lake, subject).await?;
    }
    LegalHolds::of(&lake).add(hold).await?;
    match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(hold)?)),
        false => print(&format!("the hold '{}' keeps {}, {}\n", hold.name, kept(hold), end(hold))),
    }
    Ok(((), Value::Null))
}

async fn release(config: &Config, name: &str, reason: &str, json: bool) -> anyhow::Result<((), Value)> {
    let released = LegalHolds::of(&open_lake(config)?).release(name, reason).await?;
    let released =
        released.ok_or_else(|| anyhow::anyhow!("there is no hold '{name}'. To do: see `sooner hold list`"))?;
    match json {
        true => print(&format!("{}\n", serde_json::to_string_pretty(&released)?)),
        false => print(&format!("released the hold '{name}'\n")),
    }
    Ok(((), Value::Null))
}

async fn list(config: &Config, json: bool) -> anyhow::Result<()> {
    let holds = LegalHolds::of(&open_lake(config)?).all().await?;
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&holds)?));
        return Ok(());
    }
    let mut text = format!("{:<24} {:<32} {:<40} reason\n", "HOLD", "ENDS", "KEEPS");
    for hold in &holds {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:<24} {:<32} {:<40} {}", hold.name, end(hold), kept(hold), hold.reason);
    }
    print(&text);
    Ok(())
}

/// What a hold keeps, for a person.
pub fn kept(hold: &LegalHold) -> String {
    let tables = hold.tables.iter().map(|table| format!("table {table}"));
    let cut = hold.cut.iter().map(|cut| format!("cut '{cut}'"));
    let subject = hold.subject.iter().map(|subject| match &subject.table {
        Some(table) => format!("a subject by {table}.{}", subject.column),
        None => format!("a subject by {}", subject.column),
    });
    tables.chain(cut).chain(subject).collect::<Vec<_>>().join(", ")
}

/// When a hold ends, for a person.
pub fn end(hold: &LegalHold) -> String {
    match (&hold.released, hold.until_millis) {
        (Some(released), _) => format!("released {}", instant(released.at_millis)),
        (None, Some(until)) => format!("until {}", instant(until)),
        (None, None) => "until it is released".to_owned(),
    }
}

/// A moment in milliseconds since 1970, for a person.
pub fn instant(millis: i64) -> String {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}
