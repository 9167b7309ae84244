//! `sooner audit`: what the pipeline did and who asked for what, and whether that is still what was written.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use sooner_delta::audit::chain::{ChainedEntry, Head};
use sooner_delta::audit::check::{Checked, Checker};
use sooner_delta::audit::keys::PublicKey;

use super::print;
use crate::audit::trail::table_of;
use crate::config::Config;
use crate::wanted_entries::Wanted;

/// What is done with the audit trail.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Action {
    /// Lists entries, the oldest first.
    List {
        /// Only those of a kind, such as `parked` or `cut_created`.
        #[arg(long)]
        kind: Option<String>,
        /// Only those of one table: schema.table
        #[arg(long)]
        table: Option<String>,
        /// Only those of the last while, such as 1h or 3days.
        #[arg(long, value_parser = humantime::parse_duration)]
        since: Option<Duration>,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
    /// Checks every entry: its hash, its place, and the signatures. Exits with 1 if one is not as it was written.
    Verify {
        /// File of the public key that signatures are checked with (PEM), several times after a change of keys; that of
        /// signing_key unless named.
        #[arg(long)]
        key: Vec<PathBuf>,
        /// What `sooner audit head` printed once: the entry must be there still, so that nothing was cut off.
        #[arg(long, value_name = "SEQUENCE:HASH")]
        head: Option<Head>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints the end of the chain as SEQUENCE:HASH. Kept elsewhere, it shows later that nothing was cut off.
    Head {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Runs `sooner audit …`; false if the trail is not as it was written.
pub async fn run(config: &Config, action: Action) -> anyhow::Result<bool> {
    match action {
        Action::List { kind, table, since, json } => list(config, Wanted::new(kind, table, since), json).await?,
        Action::Verify { key, head, json } => return verify(config, &key, head, json).await,
        Action::Head { json } => {
            let head = table_of(config)?.head().await?;
            let head = head.ok_or_else(|| no_trail(table_of(config).map(|trail| trail.url().to_owned())))?;
            match json {
                true => print(&format!("{}\n", json!({"sequence": head.sequence, "hash": head.hash}))),
                false => print(&format!("{head}\n")),
            }
        }
    }
    Ok(true)
}

fn no_trail(url: Result<String, sooner_api::Error>) -> anyhow::Error {
    let url = url.unwrap_or_default();
    anyhow::anyhow!("there is no audit trail at {url}. To do: set [audit], and start the pipeline")
}

async fn list(config: &Config, wanted: Wanted, json: bool) -> anyhow::Result<()> {
    let mut found = Vec::new();
    table_of(config)?.scan(|chained| found.extend(Some(chained).filter(|chained| wanted.has(chained)))).await?;
    found.sort_by_key(|chained| chained.sequence);
    if found.is_empty() && !json {
        print("no such entry was recorded\n");
    }
    for chained in &found {
        print(&if json { format!("{}\n", shown(chained)) } else { line(chained) });
    }
    Ok(())
}

/// An entry as JSON; what is recorded, as it was written.
fn shown(chained: &ChainedEntry) -> Value {
    let ChainedEntry { sequence, pipeline, entry, previous, hash, signature, key_id } = chained;
    json!({
        "sequence": sequence,
        "at_micros": entry.at_micros,
        "at": instant(entry.at_micros),
        "pipeline": pipeline,
        "side": entry.side,
        "kind": entry.kind,
        "table": entry.table,
        "actor": entry.actor,
        "entry": entry.entry,
        "previous": previous,
        "hash": hash,
        "signature": signature,
        "key_id": key_id,
    })
}

fn line(chained: &ChainedEntry) -> String {
    let entry = &chained.entry;
    let table = entry.table.as_ref().map(|table| format!("{table}: ")).unwrap_or_default();
    let at = instant(entry.at_micros);
    format!("{:>6}  {at}  {:20}  {table}{}  ({})\n", chained.sequence, entry.kind, entry.entry, entry.actor)
}

fn instant(micros: i64) -> String {
    let since = Duration::from_micros(u64::try_from(micros).unwrap_or_default());
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + since).to_string()
}

/// The public keys of these files; without any, that of the configuration, if it has one.
fn keys_of(config: &Config, files: &[PathBuf]) -> anyhow::Result<Vec<PublicKey>> {
    let own = config.audit.as_ref().and_then(|audit| audit.signing_key.as_ref());
    if files.is_empty() {
        return Ok(own.map(|key| key.public()).into_iter().collect());
    }
    let read = files.iter().map(|file| {
        let text = std::fs::read_to_string(file)
            .map_err(|error| anyhow::anyhow!("cannot read the key {}: {error}. To do: see --key", file.display()))?;
        PublicKey::from_pem(&text).map_err(|why| anyhow::anyhow!("cannot use the key {}: {why}", file.display()))
    });
    read.collect()
}

/// The end of the chain and the last wanted entries, the newest first; null without `[audit]`.
pub async fn newest(config: &Config, wanted: &Wanted, count: usize) -> anyhow::Result<Value> {
    if config.audit.is_none() {
        return Ok(Value::Null);
    }
    let trail = table_of(config)?;
    let mut entries = trail.newest(count.max(1)).await?;
    let head = entries.first().map(|last| Head { sequence: last.sequence, hash: last.hash.clone() }.to_string());
    if *wanted != Wanted::default() {
        entries = trail.newest_that(count, &|chained| wanted.has(chained)).await?;
    }
    let entries: Vec<_> = entries.iter().take(count).map(shown).collect();
    let key = config.audit.as_ref().and_then(|audit| audit.signing_key.as_ref()).map(|key| key.public().id());
    Ok(json!({"location": trail.url(), "head": head, "signing_key_id": key, "entries": entries}))
}

/// What a check of the whole trail finds; null without `[audit]`.
pub async fn checked(config: &Config) -> anyhow::Result<Value> {
    match config.audit.is_some() {
        true => verified(config, None).await.map(|(_, found)| found),
        false => Ok(Value::Null),
    }
}

/// Whether the whole trail is as it was written, and what a check of it finds. Signatures are checked with the
/// configured key.
pub async fn verified(config: &Config, head: Option<&Head>) -> anyhow::Result<(bool, Value)> {
    let checked = check(config, &[], head).await?;
    Ok((checked.is_good(), serde_json::to_value(checked)?))
}

async fn check(config: &Config, files: &[PathBuf], head: Option<&Head>) -> anyhow::Result<Checked> {
    let (trail, keys) = (table_of(config)?, keys_of(config, files)?);
    let mut checker = Checker::new(&config.name, &keys);
    let exists = trail.scan(|chained| checker.take(&chained)).await?;
    if !exists && head.is_none() {
        return Err(no_trail(Ok(trail.url().to_owned())));
    }
    Ok(checker.finish(head))
}

async fn verify(config: &Config, files: &[PathBuf], head: Option<Head>, json: bool) -> anyhow::Result<bool> {
    let checked = check(config, files, head.as_ref()).await?;
    print(&if json {
        format!("{}\n", serde_json::to_string_pretty(&checked)?)
    } else {
        text_of(&config.name, &checked)
    });
    Ok(checked.is_good())
}

fn text_of(pipeline: &str, checked: &Checked) -> String {
    let mut text = String::new();
    for finding in &checked.findings {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{finding}");
    }
    let (entries, count) = (checked.entries, checked.count);
    if count > 0 {
        let _ = writeln!(
            text,
            "the audit trail of '{pipeline}' is not as it was written: {count} fault(s), {entries} entries"
        );
        return text;
    }
    let signed = match checked.signatures {
        0 => "none is signed: who may write the lake could write all of them anew, unless their head is kept elsewhere"
            .to_owned(),
        signatures => format!("{signatures} signature(s) are right"),
    };
    let _ = writeln!(text, "the audit trail of '{pipeline}' is as it was written: {entries} entries; {signed}");
    if let Some(head) = &checked.head {
        let _ = writeln!(text, "head {head}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trail_that_is_not_signed_is_told_so() {
        let good = Checked { entries: 3, head: Some("3:ab".to_owned()), ..Checked::default() };
        let text = text_of("shop", &good);
        assert!(text.contains("3 entries; none is signed") && text.contains("head 3:ab"), "{text}");
        let text = text_of("shop", &Checked { signatures: 2, ..good });
        assert!(text.contains("2 signature(s) are right"), "{text}");
    }
}
