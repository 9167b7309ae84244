//! Turns pgoutput's messages into batches of events: the state of the stream, without I/O.
//!
//! A batch ends between transactions once it is large enough; only a transaction larger than a batch is cut inside.
//! The batch in which such a transaction ends carries nothing of the next one, so that each large transaction has a
//! batch that ends with it.

use std::collections::HashMap;
use std::sync::Arc;

use sooner_api::{Error, EventBatch, Result, TableNote};
use sooner_schemas::encode::{Encoder, Origin, TupleValue, UNEXPECTED_NULL, ValueError};
use sooner_schemas::event::{EventSchema, TableEvents, Watermark};
use sooner_schemas::{Lsn, Relation, TableName};

use crate::batch_builder::BatchBuilder;
use crate::errors::unholdable;
use crate::log_end::before_page_header;
use crate::open_transaction::OpenTransaction;
use crate::pgoutput::{Message, OldRow, RelationShape, Tuple};
use crate::tracked::{Change, Known, Meaning, Next, PartialRow, Relations, Selected, fill_from_old, relaxed};
use crate::unseen::Ended;
use crate::verdict::entered_in_part;

/// Size in bytes from which a batch ends with its transaction.
const SOFT_BYTES: usize = 512 << 10;
/// Size in bytes from which a batch ends even inside its transaction.
const HARD_BYTES: usize = 2 << 20;

/// State of the stream between messages.
pub struct Decoder {
    relations: Relations,
    /// Watermark of the stream over all batches; it never moves back.
    watermark: Watermark,
    /// Transactions whose commit record starts before this LSN are not carried.
    start_lsn: Lsn,
    /// Rows of tables that are being copied of which a part was left out, since they were last asked for.
    partial: Vec<PartialRow>,
    /// Everything before this LSN has been read.
    read_lsn: Lsn,
    /// The server's log ended here at least when it was looked at.
    log_end: Lsn,
    /// Transactions that have ended since they were last asked for.
    ended: Vec<Ended>,
    transaction: Option<OpenTransaction>,
    batch: BatchBuilder,
    /// Whether an earlier batch has taken a part of the current transaction.
    cut_inside: bool,
    ready: bool,
    /// A relation was described that the catalog has to be looked at for.
    look_wanted: bool,
}

impl Decoder {
    /// Starts between transactions, at `start_lsn`; of earlier transactions it is only noted that they have ended.
    /// Carries the events of the selected tables, but for those that are covered.
    pub fn new(selected: HashMap<u32, Selected>, start_lsn: Lsn) -> Decoder {
        Decoder {
            relations: Relations::new(selected),
            watermark: Watermark { commit_lsn: start_lsn.last_before(), end_lsn: start_lsn, commit_micros: 0 },
            start_lsn,
            read_lsn: Lsn::ZERO,
            log_end: Lsn::ZERO,
            partial: Vec::new(),
            ended: Vec::new(),
            transaction: None,
            batch: BatchBuilder::default(),
            cut_inside: false,
            ready: false,
            look_wanted: false,
        }
    }

    /// Whether the batch is complete and has to be taken before the next message.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Takes the batch. None if there is nothing in it, or if a transaction is open that still fits it.
    pub fn take(&mut self) -> Option<EventBatch> {
        if self.transaction.is_some() && !self.ready {
            return None;
        }
        self.ready = false;
        let batch = self.batch.take()?;
        self.cut_inside = self.transaction.is_some();
        Some(batch)
    }

