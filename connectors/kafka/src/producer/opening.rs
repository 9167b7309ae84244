//! What a source finds before it writes: topics as they should be, its predecessors fenced, their last record, and what
//! they left half done.

use std::collections::{BTreeMap, HashMap};

use sooner_api::{Code, Error, ProgressRecord, Result, SourceTable, TableFact, TableState, WriterRequest};
use sooner_schemas::TableName;

use super::partition_ends::PartitionEnds;
use super::present_names::{MovedTopic, PresentNames};
use super::recovery::{end_open_transactions, last_record, last_with_successors, partitions_of_successors, take_lost};
use super::route::TopicRoute;
use super::topic_names::TopicNames;
use super::transaction_writer::TransactionWriter;
use crate::cluster::admin::{Admin, topic_gone};
use crate::cluster::settings::KafkaSettings;
use crate::cluster::topic_partition::TopicPartition;
use crate::progress::lineage::Lineage;
use crate::progress::record::{TopicOffsets, TopicProgress};

/// An open entrance that has not begun to write.
pub struct Opening {
    admin: Admin,
    writer: TransactionWriter,
    ends: Option<PartitionEnds>,
    routes: Vec<TopicRoute>,
    /// Offsets of each route's topic, as they would be if nothing had been recorded.
    offsets: HashMap<TableName, TopicOffsets>,
    former: Option<TopicProgress>,
    /// Tables of the last record, whether or not it counts.
    recorded: Vec<TableName>,
    recopy: bool,
    /// Tables whose events have moved to another topic, or are about to.
    moved: BTreeMap<TableName, MovedTopic>,
    /// Tables that cannot have a topic, each with the reason.
    pub refused: Vec<(TableName, Error)>,
}

impl Opening {
    /// Looks at topics and records, creates topics that are missing, and fences whoever wrote before. Takes seconds.
    pub async fn prepare(
        settings: &KafkaSettings,
        names: TopicNames<'_>,
        request: WriterRequest<'_>,
        now_micros: i64,
    ) -> Result<Opening> {
        let WriterRequest { tables, slot_exists, recopy } = request;
        let admin = Admin::new(settings)?;
        let existing = admin.list()?;
        let progress_topic = &settings.topics.progress;
        let missing = !existing.contains_key(progress_topic);
        if missing {
            admin.check_not_hidden(progress_topic)?;
        }
        let before = if missing { None } else { last_record(settings)? };
        let names = PresentNames::new(names, before.as_ref());
        let former = before.filter(|_| !recopy);
        if former.is_none() && slot_exists && !recopy {
            return Err(no_record(progress_topic, missing));
        }
        admin.ensure_progress_topic(&existing).await?;
        let (mut routes, mut offsets) = (Vec::new(), HashMap::new());
        let has_topic = |table: &TableName| former.as_ref().is_some_and(|former| former.topics.contains_key(table));
        let mut refused = names.names.refused(tables.iter().map(SourceTable::name), has_topic);
        for table in tables {
            if refused.iter().any(|(name, _)| name == table.name()) {
                continue;
            }
            let route = match route(&admin, &names, &existing, former.as_ref(), table).await {
                Err(error) if error.code == Code::TopicRefused => {
                    refused.push((table.name().clone(), error));
                    continue;
                }
                route => route?,
            };
            offsets.insert(table.name().clone(), unwritten(&route, now_micros, recopy));
            routes.push(route);
        }
        let limits: Vec<_> = routes.iter().map(|route| route.limit_bytes).collect();
        // From here on nobody else of this name writes; what they wrote last is known only now.
        let mut writer = TransactionWriter::open(settings, &limits)?;
        let ends = match &settings.producer.transactional_id {
            Some(_) => Some(PartitionEnds::open(settings)?),
            None => None,
        };
        if let Some(ends) = &ends {
            let mut partitions = all_partitions(&routes, progress_topic);
            partitions.extend(former.iter().flat_map(partitions_of_successors));
            end_open_transactions(ends, &mut writer, &partitions).await?;
        }
        let last = last_with_successors(settings, ends.as_ref())?;
        let moved = names.check_still(last.as_ref())?;
        let recorded = last.iter().flat_map(|record| record.record.tables.keys().cloned()).collect();
        Ok(Opening {
            admin,
            writer,
            ends,
            routes,
            offsets,
            former: last.filter(|_| !recopy),
            recorded,
            recopy,
            moved,
            refused,
        })
    }

