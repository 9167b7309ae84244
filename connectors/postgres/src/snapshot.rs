//! The initial copy of one table: runs COPY under an exported snapshot and encodes each row as an event.

use std::sync::Arc;

use sooner_api::{Code, Error, Result, SchemaRegistry};
use sooner_schemas::encode::{Encoder, Origin, Snapshot};
use sooner_schemas::event::{EventSchema, TableEvents};
use sooner_schemas::{Position, Relation};

use crate::catalog::{self, Table};
use crate::client::{Client, Mode, quote_name, quote_text};
use crate::copy_text::CopyRow;
use crate::decode::now_micros;
use crate::encoders::EncoderFactory;
use crate::options::ConnectOptions;
use crate::publication::quote_table;
use crate::slot::ExportedSnapshot;

/// Size of a batch of copied rows, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// A running copy of one table.
pub struct TableCopy {
    client: Client,
    relation: Relation,
    encoder: Encoder,
    row: CopyRow,
    origin: Origin,
    finished: bool,
}

impl TableCopy {
    /// Starts to copy a table as of the snapshot. `table` is its description from before the snapshot was taken; if
    /// the table was altered or rewritten since, the error can be retried with a new snapshot.
    pub async fn start<R: SchemaRegistry>(
        options: &ConnectOptions,
        snapshot: &ExportedSnapshot,
        table: &Table,
        encoders: &EncoderFactory<R>,
    ) -> Result<TableCopy> {
        let relation = table.relation.clone();
        let encoder = encoders.build(&relation).await?;
        let mut client = Client::connect(options, Mode::Sql).await?;
        client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        client.query(&format!("SET TRANSACTION SNAPSHOT {}", quote_text(&snapshot.name))).await?;
        // Fail rather than copy without the rows that a row security policy hides.
        client.query("SET row_security = off").await?;
        client.query(&format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", quote_table(&relation.name))).await?;
        let file_node = client.query_value(&format!("SELECT pg_catalog.pg_relation_filenode({})", table.oid)).await?;
        let seen = catalog::table(&mut client, table.oid).await?;
        let unchanged = seen.is_some_and(|seen| seen.relation == relation);
        if !unchanged || file_node != Some(table.file_node.to_string()) {
            return Err(Error::retry(
                Code::TableAlteredDuringCopy,
                format!("cannot copy {}", relation.name),
                "the table was altered or rewritten while the snapshot was taken",
                "nothing; the copy starts over with a new snapshot",
            ));
        }
        let columns: Vec<_> = relation.columns.iter().map(|column| quote_name(&column.name)).collect();
        let copy = format!("COPY {} ({}) TO STDOUT", quote_table(&relation.name), columns.join(", "));
        client.copy_out(&copy).await?;
        let now = now_micros();
        let origin = Origin {
            position: Position { commit_lsn: snapshot.last_commit_lsn(), ordinal: 1 },
            lsn: snapshot.consistent_lsn,
            xid: 0,
            source_micros: now,
            now_micros: now,
            snapshot: Snapshot::Yes,
        };
        Ok(TableCopy { client, relation, encoder, row: CopyRow::default(), origin, finished: false })
    }

    /// Schemas under which the copied rows are written.
    pub fn schema(&self) -> &Arc<EventSchema> {
        self.encoder.schema()
    }

    /// The copy-start event, to be sent before all rows where earlier events of the table may exist: it announces
    /// that all rows of the table follow again.
    pub fn start_event(&self) -> TableEvents {
        let mut out = TableEvents::new(self.encoder.schema().clone());
        let position = Position { ordinal: 0, ..self.origin.position };
        self.encoder.copy_start(&mut out, &Origin { position, ..self.origin });
        out
    }

    /// Reads the next batch of rows; none when all have been read. Cancelling loses the rows read so far for the
    /// batch. A row that cannot be represented is an error that needs the operator.
    pub async fn next(&mut self) -> Result<Option<TableEvents>> {
        let mut out = TableEvents::new(self.encoder.schema().clone());
        self.origin.now_micros = now_micros();
        while !self.finished && out.bytes.len() < BATCH_BYTES {
            match self.client.copy_data().await? {
                Some(line) => self.encode(&line, &mut out)?,
                None => self.finished = true,
            }
        }
        Ok((!out.events.is_empty()).then_some(out))
    }

    fn encode(&mut self, line: &[u8], out: &mut TableEvents) -> Result<()> {
        self.row.parse(line);
        let values = self.row.values();
        self.encoder.read(out, &self.origin, &values).map_err(|error| {
            let key = self.encoder.describe_key(&self.relation, &values);
            Error::operator(
                Code::ValueUnholdable,
                format!("cannot copy {}", self.relation.name),
                format!("in the row {key}, {error}"),
                format!("correct the value at the source, then `sooner resume {}`", self.relation.name),
            )
        })?;
        self.origin.position.ordinal += 1;
        Ok(())
    }
}
