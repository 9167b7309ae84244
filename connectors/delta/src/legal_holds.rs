//! Legal holds: of tables, of a cut or of a subject, until a moment or until they are released. Each is an object under
//! `_sooner/<pipeline>/holds/` of the lake, which stays when it is released. A table's or a cut's is beside those of
//! cuts in the tables' own folders as well, where whoever deletes objects looks. A subject's value is known by its
//! hash.

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sooner_api::{Code, Error, Result};
use sooner_schemas::TableName;

use crate::clock::now_millis;
pub use crate::erasure::hashed_subject::HashedSubject;
use crate::lake::DeltaLake;
use crate::log::replay::replay;
use crate::maintenance::holding::put_hold;
use crate::maintenance::holds::{self, Hold, holds_in_force};
use crate::store::errors::store_error;
use crate::store::location::TableLocation;
use crate::store::operations::{Put, get, put, put_new, retrying};
use crate::trimming::held::HeldSubject;
use crate::trimming::held_rows::files_of_subject;

/// What the name of a hold begins with in a table's folder if it is a legal one. No cut has such a name.
pub const LEGAL: &str = "legal=";

/// A legal hold, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegalHold {
    /// Its name.
    pub name: String,
    /// Why there is one.
    pub reason: String,
    /// When it was made, in milliseconds since 1970.
    pub made_millis: i64,
    /// When it ends, in milliseconds since 1970; when it is released if none.
    pub until_millis: Option<i64>,
    /// Tables of which nothing is deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableName>,
    /// The cut that is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    /// The subject whose rows are not erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<HashedSubject>,
    /// When and why it was released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<Released>,
}

/// The end of a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// When, in milliseconds since 1970.
    pub at_millis: i64,
    /// Why.
    pub reason: String,
}

impl LegalHold {
    /// Whether it has neither ended nor been released.
    pub fn is_in_force(&self) -> bool {
        self.released.is_none() && self.until_millis.is_none_or(|until| until > now_millis())
    }

    /// The error of whoever wants to have deleted what it keeps.
    pub fn refusal(&self, what: &str) -> Error {
        let remedy =
            format!("wait until the hold ends, or `sooner hold release {}`, if it no longer applies", self.name);
        Error::operator(Code::Held, what, format!("the legal hold '{}' keeps it: {}", self.name, self.reason), remedy)
    }
}

/// The legal holds of a lake.
#[derive(Clone, Copy, Debug)]
pub struct LegalHolds<'a>(&'a DeltaLake);

