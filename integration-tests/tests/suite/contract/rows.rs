//! Events of one table, for all suites.

use std::collections::BTreeMap;

use sooner::direct::LocalSchemas;
use sooner_api::{Coverage, Rows, SchemaRegistry, SourceTable, Step};
use sooner_postgres::encoders::EncoderFactory;
use sooner_schemas::encode::{Encoder, Origin, Snapshot, TupleValue};
use sooner_schemas::event::{TableEvents, Watermark};
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

/// Makes events of the table `public.t`, which has a key and nothing else.
pub struct Events(Encoder);

/// The table.
pub fn table() -> SourceTable {
    let column = Column::new("id", ColumnType::Scalar(Scalar::Int8)).numbered(1);
    let relation = Relation { oid: 7, ..Relation::new(name(), vec![column], vec![0]) };
    SourceTable::new(relation)
}

/// Its name.
pub fn name() -> TableName {
    TableName::new("public", "t")
}

/// A watermark at an LSN.
pub fn mark(lsn: u64) -> Watermark {
    Watermark { commit_lsn: Lsn(lsn), end_lsn: Lsn(lsn), commit_micros: 0 }
}

/// All tables are complete up to an LSN.
pub fn complete(lsn: u64) -> Step {
    Step::Complete(Coverage::all(mark(lsn)))
}

impl Events {
    /// Events under schemas without a registry.
    pub async fn local() -> Events {
        Events::registered(LocalSchemas::default()).await
    }

    /// Events under registered schemas.
    pub async fn registered<R: SchemaRegistry>(registry: R) -> Events {
        Events(EncoderFactory::new(registry, "contract", "db").build(&table().relation).await.unwrap())
    }

    fn rows(&self, write: impl FnOnce(&Encoder, &mut TableEvents)) -> Rows {
        let mut events = TableEvents::new(self.0.schema().clone());
        write(&self.0, &mut events);
        Rows::new(events)
    }

    /// The start of a copy whose snapshot contains all up to an LSN.
    pub fn copy_start(&self, lsn: u64) -> Rows {
        self.rows(|encoder, out| encoder.copy_start(out, &origin(lsn, Position::FIRST_COPIED + lsn, Snapshot::Yes)))
    }

    /// A copied row, which is the one with this number.
    pub fn copied(&self, lsn: u64, number: u64) -> Rows {
        let id = (1_000 + number).to_string();
        let row = [TupleValue::Text(id.as_bytes())];
        let origin = origin(lsn, Position::FIRST_COPIED + 1_000 + number, Snapshot::Yes);
        self.rows(|encoder, out| encoder.read(out, &origin, &row).unwrap())
    }

    /// A row that was inserted by a transaction at an LSN; the LSN is its id.
    pub fn inserted(&self, lsn: u64) -> Rows {
        let id = lsn.to_string();
        let row = [TupleValue::Text(id.as_bytes())];
        self.rows(|encoder, out| encoder.insert(out, &origin(lsn, 0, Snapshot::No), &row).unwrap())
    }

    /// The same, as it comes from a partition of a topic.
    pub fn inserted_at(&self, lsn: u64, partition: i32, offset: i64) -> Rows {
        let next_offsets = BTreeMap::from([(partition, offset + 1)]);
        Rows { next_offsets, generation: Some(1), ..self.inserted(lsn) }
    }
}

fn origin(lsn: u64, ordinal: u64, snapshot: Snapshot) -> Origin {
    let position = Position { commit_lsn: Lsn(lsn), ordinal };
    Origin { position, lsn: Lsn(lsn), xid: 1, source_micros: 0, now_micros: 0, snapshot }
}
