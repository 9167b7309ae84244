//! The names under which a pipeline keeps positions in a table's log, one `txn` action each.

use std::collections::{BTreeMap, HashMap};

use sooner_schemas::Lsn;
use sooner_schemas::event::Watermark;

/// The names of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppIds {
    /// Who made the table.
    pipeline: String,
    /// LSN up to which the table is complete; none where its writer tells no LSN, or several sinks share it.
    watermark: Option<String>,
    positions: Positions,
    /// Events of the whole table can be put in order with all others: everything they concern is read here.
    orders_whole_table: bool,
    /// Which topic of its name it is; and the name under which a table's log says so. None where its writer does not
    /// tell.
    generation: Option<(String, i64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Positions {
    /// Commit LSN up to which events are in the table.
    Slot(String),
    /// For each partition, the offset after the last event that is in the table.
    Topic(BTreeMap<i32, String>),
}

impl AppIds {
    /// Of a pipeline that reads a slot directly.
    pub fn direct(pipeline: &str, slot: &str) -> AppIds {
        AppIds {
            pipeline: pipeline.to_owned(),
            watermark: Some(format!("sooner/{pipeline}/{slot}/watermark")),
            positions: Positions::Slot(format!("sooner/{pipeline}/{slot}")),
            orders_whole_table: true,
            generation: None,
        }
    }

    /// Of a pipeline that reads a topic of so many partitions. `whole` says whether all of them are read here, and
    /// `in_order` whether they are read in commit order, up to watermarks.
    pub fn topic(pipeline: &str, topic: &str, partitions: i32, whole: bool, in_order: bool) -> AppIds {
        let ids = (0..partitions).map(|partition| (partition, format!("sooner/{pipeline}/{topic}/{partition}")));
        AppIds {
            pipeline: pipeline.to_owned(),
            watermark: (whole && in_order).then(|| format!("sooner/{pipeline}/{topic}/watermark")),
            positions: Positions::Topic(ids.collect()),
            orders_whole_table: whole && (in_order || partitions == 1),
            generation: None,
        }
    }

    /// Of a topic whose writer tells its generation: offsets of another one are of another topic of this name.
    pub fn with_generation(self, pipeline: &str, topic: &str, generation: i64) -> AppIds {
        AppIds { generation: Some((format!("sooner/{pipeline}/{topic}/generation"), generation)), ..self }
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// Whether what a commit is told of a watermark is true of the whole table.
    pub fn knows_watermark(&self) -> bool {
        self.watermark.is_some()
    }

    /// Which topic of its name it is.
    pub fn generation(&self) -> Option<i64> {
        self.generation.as_ref().map(|(_, generation)| *generation)
    }

    /// The generation that a table's log says.
    pub fn generation_in(&self, txns: &HashMap<String, i64>) -> Option<i64> {
        txns.get(&self.generation.as_ref()?.0).copied()
    }

    /// Whether an event of the whole table, such as a truncate, can be applied.
    pub fn orders_whole_table(&self) -> bool {
        self.orders_whole_table
    }

    /// Whether events come from a topic.
    pub fn are_of_topic(&self) -> bool {
        matches!(self.positions, Positions::Topic(_))
    }

    /// All names.
    pub fn all(&self) -> Vec<&str> {
        let positions: Vec<_> = match &self.positions {
            Positions::Slot(id) => vec![id.as_str()],
            Positions::Topic(ids) => ids.values().map(String::as_str).collect(),
        };
        let generation = self.generation.as_ref().map(|(id, _)| id.as_str());
        positions.into_iter().chain(self.watermark.as_deref()).chain(generation).collect()
    }

    /// The commit LSN up to which a table's log says that events are in it. For a topic: zero if it is ours.
    pub fn applied(&self, txns: &HashMap<String, i64>) -> Option<Lsn> {
        match &self.positions {
            Positions::Slot(id) => txns.get(id).map(|version| Lsn(version.cast_unsigned())),
            Positions::Topic(ids) => ids.values().any(|id| txns.contains_key(id)).then_some(Lsn::ZERO),
        }
    }

    /// The LSN up to which a table's log says that it is complete.
    pub fn watermark(&self, txns: &HashMap<String, i64>) -> Option<Lsn> {
        txns.get(self.watermark.as_deref()?).map(|version| Lsn(version.cast_unsigned()))
    }

    /// The offsets that a table's log says.
    pub fn next_offsets(&self, txns: &HashMap<String, i64>) -> BTreeMap<i32, i64> {
        match &self.positions {
            Positions::Slot(_) => BTreeMap::new(),
            Positions::Topic(ids) => {
                ids.iter().filter_map(|(partition, id)| Some((*partition, *txns.get(id)?))).collect()
            }
        }
    }

    /// Whether a commit with these positions collides with one that adds to `staged`: somebody else does our work.
    pub fn collide(&self, txns: &HashMap<String, i64>, staged: &BTreeMap<i32, i64>) -> bool {
        match &self.positions {
            Positions::Slot(id) => txns.contains_key(id),
            Positions::Topic(ids) => {
                staged.keys().filter_map(|partition| ids.get(partition)).any(|id| txns.contains_key(id))
            }
        }
    }

    /// What a commit writes: names and versions.
    pub fn versions(&self, applied: Lsn, next_offsets: &BTreeMap<i32, i64>, watermark: Watermark) -> Vec<(&str, u64)> {
        let mut versions: Vec<(&str, u64)> = match &self.positions {
            Positions::Slot(id) => vec![(id, applied.0)],
            Positions::Topic(ids) => next_offsets
                .iter()
                .filter_map(|(partition, next)| Some((ids.get(partition)?.as_str(), next.cast_unsigned())))
                .collect(),
        };
        versions.extend(self.watermark.as_deref().map(|id| (id, watermark.commit_lsn.0)));
        versions.extend(self.generation.as_ref().map(|(id, generation)| (id.as_str(), generation.cast_unsigned())));
        versions
    }
}
