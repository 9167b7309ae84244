//! Erasures that a running process is asked for. They are made one after the other, on a thread of its own; so many
//! wait at most. Values of subjects are in memory only: what the state folder has of an erasure that is asked for has
//! their hashes, so that one that its process did not live to make is told of by the next process, and has to be asked
//! for again. What was made has a certificate in the lake.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sooner_api::{Clock, Code, Error, Result};
use sooner_delta::erasure::subject::Subject;
use sooner_delta::legal_holds::HashedSubject;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::clock::SystemClock;
use crate::side_thread::SideThread;
use crate::told::operator_error;

/// Erasures that wait at most, beside the one that is being made.
const MOST_WAITING: usize = 4;
/// Failures and findings that are kept at most; the oldest go first.
const MOST_KEPT: usize = 50;

/// An erasure that is asked for.
#[derive(Clone, Debug)]
pub struct ErasureOrder {
    /// Its name, which its certificate will have.
    pub name: String,
    /// Whose rows.
    pub subjects: Vec<Subject>,
    /// Only say what there is, and what keeps it.
    pub dry_run: bool,
    /// Erase although the source still has the subject.
    pub allow_source: bool,
    /// Drop cuts that hold rows of the subject.
    pub drop_cuts: bool,
    /// Erase results of reports that hold rows of the subject.
    pub drop_reports: bool,
}

/// What is told of an erasure that is asked for: no values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedErasure {
    /// Its name.
    pub name: String,
    /// Whether it only says what there is.
    pub dry_run: bool,
    /// When it was asked for, in microseconds since 1970.
    pub asked_micros: i64,
    /// Whose rows, by hashes of the values.
    pub subjects: Vec<HashedSubject>,
    /// Why it was not made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

/// What has become of an erasure that has no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for others.
    Waiting,
    /// It is being made.
    Begun,
    /// It was not made, or not to its end.
    Failed(Error),
    /// What a dry run found.
    Found(Value),
}

/// Why an erasure cannot be asked for.
#[derive(Debug)]
pub enum Refusal {
    /// So many wait already.
    Full,
    /// Nothing is made in this process any more.
    Closed,
    /// The state folder cannot be written to.
    Unwritable(io::Error),
}

type Known = BTreeMap<String, (AskedErasure, Standing)>;

/// Where erasures are asked for.
#[derive(Clone)]
pub struct ErasureDesk {
    folder: PathBuf,
    orders: mpsc::Sender<ErasureOrder>,
    known: Arc<Mutex<Known>>,
}

impl ErasureDesk {
    /// Makes what is asked for by `work`, which returns what a dry run found, as long as the thread is kept.
    pub fn start<F>(
        state_dir: &Path,
        work: impl Fn(ErasureOrder) -> F + Send + 'static,
    ) -> Result<(ErasureDesk, SideThread)>
    where
        F: Future<Output = anyhow::Result<Option<Value>>>,
    {
        let folder = state_dir.join("erasures");
        let known = Arc::new(Mutex::new(left_behind(&folder)));
        let (orders, mut asked) = mpsc::channel::<ErasureOrder>(MOST_WAITING);
        let desk = ErasureDesk { folder, orders, known };
        let serving = desk.clone();
        let thread = SideThread::start("erasures", move || async move {
            while let Some(order) = asked.recv().await {
                let name = order.name.clone();
                if serving.begin(&name) {
                    let outcome = work(order).await;
                    serving.end(&name, outcome);
                }
            }
        })?;
        Ok((desk, thread))
    }

    /// Asks for an erasure.
    pub fn ask(&self, order: ErasureOrder) -> std::result::Result<(), Refusal> {
        let asked = AskedErasure {
            name: order.name.clone(),
            dry_run: order.dry_run,
            asked_micros: SystemClock.now_micros(),
            subjects: order.subjects.iter().map(HashedSubject::of).collect(),
            error: None,
        };
        let permit = self.orders.try_reserve().map_err(|error| match error {
            TrySendError::Full(()) => Refusal::Full,
            TrySendError::Closed(()) => Refusal::Closed,
        })?;
        store(&self.folder, &asked).map_err(Refusal::Unwritable)?;
        self.known().insert(asked.name.clone(), (asked, Standing::Waiting));
        permit.send(order);
        Ok(())
    }

    /// What has become of an erasure that was asked for; none if it is not known, or has its certificate.
    pub fn standing(&self, name: &str) -> Option<(AskedErasure, Standing)> {
        self.known().get(name).cloned()
    }

    /// All of those, the last one first.
    pub fn all(&self) -> Vec<(AskedErasure, Standing)> {
        self.known().values().rev().cloned().collect()
    }

    /// Forgets a failure or a finding, or withdraws an erasure that has not begun; false if there is none such.
    pub fn forget(&self, name: &str) -> io::Result<bool> {
        let mut known = self.known();
        let is_over = known.get(name).is_some_and(|(_, standing)| *standing != Standing::Begun);
        if is_over {
            remove(&self.folder, name)?;
            known.remove(name);
        }
        Ok(is_over)
    }

    /// Whether it is to be made, rather than withdrawn.
    fn begin(&self, name: &str) -> bool {
        match self.known().get_mut(name) {
            Some((_, standing)) => {
                *standing = Standing::Begun;
                true
            }
            None => false,
        }
    }

