//! Tables to encode rows of, and an independent reader of their events.

use std::sync::Arc;

use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use sooner_schemas::encode::{Encoder, Origin, SchemaIds, Snapshot, TupleValue};
use sooner_schemas::envelope::{key_schema, value_schema};
use sooner_schemas::event::{EventSchema, TableEvents};
use sooner_schemas::wire::split_header;
use sooner_schemas::{Column, ColumnType, Lsn, Position, Relation, Scalar, TableName};

/// Schema ids of every table here.
pub const KEY_ID: u32 = 11;
pub const VALUE_ID: u32 = 22;

/// A relation with all that encodes it and reads it back.
pub struct Table {
    pub relation: Relation,
    pub encoder: Encoder,
    key: Option<apache_avro::Schema>,
    value: apache_avro::Schema,
}

impl Table {
    pub fn new(columns: Vec<Column>, key: Vec<usize>) -> Table {
        let relation = Relation::new(TableName::new("public", "t"), columns, key);
        let key = key_schema("shop.public.t", &relation).map(|json| json.to_string());
        let value = value_schema("shop.public.t", &relation).to_string();
        let schema = EventSchema::parse(relation.name.clone(), key.as_deref(), &value).unwrap();
        let ids = SchemaIds { key: key.as_ref().map(|_| KEY_ID), value: VALUE_ID };
        let encoder = Encoder::new(&relation, Arc::new(schema), ids, "shop", "db");
        let parse = |json: &str| apache_avro::Schema::parse_str(json).unwrap();
        Table { relation, encoder, key: key.as_deref().map(parse), value: parse(&value) }
    }

    pub fn batch(&self) -> TableEvents {
        TableEvents::new(self.encoder.schema().clone())
    }

    /// The envelope of an event, as another Avro implementation reads it.
    pub fn envelope(&self, batch: &TableEvents, event: usize) -> Value {
        let (id, datum) = split_header(&batch.bytes[batch.events[event].value.clone()]).unwrap();
        assert_eq!(id, VALUE_ID);
        read(&self.value, datum)
    }

    /// A key message that lies in these bytes.
    pub fn key(&self, message: &[u8]) -> Value {
        let (id, datum) = split_header(message).unwrap();
        assert_eq!(id, KEY_ID);
        read(self.key.as_ref().unwrap(), datum)
    }
}

fn read(schema: &apache_avro::Schema, mut datum: &[u8]) -> Value {
    let reader = GenericDatumReader::builder(schema).build().unwrap();
    let value = reader.read_value(&mut datum).unwrap();
    assert!(datum.is_empty(), "bytes are left over");
    value
}

/// A field of a record, or of the record in a nullable union.
pub fn field<'a>(record: &'a Value, name: &str) -> &'a Value {
    match record {
        Value::Record(fields) => &fields.iter().find(|(field, _)| field == name).unwrap().1,
        Value::Union(_, inner) => field(inner, name),
        other => panic!("{other:?} is no record"),
    }
}

pub fn union(branch: u32, value: Value) -> Value {
    Value::Union(branch, Box::new(value))
}

pub fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

pub fn column(name: &str, scalar: Scalar) -> Column {
    Column::new(name, ColumnType::Scalar(scalar))
}

/// Postgres' texts of a row; none for NULL.
pub fn row<'a>(texts: &[Option<&'a str>]) -> Vec<TupleValue<'a>> {
    texts.iter().map(|text| text.map_or(TupleValue::Null, |text| TupleValue::Text(text.as_bytes()))).collect()
}

pub fn origin() -> Origin {
    Origin {
        position: Position { commit_lsn: Lsn(100), ordinal: 4 },
        lsn: Lsn(90),
        xid: 7,
        source_micros: 5_001_234,
        now_micros: 6_007_899,
        snapshot: Snapshot::No,
    }
}

/// One scalar of every kind, with the fraction digits that change how it is written.
pub fn scalars() -> Vec<Scalar> {
    vec![
        Scalar::Bool,
        Scalar::Int2,
        Scalar::Int4,
        Scalar::Int8,
        Scalar::Float4,
        Scalar::Float8,
        Scalar::Decimal { precision: 10, scale: 2 },
        Scalar::Numeric,
        Scalar::Text,
        Scalar::Bytea,
        Scalar::Date,
        Scalar::Time(0),
        Scalar::Time(6),
        Scalar::Timestamp(3),
        Scalar::Timestamp(6),
        Scalar::Timestamptz(0),
        Scalar::Timestamptz(6),
        Scalar::Uuid,
        Scalar::Json,
        Scalar::Enum(vec!["ok".to_owned(), "sad".to_owned()]),
        Scalar::Other,
    ]
}

/// Every scalar, and an array of every scalar.
pub fn column_types() -> Vec<ColumnType> {
    let arrays = scalars().into_iter().map(ColumnType::Array);
    scalars().into_iter().map(ColumnType::Scalar).chain(arrays).collect()
}