    /// The last record that counts.
    pub fn stored(&self) -> Option<&ProgressRecord> {
        self.former.as_ref().map(|former| &former.record)
    }

    /// Writes the record to begin with, together with whatever predecessors wrote and nobody sees.
    pub fn begin(mut self, mut record: ProgressRecord) -> Result<TransactionWriter> {
        let split = self.former.as_ref().and_then(|former| former.split.as_ref());
        if let Some((split, fork)) = split.zip(record.forked_at)
            && split.commit_lsn >= fork
        {
            return Err(Error::operator(
                Code::PositionsDiscontinuous,
                "cannot go on from where the pipeline was",
                format!("a part of a transaction at {} is on the topics, which a failover has lost", split.commit_lsn),
                "start with --recopy, which copies all tables again",
            ));
        }
        if let Some(former) = &self.former {
            begin_moved_topics(former, &self.routes, &mut self.offsets, &mut record);
        }
        let topics = self.topics()?;
        let mut former = self.former.take().unwrap_or_default();
        let forgotten: Vec<_> =
            self.recorded.iter().filter(|table| !record.tables.contains_key(table)).cloned().collect();
        // What is on the topics of tables that are gone, or wait, is read on.
        former.topics.retain(|table, _| record.tables.contains_key(table));
        former.topics.extend(topics);
        former.lineages.retain(|table, _| record.tables.contains_key(table));
        self.keep_lineages(&mut former.lineages);
        let mut progress = TopicProgress { record, ..former };
        let again = match &self.ends {
            Some(ends) => take_lost(ends, &mut progress, self.routes.iter())?,
            None => Vec::new(),
        };
        self.writer.start(progress, self.routes, forgotten, &again)?;
        Ok(self.writer)
    }

    /// Keeps how tables have moved from topic to topic, unless the configuration gives them another one, or all begin
    /// again.
    fn keep_lineages(&self, lineages: &mut BTreeMap<TableName, Lineage>) {
        for route in &self.routes {
            let moved = self.moved.get(&route.table).filter(|moved| *moved.topic == *route.topic);
            match moved.map(|moved| moved.base.clone()) {
                None => drop(lineages.remove(&route.table)),
                // Where all begin again, nothing but the name is left of it.
                Some(base) if base != *route.topic => {
                    let named = || Lineage { base, ..Lineage::default() };
                    lineages.entry(route.table.clone()).or_insert_with(named);
                }
                Some(_) => {}
            }
        }
    }

    /// Each topic's offsets: as recorded, if the topic still is what it was; otherwise as it stands.
    fn topics(&mut self) -> Result<HashMap<TableName, TopicOffsets>> {
        let mut topics = HashMap::new();
        for route in &mut self.routes {
            let Some(mut offsets) = self.offsets.remove(&route.table) else { continue };
            let known = self.former.as_ref().and_then(|former| former.topics.get(&route.table));
            let known = known.filter(|known| *known.topic == *route.topic);
            for partition in 0..route.partitions {
                let (_, end) = self.admin.offsets(&route.topic, partition)?;
                let recorded = known.and_then(|known| known.next_offsets.get(partition as usize)).copied();
                if let Some(recorded) = recorded.filter(|recorded| *recorded > end) {
                    let why = format!("partition {partition} ends at offset {end}, and {recorded} was used before");
                    return Err(topic_gone(&route.topic, &why));
                }
                route.replaces |= end > 0;
                offsets.next_offsets[partition as usize] = recorded.unwrap_or(end);
                offsets.first_offsets[partition as usize] = end;
            }
            if let Some(known) = known {
                let former = self.former.as_ref().and_then(|former| former.record.tables.get(&route.table));
                // Sinks drop what comes to a parked table until a copy's mark.
                let was_parked = former.is_some_and(|table| matches!(table.state, TableState::Parked { .. }));
                offsets.begun_over = known.begun_over || was_parked;
                offsets.generation = known.generation;
                offsets.first_offsets.clone_from(&known.first_offsets);
            }
            route.replaces |= offsets.begun_over || self.recopy;
            topics.insert(route.table.clone(), offsets);
        }
        Ok(topics)
    }
}

async fn route(
    admin: &Admin,
    names: &PresentNames<'_>,
    existing: &HashMap<String, i32>,
    former: Option<&TopicProgress>,
    table: &SourceTable,
) -> Result<TopicRoute> {
    let name = table.name();
    let topic = names.topic(name);
    let known = former.and_then(|former| former.topics.get(name));
    let recorded = known.filter(|known| known.topic == topic).map(|known| known.next_offsets.len() as i32);
    let state = admin.ensure_data_topic(&topic, existing, recorded).await?;
    Ok(TopicRoute::new(name.clone(), topic, &state))
}