impl<'a> LegalHolds<'a> {
    /// Those of this lake.
    pub fn of(lake: &'a DeltaLake) -> LegalHolds<'a> {
        LegalHolds(lake)
    }

    /// Makes a legal hold. What it keeps is kept from here on, also if storing the hold itself fails; repeating it is
    /// safe. An operator error if there is one of that name, or if it names a table or a cut that is not there.
    pub async fn add(&self, hold: &LegalHold) -> Result<()> {
        if self.named(&hold.name).await?.is_some() {
            return Err(name_taken(&hold.name));
        }
        // Before anything is held, so that nothing is kept of which no hold tells.
        self.check_there(hold).await?;
        for table in &hold.tables {
            self.hold_table(table, hold).await?;
        }
        if let Some(subject) = &hold.subject {
            self.hold_subject(subject, hold).await?;
        }
        if let Some(cut) = &hold.cut {
            self.hold_cut(cut, hold).await?;
        }
        match put_new(&*self.0.store().root(), &self.path(&hold.name), stored(hold)?).await? {
            Put::Created => Ok(()),
            // After a lost response the object that is there may be this one.
            Put::Exists if self.named(&hold.name).await?.as_ref() == Some(hold) => Ok(()),
            Put::Exists => Err(name_taken(&hold.name)),
        }
    }

    /// An operator error if a hold names what is not there, or ends before it begins.
    async fn check_there(&self, hold: &LegalHold) -> Result<()> {
        if hold.until_millis.is_some_and(|until| until <= now_millis()) {
            return Err(not_there(hold, "the moment at which it would end has passed"));
        }
        for table in &hold.tables {
            let mut is_there = false;
            for location in [self.0.location(table), self.0.history_location(table)] {
                is_there |= replay(&location, &[]).await?.exists();
            }
            if !is_there {
                return Err(not_there(hold, &format!("the lake has no table {table}")));
            }
        }
        let Some(name) = &hold.cut else { return Ok(()) };
        match self.0.cut(name).await? {
            None => Err(not_there(hold, &format!("there is no cut '{name}'"))),
            Some(cut) if cut.until_millis.is_some_and(|until| until <= now_millis()) => {
                Err(not_there(hold, &format!("the cut '{name}' has ended, and files of it may be gone")))
            }
            Some(_) => Ok(()),
        }
    }

    async fn hold_table(&self, table: &TableName, hold: &LegalHold) -> Result<()> {
        for location in [self.0.location(table), self.0.history_location(table)] {
            let Some(version) = replay(&location, &[]).await?.number() else { continue };
            let held = Hold { version, until_millis: hold.until_millis, objects: Vec::new(), everything: true };
            put_hold(&location, &format!("{LEGAL}{}", hold.name), &held).await?;
        }
        Ok(())
    }

    /// Holds the files that have rows of a subject by now.
    async fn hold_subject(&self, subject: &HashedSubject, hold: &LegalHold) -> Result<()> {
        let held = HeldSubject { hold: hold.name.clone(), subject: subject.clone() };
        for table in self.0.tables().await?.iter().filter(|table| !hold.tables.contains(table)) {
            for location in [self.0.location(table), self.0.history_location(table)] {
                let Some(version) = replay(&location, &[]).await?.number() else { continue };
                let objects = files_of_subject(&location, table, &held).await?;
                if objects.is_empty() {
                    continue;
                }
                let held = Hold { version, until_millis: hold.until_millis, objects, everything: false };
                put_hold(&location, &format!("{LEGAL}{}", hold.name), &held).await?;
            }
        }
        Ok(())
    }

    async fn hold_cut(&self, name: &str, hold: &LegalHold) -> Result<()> {
        let Some(cut) = self.0.cut(name).await? else {
            return Err(not_there(hold, &format!("there is no cut '{name}'")));
        };
        for table in cut.tables.keys() {
            for location in [self.0.location(table), self.0.history_location(table)] {
                let holds = holds_in_force(&location, std::time::SystemTime::now()).await?;
                let Some(of_cut) = holds.get(name) else { continue };
                let held = Hold { until_millis: hold.until_millis, ..of_cut.clone() };
                put_hold(&location, &format!("{LEGAL}{}", hold.name), &held).await?;
            }
        }
        Ok(())
    }

    /// The subjects that legal holds in force keep.
    pub async fn subjects(&self) -> Result<Vec<HeldSubject>> {
        let holds = self.all().await?.into_iter().filter(LegalHold::is_in_force);
        Ok(holds.filter_map(|hold| Some(HeldSubject { subject: hold.subject?, hold: hold.name })).collect())
    }

    /// Releases a legal hold; none if there is none of that name. Repeating it after an error is safe.
    pub async fn release(&self, name: &str, reason: &str) -> Result<Option<LegalHold>> {
        let Some(mut hold) = self.named(name).await? else { return Ok(None) };
        let released = Released { at_millis: now_millis(), reason: reason.to_owned() };
        hold.released.get_or_insert(released);
        put(&*self.0.store().root(), &self.path(name), stored(&hold)?).await?;
        for location in self.places().await? {
            holds::release(&location, &format!("{LEGAL}{name}")).await?;
        }
        Ok(Some(hold))
    }

    /// All legal holds, by their names; also those that have ended.
    pub async fn all(&self) -> Result<Vec<LegalHold>> {
        let folder = self.folder();
        let listed = retrying(|| async {
            let listed = self.0.store().root().list(Some(&folder)).try_collect::<Vec<_>>().await;
            listed.map_err(|error| store_error("cannot list the legal holds of the lake", &error))
        });
        let mut holds = Vec::new();
        for object in listed.await? {
            if let Some(name) = object.location.filename().and_then(|name| name.strip_suffix(".json")) {
                holds.extend(self.named(name).await?);
            }
        }
        holds.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(holds)
    }

    /// An operator error if a legal hold keeps a cut.
    pub(crate) async fn check_cut_not_held(&self, name: &str) -> Result<()> {
        let holds = self.all().await?;
        let keeps = |hold: &&LegalHold| hold.is_in_force() && hold.cut.as_deref() == Some(name);
        match holds.iter().find(keeps) {
            Some(hold) => Err(hold.refusal(&format!("cannot drop the cut '{name}'"))),
            None => Ok(()),
        }
    }

    async fn named(&self, name: &str) -> Result<Option<LegalHold>> {
        let path = self.path(name);
        let Some(text) = get(&*self.0.store().root(), &path).await? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            let remedy = "restore it from a former version; what it keeps stays held";
            Error::operator(Code::ProgressUnreadable, format!("cannot understand {path}"), error, remedy)
        })
    }

    /// Where all tables and histories of the lake lie, or would.
    async fn places(&self) -> Result<Vec<TableLocation>> {
        let tables = self.0.tables().await?;
        Ok(tables.iter().flat_map(|table| [self.0.location(table), self.0.history_location(table)]).collect())
    }

    fn folder(&self) -> Path {
        self.0.store().prefix().clone().join("_sooner").join(self.0.pipeline()).join("holds")
    }

    fn path(&self, name: &str) -> Path {
        self.folder().join(format!("{name}.json"))
    }
}

fn stored(hold: &LegalHold) -> Result<Bytes> {
    let text = serde_json::to_vec_pretty(hold).map_err(|error| Error::internal("cannot store a legal hold", error))?;
    Ok(Bytes::from(text))
}

fn name_taken(name: &str) -> Error {
    let what = format!("cannot make the legal hold '{name}'");
    let remedy = "give it another name; one that was released keeps its name";
    Error::operator(Code::Held, what, "there is one of that name", remedy)
}

fn not_there(hold: &LegalHold, why: &str) -> Error {
    let what = format!("cannot make the legal hold '{}'", hold.name);
    Error::operator(
        Code::Held,
        what,
        why,
        "see `sooner status` for tables, and `sooner cut list` for cuts and their ends",
    )
}