    /// Applies one message, whose WAL starts at `lsn`.
    pub fn apply(&mut self, lsn: Lsn, message: Message<'_>, now_micros: i64) -> Result<Next> {
        match message {
            Message::Begin { commit_lsn, commit_micros, xid } => {
                let is_former = commit_lsn < self.start_lsn;
                self.transaction = Some(OpenTransaction { commit_lsn, commit_micros, xid, changes: 0, is_former });
                self.batch.set_watermark(None);
            }
            Message::Commit { commit_lsn, end_lsn, commit_micros } => {
                let xid = self.transaction.take().map(|transaction| transaction.xid);
                self.ended.extend(xid.map(|xid| Ended { commit_lsn, xid }));
                self.read_lsn = self.read_lsn.max(end_lsn);
                self.reach(Watermark { commit_lsn, end_lsn, commit_micros });
                self.ready = std::mem::take(&mut self.cut_inside) || self.batch.bytes() >= SOFT_BYTES;
            }
            Message::Relation(shape) => self.announce(shape),
            Message::Insert { oid, new } => return self.insert(oid, lsn, now_micros, &new),
            Message::Update { oid, old, new } => return self.update(oid, lsn, now_micros, old, new),
            Message::Delete { oid, old } => return self.delete(oid, lsn, now_micros, &old),
            Message::Truncate { oids } => return self.truncate(&oids, lsn, now_micros),
            Message::Other => {}
        }
        Ok(Next::Continue)
    }

    /// Handles a keepalive: the server has sent everything before `end_lsn`. Outside a transaction the watermark
    /// advances to it, and to the time of the server's clock unless the server is known to be behind its log: then it
    /// has yet to send what was committed before that time.
    pub fn caught_up(&mut self, end_lsn: Lsn, server_micros: i64) {
        self.batch.note_server_end(end_lsn);
        if self.transaction.is_none() {
            let commit_micros = if end_lsn < self.log_end { self.watermark.commit_micros } else { server_micros };
            self.read_lsn = self.read_lsn.max(end_lsn);
            self.reach(Watermark { commit_lsn: end_lsn.last_before(), end_lsn, commit_micros });
        }
    }

    /// Advances the watermark, never back: a keepalive may still report a position before the last commit.
    fn reach(&mut self, watermark: Watermark) {
        if watermark.end_lsn >= self.watermark.end_lsn && watermark.commit_lsn >= self.watermark.commit_lsn {
            self.watermark = watermark;
        }
        self.batch.set_watermark(Some(self.watermark));
    }

    /// Records where the server's log was seen to end.
    pub fn server_end(&mut self, end_lsn: Lsn) {
        self.batch.note_server_end(end_lsn);
        self.log_end = self.log_end.max(before_page_header(end_lsn));
    }

    /// Whether the catalog should be looked at soon; once after each reason for it.
    pub fn take_look_wanted(&mut self) -> bool {
        std::mem::take(&mut self.look_wanted)
    }

    /// Sets a relation and its encoder for the changes that follow; ignores it if its table is not selected.
    pub fn set_relation(&mut self, oid: u32, relation: Relation, encoder: Encoder) -> Arc<EventSchema> {
        let schema = encoder.schema().clone();
        self.batch.close(oid);
        self.relations.set(oid, relation, encoder);
        schema
    }

    /// Ignores all further changes of a relation.
    pub fn ignore(&mut self, oid: u32) {
        self.relations.ignore(oid);
    }

    /// Whether what is taken next begins with a transaction.
    pub fn is_between(&self) -> bool {
        !self.cut_inside
    }

    /// Whether nothing has been decoded that was not taken.
    pub fn is_idle(&self) -> bool {
        self.transaction.is_none() && self.batch.is_empty()
    }

    /// Everything before this LSN has been read, whether or not it was carried.
    pub fn read_lsn(&self) -> Lsn {
        self.read_lsn
    }

    /// Transactions that have ended since this was last asked, in commit order.
    pub fn take_ended(&mut self) -> Vec<Ended> {
        std::mem::take(&mut self.ended)
    }

    /// Rows of copied tables that are not known whole, since this was last asked.
    pub fn take_partial(&mut self) -> Vec<PartialRow> {
        std::mem::take(&mut self.partial)
    }

    /// Leaves the events of a table out until it is copied.
    pub fn mute(&mut self, oid: u32) {
        self.batch.close(oid);
        self.relations.mute(oid);
    }

    /// Carries the events of a table that is being copied, but for those that are covered; none if it is carried.
    pub fn follow_copied(&mut self, oid: u32, selected: Option<Selected>) {
        self.batch.close(oid);
        self.relations.follow_copied(oid, selected);
    }

