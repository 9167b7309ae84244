//! What is stored of erasures below `_sooner/<pipeline>/erasures` of a lake: that one has begun, and its certificate.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sooner_api::{Error, Result};
use sooner_schemas::TableName;

use crate::audit::digits::hex;
use crate::erasure::subject::Subject;
use crate::lake::DeltaLake;
use crate::legal_holds::HashedSubject;
use crate::store::errors::store_error;
use crate::store::operations::{Put, get, put_new, retrying};

/// End of the name of what says that an erasure has begun.
const BEGUN: &str = ".begun.json";
/// End of the names of both.
const JSON: &str = ".json";

/// The erasure whose certificate an object below `erasures` is; none if it is something else.
pub fn certificate_of(object: &str) -> Option<&str> {
    object.strip_suffix(JSON).filter(|_| !object.ends_with(BEGUN))
}

/// An erasure that has begun. Whether it has ended, its certificate says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Its name.
    pub name: String,
    /// Pipeline of the lake's tables.
    pub pipeline: String,
    /// When it began, in milliseconds since 1970.
    pub begun_millis: i64,
    /// Whose rows are erased.
    pub subjects: Vec<HashedSubject>,
    /// Tables that are looked through.
    pub tables: Vec<TableName>,
}

/// What counts here of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Certificate {
    name: String,
    tables: Vec<CertifiedTable>,
    #[serde(default)]
    completes: Vec<String>,
    /// SHA-256 of its text, as hexadecimal digits.
    #[serde(skip)]
    sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct CertifiedTable {
    table: String,
    is_history: bool,
    #[serde(default)]
    stubs: u64,
}

/// All that is known of a lake's erasures.
#[derive(Clone, Debug, Default)]
pub struct ErasureRecords {
    begun: Vec<Begun>,
    certificates: Vec<Certificate>,
}

impl ErasureRecords {
    /// What the lake has of them. An object that is neither is passed over.
    pub async fn of(lake: &DeltaLake) -> Result<ErasureRecords> {
        let (store, folder) = (lake.store().root(), folder(lake));
        let listed = retrying(|| async {
            let listed = store.list(Some(&folder)).try_collect::<Vec<_>>().await;
            listed.map_err(|error| store_error("cannot list the lake's erasures", &error))
        });
        let mut records = ErasureRecords::default();
        for object in listed.await? {
            let path = object.location;
            if path.extension() != Some("json") {
                continue;
            }
            let Some(text) = get(&*store, &path).await? else { continue };
            match path.as_ref().ends_with(BEGUN) {
                true => records.begun.extend(serde_json::from_slice::<Begun>(&text)),
                false => {
                    let certificate = serde_json::from_slice::<Certificate>(&text).ok();
                    let sha256 = hex(&Sha256::digest(&text));
                    records.certificates.extend(certificate.map(|it| Certificate { sha256, ..it }));
                }
            }
        }
        Ok(records)
    }

    /// The same without certificates that an audit trail does not know: of those that it does, it has these SHA-256
    /// hashes. Anybody who can write to the lake can put an object there, and nobody can put an entry into the trail.
    pub fn in_trail(mut self, hashes: &BTreeSet<String>) -> ErasureRecords {
        self.certificates.retain(|certificate| hashes.contains(&certificate.sha256));
        self
    }

    /// Names of erasures that have begun, and have no certificate, of no other subjects than these.
    pub fn unfinished(&self, subjects: &[Subject]) -> Vec<String> {
        let is_known = |held: &HashedSubject| subjects.iter().any(|subject| held.may_be(subject));
        let ended: BTreeSet<_> = self.certificates.iter().flat_map(Certificate::names).collect();
        let unfinished = self.begun.iter().filter(|begun| !ended.contains(begun.name.as_str()));
        unfinished.filter(|begun| begun.subjects.iter().all(is_known)).map(|begun| begun.name.clone()).collect()
    }

