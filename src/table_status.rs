//! What is told of one table.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sooner_api::{PartitionOffsets, Side, TableSize, TableState, TopicStanding};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, Relation};

/// How a table's copy gets on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// When it began, or went on after a break, in microseconds since 1970.
    pub started_micros: i64,
    /// Rows that had been copied before a break, after which it went on.
    #[serde(default)]
    pub rows_before: u64,
    /// Bytes of events made of its rows since it began.
    pub bytes: u64,
    /// Rows per second since it began.
    pub rows_per_second: f64,
    /// Bytes of events per second since it began.
    pub bytes_per_second: f64,
    /// Seconds that it takes from now on, if the planner's estimate holds; none if there is no estimate.
    pub seconds_left: Option<f64>,
}

impl CopyStatus {
    fn assess(&mut self, rows: u64, estimated: Option<u64>, now_micros: i64) {
        let seconds = now_micros.saturating_sub(self.started_micros).max(1) as f64 / 1e6;
        self.rows_per_second = rows.saturating_sub(self.rows_before) as f64 / seconds;
        self.bytes_per_second = self.bytes as f64 / seconds;
        let left = estimated.filter(|_| rows > self.rows_before).map(|estimated| estimated.saturating_sub(rows) as f64);
        self.seconds_left = left.map(|left| left / self.rows_per_second);
    }
}

/// A table's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableStatus {
    /// What it is doing; where both sides of the pipeline run here, the source's state unless the table streams there.
    #[serde(flatten)]
    pub state: TableState,
    /// Rows read by the initial copy.
    pub rows_copied: u64,
    /// Rows to copy, as the planner estimates.
    pub rows_estimated: Option<u64>,
    /// Columns of the source's table that Postgres does not send: generated ones, and those that a column list leaves
    /// out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns_not_sent: Vec<String>,
    /// What it is at its source, where the source's side runs here. It is shared with whoever reads it.
    #[serde(skip)]
    pub relation: Option<Arc<Relation>>,
    /// How its copy gets on; none while it is not copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<CopyStatus>,
    /// Events merged since the process started.
    pub events: u64,
    /// Log between where the table is complete to and where the source's log ends, in bytes; none before that is known.
    pub lag_bytes: Option<u64>,
    /// Age of the oldest event that is not visible yet, in seconds; none before that is known.
    pub lag_seconds: Option<f64>,
    /// With Kafka: messages of its topic, in the partitions that are read here, that have not been read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_messages: Option<u64>,
    /// With Kafka: the time of what is being read at the moment, in microseconds since 1970; none where all has been
    /// read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_micros: Option<i64>,
    /// With Kafka: where those partitions stand.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partitions: BTreeMap<i32, PartitionOffsets>,
    /// Version of the lake table.
    pub table_version: Option<u64>,
    /// Data files of the lake table; none before that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Bytes of those files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// Share of their rows that are gone, from 0 to 1: readers pass over them until their files are written again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_row_ratio: Option<f64>,
    /// Keys in its index; none before an event has needed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_keys: Option<u64>,
    /// Bytes of the index on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index_bytes: Option<u64>,
    /// Commit of the last transaction that the table has; none before that is known.
    pub watermark_lsn: Option<Lsn>,
    /// The table is complete up to this position of the source's log; none before that is known. It says so by itself:
    /// `lag_bytes` is from the moment it was worked out, and the end of the log moves on meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_lsn: Option<Lsn>,
    /// Commit time at the source of the last transaction up to there, in microseconds since 1970.
    pub watermark_micros: Option<i64>,
    /// With Kafka: where its events are, as they move, or have moved, from one topic to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicStanding>,
    /// What the source's side does with the table, where it is told: with Kafka, or if the table takes no events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_state: Option<TableState>,
    /// What the sink's side does with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink_state: Option<TableState>,
}

impl TableStatus {
    /// A table in this state, of which nothing else is known.
    pub fn new(state: TableState) -> TableStatus {
        TableStatus {
            state,
            rows_copied: 0,
            rows_estimated: None,
            columns_not_sent: Vec::new(),
            relation: None,
            copy: None,
            events: 0,
            lag_bytes: None,
            lag_seconds: None,
            lag_messages: None,
            unread_micros: None,
            partitions: BTreeMap::new(),
            table_version: None,
            files: None,
            file_bytes: None,
            deleted_row_ratio: None,
            index_keys: None,
            index_bytes: None,
            watermark_lsn: None,
            complete_lsn: None,
            watermark_micros: None,
            topic: None,
            source_state: None,
            sink_state: None,
        }
    }

    /// Why it does not go on, and what to do; none if it does.
    pub fn reason(&self) -> Option<String> {
        self.state.error().map(ToString::to_string)
    }

