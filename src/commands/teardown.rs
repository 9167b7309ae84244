//! `sooner teardown`: removes what the pipeline has made in the database.

use serde_json::{Value, json};
use sooner_postgres::Client;
use sooner_postgres::client::Mode;
use sooner_postgres::teardown::{Removal, drop_publication, drop_slot};

use super::print;
use crate::audit::trail::{Act, recorded};
use crate::commands::status::is_running;
use crate::config::Config;
use crate::status;

/// Drops the pipeline's slot, and its publication if sooner created it. The lake, topics and progress stay.
pub async fn run(config: &Config, as_json: bool) -> anyhow::Result<()> {
    recorded(config, Act::new("teardown", json!({})), tear_down(config, as_json)).await
}

async fn tear_down(config: &Config, as_json: bool) -> anyhow::Result<((), Value)> {
    let source = config.source()?;
    if status::load(&config.state_dir)?.is_some_and(|status| is_running(&status)) {
        anyhow::bail!("the pipeline '{}' is running. To do: stop it, and try again.", config.name);
    }
    let mut client = Client::connect(&source.connect, Mode::Sql).await?;
    let slot = drop_slot(&mut client, &source.slot).await?;
    if !as_json {
        print(&said("slot", &source.slot, slot));
    }
    let publication = drop_publication(&mut client, &source.publication).await?;
    if as_json {
        let found = |name: &str, removal| json!({"name": name, "became": became(removal)});
        let told = json!({
            "slot": found(&source.slot, slot), "publication": found(&source.publication, publication),
        });
        print(&format!("{told}\n"));
    } else {
        print(&said("publication", &source.publication, publication));
        print("The lake is as it was. A pipeline that is to go on needs --recopy, which copies all tables again.\n");
    }
    let dropped = |removal| removal == Removal::Removed;
    Ok(((), json!({"slot_dropped": dropped(slot), "publication_dropped": dropped(publication)})))
}

fn said(what: &str, name: &str, removal: Removal) -> String {
    match removal {
        Removal::Removed => format!("dropped the {what} '{name}'\n"),
        Removal::Absent => format!("there is no {what} '{name}'\n"),
        Removal::Left => format!("left the {what} '{name}': sooner did not create it\n"),
    }
}

fn became(removal: Removal) -> &'static str {
    match removal {
        Removal::Removed => "dropped",
        Removal::Absent => "absent",
        Removal::Left => "left",
    }
}