    /// Names of erasures of which a certificate says that rows of a table's history went, with the number of those that
    /// it says have stayed as stubs. One that was broken off, and whose rest a later one has done, has no number.
    pub fn of_history(&self, table: &TableName) -> BTreeMap<String, Option<u64>> {
        let name = table.to_string();
        let completed: BTreeSet<_> = self.certificates.iter().flat_map(|certificate| &certificate.completes).collect();
        let begun = self.begun.iter().filter(|begun| completed.contains(&begun.name) && begun.tables.contains(table));
        let mut erasures: BTreeMap<_, _> = begun.map(|begun| (begun.name.clone(), None)).collect();
        for certificate in &self.certificates {
            let is_named = |certified: &&CertifiedTable| certified.is_history && certified.table == name;
            if let Some(certified) = certificate.tables.iter().find(is_named) {
                erasures.insert(certificate.name.clone(), Some(certified.stubs));
            }
        }
        erasures
    }
}

impl Certificate {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.completes.iter().chain([&self.name]).map(String::as_str)
    }
}

/// Where a lake keeps what is stored of erasures.
pub fn folder(lake: &DeltaLake) -> Path {
    lake.store().prefix().clone().join("_sooner").join(lake.pipeline()).join("erasures")
}

/// Stores what is to be kept of an erasure, such as its certificate, under a name that is new.
pub async fn put_erasure(lake: &DeltaLake, name: &str, text: Vec<u8>) -> Result<Path> {
    let path = folder(lake).join(name);
    match put_new(&*lake.store().root(), &path, Bytes::from(text)).await? {
        Put::Created => Ok(path),
        Put::Exists => Err(Error::internal("cannot store a certificate", "there is one of that name")),
    }
}

/// Stores that an erasure has begun, before it changes anything: what it has erased is known by that, should it die.
pub async fn put_begun(lake: &DeltaLake, begun: &Begun) -> Result<()> {
    let text = serde_json::to_vec(begun).map_err(|error| Error::internal("cannot store an erasure", error))?;
    put_erasure(lake, &format!("{}{BEGUN}", begun.name), text).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(name: &str, subject: &str) -> Begun {
        let subjects = vec![HashedSubject::of(&subject.parse().unwrap())];
        let tables = vec![TableName::new("public", "t")];
        Begun { name: name.to_owned(), pipeline: "shop".to_owned(), begun_millis: 0, subjects, tables }
    }

    #[test]
    fn a_certificate_stands_for_its_erasure_and_for_those_that_it_completes() {
        let (t, other) = (TableName::new("public", "t"), TableName::new("public", "u"));
        let table = |is_history| CertifiedTable { table: "public.t".to_owned(), is_history, stubs: 3 };
        let certificate = |name: &str, tables, completes: &[&str]| Certificate {
            name: name.to_owned(),
            tables,
            completes: completes.iter().map(|name| (*name).to_owned()).collect(),
            sha256: name.to_owned(),
        };
        let begun = ["a", "b", "c"].map(|name| begun(name, if name == "c" { "id=9" } else { "id=7" }));
        let mut records = ErasureRecords { begun: begun.to_vec(), certificates: Vec::new() };
        let subjects = ["id=7".parse().unwrap()];
        assert_eq!(records.unfinished(&subjects), ["a", "b"], "the third is of somebody else");
        assert_eq!(records.of_history(&t), BTreeMap::new());
        records.certificates.push(certificate("b", vec![table(false)], &["a"]));
        assert_eq!(records.unfinished(&subjects), Vec::<String>::new());
        let first = ("a".to_owned(), None);
        assert_eq!(records.of_history(&t), BTreeMap::from([first.clone()]), "the second has not touched the history");
        records.certificates.push(certificate("d", vec![table(true)], &[]));
        assert_eq!(records.of_history(&t), BTreeMap::from([first, ("d".to_owned(), Some(3))]));
        assert_eq!(records.of_history(&other), BTreeMap::new());
        let known = records.in_trail(&BTreeSet::from(["b".to_owned()]));
        assert_eq!(
            known.of_history(&t),
            BTreeMap::from([("a".to_owned(), None)]),
            "anybody may have put the other there"
        );
    }
}
