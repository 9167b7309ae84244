//! Events into a table: what their schema means for its columns, which of them it has already, and what a truncate or a
//! copy's start does to what is staged.

use std::sync::Arc;

use serde_json::Value;
use sooner_api::{Code, Error, Result, Staged};
use sooner_schemas::Lsn;
use sooner_schemas::event::{EventSchema, Op, TableEvents};

use crate::actions::check_protocol;
use crate::columns::{Difference, LakeColumn, columns_of, compare, compare_older, widen};
use crate::index::KeyIndex;
use crate::key::KeyPlan;
use crate::rows::RowReader;
use crate::staging::{Shape, Staging};
use crate::table::DeltaTable;

impl DeltaTable {
    /// Takes events that the stream repeats from the slot's position on.
    pub(crate) async fn stage_from_stream(&mut self, events: TableEvents) -> Result<Staged> {
        let applied = self.applied.filter(|_| !self.staging.copying).unwrap_or(Lsn::ZERO);
        let first = events.events.partition_point(|event| event.position.commit_lsn <= applied);
        if first == events.events.len() {
            return Ok(Staged::Taken);
        }
        self.stage_from(events, first).await
    }

    /// Events of a topic say themselves when a copy starts; and a table that is not there yet starts with the first.
    pub(crate) async fn stage_from_topic(&mut self, events: TableEvents) -> Result<Staged> {
        self.check_not_overtaken(&events)?;
        for (partition, next) in &events.next_offsets {
            self.staging.next_offsets.insert(*partition, *next);
        }
        let Some(first) = events.events.first() else { return Ok(Staged::Taken) };
        let of_whole_table = matches!(first.op, Op::CopyStart | Op::Truncate);
        assert!(!of_whole_table || events.events.len() == 1, "an event of the whole table stands alone");
        if of_whole_table && self.version.is_some() && !self.app_ids.orders_whole_table() {
            return match self.was_begun_elsewhere(&events) {
                true => Ok(Staged::Taken),
                false => Err(self.cannot_order()),
            };
        }
        match first.op {
            Op::CopyStart => {
                let next_offsets = std::mem::take(&mut self.staging.next_offsets);
                self.begin_copy_of(&events.schema)?;
                self.staging.next_offsets = next_offsets;
                return Ok(Staged::Taken);
            }
            _ if self.version.is_some() && !self.staging.replaces && self.applied.is_none() => {
                return Err(self.made_by_somebody_else());
            }
            Op::Truncate if events.schema.key.is_none() => {
                if self.version.is_some() || self.staging.columns.is_some() {
                    self.staging.truncate();
                }
                return Ok(Staged::Taken);
            }
            _ => {}
        }
        if self.version.is_none() && self.staging.columns.is_none() {
            self.staging.columns = Some(columns_of(&events.schema)?);
            self.index = Some(KeyIndex::default());
        }
        self.stage_from(events, 0).await
    }

    /// The next commit replaces all rows and the columns.
    pub(crate) fn begin_copy_of(&mut self, schema: &Arc<EventSchema>) -> Result<()> {
        if self.is_foreign() {
            return Err(self.made_by_somebody_else());
        }
        check_protocol(&self.name.to_string(), &self.protocol, &Value::Null)?;
        self.unusable = None;
        self.index = None;
        self.staging = Staging::new();
        self.staging.replaces = true;
        self.staging.copying = true;
        self.staging.columns = Some(columns_of(schema)?);
        Ok(())
    }

    async fn stage_from(&mut self, events: TableEvents, first: usize) -> Result<Staged> {
        if let Some(error) = &self.unusable {
            return Err(error.clone());
        }
        if let Staged::NeedsCopy(why) = self.adopt_schema(&events.schema).await? {
            return Ok(Staged::NeedsCopy(why));
        }
        self.build_index().await?;
        self.take_events(events, first)?;
        Ok(Staged::Taken)
    }

    /// Learns how the events of a schema are read; says so if the table has to be copied for it.
    async fn adopt_schema(&mut self, schema: &Arc<EventSchema>) -> Result<Staged> {
        if self.staging.shape.as_ref().is_some_and(|shape| Arc::ptr_eq(&shape.schema, schema)) {
            return Ok(Staged::Taken);
        }
        self.seal_pending().await?;
        let columns = columns_of(schema)?;
        match self.compare_columns(&columns) {
            Difference::None => {}
            Difference::Widened => {
                let added = &columns[self.next_columns().len().min(columns.len())..];
                let filled = |added: &&LakeColumn| !added.nullable || schema.columns_with_default.contains(&added.name);
                // A topic's writer has the rows copied again where that is needed, before it sends the new shape.
                if let Some(column) = added.iter().find(filled).filter(|_| !self.app_ids.are_of_topic()) {
                    let why =
                        format!("rows older than the column '{}' hold values that no event tells of", column.name);
                    return Ok(Staged::NeedsCopy(why));
                }
                // The open part has the former columns.
                self.close_part().await?;
                self.staging.columns = Some(widen(self.next_columns(), &columns));
            }
            Difference::Incompatible(what) => return Err(self.changed_shape(&what)),
        }
        self.set_shape(schema)?;
        Ok(Staged::Taken)
    }

