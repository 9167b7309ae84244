//! Defines change events, and how their bytes are written and read. No I/O.
//!
//! Reading order: [`lsn`] names positions, [`relation`] describes a table, [`envelope`] turns that into Avro
//! schemas with each column's [`default_value`], [`naming`] names their topics and subjects, [`encode`] writes a
//! Postgres row under them, [`event`] carries the bytes, [`avro`] and [`wire`] read them back. [`evolution`] compares
//! two shapes of a table, [`catalog_facts`] tells whether its rows changed without an event, and [`masking`] says which
//! values do not leave as they are.

pub mod array;
pub mod avro;
pub mod catalog_facts;
pub mod column_type;
pub mod default_value;
pub mod differences;
pub mod encode;
pub mod envelope;
pub mod event;
pub mod evolution;
pub mod fingerprint;
pub mod lsn;
pub mod mask;
pub mod masking;
pub mod naming;
pub mod numeric;
pub mod placeholder;
pub mod policy;
pub mod relation;
pub mod table_name;
pub mod temporal;
pub mod type_name;
pub mod unholdable;
pub mod value;
pub mod wire;

pub use catalog_facts::CatalogFacts;
pub use column_type::{ColumnType, Scalar};
pub use default_value::DefaultValue;
pub use lsn::{Lsn, Position};
pub use relation::{Column, Relation, ReplicaIdentity};
pub use table_name::TableName;
pub use unholdable::Unholdable;
