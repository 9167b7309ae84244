//! Where tasks are asked for: they are done one after the other, on a thread of its own beside the stream. Each is a
//! file in the state folder from when it is asked for, so that the next process goes on with it; what became of it
//! stays there until others have taken its place.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use sooner_api::{Class, Clock, Error, Result};
use tokio::sync::Notify;

use super::{Done, Standing, Task, Wanted};
use crate::clock::SystemClock;
use crate::control::remove;
use crate::side_thread::SideThread;
use crate::told::operator_error;

/// Tasks that are not done yet, at most.
const MOST_WAITING: usize = 20;
/// Tasks that are done and kept, at most; the oldest go first.
const MOST_KEPT: usize = 50;
/// So often the process may end meanwhile, before a task counts as failed.
const MOST_DEATHS: u32 = 3;
/// Before a task is begun again for which something was away; twice as long after each time, up to the other.
const PAUSES: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(300)];
/// For so long after it was asked for, a task is begun again for which something is away.
const PATIENCE_MICROS: i64 = 24 * 3600 * 1_000_000;

/// What is said of a task that ended in a defect.
const PANICKED: &str = "it came upon a defect of sooner. To do: report this, with the log of the process";

/// Why a task cannot be asked for.
#[derive(Debug)]
pub enum Refusal {
    /// So many wait already.
    Full,
    /// The state folder cannot be written to.
    Unwritable(io::Error),
}

/// What became of a wish to forget a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It is known no more, and not begun.
    Yes,
    /// It is being done.
    Begun,
    /// There is none of this name.
    Unknown,
}

/// Where tasks are asked for.
#[derive(Clone, Debug)]
pub struct TaskDesk {
    folder: PathBuf,
    known: Arc<Mutex<BTreeMap<String, Task>>>,
    asked: Arc<Notify>,
}

impl TaskDesk {
    /// Has `work` do what is asked for, one at a time, as long as the thread is kept; first what the process before
    /// this one has left.
    pub fn start<F>(
        state_dir: &Path,
        work: impl Fn(String, Wanted) -> F + Send + 'static,
    ) -> Result<(TaskDesk, SideThread)>
    where
        F: Future<Output = anyhow::Result<Done>>,
    {
        let folder = state_dir.join("tasks");
        let known = Arc::new(Mutex::new(left_behind(&folder)));
        let desk = TaskDesk { folder, known, asked: Arc::default() };
        let serving = desk.clone();
        let thread = SideThread::start("tasks", move || async move {
            loop {
                let Some(Task { name, wanted, .. }) = serving.begin() else {
                    // Somebody asks, or something may be there again.
                    let _ = tokio::time::timeout(PAUSES[0], serving.asked.notified()).await;
                    continue;
                };
                let doing = AssertUnwindSafe(work(name.clone(), wanted)).catch_unwind();
                let outcome = doing.await.unwrap_or_else(|_| Err(anyhow::anyhow!("{PANICKED}")));
                serving.end(&name, outcome);
            }
        })?;
        Ok((desk, thread))
    }

    /// Asks for something; returns the task's name. The same that has not been done yet is not asked for twice.
    pub fn ask(&self, wanted: Wanted) -> std::result::Result<String, Refusal> {
        let mut known = self.known();
        // One that has begun may have read what was there before.
        let is_same = |task: &&Task| task.wanted == wanted && task.attempts == 0 && task.standing == Standing::Waiting;
        if let Some(same) = known.values().find(is_same) {
            return Ok(same.name.clone());
        }
        if known.values().filter(|task| !task.is_over()).count() >= MOST_WAITING {
            return Err(Refusal::Full);
        }
        let asked_micros = SystemClock.now_micros();
        let name = format!("task-{}-{:08x}", asked_micros / 1000, rand::random::<u32>());
        let task = Task {
            name: name.clone(),
            wanted,
            asked_micros,
            ended_micros: None,
            attempts: 0,
            retries: 0,
            not_before_micros: 0,
            standing: Standing::Waiting,
        };
        self.store(&task).map_err(Refusal::Unwritable)?;
        known.insert(name.clone(), task);
        self.asked.notify_one();
        Ok(name)
    }

    /// All tasks, the last one first.
    pub fn all(&self) -> Vec<Task> {
        self.known().values().rev().cloned().collect()
    }

    /// A task by its name.
    pub fn task(&self, name: &str) -> Option<Task> {
        self.known().get(name).cloned()
    }