    fn end(&self, name: &str, outcome: anyhow::Result<Option<Value>>) {
        let mut known = self.known();
        let Some((asked, standing)) = known.get_mut(name) else { return };
        let noted = match outcome {
            Err(error) => {
                let error = operator_error(error, Code::ErasureRefused, "cannot erase the subject");
                tracing::warn!(erasure = name, code = %error.code, %error, "an erasure was not made");
                asked.error = Some(error.clone());
                *standing = Standing::Failed(error);
                store(&self.folder, asked)
            }
            Ok(Some(found)) => {
                *standing = Standing::Found(found);
                remove(&self.folder, name)
            }
            Ok(None) => {
                tracing::info!(erasure = name, "an erasure has its certificate");
                known.remove(name);
                remove(&self.folder, name)
            }
        };
        if let Err(error) = noted {
            tracing::warn!(erasure = name, %error, "the state folder does not say what became of an erasure");
        }
        let is_over = |standing: &Standing| matches!(standing, Standing::Failed(_) | Standing::Found(_));
        let over: Vec<_> =
            known.iter().filter(|(_, (_, standing))| is_over(standing)).map(|(name, _)| name.clone()).collect();
        for name in over.iter().take(over.len().saturating_sub(MOST_KEPT)) {
            known.remove(name);
            // What cannot be removed is told once more by the next process.
            let _ = remove(&self.folder, name);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the process before this one has left: failures, and what it did not live to make. A dry run is forgotten.
fn left_behind(folder: &Path) -> Known {
    let mut known = Known::new();
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json")) {
        let read = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<AskedErasure>(&text).ok());
        match read {
            Some(mut asked) if !asked.dry_run => {
                let error = asked.error.get_or_insert_with(interrupted).clone();
                known.insert(asked.name.clone(), (asked, Standing::Failed(error)));
            }
            _ => drop(std::fs::remove_file(&path)),
        }
    }
    known
}

fn interrupted() -> Error {
    let why = "its process ended before it was made to its end; the values are kept nowhere";
    let remedy = "see whether there is a certificate of that name, and ask for it again if there is none";
    Error::operator(Code::ErasureRefused, "cannot erase the subject", why, remedy)
}

fn store(folder: &Path, asked: &AskedErasure) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let beside = folder.join(format!("{}.writing", asked.name));
    std::fs::write(&beside, serde_json::to_vec(asked)?)?;
    std::fs::rename(beside, path(folder, &asked.name))
}

fn remove(folder: &Path, name: &str) -> io::Result<()> {
    match std::fs::remove_file(path(folder, name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::*;

    fn order(name: &str, dry_run: bool) -> ErasureOrder {
        let subjects = vec!["email=jane@doe.org".parse().unwrap()];
        ErasureOrder {
            name: name.to_owned(),
            subjects,
            dry_run,
            allow_source: false,
            drop_cuts: false,
            drop_reports: false,
        }
    }

    /// A desk whose work waits for leave, and returns what its order's name says.
    fn desk(folder: &Path) -> (ErasureDesk, SideThread, Arc<Semaphore>) {
        let leave = Arc::new(Semaphore::new(0));
        let waits = leave.clone();
        let (desk, thread) = ErasureDesk::start(folder, move |order| {
            let waits = waits.clone();
            async move {
                waits.acquire().await.unwrap().forget();
                match order.name.as_str() {
                    name if name.starts_with("found") => Ok(Some(Value::from("rows"))),
                    name if name.starts_with("failed") => Err(anyhow::anyhow!("it is held. To do: wait")),
                    _ => Ok(None),
                }
            }
        })
        .unwrap();
        (desk, thread, leave)
    }

    async fn until(desk: &ErasureDesk, name: &str, is: impl Fn(Option<Standing>) -> bool) {
        while !is(desk.standing(name).map(|(_, standing)| standing)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn one_is_made_at_a_time_and_so_many_wait_and_none_has_a_value_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, _thread, leave) = desk(folder.path());
        desk.ask(order("failed", false)).unwrap();
        until(&desk, "failed", |standing| standing == Some(Standing::Begun)).await;
        for name in ["made", "withdrawn", "found", "last"] {
            desk.ask(order(name, name == "found")).unwrap();
            assert_eq!(desk.standing(name).unwrap().1, Standing::Waiting);
        }
        assert!(matches!(desk.ask(order("more", false)), Err(Refusal::Full)));
        for entry in std::fs::read_dir(folder.path().join("erasures")).unwrap().flatten() {
            assert!(!std::fs::read_to_string(entry.path()).unwrap().contains("jane"), "{entry:?}");
        }
        assert!(desk.forget("withdrawn").unwrap() && !desk.forget("failed").unwrap(), "what has begun goes on");
        leave.add_permits(4);
        until(&desk, "last", |standing| standing.is_none()).await;
        assert_eq!(desk.standing("found").unwrap().1, Standing::Found("rows".into()));
        assert_eq!((desk.standing("made"), desk.standing("withdrawn")), (None, None));
        let failed = desk.standing("failed").unwrap().0.error.unwrap();
        assert_eq!((failed.why.as_str(), failed.remedy.as_str()), ("it is held", "wait"));
    }

    #[tokio::test]
    async fn the_next_process_tells_of_what_was_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let (before, thread, _leave) = desk(folder.path());
        before.ask(order("begun", false)).unwrap();
        before.ask(order("dry", true)).unwrap();
        until(&before, "begun", |standing| standing == Some(Standing::Begun)).await;
        drop(thread);
        let (next, _thread, _leave) = desk(folder.path());
        let (asked, standing) = next.standing("begun").unwrap();
        assert!(matches!(standing, Standing::Failed(error) if error.remedy.contains("again")));
        assert!(asked.subjects[0].may_be(&"email=jane@doe.org".parse().unwrap()));
        assert!(next.standing("dry").is_none() && next.forget("begun").unwrap() && !next.forget("begun").unwrap());
    }
}
