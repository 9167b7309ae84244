//! Rows of one side that are looked at one by one.

use std::collections::HashMap;

use sooner_delta::StoredRows;
use sooner_delta::verification::{Fingerprint, Fingerprinter, RecordBatch};
use sooner_postgres::schedule::KeyTexts;

use super::rounds::{MOST_ROWS, Seen, Wanted};

/// Rows of one side that are kept in memory, at most.
pub const MOST_SEEN: u64 = 4 * MOST_ROWS;

/// Wanted rows of a table in the lake.
pub async fn seen_in(table: &StoredRows, prints: &Fingerprinter, wanted: &Wanted) -> anyhow::Result<Seen> {
    let mut seen = Seen::new();
    let look = |rows: RecordBatch| {
        let rows = prints.fingerprints(&rows)?;
        rows.into_iter().filter(|row| wanted.has(row.key)).for_each(|row| keep_stored(&mut seen, row, prints));
        Ok(())
    };
    prints.scan(table, look).await?;
    bounded(seen)
}

/// Texts of the keys that are wanted, if those of all are known.
pub fn known_texts(texts: &HashMap<u128, KeyTexts>, wanted: &Wanted) -> Option<Vec<KeyTexts>> {
    let Wanted::Keys(keys) = wanted else { return None };
    keys.iter().map(|key| texts.get(key).cloned()).collect()
}

/// Keeps a row of the source, as long as not far more are seen than there were when they were counted. One that moved
/// meanwhile may be seen twice, and counts as it was seen last. Without a key, it is kept how many there are with these
/// values.
pub fn keep(seen: &mut Seen, row: Fingerprint, prints: &Fingerprinter) {
    if seen.len() as u64 > MOST_SEEN {
        return;
    }
    match prints.has_key() {
        true => drop(seen.insert(row.key, row.values)),
        false => *seen.entry(row.key).or_default() += 1,
    }
}

/// The same of a version of the lake, in which a key that is there twice is a fault.
pub fn keep_stored(seen: &mut Seen, row: Fingerprint, prints: &Fingerprinter) {
    match seen.get_mut(&row.key).filter(|_| prints.has_key()) {
        Some(values) => *values = values.wrapping_add(row.values).wrapping_add(1),
        None => keep(seen, row, prints),
    }
}

/// What was seen, if it is all that was to be seen.
pub fn bounded(seen: Seen) -> anyhow::Result<Seen> {
    let is_whole = seen.len() as u64 <= MOST_SEEN;
    anyhow::ensure!(is_whole, "more rows have come since they were counted than are looked at one by one");
    Ok(seen)
}
