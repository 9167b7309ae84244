//! Events from a table's history.

use sooner_delta::history::columns::FACT_COLUMNS;
use sooner_delta::replaying::history_rows::{HistoryRows, history_watermark};
use sooner_delta::replaying::output::{Form, Output};
use sooner_delta::replaying::survey::Survey;

use super::completeness::completeness;
use super::{Done, Replay, Writer, without_history};
use crate::commands::upkeep::open_lake;
use crate::tasks::EventSource;

impl Replay<'_> {
    /// Writes events that are read from the history.
    pub(super) async fn write_history(&self, form: Form, writer: Writer) -> anyhow::Result<Done> {
        let (lake, table, range) = (open_lake(self.config)?, &self.table, self.range);
        // Before the history is opened: what is complete by then is in it.
        let known = history_watermark(&lake, table).await?;
        let complete = completeness(self.config, table, range, (known, self.patience), "the lake").await;
        let history = HistoryRows::open(&lake, table, range.from).await?;
        let history = history.ok_or_else(|| without_history(table))?;
        let mut survey = Survey::new(table, range, history.knows_before());
        if history.is_untrimmed() {
            survey = survey.from_the_very_first();
        }
        history.scan(&history.columns()[..FACT_COLUMNS], async |rows| survey.note_all(&rows)).await?;
        let found = survey.finish(complete)?;
        history.check_reach(table, found.start)?;
        let mut output = Output::new(form, (found.start, range.to), self.origin(), history.columns(), writer)?;
        history.scan(history.columns(), async |rows| output.take(&rows)).await?;
        Ok(self.done(EventSource::History, output.finish()?, (found.rows, found.last))?)
    }
}
