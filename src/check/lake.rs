//! The lake's preconditions.

use sooner_delta::LakeStore;

use super::Finding;
use crate::config::LakeConfig;

/// Looks at the lake.
pub async fn look(lake: &LakeConfig) -> Vec<Finding> {
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