    /// How columns of events differ from the table's. A source of ours copies the rows again when a column goes; so events
    /// that lack the last columns are older than those, from a partition that is behind others.
    pub(crate) fn compare_columns(&self, columns: &[LakeColumn]) -> Difference {
        match self.app_ids.generation() {
            Some(_) => compare_older(self.next_columns(), columns),
            None => compare(self.next_columns(), columns),
        }
    }

    /// Refuses events that the table has already, of partitions that are ours: somebody who held them before has just
    /// committed them, and is not to be overwritten.
    fn check_not_overtaken(&self, events: &TableEvents) -> Result<()> {
        let overtaken =
            |(partition, next): &&(i32, i64)| self.next_offsets.get(partition).is_some_and(|has| has >= next);
        let found = events.next_offsets.iter().find(overtaken).filter(|_| !self.is_of_former_topic());
        found.map_or(Ok(()), |(partition, _)| {
            Err(Error::retry(
                Code::CommitOvertaken,
                format!("cannot merge events of partition {partition} into the lake table {}", self.name),
                "a process that held the partition before has committed them meanwhile",
                "nothing; what is in the lake is looked up again",
            ))
        })
    }

    /// Learns how the rows and keys of a schema are read.
    pub(crate) fn set_shape(&mut self, schema: &Arc<EventSchema>) -> Result<()> {
        let Some(key) = &schema.key else {
            return Err(Error::operator(
                Code::KeyMissing,
                format!("cannot merge {} into the lake", self.name),
                "the table has neither a primary key nor a replica identity index, so its rows cannot be told apart",
                format!("ALTER TABLE {} ADD PRIMARY KEY (…), or leave the table out (exclude)", self.name),
            ));
        };
        let keys = KeyPlan::new(&self.name, key, self.secret)?;
        if self.staging.shape.as_ref().is_some_and(|shape| !shape.keys.same_columns(&keys)) {
            return Err(self.changed_shape("its key changed"));
        }
        self.staging.shape = Some(Shape { schema: schema.clone(), rows: RowReader::new(schema)?, keys });
        Ok(())
    }

    fn changed_shape(&self, what: &str) -> Error {
        Error::operator(
            Code::ShapeChanged,
            format!("cannot merge {} into the lake", self.name),
            format!("the table's shape changed: {what}"),
            format!("`sooner resume {}` copies the table again in its new shape", self.name),
        )
    }

    fn take_events(&mut self, events: TableEvents, first: usize) -> Result<()> {
        let count = events.events.len();
        self.staging.last_lsn = events.events.last().map_or(Lsn::ZERO, |event| event.position.commit_lsn);
        let mut scratch = Vec::new();
        let batch = self.staging.pending.open_batch(events);
        let mut batch = Some(batch);
        for index in first..count {
            let Some(number) = batch else { break };
            let events = self.staging.pending.batch(number);
            if matches!(events.events[index].op, Op::Truncate | Op::CopyStart) {
                batch = self.truncate_at(number, index);
                continue;
            }
            let (key, old_key) = self.keys_of(number, index, &mut scratch)?;
            self.staging.pending.push(number, index as u32, key, old_key);
        }
        Ok(())
    }

    /// Drops what was staged before a truncate; what follows it in its batch stays.
    fn truncate_at(&mut self, batch: u32, index: usize) -> Option<u32> {
        let rest = self.staging.pending.take_batch(batch);
        self.staging.truncate();
        (index + 1 < rest.events.len()).then(|| self.staging.pending.open_batch(rest))
    }

    fn keys_of(&self, batch: u32, index: usize, scratch: &mut Vec<u8>) -> Result<(u128, Option<u128>)> {
        let malformed = |why| {
            let what = format!("cannot read the key of an event of {}", self.name);
            Error::operator(Code::MessageUnreadable, what, why, self.copy_anew())
        };
        let Some(shape) = &self.staging.shape else {
            return Err(Error::fatal(
                Code::Internal,
                "cannot stage events",
                "their schema is not known",
                "report this",
            ));
        };
        let events = self.staging.pending.batch(batch);
        let event = &events.events[index];
        let key = shape.keys.hash_message(&events.bytes[event.key.clone()], scratch).map_err(malformed)?;
        let old_key = event.old_key.clone().map(|range| shape.keys.hash_message(&events.bytes[range], scratch));
        Ok((key, old_key.transpose().map_err(malformed)?))
    }

    /// Whether a copy's start stands first in its partition, and another sink, of other partitions, has begun the table with
    /// its own share of it.
    fn was_begun_elsewhere(&self, events: &TableEvents) -> bool {
        let starts = events.events.iter().all(|event| event.op == Op::CopyStart);
        let first = events
            .next_offsets
            .iter()
            .all(|(partition, next)| *next == 1 && !self.next_offsets.contains_key(partition));
        starts && first && self.generation.is_some() && self.generation == self.app_ids.generation()
    }

    fn cannot_order(&self) -> Error {
        Error::operator(
            Code::PartitionsUnordered,
            format!("cannot truncate {}, or copy it again", self.name),
            "its topic's partitions are not all read here in commit order, so rows of other partitions that are older \
             cannot be told from newer ones",
            "stop the other sinks until this one has done it (it goes on by itself then); topics that Debezium writes \
             must have one partition for it",
        )
    }
}
