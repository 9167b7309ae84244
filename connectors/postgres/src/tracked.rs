//! What the decoder knows of the relations that the stream describes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sooner_api::{Positions, Result};
use sooner_schemas::encode::{Encoder, Origin, TupleValue};
use sooner_schemas::{Lsn, Position, Relation, TableName};

use crate::errors::protocol;
use crate::pgoutput::RelationShape;
use crate::schedule::KeyTexts;

/// A table whose events are carried.
#[derive(Clone, Debug)]
pub struct Selected {
    /// The name that it is known by, whatever the stream calls it: it may have been renamed and back.
    pub name: TableName,
    /// What the consumer has of its events already.
    pub covered: Positions,
}

/// A row of a copied table of which the stream has a part only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRow {
    /// Object id of the table.
    pub table: u32,
    /// Its key.
    pub key: KeyTexts,
    /// It had another key before.
    pub is_renamed: bool,
}

/// What is known of a relation that the stream has described.
enum Tracked {
    /// Its changes are left out.
    Ignored,
    /// Described by the stream, but not looked up yet: that waits for a change that is not covered, so that what is
    /// covered is never judged by its former shape.
    Announced,
    /// Looked up: its changes can be carried.
    Table(Arc<Known>),
}

/// What a change of a relation means, by its position.
pub enum Meaning {
    /// It is not carried, or the consumer has it already.
    Left,
    /// The relation has to be looked up first.
    Unknown(RelationShape),
    /// It is carried.
    Carried(Arc<Known>),
}

/// What a change of a relation means, and where it comes from.
pub enum Change {
    /// It is not carried, or the consumer has it already.
    Left,
    /// The relation has to be looked up first.
    Unknown(RelationShape),
    /// It is carried from here.
    Carried(Arc<Known>, Origin),
}

/// What the stream must do after a message.
#[derive(Debug)]
pub enum Next {
    /// Continue with the next message.
    Continue,
    /// Look up the relation and set it on the decoder, then apply the message again.
    RelationNeeded(RelationShape),
    /// A column that the catalog calls NOT NULL is NULL in a row that is older than the constraint: set the relation
    /// again with that column nullable, then apply the message again.
    Relax {
        /// Object id of the relation.
        oid: u32,
        /// The relation, with the column nullable.
        relation: Relation,
    },
}

/// The relations of a stream, by object id.
pub struct Relations {
    /// Tables to carry: another table that takes the name is another table.
    selected: HashMap<u32, Selected>,
    tracked: HashMap<u32, Tracked>,
    /// How the stream described tables last.
    shapes: HashMap<u32, RelationShape>,
    /// Tables that are being copied.
    copied: HashSet<u32>,
    /// Tables some of whose rows are copied over those that are there.
    copied_in_place: HashSet<u32>,
}

impl Relations {
    /// Carries these tables; the stream has described none yet.
    pub fn new(selected: HashMap<u32, Selected>) -> Relations {
        Relations {
            selected,
            tracked: HashMap::new(),
            shapes: HashMap::new(),
            copied: HashSet::new(),
            copied_in_place: HashSet::new(),
        }
    }

    /// A table whose events are carried; none for any other object id.
    pub fn selected(&self, oid: u32) -> Option<&Selected> {
        self.selected.get(&oid)
    }

    /// A relation that was looked up.
    pub fn known(&self, oid: u32) -> Option<&Arc<Known>> {
        match self.tracked.get(&oid) {
            Some(Tracked::Table(known)) => Some(known),
            _ => None,
        }
    }

    /// Whether the rest of a row that is not known whole has to be read: nobody may have it while the table is copied.
    /// Where rows are copied over others, one that had another key before may be filled from the wrong row.
    pub fn needs_rest(&self, oid: u32, is_renamed: bool) -> bool {
        self.copied.contains(&oid) || is_renamed && self.copied_in_place.contains(&oid)
    }

