//! Preconditions of the lake.

use sooner_delta::LakeStore;

use super::Finding;
use crate::config::LakeConfig;

/// Checks that the lake can be written and that its store honours conditional puts, by writing a probe object.
pub async fn inspect(lake: &LakeConfig) -> Vec<Finding> {
    let opened = LakeStore::open(&lake.url, &lake.s3);
    let probed = match opened {
        Ok(store) => store.probe().await,
        Err(error) => Err(error),
    };
    vec![match probed {
        Ok(()) => Finding::ok("lake", format!("{} is writable, and conditional puts are honoured", lake.url)),
        Err(error) => Finding::error("lake", &error),
    }]
}
