//! Writes files of a table again without rows that are erased, or without their values, and commits them as another
//! writer would, beside a pipeline that merges into the table or not.

use std::collections::BTreeMap;

use roaring::RoaringBitmap;
use sooner_api::{Result, failpoint};
use sooner_schemas::TableName;
use uuid::Uuid;

use super::finding::Found;
use super::objects::FoundFile;
use super::stubs::stubs;
use crate::clock::now_millis;
use crate::history::columns::ORDER;
use crate::log::committer::{Committer, MAX_CONFLICTS, Outcome, contended};
use crate::log::replay::replay;
use crate::log::table_version::TableVersion;
use crate::log::transaction::{Kind, Transaction};
use crate::maintenance::rewrite::{Rewrite, Rewritten};
use crate::settings::TableSettings;
use crate::store::location::TableLocation;

/// The table that rows are erased from.
pub struct Target<'a> {
    /// Where it lies.
    pub location: &'a TableLocation,
    /// Its name at the source.
    pub table: &'a TableName,
    /// Whether it is the history of the table.
    pub is_history: bool,
    /// The pipeline that made it.
    pub pipeline: &'a str,
    /// Settings of the lake's tables.
    pub settings: &'a TableSettings,
    /// Name of the erasure.
    pub erasure: &'a str,
}

/// What became of rows that readers saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gone {
    /// Rows that they do not see any more, or without their values.
    pub rows: u64,
    /// Those of the rows that are left as stubs in a chain.
    pub stubs: u64,
}

impl Target<'_> {
    /// Puts a commit that changes nothing: whoever writes files again at this moment, and has read rows that are to be
    /// erased, gives that up. Returns the version.
    pub async fn mark(&self) -> Result<u64> {
        let base = replay(self.location, &[]).await?;
        base.check_mergeable(&self.table.to_string())?;
        let transaction = |_: &TableVersion| Some(empty(self.pipeline));
        let (after, _) = self.commit(base, transaction).await?;
        Ok(after.number().unwrap_or_default())
    }

    /// Writes each live file again that holds rows of subjects. Returns how many rows went that readers saw.
    pub async fn rewrite(&self, found: &Found) -> Result<Gone> {
        let mut gone = Gone::default();
        for file in found.files.iter().filter(|file| file.live.is_some()) {
            let Gone { rows, stubs } = self.rewrite_file(found, file).await?;
            (gone.rows, gone.stubs) = (gone.rows + rows, gone.stubs + stubs);
        }
        Ok(gone)
    }

    async fn rewrite_file(&self, found: &Found, file: &FoundFile) -> Result<Gone> {
        let nothing = Gone::default();
        let Some((_, live)) = &file.live else { return Ok(nothing) };
        let mut base = replay(self.location, &[]).await?;
        base.check_mergeable(&self.table.to_string())?;
        // Numbers are those of one replay.
        let Some(id) = base.files().id_of(live.key()) else { return Ok(nothing) };
        let Some(live) = base.files().get(id).cloned() else { return Ok(nothing) };
        let live_rows = (&file.rows - &live.deleted).len();
        let sort_by = match self.is_history {
            true => ORDER.map(str::to_owned).to_vec(),
            false => self.settings.sort_columns.of(self.table, &found.version.provenance().key),
        };
        let blanked = stubs(self.location, base.columns(), (id, &live), &file.rows, self.erasure).await?;
        let stubs = blanked.rows.get(&id).cloned().unwrap_or_default();
        let rewrite = Rewrite {
            sources: vec![(id, live)],
            erased: BTreeMap::from([(id, &file.rows - &stubs)]),
            blanked,
            location: self.location.clone(),
            columns: base.columns().to_vec(),
            sort_by,
            keys: None,
            ids: base.files().ids(),
            limits: self.settings.limits.clone(),
            effort: self.settings.effort.clone(),
        };
        let rewritten = rewrite.run().await?;
        failpoint("erased_files_written");
        let kind = Kind::Erase { live: live_rows > 0 };
        let is_committed;
        (base, is_committed) = self.commit(base, |base| moving(&rewritten, base, self.pipeline, kind)).await?;
        rewritten.discard_unused(self.location, &base).await;
        Ok(if is_committed { Gone { rows: live_rows, stubs: stubs.len() } } else { nothing })
    }

    /// Commits what `transaction` makes of the table's last version, after what others commit meanwhile. Returns the
    /// version that is known then, and whether there was something to commit.
    async fn commit(
        &self,
        mut base: TableVersion,
        transaction: impl Fn(&TableVersion) -> Option<Transaction>,
    ) -> Result<(TableVersion, bool)> {
        let name = self.table.to_string();
        let committer = Committer::new(self.location, &name);
        for _ in 0..MAX_CONFLICTS {
            let Some(transaction) = transaction(&base) else { return Ok((base, false)) };
            let plan = transaction.plan(&base, now_millis());
            match committer.commit(base.next_number(), transaction.id, &plan).await? {
                Outcome::Committed => {
                    failpoint("rows_erased");
                    return Ok((base.apply(plan.commit), true));
                }
                Outcome::Conflict(entry) => {
                    base = base.apply(committer.load(*entry).await?);
                    base.check_mergeable(&name)?;
                }
                Outcome::Unknown(error) => return Err(error),
            }
        }
        Err(contended(&name))
    }
}

/// The transaction by which a file without the erased rows takes the place of the former one; none if that is gone, or
/// rows have come back to it.
fn moving(rewritten: &Rewritten, base: &TableVersion, pipeline: &str, kind: Kind) -> Option<Transaction> {
    let transaction = rewritten.transaction(base, pipeline);
    let is_whole = !transaction.removed.is_empty() && rewritten.has_all_rows(base);
    is_whole.then_some(Transaction { kind, ..transaction })
}

/// A transaction that changes nothing.
fn empty(pipeline: &str) -> Transaction {
    Transaction {
        id: Uuid::new_v4(),
        kind: Kind::Erase { live: false },
        pipeline: pipeline.to_owned(),
        retention: Default::default(),
        columns: None,
        last_column_id: None,
        provenance: Default::default(),
        refilled: Default::default(),
        added: BTreeMap::new(),
        superseded: BTreeMap::new(),
        removed: BTreeMap::<_, RoaringBitmap>::new(),
        txns: Default::default(),
        watermark: None,
        span: Default::default(),
    }
}
