//! Commits that somebody else made: whether they may stand beside us, what they did to rows, and what they mean for
//! what is staged. Decided without I/O, once they are read.

use sooner_api::{Alteration, Code, Error, LakePosition, Positions, Result};
use sooner_schemas::TableName;
use sooner_schemas::evolution::{Arrival, Evolution, compare};

use super::event_plan::copy_again;
use super::intake::copy_needed;
use super::staging::Staging;
use crate::log::commit::LogEntry;
use crate::log::committer::Committer;
use crate::log::position_names::PositionNames;
use crate::log::table_version::TableVersion;
use crate::log::transaction::Kind;
use crate::rows::column_mapping;
use crate::rows::columns::{LakeColumn, facts, widen};
use crate::store::location::TableLocation;

/// Who made a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// Another sink of this pipeline, which reads other partitions.
    Sibling,
    /// Another program, which rearranges rows or adds to them.
    Stranger,
}

/// Who made a commit; an error if it cannot stand beside what is staged.
pub fn author(
    table: &TableName,
    url: &str,
    names: &PositionNames,
    base: &TableVersion,
    staging: &Staging,
    entry: &LogEntry,
) -> Result<Author> {
    match judge(table, url, names, base, staging.positions.as_ref(), entry) {
        // A copy replaces all rows, whatever others made of them.
        Err(error) if staging.is_copy() && is_altered(&error) => Ok(Author::Stranger),
        judged => judged,
    }
}

/// Refuses a commit that cannot stand beside ours; otherwise says who made it.
fn judge(
    table: &TableName,
    url: &str,
    names: &PositionNames,
    base: &TableVersion,
    staged: Option<&Positions>,
    entry: &LogEntry,
) -> Result<Author> {
    let theirs = names.recorded(&entry.txns);
    // Where all partitions are ours, nobody else is to commit any of them.
    let intrudes = theirs.is_some() && (names.knows_watermark() || !names.is_topic());
    let collides = theirs.as_ref().zip(staged).is_some_and(|(theirs, staged)| staged.collides(theirs));
    if intrudes || collides {
        return Err(overtaken(table));
    }
    let author = if names.are_of_feed(&entry.txns) { Author::Sibling } else { Author::Stranger };
    if !base.exists() && author == Author::Stranger {
        return Err(made_by_somebody_else(table, url));
    }
    if author == Author::Stranger && entry.removes_rows {
        return Err(rows_altered(table, names, &altered_by(entry, base.next_number())));
    }
    Ok(author)
}

/// The error of a table that another process of the pipeline has committed to.
pub fn overtaken(table: &TableName) -> Error {
    Error::retry(
        Code::CommitOvertaken,
        format!("cannot commit to the lake table {table}"),
        "another process of the same pipeline has committed to it, or this one before it was interrupted",
        "if two processes run, stop one or give it another name; what is in the lake is read again",
    )
}

/// Why a table at version `base`, with these positions, no longer holds what it held when a position was stored. Reads
/// the entries of its log since then.
pub async fn altered_since(
    table: &TableName,
    location: &TableLocation,
    names: &PositionNames,
    base: &TableVersion,
    positions: Option<&Positions>,
    stored: &LakePosition,
) -> Result<Option<Alteration>> {
    let Some(version) = base.number().filter(|version| *version >= stored.version) else {
        let why = format!("the lake table was set back: its version {} is gone from the log", stored.version);
        return Ok(Some(Alteration::SetBack(why)));
    };
    if let (Some(known), Some(now)) = (&stored.positions, positions)
        && !now.covers(known)
    {
        let why = "the lake table was set back: the positions in its log are older than those that were stored";
        return Ok(Some(Alteration::SetBack(why.to_owned())));
    }
    let name = table.to_string();
    for later in stored.version + 1..=version {
        let Some(entry) = Committer::new(location, &name).read(later).await? else {
            return Ok(Some(Alteration::Rows(format!("version {later} of the lake table is gone from its log"))));
        };
        if entry.removes_rows && names.recorded(&entry.txns).is_none() {
            return Ok(Some(Alteration::Rows(altered_by(&entry, later))));
        }
    }
    Ok(None)
}

/// What a commit of somebody else did to rows of the table.
pub fn altered_by(entry: &LogEntry, version: u64) -> String {
    let operation = entry.operation.as_deref().unwrap_or("an operation without a name");
    format!("somebody else has removed or changed rows of the lake table (version {version}, {operation})")
}

/// The error of a table whose rows are no longer those that were written. A slot's are copied again at once.
pub fn rows_altered(table: &TableName, names: &PositionNames, why: &str) -> Error {
    if !names.is_topic() {
        return copy_needed(table, why);
    }
    let remedy = format!("{}; let others only read the table", copy_again(table));
    Error::operator(Code::TableAltered, format!("{table} in the lake differs from its source"), why, remedy)
}

