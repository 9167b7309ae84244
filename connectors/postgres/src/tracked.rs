//! What the decoder knows of the relations that the stream describes.

use std::sync::Arc;

use sooner_api::{Positions, Result};
use sooner_schemas::encode::{Encoder, Origin, TupleValue};
use sooner_schemas::{Relation, TableName};

use crate::errors::protocol;
use crate::pgoutput::RelationShape;

/// A table whose events are carried.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The name that it is known by, whatever the stream calls it: it may have been renamed and back.
    pub name: TableName,
    /// What the consumer has of its events already.
    pub covered: Positions,
}

/// What is known of a relation that the stream has described.
pub enum Tracked {
    /// Its changes are left out.
    Ignored,
    /// Described by the stream, but not looked up yet: that waits for a change that is not covered, so that what is
    /// covered is never judged by its former shape.
    Announced(RelationShape),
    /// Looked up: its changes can be carried.
    Table(Arc<Known>),
}

/// What a change of a relation means.
pub enum Change {
    /// It is not carried, or the consumer has it already.
    Left,
    /// The relation has to be looked up first.
    Unknown(RelationShape),
    /// It is carried from here.
    Carried(Arc<Known>, Origin),
}

/// A relation whose changes can be carried.
pub struct Known {
    /// What it is.
    pub relation: Relation,
    /// How its changes become events.
    pub encoder: Encoder,
    /// What the consumer has of its events already.
    pub covered: Positions,
}

impl Known {
    /// Refuses a row that has fewer columns than the relation.
    pub fn check_width(&self, row: &[TupleValue<'_>]) -> Result<()> {
        if row.len() >= self.encoder.width() {
            return Ok(());
        }
        Err(protocol(
            format!("cannot understand a change of {}", self.relation.name),
            format!("it has {} columns instead of {}", row.len(), self.encoder.width()),
        ))
    }
}

/// Fills values that Postgres left out of the new row from the old one: in any column if the old row is whole, in
/// key columns if only the key is known.
pub fn fill_from_old<'a>(relation: &Relation, old: &[TupleValue<'a>], whole: bool, new: &mut [TupleValue<'a>]) {
    for (index, value) in new.iter_mut().enumerate() {
        if *value == TupleValue::Unavailable && (whole || relation.is_key(index)) {
            *value = old.get(index).copied().unwrap_or(TupleValue::Unavailable);
        }
    }
}

/// The same relation, with a column that may be NULL.
pub fn relaxed(relation: &Relation, column: &str) -> Relation {
    let mut relaxed = relation.clone();
    for known in relaxed.columns.iter_mut().filter(|known| known.name == column) {
        known.nullable = true;
    }
    relaxed
}
