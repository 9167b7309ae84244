//! Several sinks share the partitions of topics, and a cut needs one that reads them all: it takes the lease of the
//! lake's pipeline, whereupon the others rest and leave the consumer group to it, until the cut is made.

use std::time::Duration;

use sooner_api::Clock;
use sooner_delta::cut_lease::CutLease;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::clock::SystemClock;

/// How often it is looked who holds the lease.
const INTERVAL: Duration = Duration::from_secs(2);
/// A holder that says nothing for so long has died.
const LEASE: Duration = Duration::from_secs(30);
/// So long others rest at most for a cut that does not come about, and so long they are then left alone.
const LONGEST: Duration = Duration::from_secs(120);

/// Whether this process's sink rests for another one.
#[derive(Clone, Debug)]
pub struct Turns {
    rests: watch::Receiver<bool>,
}

/// What a sink does about the lease.
#[derive(Debug, Default)]
struct Holding {
    since: Option<Instant>,
    not_before: Option<Instant>,
}

impl Holding {
    /// Whether the lease is wanted, for a cut that waits because others read some of its tables.
    fn wants(&mut self, is_shared: bool, now: Instant) -> bool {
        let has_ended = self.not_before.is_some_and(|not_before| now < not_before);
        if !has_ended && self.since.is_some_and(|since| now >= since + LONGEST) {
            self.not_before = Some(now + LONGEST);
            tracing::warn!("no cut could be made although the other sinks rested; they go on for a while");
        }
        is_shared && self.not_before.is_none_or(|not_before| now >= not_before)
    }
}

impl Turns {
    /// Looks after the lease as long as anybody asks for turns. `shared` tells whether a cut waits here because others
    /// read some of its tables.
    pub fn start(lease: CutLease, shared: watch::Receiver<bool>) -> Turns {
        let (tell, rests) = watch::channel(false);
        tokio::spawn(async move {
            let mut holding = Holding::default();
            while !tell.is_closed() {
                let is_shared = *shared.borrow();
                let rests = turn(&lease, &mut holding, is_shared).await;
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

/// Takes the lease or gives it back, and returns whether this sink is to rest. While the lake cannot be reached, nobody
/// rests.
async fn turn(lease: &CutLease, holding: &mut Holding, is_shared: bool) -> bool {
    let (now, millis) = (Instant::now(), SystemClock.now_micros() / 1000);
    let looked = if holding.wants(is_shared, now) {
        let until = millis + i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX);
        let taken = lease.take(millis, until).await;
        if matches!(taken, Ok(true)) {
            if holding.since.is_none() {
                tracing::info!("the other sinks are asked to rest, for a cut");
            }
            holding.since.get_or_insert(now);
        }
        taken.map(|taken| !taken)
    } else {
        let given_back = match holding.since.take() {
            Some(_) => lease.give_back(millis).await,
            None => Ok(()),
        };
        match given_back {
            Ok(()) => lease.is_anothers(millis).await,
            Err(error) => Err(error),
        }
    };
    looked.unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot look at the lease of cuts");
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn others_do_not_rest_for_ever_for_a_cut_that_does_not_come_about() {
        let (mut holding, start) = (Holding::default(), Instant::now());
        assert!(!holding.wants(false, start) && holding.wants(true, start));
        holding.since = Some(start);
        assert!(holding.wants(true, start + LONGEST / 2));
        assert!(!holding.wants(true, start + LONGEST));
        holding.since = None;
        assert!(!holding.wants(true, start + LONGEST * 3 / 2));
        assert!(holding.wants(true, start + LONGEST * 2));
    }
}