    /// Forgets a task that is done or has failed, or withdraws one that has not begun.
    pub fn forget(&self, name: &str) -> io::Result<Forgotten> {
        let mut known = self.known();
        Ok(match known.get(name).map(|task| &task.standing) {
            None => Forgotten::Unknown,
            Some(Standing::Begun) => Forgotten::Begun,
            Some(_) => {
                remove(&self.path(name))?;
                known.remove(name);
                Forgotten::Yes
            }
        })
    }

    /// The task that was asked for first of those that are to be done; none if there is none. One that has been begun
    /// too often has failed.
    fn begin(&self) -> Option<Task> {
        let (mut known, now) = (self.known(), SystemClock.now_micros());
        loop {
            let is_ready = |task: &&mut Task| task.standing == Standing::Waiting && task.not_before_micros <= now;
            let task = known.values_mut().find(is_ready)?;
            task.attempts += 1;
            task.standing = Standing::Begun;
            if task.attempts - task.retries > MOST_DEATHS {
                task.fail(died_too_often(task));
            }
            self.note(task);
            if !task.is_over() {
                return Some(task.clone());
            }
        }
    }

    /// Notes what became of a task. One for which something is away waits.
    fn end(&self, name: &str, outcome: anyhow::Result<Done>) {
        let (mut known, now) = (self.known(), SystemClock.now_micros());
        let Some(task) = known.get_mut(name) else { return };
        let (code, what) = task.wanted.failure();
        match outcome.map_err(|error| operator_error(error, code, &what)) {
            Ok(done) => {
                tracing::info!(task = name, good = done.good, "a task is done");
                task.standing = Standing::Done(done);
                task.ended_micros = Some(now);
            }
            Err(error) if error.class == Class::Retry && now < task.asked_micros + PATIENCE_MICROS => {
                tracing::warn!(task = name, code = %error.code, %error, "a task cannot be done yet");
                let pause = PAUSES[0].saturating_mul(1 << task.retries.min(10)).min(PAUSES[1]);
                task.retries += 1;
                task.not_before_micros = now.saturating_add(i64::try_from(pause.as_micros()).unwrap_or(i64::MAX));
                task.standing = Standing::Waiting;
            }
            Err(error) => {
                tracing::warn!(task = name, code = %error.code, %error, "a task could not be done");
                task.fail(error);
            }
        }
        self.note(task);
        let over: Vec<_> = known.values().filter(|task| task.is_over()).map(|task| task.name.clone()).collect();
        for name in over.iter().take(over.len().saturating_sub(MOST_KEPT)) {
            known.remove(name);
            // What cannot be removed is told once more by the next process.
            let _ = remove(&self.path(name));
        }
    }

    /// Writes down where a task stands. If that fails, the next process does it again, which does no harm.
    fn note(&self, task: &Task) {
        if let Err(error) = self.store(task) {
            tracing::warn!(task = task.name, %error, "the state folder does not say where a task stands");
        }
    }

    fn store(&self, task: &Task) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let beside = self.folder.join(format!("{}.writing", task.name));
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&serde_json::to_vec(task)?)?;
        file.sync_all()?;
        std::fs::rename(beside, self.path(&task.name))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Task>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn died_too_often(task: &Task) -> Error {
    let (code, what) = task.wanted.failure();
    let why = format!("its process ended {MOST_DEATHS} times meanwhile");
    Error::operator(code, what, why, "see its log for why, and ask again; or use the command beside the process")
}

