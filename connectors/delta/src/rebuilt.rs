//! Where tables lie that were made for cuts, of histories: `_sooner/<pipeline>/cut-tables/<cut>/<id>/<schema>/<table>`.

use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};
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

/// Removes the tables that were made for a cut.
pub async fn remove_rebuilt(lake: &DeltaLake, cut: &str) -> Result<()> {
    let folder = ["_sooner", lake.pipeline(), REBUILT, cut];
    let folder = folder.iter().fold(lake.store().prefix().clone(), |path, part| path.join(*part));
    let root = lake.store().root();
    let listed = root.list(Some(&folder)).try_collect::<Vec<_>>().await;
    let listed = listed.map_err(|error| store_error(format!("cannot list tables of the cut '{cut}'"), &error))?;
    for object in listed {
        match root.delete(&object.location).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(store_error(format!("cannot drop the cut '{cut}'"), &error)),
        }
    }
    Ok(())
}
