//! Rows of a chained history that are erased stay as stubs: with their number, their hash and what happened, without
//! the values of their source. So the chain can be followed over them.

use std::collections::BTreeMap;

use arrow_array::Array;
use futures::StreamExt;
use roaring::RoaringBitmap;
use sooner_api::Result;

use crate::history::columns::{ChainPlaces, source_columns};
use crate::index::key_index::FileId;
use crate::log::live_files::LiveFile;
use crate::maintenance::blanking::Blanking;
use crate::rows::columns::LakeColumn;
use crate::rows::stored_file::{READ_ROWS, StoredFile};
use crate::store::location::TableLocation;

/// Those rows of a file that become stubs, of some that are erased; they name the erasure. No row of a history that is
/// not chained does.
pub async fn stubs(
    location: &TableLocation,
    columns: &[LakeColumn],
    (id, file): (FileId, &LiveFile),
    erased: &RoaringBitmap,
    erasure: &str,
) -> Result<Blanking> {
    let Some(places) = ChainPlaces::of(columns) else { return Ok(Blanking::default()) };
    let erased: Vec<u32> = erased.iter().filter(|row| !file.deleted.contains(*row)).collect();
    let stored = StoredFile::open(&location.table, &file.path, file.size, true).await?;
    let sequence = columns[places.sequence].stored_name();
    if erased.is_empty() || !stored.has_any(&[sequence]) {
        return Ok(Blanking::default());
    }
    let (mut chained, mut rows) = (RoaringBitmap::new(), erased.iter());
    let mut batches = stored.batches(Some(&[sequence]), Some(&erased), READ_ROWS)?;
    while let Some(batch) = batches.next().await {
        let batch = batch?;
        let read = (0..batch.num_rows()).zip(&mut rows);
        chained.extend(read.filter(|(at, _)| batch.column(0).is_valid(*at)).map(|(_, row)| *row));
    }
    if chained.is_empty() {
        return Ok(Blanking::default());
    }
    Ok(Blanking {
        rows: BTreeMap::from([(id, chained)]),
        columns: source_columns(columns).map(|(place, _)| place).collect(),
        told: Some((places.erased, erasure.to_owned())),
    })
}
