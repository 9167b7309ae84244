//! Lineage of a table's topic: the topics that its events were on before, each with another number of partitions, and
//! the one that is to come next. Without I/O.
//!
//! A switch from one topic to the next stands in one record: below the former topic's end offsets are all events of the
//! table up to an LSN, and all later ones follow in the next topic, at offsets that are recorded as well. So whoever
//! has read the former topic to its end goes on there. Before the switch, everything that the former topic has was
//! written to the next one, too, so that a new reader needs that one alone.
//!
//! Sinks number the partitions of all these topics through, the oldest first, and keep their positions under the name
//! of the oldest. So a lake table's log is read the same before and after a switch.

use serde::{Deserialize, Serialize};
use sooner_schemas::Lsn;
use sooner_schemas::event::Watermark;

/// How a table's events have moved from topic to topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Name that the configuration gives the table's topic. As long as it does, the events are where the record says.
    pub base: String,
    /// Topics that the events were on before, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<FormerTopic>,
    /// Topic that is to take the place of the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Successor>,
    /// Whether retention had removed events before they could be written to the present topic: it does not suffice for
    /// a new reader.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
}

/// A topic that another one has taken the place of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerTopic {
    /// Name of the topic.
    pub topic: String,
    /// For each partition, the offset at which its generation begins.
    pub first_offsets: Vec<i64>,
    /// For each partition, the offset after its last event.
    pub end_offsets: Vec<i64>,
    /// For each partition of the next topic, the offset from which the events follow that are not in this one.
    pub continues_at: Vec<i64>,
    /// All events of the table at or below this commit LSN are in this topic or in an older one; later ones are not.
    pub commit_lsn: Lsn,
    /// Commit time of the last transaction up to there, in microseconds since 1970.
    pub commit_micros: i64,
}

/// A topic that is being filled with what the present one has, and then takes its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Successor {
    /// Name of the topic.
    pub topic: String,
    /// For each of its partitions, the offset after the last message that was written to it.
    pub next_offsets: Vec<i64>,
    /// For each partition of the present topic, the offset up to which its messages were written to this one.
    pub read_offsets: Vec<i64>,
    /// Whether retention had removed messages of the present topic before they could be written to this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_partial: bool,
    /// Whether brokers have lost messages that were written to it: it is begun again, under another name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_lost: bool,
}

impl FormerTopic {
    /// Watermark up to which a table is complete whose events have been read to the end of this topic.
    pub fn watermark(&self) -> Watermark {
        Watermark {
            commit_lsn: self.commit_lsn,
            end_lsn: Lsn(self.commit_lsn.0 + 1),
            commit_micros: self.commit_micros,
        }
    }
}