    /// Takes note of a relation that the stream describes. Returns whether the catalog should be looked at soon: it was
    /// renamed, or is another table with the name of one that is carried.
    pub fn announce(&mut self, shape: RelationShape) -> bool {
        let name = TableName::new(&shape.schema, &shape.table);
        let oid = shape.oid;
        // Also of tables that are not carried yet: the stream describes each of them once.
        self.shapes.insert(oid, shape);
        let Some(selected) = self.selected.get(&oid) else {
            self.tracked.insert(oid, Tracked::Ignored);
            return self.selected.values().any(|selected| selected.name == name);
        };
        self.tracked.insert(oid, Tracked::Announced);
        selected.name != name
    }

    /// Sets a relation and its encoder for the changes that follow; ignores it if its table is not selected.
    pub fn set(&mut self, oid: u32, relation: Relation, encoder: Encoder) {
        let known = self.selected.get(&oid).map(|Selected { covered, .. }| {
            Tracked::Table(Arc::new(Known { relation, encoder, covered: covered.clone() }))
        });
        self.tracked.insert(oid, known.unwrap_or(Tracked::Ignored));
    }

    /// Ignores all further changes of a relation.
    pub fn ignore(&mut self, oid: u32) {
        self.tracked.insert(oid, Tracked::Ignored);
    }

    /// Leaves the changes of a table out until it is copied.
    pub fn mute(&mut self, oid: u32) {
        if let Some(selected) = self.selected.get_mut(&oid) {
            selected.covered = Positions::whole(Lsn(u64::MAX));
        }
        self.look_up_again(oid);
    }

    /// Carries the changes of a table that is being copied, but for those that are covered. None if its rows are copied
    /// over those that are there: it is carried already.
    pub fn follow_copied(&mut self, oid: u32, selected: Option<Selected>) {
        let Some(selected) = selected else {
            self.copied_in_place.insert(oid);
            return;
        };
        self.selected.insert(oid, selected);
        self.copied.insert(oid);
        self.look_up_again(oid);
    }

    /// The table's copy has ended.
    pub fn end_copy(&mut self, oid: u32) {
        self.copied.remove(&oid);
        self.copied_in_place.remove(&oid);
    }

    /// Carries a table no more; false if it was not carried.
    pub fn deselect(&mut self, table: &TableName) -> bool {
        let named = self.selected.iter().filter(|(_, selected)| selected.name == *table);
        let oids: Vec<_> = named.map(|(oid, _)| *oid).collect();
        for oid in &oids {
            self.selected.remove(oid);
            self.end_copy(*oid);
            self.tracked.insert(*oid, Tracked::Ignored);
        }
        !oids.is_empty()
    }

    /// What a change at a position means; none for a relation that was not described.
    pub fn meaning(&self, oid: u32, position: Position) -> Option<Meaning> {
        Some(match self.tracked.get(&oid)? {
            Tracked::Ignored => Meaning::Left,
            Tracked::Table(known) if known.covered.covers_event(position) => Meaning::Left,
            Tracked::Table(known) => Meaning::Carried(known.clone()),
            Tracked::Announced => {
                let selected = self.selected.get(&oid).filter(|selected| !selected.covered.covers_event(position));
                match selected.and_then(|_| self.shapes.get(&oid)) {
                    Some(shape) => Meaning::Unknown(shape.clone()),
                    None => Meaning::Left,
                }
            }
        })
    }

    fn look_up_again(&mut self, oid: u32) {
        if self.shapes.contains_key(&oid) {
            self.tracked.insert(oid, Tracked::Announced);
        }
    }
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
    /// Texts of a row's key columns; none if one of them is not known.
    pub fn key_texts(&self, row: &[TupleValue<'_>]) -> Option<KeyTexts> {
        key_texts(&self.relation, row)
    }

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

/// Texts of a row's key columns, in the order of the key; none if one of them is not known.
pub fn key_texts(relation: &Relation, row: &[TupleValue<'_>]) -> Option<KeyTexts> {
    let texts = relation.key.iter().map(|&index| match row.get(index) {
        Some(TupleValue::Text(text)) => Some(String::from_utf8_lossy(text).into()),
        _ => None,
    });
    texts.collect()
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
