//! The initial copy of one table: COPY under an exported snapshot, row by row to events.

use std::sync::Arc;

use sooner_api::{Error, Result, SchemaRegistry};
use sooner_schemas::encode::{Encoder, Origin, Snapshot};
use sooner_schemas::event::{EventSchema, TableEvents};
use sooner_schemas::{Lsn, Position, Relation};

use crate::client::{Client, Mode, quote_name, quote_text};
use crate::copy_text::CopyRow;
use crate::decode::{EncoderFactory, now_micros};
use crate::options::ConnectOptions;
use crate::publication::quote_table;

/// Bytes of a batch of copied rows.
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
    /// Starts to copy a table as of the snapshot.
    pub async fn start<R: SchemaRegistry>(
        options: &ConnectOptions,
        snapshot_name: &str,
        snapshot_lsn: Lsn,
        relation: Relation,
        encoders: &EncoderFactory<R>,
    ) -> Result<TableCopy> {
        let encoder = encoders.build(&relation).await?;
        let mut client = Client::connect(options, Mode::Sql).await?;
        client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        client.query(&format!("SET TRANSACTION SNAPSHOT {}", quote_text(snapshot_name))).await?;
        let columns: Vec<_> = relation.columns.iter().map(|column| quote_name(&column.name)).collect();
        let copy = format!("COPY {} ({}) TO STDOUT", quote_table(&relation.name), columns.join(", "));
        client.copy_out(&copy).await?;
        let now = now_micros();
        let origin = Origin {
            position: Position { commit_lsn: snapshot_lsn, ordinal: 0 },
            lsn: snapshot_lsn,
            xid: 0,
            source_micros: now,
            now_micros: now,
            snapshot: Snapshot::Yes,
        };
        Ok(TableCopy { client, relation, encoder, row: CopyRow::default(), origin, finished: false })
    }

    /// The schemas of the events.
    pub fn schema(&self) -> &Arc<EventSchema> {
        self.encoder.schema()
    }

    /// The next rows; none when all have been read.
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
                format!("cannot copy {}", self.relation.name),
                format!("in the row {key}, {error}"),
                format!("correct the value at the source, then `sooner resume {}`", self.relation.name),
            )
        })?;
        self.origin.position.ordinal += 1;
        Ok(())
    }
}
