//! Tables whose columns change while nothing is written to them.

use sooner_api::{Result, Rows, SchemaRegistry, Step, TableChange};
use sooner_schemas::Lsn;
use sooner_schemas::event::TableEvents;

use super::PostgresStream;
use crate::postponed::Reshaped;
use crate::verdict::Verdict;

impl<R: SchemaRegistry> PostgresStream<R> {
    /// Tables whose columns were found to be others, each with the LSN at which it had those that are named: the same
    /// ones were found before it and after it.
    pub async fn take_reshaped(&mut self) -> Result<Vec<(Lsn, Reshaped)>> {
        let reshaped = std::mem::take(&mut self.postponed.reshaped);
        if reshaped.is_empty() {
            return Ok(Vec::new());
        }
        let server_end = self.server_state().await?.end_lsn;
        let oids: Vec<_> = reshaped.iter().map(|reshaped| reshaped.table.relation.oid).collect();
        let found = self.find_tables(&oids).await?;
        let (same, others): (Vec<_>, Vec<_>) = reshaped.into_iter().partition(|reshaped| {
            let relation = &reshaped.table.relation;
            found.iter().any(|table| table.relation == *relation)
        });
        for other in others {
            self.watch.look_again(other.table.relation.oid);
        }
        Ok(same.into_iter().map(|reshaped| (server_end, reshaped)).collect())
    }

    /// What was noticed of tables since this was last called.
    pub fn take_changes(&mut self) -> Vec<TableChange> {
        self.watch.take_changes(self.decoder.read_lsn())
    }

    /// The next look judges a table again, whether or not it has changed.
    pub fn look_again(&mut self, oid: u32) {
        self.watch.look_again(oid);
    }

    /// Whatever comes next of a table has other columns than before: says so, although no row may come. The stream has
    /// got to where the table had these.
    pub async fn reshape(&mut self, reshaped: &Reshaped) -> Result<Vec<Step>> {
        let Reshaped { table, written } = reshaped;
        let oid = table.relation.oid;
        if self.decoder.selected(oid).is_none() {
            return Ok(Vec::new());
        }
        if !self.watch.is_written_by(oid, written) {
            // The stream may be beyond by now.
            self.watch.look_again(oid);
            return Ok(Vec::new());
        }
        let note = match self.watch.judge_announced(&table.relation, Some(table.facts.clone())) {
            Some(Verdict::Noted(note)) => note,
            verdict => {
                self.obey(verdict)?;
                return Ok(Vec::new());
            }
        };
        let Some(schema) = self.set_relation(oid, table.relation.clone()).await? else { return Ok(Vec::new()) };
        let rows = Rows::new(TableEvents::new(schema));
        Ok(vec![Step::Rows(rows), Step::Note(Box::new(note))])
    }
}