    /// The table's copy has ended.
    pub fn end_copy(&mut self, oid: u32) {
        self.relations.end_copy(oid);
    }

    /// Stops a table: its further events are left out, and the batch reports the error.
    pub fn stop(&mut self, table: &TableName, error: Error) {
        if self.relations.deselect(table) {
            self.batch.stop(table, error);
        }
    }

    /// Reports what is known of a table by now, after the events that are here.
    pub fn note(&mut self, note: TableNote) {
        self.batch.note(note);
    }

    /// A table whose events are carried; none for any other object id.
    pub fn selected(&self, oid: u32) -> Option<&Selected> {
        self.relations.selected(oid)
    }

    /// Takes note of a relation that the stream describes.
    fn announce(&mut self, shape: RelationShape) {
        self.batch.close(shape.oid);
        self.look_wanted |= self.relations.announce(shape);
    }

    fn insert(&mut self, oid: u32, lsn: Lsn, now_micros: i64, new: &Tuple<'_>) -> Result<Next> {
        if new.contains(&TupleValue::Unavailable) && !self.relations.needs_rest(oid, true) {
            return self.refuse(oid, lsn, now_micros, entered_in_part);
        }
        self.note_partial(oid, new, true);
        self.change(oid, lsn, now_micros, new, |encoder, out, origin| encoder.insert(out, origin, new))
    }

