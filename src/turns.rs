//! Several sinks share the partitions of topics, and a cut needs one that reads them all: it takes the lease of the
//! lake's pipeline, whereupon the others rest and leave the consumer group to it, until the cut is made.

use std::path::Path;
use std::time::Duration;

use sooner_api::{Clock, Error, Side};
use sooner_delta::cut_lease::CutLease;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::clock::SystemClock;
use crate::control::Requests;
use crate::cut_desk::CutRequests;
use crate::pipeline::cutting::{CutDesk, CutRequest, Sharing, not_alone, too_slow};

/// How often it is looked who holds the lease.
const INTERVAL: Duration = Duration::from_secs(2);
/// A holder that says nothing for so long has died.
const LEASE: Duration = Duration::from_secs(30);
/// So long the lease is kept when nobody wants it: requests are offered in turn.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long others may take to leave their partitions.
const LEAVING: Duration = Duration::from_secs(120);
/// How long one sink alone may take to get to where a cut can be made.
const CATCHING_UP: Duration = Duration::from_secs(15 * 60);

/// Whether this process's sink rests for another one.
#[derive(Clone, Debug)]
pub struct Turns {
    rests: watch::Receiver<bool>,
}

/// What this sink does about the lease.
struct Holder {
    lease: CutLease,
    sharing: watch::Sender<Sharing>,
    asked: watch::Receiver<Option<CutRequest>>,
    requests: CutRequests,
    control: Requests,
    term: Term,
}

/// How long the lease has been held, and wanted.
#[derive(Debug, Default)]
struct Term {
    /// Since when it is held.
    since: Option<Instant>,
    /// When it was wanted last.
    wanted: Option<Instant>,
}

impl Term {
    /// Whether the lease is to be held at a moment.
    fn holds(&mut self, sharing: Sharing, now: Instant) -> bool {
        if sharing == Sharing::Others || sharing == Sharing::Alone && self.since.is_some() {
            self.wanted = Some(now);
        }
        self.wanted.is_some_and(|wanted| now < wanted + PATIENCE)
    }

    /// Why a request comes to nothing for which the lease has been held long enough.
    fn fails(&self, name: &str, sharing: Sharing, now: Instant) -> Option<Error> {
        let held = now.duration_since(self.since?);
        match sharing {
            Sharing::Others if held >= LEAVING => Some(not_alone(name)),
            Sharing::Alone if held >= CATCHING_UP => Some(too_slow(name)),
            _ => None,
        }
    }
}

impl Turns {
    /// Looks after the lease, for the requests of a desk in this state folder, as long as anybody asks for turns.
    pub fn start(lease: CutLease, desk: &CutDesk, state_dir: &Path) -> Turns {
        let (tell, rests) = watch::channel(false);
        let (sharing, asked) = (desk.sharing.clone(), desk.asked.clone());
        let (requests, control) = (CutRequests::new(state_dir), Requests::new(state_dir));
        let mut holder = Holder { lease, sharing, asked, requests, control, term: Term::default() };
        tokio::spawn(async move {
            while !tell.is_closed() {
                let rests = holder.turn().await;
                tell.send_if_modified(|known| std::mem::replace(known, rests) != rests);
                sleep(INTERVAL).await;
            }
        });
        Turns { rests }
    }

    /// Waits while another sink makes a cut, or until the pipeline is told to stop.
    pub async fn rest(&self, mut stop: watch::Receiver<bool>) {
        let mut rests = self.rests.clone();
        if !*rests.borrow() {
            return;
        }
        tracing::info!("resting while another sink reads all partitions, to make a cut");
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => {}
            _ = rests.wait_for(|rests| !rests) => {}
        }
        tracing::info!("going on");
    }

    /// Ends an attempt when another sink is to read all partitions.
    pub async fn halt_for_others(self, halt: watch::Sender<bool>) {
        let mut rests = self.rests;
        if rests.wait_for(|rests| *rests).await.is_ok() {
            halt.send_replace(true);
        }
    }
}

impl Holder {
    /// Takes the lease or gives it back, and returns whether this sink is to rest. While the lake cannot be reached,
    /// nobody rests.
    async fn turn(&mut self) -> bool {
        let now = Instant::now();
        let sharing = self.wanted(now);
        let looked = match self.term.holds(sharing, now) {
            true => self.take(now).await,
            false => self.leave().await,
        };
        looked.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot look at the lease of cuts");
            false
        })
    }

    /// What a request wants; nothing once it has been answered because it took too long.
    fn wanted(&self, now: Instant) -> Sharing {
        let sharing = *self.sharing.borrow();
        let asked = self.asked.borrow().as_ref().map(|request| request.name.clone());
        let Some(name) = asked.filter(|_| !self.control.is_paused(Side::Sink)) else { return Sharing::None };
        let Some(error) = self.term.fails(&name, sharing, now) else { return sharing };
        tracing::warn!(cut = name, %error, "a cut was not made");
        self.requests.fail(&name, &error);
        self.sharing.send_replace(Sharing::None);
        Sharing::None
    }

    async fn take(&mut self, now: Instant) -> sooner_api::Result<bool> {
        let millis = SystemClock.now_micros() / 1000;
        let until = millis + i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
        let is_taken = self.lease.take(millis, until).await?;
        if is_taken && self.term.since.is_none() {
            tracing::info!("the other sinks are asked to rest, for a cut");
            self.term.since = Some(now);
        }
        Ok(!is_taken)
    }

    async fn leave(&mut self) -> sooner_api::Result<bool> {
        let millis = SystemClock.now_micros() / 1000;
        if self.term.since.take().is_some() {
            self.lease.give_back(millis).await?;
        }
        self.lease.is_anothers(millis).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_lease_is_held_while_a_request_wants_it_and_a_little_longer() {
        let (mut term, start) = (Term::default(), Instant::now());
        assert!(!term.holds(Sharing::None, start) && !term.holds(Sharing::Alone, start), "nobody is asked to rest");
        assert!(term.holds(Sharing::Others, start));
        term.since = Some(start);
        assert!(term.holds(Sharing::None, start + PATIENCE / 2), "another request is looked at meanwhile");
        assert!(term.holds(Sharing::Alone, start + PATIENCE));
        assert!(!term.holds(Sharing::None, start + PATIENCE * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn others_do_not_rest_for_ever_for_a_cut_that_does_not_come_about() {
        let start = Instant::now();
        let term = Term { since: Some(start), wanted: None };
        let fails = |sharing, after| term.fails("q3", sharing, start + after).is_some();
        assert!(!fails(Sharing::Others, LEAVING / 2) && fails(Sharing::Others, LEAVING));
        assert!(!fails(Sharing::Alone, LEAVING) && fails(Sharing::Alone, CATCHING_UP));
        assert!(Term::default().fails("q3", Sharing::Others, start + CATCHING_UP).is_none(), "nobody rested");
    }
}
