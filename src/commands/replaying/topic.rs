//! Events from a table's topic.

use sooner_api::Result;
use sooner_delta::replaying::output::{Form, Output};
use sooner_delta::replaying::range::{Bound, From, Start};
use sooner_delta::replaying::survey::{Survey, refused};
use sooner_delta::replaying::topic_rows::TopicRows;
use sooner_kafka::topic_range::{ReadFrom, TopicRange, expired};

use super::completeness::completeness;
use super::{Done, Replay, Writer};
use crate::tasks::EventSource;

impl Replay<'_> {
    /// Writes events that are read from the topic.
    pub(super) async fn write_topic(&self, form: Form, writer: Writer) -> anyhow::Result<Done> {
        let (kafka, table, range) = (self.config.kafka()?, &self.table, self.range);
        let from = match range.from {
            From::Copy => ReadFrom::Beginning,
            From::After(Bound::Lsn(lsn)) => ReadFrom::Lsn(lsn),
            From::After(Bound::Micros(micros)) => ReadFrom::Millis(micros.div_euclid(1000)),
        };
        let topic = TopicRange::open(&kafka.settings, table, from).await?;
        let complete = self.completeness(&topic).await;
        // What was waited for stands behind the ends that were known before.
        let topic = TopicRange::open(&kafka.settings, table, from).await?;
        let mut rows = TopicRows::new(table.clone(), Vec::new());
        let mut survey = Survey::new(table, range, topic.knows_before);
        if topic.whole_after.is_none() {
            survey = survey.from_the_very_first();
        }
        topic
            .read(&kafka.registry, async |events| match rows.of(events)? {
                Some(rows) => survey.note_all(&rows),
                None => Ok(true),
            })
            .await?;
        self.check_retention(&topic)?;
        if range.from == From::Copy && topic.whole_after.is_some() && !survey.knows_copy() {
            return Err(expired(&topic.topic).into());
        }
        let found = survey.finish(complete)?;
        if let (Start::At(copy), Some(whole_after)) = (found.start, topic.whole_after)
            && whole_after > copy
        {
            return Err(expired(&topic.topic).into());
        }
        let columns = rows.columns().to_vec();
        let mut output = Output::new(form, (found.start, range.to), self.origin(), &columns, writer)?;
        let mut rows = TopicRows::new(table.clone(), columns);
        topic
            .read(&kafka.registry, async |events| match rows.of(events)? {
                Some(rows) => output.take(&rows),
                None => Ok(true),
            })
            .await?;
        Ok(self.done(EventSource::Topic, output.finish()?, (found.rows, found.last))?)
    }

    /// An error if retention may have removed events of the range.
    fn check_retention(&self, topic: &TopicRange) -> Result<()> {
        let Some(whole_after) = topic.whole_after else { return Ok(()) };
        match self.range.from {
            // Where the copy begins is not known yet.
            From::Copy => Ok(()),
            From::After(Bound::Lsn(lsn)) if whole_after.commit_lsn <= lsn => Ok(()),
            From::After(_) => Err(expired(&topic.topic)),
        }
    }

    async fn completeness(&self, topic: &TopicRange) -> Result<()> {
        if let Some(why) = &topic.stopped {
            let why = format!("its source does not write the table's events: {why}");
            let remedy =
                "see `sooner status`; replay up to the last event that is there, or after the table's next copy";
            return Err(refused(&self.table, self.range, why, remedy));
        }
        // Of the end itself nothing is known: a transaction may be committed there.
        let written = (topic.end_lsn.last_before(), topic.commit_micros);
        completeness(self.config, &self.table, self.range, (Some(written), self.patience), "its topic").await
    }
}