    /// One side has the table in this state.
    pub fn has_state(&mut self, side: Side, state: &TableState) {
        match side {
            Side::Source => self.source_state = Some(state.clone()),
            Side::Sink => self.sink_state = Some(state.clone()),
        }
        let source = self.source_state.as_ref();
        let unless_streaming = source.filter(|state| !matches!(state, TableState::Streaming { .. }));
        let sink =
            self.sink_state.as_ref().map(|sink| if is_older(sink, source) { &TableState::Copying } else { sink });
        if let Some(shown) = unless_streaming.or(sink).or(source) {
            let was_copying = std::mem::replace(&mut self.state, shown.clone()) == TableState::Copying;
            self.copy.take_if(|_| was_copying && self.state != TableState::Copying);
        }
    }

    /// It is this at its source. What is known already stays, which others hold as well.
    pub fn has_shape(&mut self, relation: &Arc<Relation>) {
        if self.relation.as_ref() != Some(relation) {
            self.relation = Some(relation.clone());
        }
    }

    /// A copy begins, or goes on after so many rows.
    pub fn begins_copy(&mut self, rows: u64, now_micros: i64) {
        self.rows_copied = rows;
        self.copy = Some(CopyStatus { started_micros: now_micros, rows_before: rows, ..CopyStatus::default() });
    }

    /// So many rows were copied, and so many bytes of events made of them.
    pub fn copied(&mut self, rows: u64, bytes: u64) {
        self.rows_copied += rows;
        if let Some(copy) = &mut self.copy {
            copy.bytes += bytes;
        }
    }

    /// Works out how the copy gets on.
    pub fn assess_copy(&mut self, now_micros: i64) {
        if let Some(copy) = &mut self.copy {
            copy.assess(self.rows_copied, self.rows_estimated, now_micros);
        }
    }

    /// The lake table consists of this.
    pub fn has_size(&mut self, size: TableSize) {
        (self.files, self.file_bytes) = (Some(size.files), Some(size.bytes));
        self.deleted_row_ratio = Some(size.deleted_rows as f64 / size.rows.max(1) as f64);
        self.index_keys = size.index_keys;
        self.index_bytes = size.index_keys.map(|_| size.index_bytes);
    }

    /// The table is complete up to a watermark, at a moment when the source's log ends at `server_end`.
    pub fn reached(&mut self, watermark: Watermark, server_end: Lsn) {
        if watermark == Watermark::default() {
            return;
        }
        self.lag_bytes = Some(server_end.bytes_since(watermark.end_lsn));
        self.watermark_lsn = Some(watermark.commit_lsn);
        self.complete_lsn = Some(watermark.end_lsn);
        if watermark.commit_micros > 0 {
            self.watermark_micros = Some(watermark.commit_micros);
        }
    }

    /// What is visible is as old as this moment.
    pub fn is_as_old_as(&mut self, since_micros: Option<i64>, now_micros: i64) {
        let age = since_micros.map_or(0, |since| now_micros.saturating_sub(since).max(0));
        self.lag_seconds = Some(age as f64 / 1e6);
    }
}

/// Whether the sink goes on from a copy, and its source has made another one since, which has not been read.
fn is_older(sink: &TableState, source: Option<&TableState>) -> bool {
    match sink {
        TableState::Streaming { copied_lsn: Some(copied) } => {
            source.and_then(TableState::copied_lsn).is_some_and(|made| made > *copied)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_says_how_fast_it_is_and_when_it_will_have_ended() {
        let mut table = TableStatus::new(TableState::Copying);
        table.begins_copy(0, 1_000_000);
        table.assess_copy(3_000_000);
        assert_eq!(table.copy.unwrap().seconds_left, None, "nobody knows yet");
        table.rows_estimated = Some(400);
        table.copied(100, 5000);
        table.assess_copy(3_000_000);
        let copy = table.copy.unwrap();
        assert_eq!((copy.rows_per_second, copy.bytes_per_second, copy.seconds_left), (50.0, 2500.0, Some(6.0)));
        table.begins_copy(100, 1_000_000);
        table.copied(100, 5000);
        table.assess_copy(3_000_000);
        let copy = table.copy.unwrap();
        assert_eq!((copy.rows_per_second, copy.seconds_left), (50.0, Some(4.0)), "it went on after a break");
        table.copied(500, 0);
        table.assess_copy(3_000_000);
        assert_eq!(table.copy.unwrap().seconds_left, Some(0.0), "there were more than estimated");
        table.has_state(Side::Sink, &TableState::Streaming { copied_lsn: None });
        assert_eq!(table.copy, None);
    }

    #[test]
    fn a_table_is_copied_until_its_sink_has_the_copy_that_its_source_made() {
        let streaming = |lsn| TableState::Streaming { copied_lsn: Some(Lsn(lsn)) };
        let mut table = TableStatus::new(TableState::Copying);
        table.has_state(Side::Source, &streaming(9));
        assert_eq!(table.state, streaming(9), "the sink is somewhere else");
        table.has_state(Side::Sink, &streaming(5));
        assert_eq!(table.state, TableState::Copying);
        table.has_state(Side::Sink, &streaming(9));
        assert_eq!(table.state, streaming(9));
    }
}
