//! The copy of one table: COPY under an exported snapshot, each row encoded as an event.

use sooner_api::{Code, Error, Result, SchemaRegistry, SourceTable};
use sooner_schemas::encode::{Encoder, Origin, Snapshot};
use sooner_schemas::event::TableEvents;
use sooner_schemas::{Lsn, Position, Relation};

use crate::catalog;
use crate::client::{Client, Mode, quote_name, quote_text};
use crate::clock::now_micros;
use crate::copy_text::CopyRow;
use crate::decode::unholdable;
use crate::encoders::EncoderFactory;
use crate::options::ConnectOptions;
use crate::publication::{Members, quote_table};
use crate::types::Types;

/// Size of a batch of copied rows, in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Name and position of an exported snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotId {
    /// Name for `SET TRANSACTION SNAPSHOT`.
    pub name: String,
    /// The snapshot contains every transaction whose commit record starts before this LSN, and no other.
    pub consistent_lsn: Lsn,
}

impl SnapshotId {
    /// The highest `commit_lsn` that a transaction in the snapshot can have.
    pub fn last_commit_lsn(&self) -> Lsn {
        Lsn(self.consistent_lsn.0.saturating_sub(1))
    }
}

/// A connection that copies tables one after the other, each in a transaction of its own under the same snapshot, so
/// that no table stays locked for longer than its own copy.
pub struct CopyConnection {
    client: Client,
    snapshot: SnapshotId,
    types: Option<Types>,
    in_transaction: bool,
}

impl CopyConnection {
    /// Connects.
    pub async fn open(options: &ConnectOptions, snapshot: SnapshotId) -> Result<CopyConnection> {
        let client = Client::connect(options, Mode::Sql).await?;
        Ok(CopyConnection { client, snapshot, types: None, in_transaction: false })
    }

    /// Starts to copy a table. `table` is its description from before the snapshot was taken; if the table was altered
    /// or rewritten since, the error can be retried with a new snapshot.
    pub async fn start<R: SchemaRegistry>(
        &mut self,
        table: &SourceTable,
        encoders: &EncoderFactory<R>,
    ) -> Result<TableCopy<'_>> {
        self.begin().await?;
        let relation = &table.relation;
        let encoder = encoders.build(relation).await?;
        let lock = format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", quote_table(&relation.name));
        self.client.query(&lock).await?;
        self.check_unchanged(table).await?;
        let columns: Vec<_> = relation.columns.iter().map(|column| quote_name(&column.name)).collect();
        let (table, columns) = (quote_table(&relation.name), columns.join(", "));
        // Generated columns can only be copied out of a query.
        let copy = match relation.columns.iter().any(|column| column.generated) {
            true => format!("COPY (SELECT {columns} FROM ONLY {table}) TO STDOUT"),
            false => format!("COPY {table} ({columns}) TO STDOUT"),
        };
        self.client.copy_out(&copy).await?;
        let now = now_micros();
        let origin = Origin {
            position: Position { commit_lsn: self.snapshot.last_commit_lsn(), ordinal: 1 },
            lsn: self.snapshot.consistent_lsn,
            xid: 0,
            source_micros: now,
            now_micros: now,
            snapshot: Snapshot::Yes,
        };
        let row = CopyRow::default();
        Ok(TableCopy { client: &mut self.client, relation: relation.clone(), encoder, row, origin, finished: false })
    }

    /// Begins a transaction under the snapshot, after ending the one of the former table.
    async fn begin(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.in_transaction, true) {
            self.client.query("COMMIT").await?;
        }
        self.client.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        self.client.query(&format!("SET TRANSACTION SNAPSHOT {}", quote_text(&self.snapshot.name))).await?;
        // Fail rather than copy without the rows that a row security policy hides.
        self.client.query("SET LOCAL row_security = off").await?;
        Ok(())
    }

    async fn check_unchanged(&mut self, table: &SourceTable) -> Result<()> {
        let oid = table.relation.oid;
        let types = match &mut self.types {
            Some(types) => types,
            none => none.insert(Types::load(&mut self.client).await?),
        };
        let sends_generated = table.relation.columns.iter().any(|column| column.generated);
        let members = Members::of_nothing(sends_generated);
        let seen = catalog::table(&mut self.client, types, &members, oid).await?;
        let unchanged = seen.is_some_and(|seen| {
            seen.table.relation == table.relation
                && seen.table.facts.file_node == table.facts.file_node
                && seen.table.facts.columns == table.facts.columns
        });
        if unchanged {
            return Ok(());
        }
        Err(Error::retry(
            Code::TableAlteredDuringCopy,
            format!("cannot copy {}", table.relation.name),
            "the table was altered or rewritten while the snapshot was taken",
            "nothing; the copy starts over with a new snapshot",
        ))
    }
}

/// A running copy of one table.
pub struct TableCopy<'a> {
    client: &'a mut Client,
    relation: Relation,
    encoder: Encoder,
    row: CopyRow,
    origin: Origin,
    finished: bool,
}

impl TableCopy<'_> {
    /// The copy-start event, to be sent before all rows: it announces that all rows of the table follow again.
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
            unholdable("cannot copy", &self.relation.name, &key, &error)
        })?;
        self.origin.position.ordinal += 1;
        Ok(())
    }
}
