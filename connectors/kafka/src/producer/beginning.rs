//! How a transaction begins: not while brokers are still ending the one before, and with all its partitions known to
//! them early.

use std::thread;
use std::time::Instant;

use rdkafka::producer::BaseRecord;
use sooner_api::Result;

use super::transaction_writer::{MARK, TransactionWriter};
use crate::cluster::delivery_reports::NO_TABLE;

impl TransactionWriter {
    /// Begins a transaction that will have events, if none is open. The record comes last, when the events have their
    /// offsets; brokers take its partition into the transaction together with those of the events, because of a mark
    /// that goes first. Otherwise each commit would wait for one more round trip.
    pub(super) fn begin(&mut self) -> Result<()> {
        let is_open = self.transactions.open_since().is_some();
        self.begin_plain()?;
        if is_open || !self.transactions.is_transactional() {
            return Ok(());
        }
        let topic = self.settings.topics.progress.clone();
        self.transactions.send(BaseRecord::with_opaque_to(&topic, NO_TABLE).partition(0).key(MARK))
    }

    /// Begins a transaction, if none is open.
    pub(super) fn begin_plain(&mut self) -> Result<()> {
        if self.transactions.open_since().is_none() && self.transactions.is_transactional() {
            thread::sleep(self.pacing.rest(Instant::now()));
        }
        self.transactions.begin()
    }
}