/// What the process before this one has left: what was begun is to be done again.
fn left_behind(folder: &Path) -> BTreeMap<String, Task> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json"));
    let read = |path: PathBuf| {
        let task = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Task>(&text).ok());
        if task.is_none() {
            tracing::warn!(file = %path.display(), "a task that was asked for cannot be read, and is forgotten");
            // It is told of once more by the next process.
            let _ = remove(&path);
        }
        task
    };
    let mut known: BTreeMap<_, _> = files.filter_map(read).map(|task| (task.name.clone(), task)).collect();
    for task in known.values_mut().filter(|task| task.standing == Standing::Begun) {
        task.standing = Standing::Waiting;
    }
    known
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    fn wanted(report: &str) -> Wanted {
        Wanted::Backfill { report: report.to_owned(), from: "2026-01-01".to_owned(), to: "2026-01-31".to_owned() }
    }

    /// A desk whose work waits for leave, and does what the report's name says.
    fn desk(folder: &Path) -> (TaskDesk, SideThread, Arc<Semaphore>) {
        let leave = Arc::new(Semaphore::new(0));
        let waits = leave.clone();
        let (desk, thread) = TaskDesk::start(folder, move |_, wanted| {
            let waits = waits.clone();
            async move {
                waits.acquire().await.unwrap().forget();
                match wanted {
                    Wanted::Backfill { report, .. } if report == "failed" => {
                        Err(anyhow::anyhow!("it has no history. To do: give it one"))
                    }
                    Wanted::Backfill { report, .. } if report == "away" => {
                        Err(Error::retry(sooner_api::Code::LakeUnreachable, "cannot read", "timeout", "nothing").into())
                    }
                    Wanted::Backfill { report, .. } if report == "defect" => panic!("a defect"),
                    _ => Ok(Done { good: true, result: "made".into() }),
                }
            }
        })
        .unwrap();
        (desk, thread, leave)
    }

    async fn until(desk: &TaskDesk, name: &str, is: impl Fn(&Standing) -> bool) -> Task {
        loop {
            match desk.task(name) {
                Some(task) if is(&task.standing) => return task,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    #[tokio::test]
    async fn tasks_are_done_in_their_order_and_each_is_asked_for_once() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, _thread, leave) = desk(folder.path());
        let first = desk.ask(wanted("failed")).unwrap();
        until(&desk, &first, |standing| *standing == Standing::Begun).await;
        let second = desk.ask(wanted("a")).unwrap();
        assert_eq!(desk.ask(wanted("a")).unwrap(), second);
        let third = desk.ask(wanted("b")).unwrap();
        assert_eq!(desk.forget(&first).unwrap(), Forgotten::Begun);
        assert_eq!((desk.forget(&third).unwrap(), desk.forget("other").unwrap()), (Forgotten::Yes, Forgotten::Unknown));
        leave.add_permits(3);
        let done = until(&desk, &second, |standing| matches!(standing, Standing::Done(_))).await;
        assert_eq!((done.attempts, done.ended_micros.is_some()), (1, true));
        let Standing::Failed { error } = desk.task(&first).unwrap().standing else { panic!("it has failed") };
        assert_eq!((error.why.as_str(), error.remedy.as_str()), ("it has no history", "give it one"));
        assert_eq!(desk.all().iter().map(|task| &task.name).collect::<Vec<_>>(), [&second, &first]);
        assert_ne!(desk.ask(wanted("a")).unwrap(), second, "what was done can be asked for again");
    }

    #[tokio::test]
    async fn what_is_away_is_waited_for_while_others_are_done_and_a_defect_ends_one_task() {
        let folder = tempfile::tempdir().unwrap();
        let (desk, _thread, leave) = desk(folder.path());
        let (away, defect) = (desk.ask(wanted("away")).unwrap(), desk.ask(wanted("defect")).unwrap());
        let last = desk.ask(wanted("a")).unwrap();
        leave.add_permits(3);
        until(&desk, &last, |standing| matches!(standing, Standing::Done(_))).await;
        let Standing::Failed { error } = desk.task(&defect).unwrap().standing else { panic!("it has failed") };
        assert!(error.why.contains("a defect"), "{error}");
        let waiting = desk.task(&away).unwrap();
        assert_eq!((waiting.attempts, waiting.retries, &waiting.standing), (1, 1, &Standing::Waiting));
        assert!(waiting.not_before_micros > SystemClock.now_micros());
        assert_ne!(desk.ask(wanted("away")).unwrap(), away, "it has begun once");
    }

    #[tokio::test]
    async fn the_next_process_does_what_the_one_before_has_begun() {
        let folder = tempfile::tempdir().unwrap();
        let (before, thread, _leave) = desk(folder.path());
        let name = before.ask(wanted("a")).unwrap();
        until(&before, &name, |standing| *standing == Standing::Begun).await;
        drop(thread);
        for attempt in 2..=MOST_DEATHS {
            let (next, _thread, _leave) = desk(folder.path());
            let task = until(&next, &name, |standing| *standing == Standing::Begun).await;
            assert_eq!(task.attempts, attempt);
        }
        let (last, _thread, leave) = desk(folder.path());
        leave.add_permits(1);
        let task = until(&last, &name, |standing| matches!(standing, Standing::Failed { .. })).await;
        assert!(matches!(task.standing, Standing::Failed { error } if error.why.contains("3 times")));
        assert_eq!(desk(folder.path()).0.task(&name).unwrap().attempts, MOST_DEATHS + 1, "it stays so");
    }
}
