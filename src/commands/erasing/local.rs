//! The state folder of this machine in an erasure: tables that a report was being made of, the journal, requests. It
//! holds no rows otherwise: the source spills none, and the index has hashes of keys.

use std::path::Path;

use sooner_delta::erasure::search::{Needles, search_folder};
use sooner_delta::erasure::subject::Subject;
use sooner_delta::{LakeStore, S3Settings};

use super::remains::Remains;

/// What the state folder has of subjects, where it is one of this machine.
pub async fn in_state_folder(folder: &Path, subjects: &[Subject]) -> Vec<Remains> {
    let needles = Needles::new(subjects.iter().map(|subject| subject.value.as_str()));
    if needles.is_empty() || !folder.is_dir() {
        return Vec::new();
    }
    let remains = |place: &Path, why: String, to_do: &str| Remains {
        place: place.display().to_string(),
        why,
        until: None,
        to_do: to_do.to_owned(),
        found: true,
    };
    let searched = match LakeStore::open(&folder.display().to_string(), &S3Settings::default()) {
        Ok(store) => search_folder(&store, store.prefix(), &needles).await,
        Err(error) => Err(error),
    };
    match searched {
        Ok(searched) => {
            let held = searched.holding.iter().map(|path| {
                let (why, to_do) = of_file(path);
                remains(&folder.join(path), why.to_owned(), to_do)
            });
            held.collect()
        }
        Err(error) => vec![remains(folder, format!("it could not be searched: {}", error.why), "erase again")],
    }
}

fn of_file(path: &str) -> (&'static str, &'static str) {
    match path {
        _ if path.starts_with("reports/scratch/") => (
            "a report is being made of it, or was broken off",
            "wait for the report, or remove the folder; erase again",
        ),
        _ if path.starts_with("tasks/scratch/") => {
            ("events are being replayed into it, or were", "wait for the task, or remove the folder; erase again")
        }
        _ if path.starts_with("events") => {
            ("the journal tells a key", "it goes as the journal turns over; or remove the file while nothing runs")
        }
        _ if path == "status.json" => ("the status tells a key", "see what it says; it is written again all the time"),
        _ => ("a file of the state folder has it", "see the file, and remove it while nothing runs"),
    }
}