/// Whether an error says that others removed or changed rows.
fn is_altered(error: &Error) -> bool {
    matches!(error.code, Code::CopyNeeded | Code::TableAltered)
}

/// Fits what is staged to the table as it is after somebody else's commit. `before` are the columns that the table had.
pub fn adjust(
    table: &TableName,
    author: Author,
    was_absent: bool,
    before: &[LakeColumn],
    now: &TableVersion,
    staging: &mut Staging,
) -> Result<()> {
    if was_absent {
        // A sibling was first: what began the table here began it there, too, and its rows are of other keys than ours.
        staging.kind = Kind::Merge;
    }
    if now.columns() == before || staging.is_copy() {
        return Ok(());
    }
    let what = format!("cannot merge into the lake table {table}");
    if author == Author::Stranger {
        let why = "somebody else changed its columns";
        return Err(Error::operator(Code::TableColumnsChanged, what, why, copy_again(table)));
    }
    // A sibling sees a change of columns when its partitions get there, before us or after.
    let staged = staging.columns.take();
    let in_files = staged.as_deref().unwrap_or(before);
    let at_once = |why: &str| {
        let remedy = "nothing; what is in the lake is read again";
        Err(Error::retry(Code::TableColumnsChanged, what.clone(), why.to_owned(), remedy))
    };
    if !fit_files(in_files, now.columns()) {
        return at_once("another sink has changed columns of it, whose values are in files already");
    }
    staging.note_missing(in_files, now.columns());
    let Some(staged) = staged else { return Ok(()) };
    match compare(&facts(now.columns(), |_| false), &facts(&staged, |_| false), Arrival::MaybeOlder) {
        Evolution::Same => {
            // Whoever was first has written the files again.
            staging.fills_files = false;
            Ok(())
        }
        Evolution::Metadata => {
            let widened = column_mapping::stored(widen(now.columns(), &staged), now.columns(), now.last_column_id());
            // Rows are in files by now, under the names that the columns had.
            if !fit_files(&staged, &widened) {
                return at_once("another sink has added columns to it at the same time");
            }
            let theirs = now.provenance();
            let latest = if theirs.since > staging.provenance.since { theirs } else { staging.provenance.clone() };
            staging.set_columns(widened, latest);
            Ok(())
        }
        Evolution::Reshaped => at_once("another sink has dropped or renamed columns of it"),
        Evolution::Recopy(why) | Evolution::Decision(why) => at_once(&why),
    }
}

/// Whether rows in files that were written for columns as they were `before` are right for those of `now`.
fn fit_files(before: &[LakeColumn], now: &[LakeColumn]) -> bool {
    now.iter().all(|column| {
        let was = before.iter().find(|was| was.is_same(column));
        was.is_none_or(|was| was.lake_type == column.lake_type && was.stored_name() == column.stored_name())
    })
}

/// Whether events can be merged into a version of a table that lies at `url`; `is_known` if its log has positions of
/// this pipeline's.
pub fn check_mergeable(
    table: &TableName,
    url: &str,
    base: &TableVersion,
    staging: &Staging,
    is_known: bool,
) -> Result<()> {
    if staging.replaces() || !base.exists() {
        return Ok(());
    }
    if !is_known {
        return Err(made_by_somebody_else(table, url));
    }
    base.check_mergeable(&table.to_string())
}

