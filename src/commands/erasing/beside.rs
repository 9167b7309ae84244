//! What the pipeline has written beside its tables for whoever asked for it: exports of cuts and replays. Their rows
//! are decoded, since values of other types than text do not stand there as texts.

use std::collections::BTreeSet;

use sooner_delta::DeltaLake;
use sooner_delta::erasure::results::search_results;
use sooner_delta::erasure::subject::Subject;
use sooner_delta::export::folder_of;
use sooner_delta::results::ResultFolder;
use sooner_delta::store::location::HISTORY_SUFFIX;
use sooner_schemas::TableName;

use super::remains::{Remains, of_object};

/// Exports and replays in the lake that have rows of subjects, or cannot be read; and what was being made for cuts when
/// its process died.
pub async fn beside_tables(
    lake: &DeltaLake,
    tables: &[TableName],
    subjects: &[Subject],
) -> anyhow::Result<Vec<Remains>> {
    let mut remains = in_folder(lake, "replays".to_owned(), subjects).await?;
    let known = lake.cuts().await?;
    for (kind, is_of_cut) in [("exports", false), ("cut-tables", true)] {
        let names = ResultFolder::of_lake(lake, kind).names().await?;
        let folders: BTreeSet<_> =
            names.iter().filter_map(|name| name.rsplit_once('/')).map(|(folder, _)| folder).collect();
        for folder in folders.into_iter().filter(|folder| !folder.contains("_delta_log")) {
            let above: Vec<_> = folder.splitn(3, '/').take(2).collect();
            if is_of_cut && known.iter().any(|cut| cut.is_made_of(&above.join("/"))) {
                continue;
            }
            let of_table = |table: &TableName| {
                let of_it = folder_of(table);
                folder.ends_with(&format!("/{of_it}")) || folder.ends_with(&format!("/{of_it}{HISTORY_SUFFIX}"))
            };
            // Of a table that the lake has no more, anybody's.
            let table = tables.iter().find(|table| of_table(table));
            let meant: Vec<_> =
                subjects.iter().filter(|subject| table.is_none_or(|table| subject.concerns(table))).cloned().collect();
            remains.extend(in_folder(lake, format!("{kind}/{folder}"), &meant).await?);
        }
    }
    Ok(remains)
}

async fn in_folder(lake: &DeltaLake, folder: String, subjects: &[Subject]) -> anyhow::Result<Vec<Remains>> {
    if subjects.is_empty() {
        return Ok(Vec::new());
    }
    let mut parts = folder.split('/');
    let first = ResultFolder::of_lake(lake, parts.next().unwrap_or_default());
    let results = parts.fold(first, |results, part| results.below(part));
    let searched = search_results(&results, subjects).await?;
    let place = |file: &String| format!("_sooner/{}/{folder}/{file}", lake.pipeline());
    let held = searched.holding.iter().map(|file| of_object(&place(file)));
    let unreadable = searched.unreadable.iter().map(|file| Remains {
        why: "it cannot be read, so nobody knows whether it has a value".to_owned(),
        ..of_object(&place(file))
    });
    Ok(held.chain(unreadable).collect())
}
