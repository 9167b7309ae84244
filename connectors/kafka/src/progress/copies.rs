//! Copies of tables, as progress records report them: which have ended, and which were broken off.

use std::collections::HashMap;

use sooner_api::TablePhase;
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};

use crate::progress::record::TopicProgress;

/// Remembers the copies whose end has been reported, by table.
#[derive(Default)]
pub struct Copies {
    told: HashMap<TableName, Lsn>,
}

impl Copies {
    /// Tables whose copy is complete with what this record covers and was not reported before. Each comes with the
    /// watermark up to which the table is complete then.
    pub fn ended(&mut self, record: &TopicProgress) -> Vec<(TableName, Watermark)> {
        let mut ended = Vec::new();
        for (name, table) in &record.record.tables {
            let Some(name) = TableName::parse(name) else { continue };
            if let (TablePhase::Streaming, Some(copied)) = (table.phase, table.copied_lsn)
                && self.told.insert(name.clone(), copied) != Some(copied)
            {
                let lsn = copied.max(record.commit_lsn);
                let watermark =
                    Watermark { commit_lsn: lsn, end_lsn: Lsn(lsn.0 + 1), commit_micros: record.commit_micros };
                ended.push((name, watermark));
            }
        }
        ended
    }
}

/// Topics whose table was parked before its copy ended, each with the reason.
pub fn broken_copies(record: &TopicProgress) -> impl Iterator<Item = (&str, String)> {
    let broken = record
        .record
        .tables
        .iter()
        .filter(|(_, table)| table.phase == TablePhase::Parked && table.copied_lsn.is_none());
    broken.filter_map(|(name, table)| {
        let reason = table.reason.clone().unwrap_or_else(|| "its copy was not finished".to_owned());
        Some((record.topics.get(name)?.topic.as_str(), reason))
    })
}
