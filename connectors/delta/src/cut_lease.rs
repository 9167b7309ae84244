//! The lease by which one of several sinks asks the others to rest, so that it reads all partitions and can make a cut.
//! It is an object, `_sooner/<pipeline>/cut-lease`, and a matter of courtesy: whether a sink reads everything, the
//! consumer group says. So clocks that differ, or two holders for a moment, cost time and nothing else.

use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sooner_api::{Error, Result};

use crate::lake::DeltaLake;
use crate::store::errors::store_error;
use crate::store::lake_store::LakeStore;
use crate::store::operations::{Put, get, put, put_new};

/// A pipeline's lease, as one of its sinks sees it.
#[derive(Clone, Debug)]
pub struct CutLease {
    store: LakeStore,
    path: Path,
    holder: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Held {
    holder: String,
    /// When it ends, in milliseconds since 1970.
    until_millis: i64,
}

impl CutLease {
    /// The lease of a lake's pipeline, for a sink with a name of its own.
    pub fn new(lake: &DeltaLake, holder: String) -> CutLease {
        let path = lake.store().prefix().clone().join("_sooner").join(lake.pipeline()).join("cut-lease");
        CutLease { store: lake.store().clone(), path, holder }
    }

    /// Whether another sink holds it, at a time in milliseconds since 1970.
    pub async fn is_anothers(&self, now_millis: i64) -> Result<bool> {
        Ok(self.held(now_millis).await?.is_some_and(|held| held.holder != self.holder))
    }

    /// Takes it, or holds it for longer, until a time in milliseconds since 1970; false if another sink holds it.
    pub async fn take(&self, now_millis: i64, until_millis: i64) -> Result<bool> {
        let text = Bytes::from(to_json(&Held { holder: self.holder.clone(), until_millis })?);
        match self.held(now_millis).await? {
            Some(held) if held.holder != self.holder => Ok(false),
            Some(_) => put(&*self.store.root(), &self.path, text).await.map(|()| true),
            None => {
                self.remove().await?;
                Ok(put_new(&*self.store.root(), &self.path, text).await? == Put::Created)
            }
        }
    }

    /// Gives it back, if this sink holds it.
    pub async fn give_back(&self, now_millis: i64) -> Result<()> {
        match self.held(now_millis).await? {
            Some(held) if held.holder == self.holder => self.remove().await,
            _ => Ok(()),
        }
    }

    /// What is held and has not ended. What cannot be read is nobody's.
    async fn held(&self, now_millis: i64) -> Result<Option<Held>> {
        let text = get(&*self.store.root(), &self.path).await?;
        let held: Option<Held> = text.and_then(|text| serde_json::from_slice(&text).ok());
        Ok(held.filter(|held| held.until_millis > now_millis))
    }

    async fn remove(&self) -> Result<()> {
        match self.store.root().delete(&self.path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(store_error("cannot give the lease of a cut back", &error)),
        }
    }
}

fn to_json(held: &Held) -> Result<Vec<u8>> {
    serde_json::to_vec(held).map_err(|error| Error::internal("cannot write the lease of a cut", error))
}