/// The error of a table that lies where ours should.
pub fn made_by_somebody_else(table: &TableName, url: &str) -> Error {
    Error::operator(
        Code::TableForeign,
        format!("cannot write {table} to the lake"),
        format!("there is a table at {url} already, and this pipeline did not make it"),
        "move it away, or give the lake another url",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use sooner_api::Feed;
    use sooner_schemas::Lsn;
    use sooner_schemas::event::Watermark;

    use super::*;
    use crate::log::actions::{metadata, protocol};
    use crate::log::commit::Commit;
    use crate::rows::lake_type::LakeType;

    fn table() -> TableName {
        TableName::new("public", "t")
    }

    fn column(name: &str, nullable: bool) -> LakeColumn {
        LakeColumn { name: name.into(), lake_type: LakeType::Long, nullable, number: None, stored: None, missing: None }
    }

    fn names(assigned: &[i32]) -> PositionNames {
        let assigned = assigned.iter().copied().collect();
        let feed =
            Feed::Topic { topic: "t".into(), generation: Some(5), partitions: 3, assigned, in_commit_order: true };
        PositionNames::new("shop", &feed)
    }

    fn offsets(partition: i32) -> Positions {
        Positions::Topic { generation: Some(5), next_offsets: BTreeMap::from([(partition, 9)]) }
    }

    fn commit_of(positions: Option<Positions>) -> LogEntry {
        let mark = Watermark::default();
        let txns = positions.map(|positions| names(&[0]).versions(&positions, mark)).unwrap_or_default();
        LogEntry { txns, ..LogEntry::default() }
    }

    fn exists(columns: &[LakeColumn]) -> TableVersion {
        let metadata = Some(metadata("shop", columns, 0));
        TableVersion::default().apply(Commit { metadata, protocol: Some(protocol()), ..Commit::default() })
    }

    fn judged(names: &PositionNames, base: &TableVersion, entry: &LogEntry) -> Result<Author> {
        judge(&table(), "file:///t/", names, base, Some(&offsets(0)), entry)
    }

    #[test]
    fn siblings_with_other_partitions_and_strangers_may_stand_beside_us() {
        let base = exists(&[]);
        assert_eq!(judged(&names(&[0]), &base, &commit_of(Some(offsets(1)))), Ok(Author::Sibling));
        assert_eq!(judged(&names(&[0]), &base, &commit_of(None)), Ok(Author::Stranger));
    }

    #[test]
    fn whoever_commits_our_partitions_is_a_zombie() {
        let base = exists(&[]);
        assert_eq!(judged(&names(&[0]), &base, &commit_of(Some(offsets(0)))).unwrap_err().code, Code::CommitOvertaken);
        let whole = names(&[0, 1, 2]);
        assert_eq!(judged(&whole, &base, &commit_of(Some(offsets(1)))).unwrap_err().code, Code::CommitOvertaken);
        let slot = PositionNames::new("shop", &Feed::Slot("s".into()));
        let txns = slot.versions(&Positions::whole(Lsn(5)), Watermark::default());
        let theirs = LogEntry { txns, ..LogEntry::default() };
        assert!(judge(&table(), "", &slot, &base, None, &theirs).is_err());
    }

    #[test]
    fn rows_that_a_stranger_removes_are_copied_again_from_a_slot_and_stop_a_topics_table() {
        let base = exists(&[]);
        let altered = LogEntry { removes_rows: true, operation: Some("DELETE".into()), ..commit_of(None) };
        let error = judged(&names(&[0]), &base, &altered).unwrap_err();
        assert_eq!(error.code, Code::TableAltered);
        assert!(error.why.contains("version 1, DELETE"), "{error}");
        let slot = PositionNames::new("shop", &Feed::Slot("s".into()));
        assert_eq!(judge(&table(), "", &slot, &base, None, &altered).unwrap_err().code, Code::CopyNeeded);
        let sibling = LogEntry { removes_rows: true, ..commit_of(Some(offsets(1))) };
        assert_eq!(judged(&names(&[0]), &base, &sibling), Ok(Author::Sibling));
    }

    #[test]
    fn a_strangers_table_where_ours_should_be_is_left_alone() {
        let error = judged(&names(&[0]), &TableVersion::default(), &commit_of(None)).unwrap_err();
        assert_eq!(error.code, Code::TableForeign);
        let sibling = judged(&names(&[0]), &TableVersion::default(), &commit_of(Some(offsets(1))));
        assert_eq!(sibling, Ok(Author::Sibling));
    }

    #[test]
    fn a_copy_that_a_sibling_began_is_merged_into() {
        let mut staging = Staging::new(None);
        staging.begin_copy(vec![column("a", false)], Default::default());
        let now = exists(&[column("a", false)]);
        adjust(&table(), Author::Sibling, true, &[], &now, &mut staging).unwrap();
        assert_eq!(staging.kind, Kind::Merge);
    }

    #[test]
    fn a_column_that_a_sibling_added_stays_and_ours_comes_beside_it() {
        let before = [column("a", false)];
        let now = exists(&[column("a", false), column("b", true)]);
        let mut staging = Staging::new(None);
        adjust(&table(), Author::Sibling, false, &before, &now, &mut staging).unwrap();
        assert_eq!(staging.columns, None, "what is staged is older than the column");
        staging.columns = Some(vec![column("a", true)]);
        adjust(&table(), Author::Sibling, false, &before, &now, &mut staging).unwrap();
        assert_eq!(staging.columns, Some(vec![column("a", true), column("b", true)]));
    }

    #[test]
    fn a_strangers_columns_stop_the_table_unless_a_copy_replaces_them() {
        let before = [column("a", false)];
        let now = exists(&[column("z", false)]);
        let mut staging = Staging::new(None);
        let error = adjust(&table(), Author::Stranger, false, &before, &now, &mut staging).unwrap_err();
        assert_eq!(error.code, Code::TableColumnsChanged);
        staging.begin_copy(vec![column("a", false)], Default::default());
        assert!(adjust(&table(), Author::Stranger, false, &before, &now, &mut staging).is_ok());
    }

    #[test]
    fn positions_of_other_pipelines_are_nobodys() {
        let txns = HashMap::from([("sooner/other/t/0".to_owned(), 5)]);
        let commit = LogEntry { txns, ..LogEntry::default() };
        assert_eq!(judged(&names(&[0]), &exists(&[]), &commit), Ok(Author::Stranger));
    }
}
