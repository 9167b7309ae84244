//! What an erasure would find, and what would keep it. Nothing is changed.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use sooner_delta::erase::{Erasures, Places};
use sooner_delta::erasure::subject::Subject;
use sooner_delta::legal_holds::LegalHolds;
use sooner_kafka::erasure::topics::{ErasedLetters, ErasedTopic};
use sooner_schemas::TableName;

use super::beside::beside_tables;
use super::certificate::line;
use super::keeping::{kept_in, refusing, told_of};
use super::known::{InLake, as_stored, check_known};
use super::local::in_state_folder;
use super::remains::{Ends, Remains};
use super::reports::{FoundRun, in_reports};
use super::source::ask;
use super::topics::in_topics;
use crate::commands::upkeep::open_lake;
use crate::config::Config;

/// What there is of subjects, and what keeps it.
#[derive(Serialize)]
pub struct Found {
    tables: Vec<Places>,
    held: Vec<Remains>,
    refused_by: Vec<String>,
    /// Objects of the lake that have a value's bytes.
    objects: Vec<String>,
    topics: Vec<ErasedTopic>,
    dead_letters: Option<ErasedLetters>,
    reports: Vec<FoundRun>,
    /// What lies beside the lake's tables.
    beside: Vec<Remains>,
    source_rows: Option<BTreeMap<TableName, u64>>,
}

/// Says what there is. Changes nothing.
pub async fn dry_run(config: &Config, asked: &[Subject]) -> anyhow::Result<Found> {
    let lake = open_lake(config)?;
    let tables = lake.tables().await?;
    let holds = LegalHolds::of(&lake).all().await?;
    let ends = Ends::of(&lake, &holds).await?;
    let source = match &config.source {
        Some(_) => Some(ask(config, &lake, &tables, asked).await?),
        None => None,
    };
    let InLake { subjects, masked } = as_stored(config, &tables, asked).await?;
    let held = LegalHolds::of(&lake).subjects().await?;
    let places = Erasures::of(&lake).find_subjects(&tables, &subjects, &held).await?;
    check_known(config, &lake, &tables, asked).await?;
    let refusals: Vec<_> = refusing(&holds, &subjects, &places).map(told_of).collect();
    let held: Vec<_> = places.iter().flat_map(|place| kept_in(place, &ends)).collect();
    let searched = Erasures::of(&lake).search_bytes(subjects.iter().map(|subject| subject.value.as_str())).await?;
    let topics = in_topics(config, &lake, &subjects, None).await?;
    let reports = in_reports(config, &subjects, None).await?;
    let local = in_state_folder(&config.state_dir, &subjects).await;
    let beside = topics.remains.iter().cloned().chain(reports.remains()).chain(local).chain(masked);
    let beside = beside.chain(beside_tables(&lake, &tables, &subjects).await?).collect();
    Ok(Found {
        tables: places,
        held,
        refused_by: refusals,
        objects: searched.holding,
        topics: topics.erased.topics,
        dead_letters: topics.erased.dead_letters,
        reports: reports.runs,
        beside,
        source_rows: source.map(|source| source.rows),
    })
}

/// What a dry run found, for a person.
pub fn text_of(found: &Found) -> String {
    let mut text = String::new();
    for place in &found.tables {
        let kind = match &place.of_cut {
            Some(cut) => format!("the cut '{cut}' of "),
            None if place.is_history => "history of ".to_owned(),
            None => String::new(),
        };
        let Places { table, live_rows, other_rows, files, .. } = place;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{kind}{table}: {live_rows} rows that readers see, {other_rows} that they do not, in {files} files"
        );
    }
    for (table, rows) in found.source_rows.iter().flatten() {
        let _ = writeln!(text, "the source has {rows} rows in {table}. To do: delete them there first");
    }
    for left in found.held.iter().chain(&found.beside) {
        let _ = writeln!(text, "{}", line(left));
    }
    for refusal in &found.refused_by {
        let _ = writeln!(text, "refused: {refusal}");
    }
    let _ = writeln!(text, "{} objects of the lake have the value's bytes:", found.objects.len());
    found.objects.iter().for_each(|path| {
        let _ = writeln!(text, "  {path}");
    });
    text
}
