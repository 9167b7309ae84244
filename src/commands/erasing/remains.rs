//! What keeps a value after an erasure, why, and until when.

use std::collections::BTreeMap;

use serde::Serialize;
use sooner_delta::DeltaLake;
use sooner_delta::erase::{Erased, Kept};
use sooner_delta::legal_holds::{LEGAL, LegalHold};

use crate::commands::hold::instant;

/// A place that may still hold values of a subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remains {
    /// Where: a path below the lake, or a topic.
    pub place: String,
    /// Why it holds them.
    pub why: String,
    /// Until when, as a UTC time; none where nothing ends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// What ends it.
    pub to_do: String,
    /// Whether a value was found there, rather than may be there.
    pub found: bool,
}

/// When holds end: of cuts, and of legal holds, by their names in tables' folders.
#[derive(Debug, Default)]
pub struct Ends {
    ends: BTreeMap<String, Option<i64>>,
}

impl Ends {
    /// The ends of all cuts and legal holds of a lake.
    pub async fn of(lake: &DeltaLake, holds: &[LegalHold]) -> anyhow::Result<Ends> {
        let cuts = lake.cuts().await?.into_iter().map(|cut| (cut.name, cut.until_millis));
        let legal = holds.iter().map(|hold| (format!("{LEGAL}{}", hold.name), hold.until_millis));
        Ok(Ends { ends: cuts.chain(legal).collect() })
    }

    /// What is told of a file that holds keep.
    pub fn of_file(&self, folder: &str, kept: &Kept) -> Remains {
        let named = kept.holds.iter().map(|name| match name.strip_prefix(LEGAL) {
            Some(name) => format!("the legal hold '{name}'"),
            None => format!("the cut '{name}'"),
        });
        let ends: Vec<_> = kept.holds.iter().map(|name| self.ends.get(name).copied().flatten()).collect();
        let until = ends.iter().all(Option::is_some).then(|| ends.iter().flatten().max().copied()).flatten();
        Remains {
            place: format!("{folder}/{}", kept.path),
            why: format!("kept by {}", named.collect::<Vec<_>>().join(" and ")),
            until: until.map(instant),
            to_do: "drop the cut or release the hold, and erase again".to_owned(),
            found: true,
        }
    }
}

/// What is told of a table after rows were erased from it.
pub fn of_table(folder: &str, erased: &Erased, ends: &Ends) -> Vec<Remains> {
    let mut remains: Vec<_> = erased.held.iter().map(|kept| ends.of_file(folder, kept)).collect();
    remains.extend(erased.young.iter().map(|path| Remains {
        place: format!("{folder}/{path}"),
        why: "the file may belong to a commit to come".to_owned(),
        until: None,
        to_do: "erase again in a while".to_owned(),
        found: true,
    }));
    if erased.rows_left > 0 {
        remains.push(Remains {
            place: folder.to_owned(),
            why: format!("its source has the subject, so the {} rows that readers see stay", erased.rows_left),
            until: None,
            to_do: "delete them at the source, and erase again".to_owned(),
            found: true,
        });
    }
    remains
}

/// What is told of an object that has the bytes of a value, and belongs to none of the tables' files.
pub fn of_object(path: &str) -> Remains {
    let (why, to_do) = match path {
        _ if path.contains("/audit/") => {
            ("the audit trail has it; its entries are chained and cannot be changed", "keep it, or begin a trail anew")
        }
        _ if path.contains("_delta_log/") => ("a log of a table tells it", "erase again; if it stays, see the entry"),
        _ if path.starts_with("_sooner/") && path.contains("/reports/") => {
            ("a report that this configuration does not have has made it of such rows", "delete the folder of its run")
        }
        _ if path.starts_with("_sooner/") && path.contains("/exports/") => {
            ("an export of a cut has it", "delete the export, and make it again if it is needed")
        }
        _ if path.starts_with("_sooner/") && path.contains("/cut-tables/verify-") => (
            "a table that is made for a verification has it",
            "erase again once the verification is over; what a broken one has left goes after a day",
        ),
        _ if path.starts_with("_sooner/") && path.contains("/cut-tables/") => (
            "a table that was made for a cut has it",
            "drop the cut of the folder's name, also if it was never made whole",
        ),
        _ if path.starts_with("_sooner/") && path.contains("/replays/") => {
            ("events that were replayed have it", "delete the file, and replay again if it is needed")
        }
        _ if path.starts_with("_sooner/") => ("an object of the pipeline has it", "see the object, and delete it"),
        _ if path.ends_with(".parquet") => {
            ("the value is there in another column, or within a longer value", "erase by that column, if it is meant")
        }
        _ => ("a file that belongs to no table has it", "see the file, and delete it"),
    };
    let (why, to_do) = (why.to_owned(), to_do.to_owned());
    Remains { place: path.to_owned(), why, until: None, to_do, found: true }
}
