//! Where the partitions of a table are read from: by what its lake table has, what is recorded, and what brokers have.

use sooner_api::{Error, Opened, Positions, Result};

use super::assignment::{Assignment, Held};
use super::remainder::has_messages;
use super::start_point::{PartitionFacts, awaited_copy, partial_history};
use super::topic::Topic;
use crate::cluster::admin::{Admin, topic_gone};
use crate::cluster::settings::KafkaSettings;
use crate::cluster::topic_partition::Offsets;

/// A table that is about to be read.
#[derive(Clone, Copy)]
pub struct TableStart<'a> {
    /// Asks brokers about topics.
    pub admin: &'a Admin,
    /// Settings of topics.
    pub settings: &'a KafkaSettings,
    /// Whether the topics' writer keeps records.
    pub has_records: bool,
    /// What of the table is held.
    pub held: &'a Held,
}

impl TableStart<'_> {
    /// State of the topic from there on, and why the table cannot be read on, if so; where its partitions are read from
    /// is added to `offsets`. `given_up` is why a former topic of the table cannot be read on.
    pub async fn start(
        &self,
        assignment: &Assignment,
        table: &Opened,
        given_up: Option<Error>,
        offsets: &mut Offsets,
    ) -> Result<(Topic, Option<Error>)> {
        let TableStart { held, has_records, .. } = *self;
        let (stage, local) = (held.stage(), held.local(table));
        let topic = stage.topic.as_str();
        let partitions = assignment.partitions.get(topic).copied().unwrap_or_default();
        let lineage = assignment.record.as_ref().and_then(|record| record.lineages.get(&table.table));
        let is_partial = lineage.is_some_and(|lineage| lineage.is_partial) && held.at + 1 == held.stages.len();
        let mut problem = given_up.or(awaited_copy(topic, table, has_records));
        problem = problem.or(partial_history(topic, table).filter(|_| is_partial));
        let mut positions = Vec::new();
        for &partition in &held.partitions {
            let (first, end) = self.admin.offsets(topic, partition)?;
            let facts = PartitionFacts { partition, recorded: stage.offsets.as_ref(), has_records, first, end };
            let start = facts.start_point(topic, &local);
            problem = problem.or(start.problem);
            let from = match facts.written().filter(|written| *written > start.offset) {
                Some(written) => self.skip_compacted(topic, partition, start.offset, written).await?,
                None => start.offset,
            };
            positions.push((partition, from));
            offsets.insert((topic.to_owned(), partition), from);
        }
        if let Some(most) = highest_partition(&local).filter(|most| *most > partitions) {
            let why = format!("the table has events of {most} partitions, and the topic has {partitions}");
            problem = Some(topic_gone(topic, &why));
        }
        let whole = held.partitions.len() as i32 == partitions && problem.is_none();
        let applied = table.watermark.filter(|_| whole);
        let generation = stage.offsets.as_ref().map(|offsets| offsets.generation);
        let mut state = Topic::new(table.table.clone(), generation, positions, applied);
        state.shift = stage.shift;
        let opening = stage.offsets.as_ref().filter(|offsets| offsets.begun_over);
        state.opening = opening.map(|offsets| offsets.first_offsets.clone()).unwrap_or_default();
        Ok((state, problem))
    }

    /// Where to read from: compaction may have left nothing of the last events, and nobody is to wait for them.
    async fn skip_compacted(&self, topic: &str, partition: i32, from: i64, written: i64) -> Result<i64> {
        let settings = self.settings;
        // Who may not ask for a topic's settings goes by its own.
        let described = self.admin.describe(topic, partition + 1).await;
        let is_compacted = described.map_or(settings.topics.is_compacted(), |state| state.is_compacted());
        let is_there = !is_compacted || has_messages(settings, topic, partition, from..written)?;
        Ok(if is_there { from } else { written })
    }
}

fn highest_partition(table: &Opened) -> Option<i32> {
    match table.positions.as_ref()? {
        Positions::Topic { next_offsets, .. } => next_offsets.keys().max().map(|partition| partition + 1),
        Positions::Stream(_) => None,
    }
}
