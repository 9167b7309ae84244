//! What somebody asks of a source: tables, or rows of them, that are copied again.

use sooner_api::{Class, CopyAnswer, CopyRequest, Result, SchemaRegistry};

use super::PostgresSource;
use crate::announced::CopyStart;
use crate::chunk::CopiedTable;
use crate::verdict::tables_changed;

impl<R: SchemaRegistry> PostgresSource<R> {
    /// Takes in what somebody has asked for.
    pub(super) async fn take_requests(&mut self) -> Result<()> {
        let mut whole = Vec::new();
        for request in self.asked.take() {
            let is_whole = request.condition.is_none();
            match self.stream.oid_of(&request.table) {
                // Nobody takes its rows before all tables have been inspected again.
                oid if is_whole && oid.is_none_or(|oid| self.asked.apart.contains(&oid)) => {
                    let why = format!("somebody asks for {}, which takes no part at the moment", request.table);
                    self.stream.postponed.change(None, tables_changed(why))?;
                }
                None => self.asked.refuse(request),
                Some(oid) if is_whole => whole.push(oid),
                Some(oid) if self.is_copied(oid) => self.asked.put_off(request),
                Some(oid) if self.stream.is_followed(oid) => self.announce_in_place(oid, request).await?,
                Some(_) => self.asked.refuse(request),
            }
        }
        if whole.is_empty() { Ok(()) } else { self.announce_again(whole).await }
    }

    pub(super) fn is_copied(&self, oid: u32) -> bool {
        self.copies.copies(oid) || self.announced.holds(oid)
    }

    /// Announces that rows are copied over those that are there, while the table is followed.
    async fn announce_in_place(&mut self, oid: u32, request: CopyRequest) -> Result<()> {
        let Some(table) = self.stream.find_tables(&[oid]).await?.pop() else {
            self.asked.refuse(request);
            return Ok(());
        };
        let from = self.stream.server_state().await?.end_lsn;
        // The stream carries all that anybody writes to it.
        let mut copied = match CopiedTable::new(self.nulls.apply(table), &self.encoders, false).await {
            Ok(copied) => copied,
            Err(error) if error.class == Class::Operator => {
                self.asked.answer(CopyAnswer::Refused(request, error));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        copied.condition = request.condition.clone();
        self.announced.push(oid, from, CopyStart::InPlace(copied, request));
        Ok(())
    }

    pub(super) fn abandon_in_place(&mut self, oid: u32) -> Option<CopyRequest> {
        let request = self.copies.abandon_in_place(oid)?;
        self.stream.end_copy(oid);
        Some(request)
    }
}
