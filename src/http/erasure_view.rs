//! What is known of erasures: those that are asked for, and the certificates in the lake. What is told in short has no
//! more of a subject than its column.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use sooner_api::{Code, Error, Result};
use sooner_delta::DeltaLake;
use sooner_delta::erasures::certificate_of;
use sooner_delta::results::ResultFolder;

use crate::erasure_desk::ErasureDesk;

/// Certificates that are told at most.
const MOST_TOLD: usize = 200;

/// What is known of erasures: those that are asked for, and certificates, which never change once they are there.
#[derive(Clone)]
pub struct ErasureView {
    /// Where they are asked for; none in a process without a lake.
    pub desk: Option<ErasureDesk>,
    seen: Arc<Mutex<BTreeMap<String, Value>>>,
}

impl ErasureView {
    /// With a desk.
    pub fn new(desk: Option<ErasureDesk>) -> ErasureView {
        ErasureView { desk, seen: Arc::default() }
    }

    /// The last certificates in short, the newest first, so many at most, and how many there are.
    pub async fn last(&self, lake: &DeltaLake, count: usize) -> Result<(usize, Vec<Value>)> {
        let folder = ResultFolder::of_lake(lake, "erasures");
        let names = folder.names().await?;
        let mut names: Vec<_> = names.iter().filter_map(|name| certificate_of(name)).collect();
        // They begin with the time.
        names.sort_unstable_by(|a, b| b.cmp(a));
        let mut told = Vec::new();
        for name in names.iter().take(count.min(MOST_TOLD)) {
            let known = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(*name).cloned();
            let short = match known {
                Some(short) => short,
                None => {
                    let Some(certificate) = certificate(&folder, name).await? else { continue };
                    let short = in_short(&certificate);
                    let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.insert((*name).to_owned(), short.clone());
                    while seen.len() > MOST_TOLD {
                        seen.pop_first();
                    }
                    short
                }
            };
            told.push(short);
        }
        Ok((names.len(), told))
    }
}

/// A certificate by its name; none if there is none.
pub async fn certificate(folder: &ResultFolder, name: &str) -> Result<Option<Value>> {
    let object = format!("{name}.json");
    if certificate_of(&object).is_none() {
        return Ok(None);
    }
    let Some(text) = folder.get(&object).await? else { return Ok(None) };
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let what = format!("cannot understand the certificate '{name}'");
        Error::operator(Code::ProgressUnreadable, what, error, "restore it from a former version")
    })
}

/// What of a certificate stands in a list.
fn in_short(certificate: &Value) -> Value {
    let items = |name: &str| certificate[name].as_array().into_iter().flatten();
    let found = items("remains").filter(|left| left["found"] == true).count();
    let subjects: Vec<_> =
        items("subjects").map(|subject| json!({ "table": subject["table"], "column": subject["column"] })).collect();
    json!({
        "name": certificate["name"],
        "begun_millis": certificate["begun_millis"],
        "ended_millis": certificate["ended_millis"],
        "clean": certificate["clean"],
        "found_nothing": certificate["found_nothing"],
        "subjects": subjects,
        "rows": items("tables").filter_map(|table| table["rows"].as_u64()).sum::<u64>(),
        "files_deleted": items("tables").filter_map(|table| table["files_deleted"].as_array()).map(Vec::len).sum::<usize>(),
        "objects_searched": certificate["search"]["objects"],
        "remains": { "found": found, "possible": items("remains").count() - found },
    })
}

#[cfg(test)]
mod tests {
    use sooner_delta::legal_holds::HashedSubject;

    use super::*;

    #[test]
    fn what_is_listed_of_a_certificate_has_neither_hashes_nor_values() {
        let subject = HashedSubject::of(&"public.people.email=jane@doe.org".parse().unwrap());
        let certificate = json!({
            "name": "erase-1-a", "clean": false, "subjects": [subject],
            "tables": [{ "rows": 2, "files_deleted": ["a", "b"] }, { "rows": 1, "files_deleted": [] }],
            "search": { "objects": 9 }, "remains": [{ "found": true }, { "found": false }],
        });
        let short = in_short(&certificate);
        assert_eq!(short["subjects"], json!([{ "table": "public.people", "column": "email" }]));
        assert_eq!(
            (&short["rows"], &short["files_deleted"], &short["objects_searched"]),
            (&json!(3), &json!(2), &json!(9))
        );
        assert_eq!(short["remains"], json!({ "found": 1, "possible": 1 }));
    }
}
