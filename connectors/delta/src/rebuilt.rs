//! Where tables lie that were made for cuts, of histories: `_sooner/<pipeline>/cut-tables/<cut>/<id>/<schema>/<table>`.
//! Those that are made for a verification, and go with it, have `verify-<id>` for the cut's name.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use sooner_api::Result;
use sooner_schemas::TableName;

use crate::lake::DeltaLake;
use crate::store::errors::store_error;
use crate::store::folder_name::folder_name;
use crate::store::location::TableLocation;

/// Folder of the tables that were made for cuts, in that of a pipeline's own objects.
const REBUILT: &str = "cut-tables";

/// Where a table lies that was made for a cut, in a folder of that.
pub fn rebuilt_location(lake: &DeltaLake, folder: &str, table: &TableName) -> TableLocation {
    let (schema, name) = (folder_name(&table.schema), folder_name(&table.table));
    let parts = ["_sooner", lake.pipeline(), REBUILT].into_iter().chain(folder.split('/'));
    let parts: Vec<_> = parts.chain([schema.as_str(), name.as_str()]).collect();
    let path = parts.iter().fold(lake.store().prefix().clone(), |path, part| path.join(*part));
    TableLocation::new(lake.store().root(), path, lake.store().folder_url(&parts))
}

/// Removes the tables that were made for a cut, all of them by its name, or those of one attempt, by its folder: name
/// and id.
pub async fn remove_rebuilt(lake: &DeltaLake, cut: &str) -> Result<()> {
    let root = lake.store().root();
    for object in list(lake, cut).await? {
        match root.delete(&object.location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(store_error(format!("cannot drop the cut '{cut}'"), &error)),
        }
    }
    Ok(())
}

/// Folders, name and id, in which nothing was written since a moment, in milliseconds since 1970.
pub async fn abandoned(lake: &DeltaLake, since_millis: i64) -> Result<BTreeSet<String>> {
    let above = rebuilt_folder(lake);
    let mut last_written = BTreeMap::<String, i64>::new();
    for object in list(lake, "").await? {
        let below: Vec<_> = object.location.prefix_match(&above).into_iter().flatten().take(2).collect();
        if let [cut, id] = &below[..] {
            let written = last_written.entry(format!("{}/{}", cut.as_ref(), id.as_ref())).or_default();
            *written = (*written).max(object.last_modified.timestamp_millis());
        }
    }
    Ok(last_written.into_iter().filter(|(_, written)| *written < since_millis).map(|(folder, _)| folder).collect())
}

async fn list(lake: &DeltaLake, below: &str) -> Result<Vec<ObjectMeta>> {
    let parts = below.split('/').filter(|part| !part.is_empty());
    let folder = parts.fold(rebuilt_folder(lake), |path, part| path.join(part));
    let listed = lake.store().root().list(Some(&folder)).try_collect::<Vec<_>>().await;
    listed.map_err(|error| store_error("cannot list tables that were made for cuts", &error))
}

fn rebuilt_folder(lake: &DeltaLake) -> Path {
    let parts = ["_sooner", lake.pipeline(), REBUILT];
    parts.iter().fold(lake.store().prefix().clone(), |path, part| path.join(*part))
}