    fn update<'a>(
        &mut self,
        oid: u32,
        lsn: Lsn,
        now_micros: i64,
        old: Option<OldRow<'a>>,
        mut new: Tuple<'a>,
    ) -> Result<Next> {
        if old.is_none() {
            self.note_partial(oid, &new, false);
        }
        let (old, whole) = match old {
            None => {
                return self.change(oid, lsn, now_micros, &new, |encoder, out, origin| {
                    encoder.update(out, origin, None, &new)
                });
            }
            Some(OldRow::Key(old)) => (old, false),
            Some(OldRow::Whole(old)) => (old, true),
        };
        let mut key_changed = false;
        if let Some(known) = self.relations.known(oid) {
            known.check_width(&old)?;
            fill_from_old(&known.relation, &old, whole, &mut new);
            key_changed = known.relation.key.iter().any(|&index| old.get(index) != new.get(index));
            self.note_partial(oid, &new, key_changed);
        }
        self.change(oid, lsn, now_micros, &new, |encoder, out, origin| {
            if !key_changed {
                return encoder.update(out, origin, whole.then_some(&old[..]), &new);
            }
            encoder.delete(out, origin, &old, whole)?;
            let mut second = *origin;
            second.position.ordinal += 1;
            encoder.insert_renamed(out, &second, &old, &new)
        })
    }

    /// Takes note of a row that is not known whole, if its table is being copied: nobody else may have the rest.
    fn note_partial(&mut self, table: u32, row: &[TupleValue<'_>], is_renamed: bool) {
        let is_needed = self.relations.needs_rest(table, is_renamed) && row.contains(&TupleValue::Unavailable);
        let known = self.relations.known(table).filter(|_| is_needed);
        let key = known.and_then(|known| known.key_texts(row));
        self.partial.extend(key.map(|key| PartialRow { table, key, is_renamed }));
    }

    fn delete(&mut self, oid: u32, lsn: Lsn, now_micros: i64, old: &OldRow<'_>) -> Result<Next> {
        let (old, whole) = match old {
            OldRow::Key(old) => (old, false),
            OldRow::Whole(old) => (old, true),
        };
        self.change(oid, lsn, now_micros, old, |encoder, out, origin| encoder.delete(out, origin, old, whole))
    }

    fn truncate(&mut self, oids: &[u32], lsn: Lsn, now_micros: i64) -> Result<Next> {
        let before = self.changes();
        let mut truncated = Vec::new();
        for &oid in oids {
            match self.next_change(oid, lsn, now_micros)? {
                Change::Left => {}
                Change::Carried(known, origin) => truncated.push((oid, known, origin)),
                Change::Unknown(shape) => {
                    self.set_changes(before);
                    return Ok(Next::RelationNeeded(shape));
                }
            }
        }
        for (oid, known, origin) in truncated {
            let mut events = TableEvents::new(known.encoder.schema().clone());
            known.encoder.truncate(&mut events, &origin);
            self.batch.push(oid, events);
        }
        Ok(Next::Continue)
    }

    /// Counts a change of a relation that cannot be carried: its table is stopped with this error.
    pub fn refuse(&mut self, oid: u32, lsn: Lsn, now: i64, error: impl FnOnce(&TableName) -> Error) -> Result<Next> {
        let before = self.changes();
        match self.next_change(oid, lsn, now)? {
            Change::Left => {}
            Change::Carried(known, _) => self.stop(&known.relation.name, error(&known.relation.name)),
            Change::Unknown(shape) => {
                self.set_changes(before);
                return Ok(Next::RelationNeeded(shape));
            }
        }
        Ok(Next::Continue)
    }

    fn changes(&self) -> u64 {
        self.transaction.as_ref().map_or(0, |transaction| transaction.changes)
    }

    /// Counts on from an earlier number of changes: the message is applied again.
    fn set_changes(&mut self, changes: u64) {
        if let Some(transaction) = &mut self.transaction {
            transaction.changes = changes;
        }
    }

    /// Numbers the next change of a relation, and says what it means.
    fn next_change(&mut self, oid: u32, lsn: Lsn, now_micros: i64) -> Result<Change> {
        let Some(transaction) = &mut self.transaction else {
            return Err(crate::errors::protocol("cannot understand the stream", "a change outside a transaction"));
        };
        let origin = transaction.next(lsn, now_micros);
        if transaction.is_former {
            return Ok(Change::Left);
        }
        match self.relations.meaning(oid, origin.position) {
            Some(Meaning::Carried(known)) => Ok(Change::Carried(known, origin)),
            Some(Meaning::Unknown(shape)) => Ok(Change::Unknown(shape)),
            Some(Meaning::Left) => Ok(Change::Left),
            None => {
                let why = format!("a change of relation {oid}, which was not announced");
                Err(crate::errors::protocol("cannot understand the stream", why))
            }
        }
    }

    /// Lets `write` append the events of one change; a change of the key has two. If a value cannot be represented,
    /// none of them is kept: a NULL in a column that is NOT NULL asks for [`Next::Relax`], anything else stops the
    /// table.
    fn change(
        &mut self,
        oid: u32,
        lsn: Lsn,
        now_micros: i64,
        row: &[TupleValue<'_>],
        write: impl FnOnce(&Encoder, &mut TableEvents, &Origin) -> std::result::Result<(), ValueError>,
    ) -> Result<Next> {
        let before = self.changes();
        let (known, origin) = match self.next_change(oid, lsn, now_micros)? {
            Change::Left => return Ok(Next::Continue),
            Change::Carried(known, origin) => (known, origin),
            Change::Unknown(shape) => {
                self.set_changes(before);
                return Ok(Next::RelationNeeded(shape));
            }
        };
        known.check_width(row)?;
        let Known { relation, encoder, .. } = &*known;
        let Some(out) = self.batch.events(oid, encoder.schema()) else { return Ok(Next::Continue) };
        let (events, bytes) = (out.events.len(), out.bytes.len());
        let Err(error) = write(encoder, out, &origin) else {
            let grown = out.bytes.len() - bytes;
            self.batch.grew(grown);
            self.ready |= self.batch.bytes() >= HARD_BYTES;
            return Ok(Next::Continue);
        };
        out.events.truncate(events);
        out.bytes.truncate(bytes);
        // In a key, a NULL cannot be held, however old it is.
        let in_key = relation.columns.iter().position(|column| column.name == error.column);
        let in_key = in_key.is_some_and(|index| relation.is_key(index));
        if error.reason == UNEXPECTED_NULL && !in_key {
            self.set_changes(before);
            return Ok(Next::Relax { oid, relation: relaxed(relation, &error.column) });
        }
        let key = encoder.describe_key(relation, row);
        self.stop(&relation.name, unholdable("cannot carry a change of", &relation.name, &key, &error));
        Ok(Next::Continue)
    }
}