/// A topic's offsets before anything is written to it.
fn unwritten(route: &TopicRoute, now_micros: i64, recopy: bool) -> TopicOffsets {
    let zeros = vec![0; route.partitions as usize];
    TopicOffsets {
        topic: route.topic.to_string(),
        generation: now_micros,
        begun_over: recopy,
        first_offsets: zeros.clone(),
        next_offsets: zeros,
    }
}

/// All partitions that are written to.
fn all_partitions(routes: &[TopicRoute], progress_topic: &str) -> Vec<TopicPartition> {
    let of_route = |route: &TopicRoute| {
        let topic = route.topic.to_string();
        (0..route.partitions).map(move |partition| (topic.clone(), partition))
    };
    routes.iter().flat_map(of_route).chain([(progress_topic.to_owned(), 0)]).collect()
}

/// A table that is to go to another topic than before is copied there: whoever reads that one has nothing of it.
fn begin_moved_topics(
    former: &TopicProgress,
    routes: &[TopicRoute],
    offsets: &mut HashMap<TableName, TopicOffsets>,
    record: &mut ProgressRecord,
) {
    for route in routes {
        let Some(from) = moved_from(former, &route.table, &route.topic) else { continue };
        let to = &route.topic;
        tracing::warn!(table = %route.table, from, %to, "another topic: the table is copied there");
        if let Some(offsets) = offsets.get_mut(&route.table) {
            offsets.begun_over = true;
        }
        if let Some(progress) = record.tables.get_mut(&route.table) {
            progress.step(TableFact::CopyNeeded);
            progress.lake = None;
        }
    }
}

/// Topic that a table was written to before, where that is another one than now; none if it is the same, or the table
/// was not written.
pub fn moved_from<'a>(former: &'a TopicProgress, table: &TableName, topic: &str) -> Option<&'a str> {
    former.topics.get(table).map(|known| known.topic.as_str()).filter(|known| *known != topic)
}

/// The error of a source whose slot exists, but no record of what it has written.
pub fn no_record(topic: &str, missing: bool) -> Error {
    let state = if missing { "missing" } else { "empty" };
    Error::operator(
        Code::ProgressMissing,
        "cannot tell what is on the topics already",
        format!("the progress topic {topic} is {state}, and the slot exists"),
        "restore the topic, or correct progress_topic of [kafka]; or start with --recopy, which writes all tables to their \
         topics again",
    )
}

#[cfg(test)]
mod tests {
    use sooner_api::TableProgress;

    use super::*;
    use crate::cluster::topic_state::TopicState;

    fn route_of(schema: &str, table: &str, topic: &str) -> TopicRoute {
        let state = TopicState {
            partitions: 2,
            replication: None,
            cleanup_policy: "delete".into(),
            compression: "producer".into(),
            max_message_bytes: 1000,
            retention_ms: -1,
        };
        TopicRoute::new(TableName::new(schema, table), topic.into(), &state)
    }

    #[test]
    fn a_table_whose_topic_is_another_one_is_copied_there() {
        let name = TableName::new("public", "t");
        let offsets = |topic: &str| TopicOffsets {
            topic: topic.into(),
            generation: 1,
            begun_over: false,
            first_offsets: vec![0, 0],
            next_offsets: vec![0, 0],
        };
        let former = TopicProgress { topics: [(name.clone(), offsets("old"))].into(), ..TopicProgress::default() };
        let streaming = TableProgress::new(TableState::Streaming { copied_lsn: None }, Some(7));
        let mut record = ProgressRecord { tables: [(name.clone(), streaming)].into(), ..ProgressRecord::default() };
        let mut now = HashMap::from([(name.clone(), offsets("new"))]);
        begin_moved_topics(&former, &[route_of("public", "t", "new")], &mut now, &mut record);
        assert_eq!(record.tables[&name], TableProgress::new(TableState::Copying, Some(7)));
        assert!(now[&name].begun_over);
    }

    #[test]
    fn the_progress_topic_is_written_to_as_well() {
        let partitions = all_partitions(&[route_of("a", "b", "a.b")], "progress");
        assert_eq!(partitions, [("a.b".into(), 0), ("a.b".into(), 1), ("progress".into(), 0)]);
    }
}
