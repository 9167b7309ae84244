//! A table is written in as few files as possible, at once, because somebody asks for it: as another writer would,
//! beside a pipeline that merges into it or not.

use sooner_api::{Result, failpoint};
use sooner_schemas::TableName;

use super::choice::{Occasion, choose};
use super::compaction::target_bytes;
use super::rewrite::{Rewrite, Rewritten};
use crate::clock::now_millis;
use crate::log::committer::{Committer, MAX_CONFLICTS, Outcome, contended};
use crate::log::replay::replay;
use crate::log::table_version::TableVersion;
use crate::settings::TableSettings;
use crate::store::location::TableLocation;

/// What became of a table that was optimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Optimized {
    /// Files that it had.
    pub files_before: usize,
    /// Files that it has.
    pub files_after: usize,
}

/// Writes the files of a pipeline's table again as long as that makes them fewer, or drops many rows that are gone;
/// none if the pipeline did not make the table.
pub async fn optimize(
    location: &TableLocation,
    table: &TableName,
    pipeline: &str,
    settings: &TableSettings,
) -> Result<Option<Optimized>> {
    let limits = &settings.limits;
    let mut base = replay(location, &[]).await?;
    if !base.is_made_by(pipeline) {
        return Ok(None);
    }
    let name = table.to_string();
    base.check_mergeable(&name)?;
    let files_before = base.files().iter().count();
    loop {
        let chosen = choose(base.files().iter(), target_bytes(limits), Occasion::Asked);
        let sources: Vec<_> = chosen.iter().filter_map(|id| Some((*id, base.files().get(*id)?.clone()))).collect();
        if sources.is_empty() {
            break;
        }
        let rewrite = Rewrite {
            sources,
            erased: Default::default(),
            blanked: Default::default(),
            location: location.clone(),
            columns: base.columns().to_vec(),
            sort_by: settings.sort_columns.of(table, &base.provenance().key),
            keys: None,
            ids: base.files().ids(),
            limits: limits.clone(),
            effort: settings.effort.clone(),
        };
        let rewritten = rewrite.run().await?;
        let (next, is_done) = commit(location, &name, pipeline, base, &rewritten).await?;
        base = next;
        rewritten.discard_unused(location, &base).await;
        if !is_done {
            break;
        }
    }
    Ok(Some(Optimized { files_before, files_after: base.files().iter().count() }))
}

/// Commits files that were written again, after what others commit meanwhile. Returns the version that is known then,
/// and whether it is worth going on.
async fn commit(
    location: &TableLocation,
    name: &str,
    pipeline: &str,
    mut base: TableVersion,
    rewritten: &Rewritten,
) -> Result<(TableVersion, bool)> {
    let committer = Committer::new(location, name);
    for _ in 0..MAX_CONFLICTS {
        let transaction = rewritten.transaction(&base, pipeline);
        if !rewritten.is_worth_it() || transaction.removed.is_empty() || !rewritten.has_all_rows(&base) {
            return Ok((base, false));
        }
        let plan = transaction.plan(&base, now_millis());
        match committer.commit(base.next_number(), transaction.id, &plan).await? {
            Outcome::Committed => {
                failpoint("files_rearranged");
                return Ok((base.apply(plan.commit), true));
            }
            Outcome::Conflict(entry) => {
                let erases = entry.erases;
                base = base.apply(committer.load(*entry).await?);
                base.check_mergeable(name)?;
                if erases {
                    // What was read before may hold erased rows.
                    return Ok((base, false));
                }
            }
            Outcome::Unknown(error) => return Err(error),
        }
    }
    Err(contended(name))
}
