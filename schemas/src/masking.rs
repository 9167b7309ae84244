//! Which columns of a table are masked: rules of a configuration, applied to what a table is, and what a change of them
//! means. All of it is decided by names, types and keys; no value is looked at.
//!
//! A relation as its source has it keeps omitted columns in their places, as rows come with them; as events carry it,
//! it lacks them, and lists them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::column_type::{ColumnType, Scalar};
use crate::mask::{Mask, MaskKey};
use crate::relation::{Column, OmittedColumn, Relation};

/// What a configuration says of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnRule {
    /// Its values are carried as they are.
    Keep,
    /// They are hashed.
    Hash,
    /// So many characters of them are carried.
    Truncate(u32),
    /// They become NULL.
    Null,
    /// The column is left out.
    Omit,
}

/// What becomes of columns that no rule names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NewColumns {
    /// They are carried as they are.
    #[default]
    Allow,
    /// They become NULL.
    Mask,
    /// The table waits.
    Block,
}

/// What a configuration says of a table's columns.
#[derive(Clone, Debug, Default)]
pub struct TableRules {
    /// Columns that rules name.
    pub columns: BTreeMap<String, ColumnRule>,
    /// Those of them that the table must have, since the rule was made for it alone.
    pub expected: BTreeSet<String>,
    /// Columns that somebody has looked at, beside those that rules name.
    pub known: BTreeSet<String>,
    /// What becomes of the others.
    pub new_columns: NewColumns,
    /// Columns of the key may be hashed.
    pub hashes_keys: bool,
    /// Key of hashes.
    pub key: Option<Arc<MaskKey>>,
}

/// Why rules do not fit a table, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Why, as a phrase.
    pub why: String,
    /// What to do, as a phrase.
    pub remedy: String,
}

/// What a difference between the masks of two states of a table means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MaskChange {
    /// Rules are others by now: what is there was written by other ones.
    Rules(String),
    /// A masked column has a name by now that no rule knows.
    Unnamed(String),
}

impl TableRules {
    /// Marks the columns of a table, as its source has it. Nothing that tells values of a masked column remains.
    pub fn mark(&self, relation: &mut Relation) {
        if self.columns.is_empty() && self.new_columns == NewColumns::Allow {
            return;
        }
        for column in &mut relation.columns {
            let mask = match self.rule(&column.name) {
                ColumnRule::Keep => self.columns.contains_key(&column.name).then_some(Mask::Keep),
                // Without a key nothing is hashed: the table waits.
                ColumnRule::Hash => Some(self.key.clone().map_or(Mask::Null, Mask::Hash)),
                ColumnRule::Truncate(characters) => Some(Mask::Truncate(characters)),
                ColumnRule::Null => Some(Mask::Null),
                ColumnRule::Omit => Some(Mask::Omit),
            };
            column.set_mask(mask);
        }
    }

    /// Why these rules do not fit a table, as its source has it; none if they do.
    pub fn misfit(&self, relation: &Relation) -> Option<Misfit> {
        let has = |name: &String| {
            relation.columns.iter().any(|column| column.name == *name) || relation.unsent.contains(name)
        };
        if let Some(missing) = self.expected.iter().find(|name| !has(name)) {
            return Some(Misfit {
                why: format!("mask names a column '{missing}', which it does not have (any more, or by this name)"),
                remedy: "correct the name, or take it out of mask if the column is gone".to_owned(),
            });
        }
        relation.columns.iter().enumerate().find_map(|(at, column)| self.misfit_of(column, relation.is_key(at)))
    }

    fn misfit_of(&self, column: &Column, is_key: bool) -> Option<Misfit> {
        let name = &column.name;
        let misfit = |why: String, remedy: String| Some(Misfit { why, remedy });
        if !self.is_named(name) && (self.new_columns == NewColumns::Block || is_key && self.masks_new()) {
            let what = if is_key { ", which is part of its key" } else { "" };
            return misfit(
                format!("new_columns is set, and neither mask nor known_columns names its column '{name}'{what}"),
                format!("add '{name}' to known_columns, or to mask"),
            );
        }
        match self.rule(name) {
            ColumnRule::Hash if self.key.is_none() => misfit(
                format!("its column '{name}' is to be hashed, and there is no key for that"),
                "set key in [masking]".to_owned(),
            ),
            ColumnRule::Hash if is_key && !self.hashes_keys => misfit(
                format!("its column '{name}' is part of its key, by which rows are told apart and joined"),
                "set mask_key = true if hashes are to take the place of its keys; or take it out of mask".to_owned(),
            ),
            ColumnRule::Truncate(_) | ColumnRule::Null | ColumnRule::Omit if is_key => misfit(
                format!("its column '{name}' is part of its key, and rows could not be told apart without it"),
                "take it out of mask, or hash it, with mask_key = true; or leave the table out (exclude)".to_owned(),
            ),
            ColumnRule::Truncate(_) if column.column_type != ColumnType::Scalar(Scalar::Text) => misfit(
                format!("its column '{name}' is no text, and only texts are truncated"),
                "use \"hash\", \"null\" or \"omit\"".to_owned(),
            ),
            _ => None,
        }
    }

    fn masks_new(&self) -> bool {
        self.new_columns == NewColumns::Mask
    }

    fn is_named(&self, column: &str) -> bool {
        self.columns.contains_key(column) || self.known.contains(column)
    }

    /// What becomes of a column's values.
    pub fn rule(&self, column: &str) -> ColumnRule {
        match self.columns.get(column) {
            Some(rule) => *rule,
            None if self.masks_new() && !self.known.contains(column) => ColumnRule::Null,
            None => ColumnRule::Keep,
        }
    }
}

impl Column {
    /// The mask that changes its values; none if they are carried as they are.
    pub fn hiding_mask(&self) -> Option<&Mask> {
        self.mask.as_ref().filter(|mask| mask.hides())
    }

    fn set_mask(&mut self, mask: Option<Mask>) {
        self.mask = mask;
        let Some(mask) = self.hiding_mask() else { return };
        let leaves_nothing = mask.leaves_nothing();
        if matches!(mask, Mask::Hash(_) | Mask::Omit) {
            self.column_type = ColumnType::Scalar(Scalar::Text);
        } else if matches!(self.column_type, ColumnType::Scalar(Scalar::Enum(_))) {
            // Its labels are values.
            self.column_type = ColumnType::Scalar(Scalar::Text);
        } else if matches!(self.column_type, ColumnType::Array(Scalar::Enum(_))) {
            self.column_type = ColumnType::Array(Scalar::Text);
        }
        self.nullable |= leaves_nothing;
        self.has_default &= !leaves_nothing;
        (self.missing, self.default) = (None, None);
    }
}

impl Relation {
    /// The same table with the masks of another state of it.
    pub fn marked_like(&self, marked: &Relation) -> Relation {
        let mut relation = self.clone();
        for column in &mut relation.columns {
            let same = |known: &&Column| known.number == column.number && known.name == column.name;
            if let Some(known) = marked.columns.iter().find(same) {
                column.set_mask(known.mask.clone());
            }
        }
        relation
    }

    /// The relation as events carry it: without the columns that are left out.
    pub fn without_omitted(&self) -> Cow<'_, Relation> {
        let is_omitted = |column: &Column| column.mask == Some(Mask::Omit);
        if !self.columns.iter().any(is_omitted) {
            return Cow::Borrowed(self);
        }
        let mut carried = Relation { columns: Vec::new(), ..self.clone() };
        let mut places = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            places.push((!is_omitted(column)).then_some(carried.columns.len()));
            match is_omitted(column) {
                true => carried.omitted.push(OmittedColumn { name: column.name.clone(), number: column.number }),
                false => carried.columns.push(column.clone()),
            }
        }
        carried.key = self.key.iter().filter_map(|&index| places.get(index).copied().flatten()).collect();
        Cow::Owned(carried)
    }

    /// Names of the columns that are masked, each with what becomes of its values.
    pub fn masked_columns(&self) -> Vec<(String, String)> {
        let masked = states(self).filter_map(|state| Some((state.name.to_owned(), state.mask?.to_string())));
        masked.filter(|(_, mask)| mask != "keep").collect()
    }
}

/// A column's mask, wherever the relation has it.
struct MaskState<'a> {
    name: &'a str,
    number: Option<i16>,
    mask: Option<&'a Mask>,
}

impl MaskState<'_> {
    fn is_of(&self, other: &MaskState<'_>) -> bool {
        match (self.number, other.number) {
            (Some(number), Some(other)) => number == other,
            _ => self.name == other.name,
        }
    }

    fn hiding(&self) -> Option<&Mask> {
        self.mask.filter(|mask| mask.hides())
    }
}

fn states(relation: &Relation) -> impl Iterator<Item = MaskState<'_>> {
    let there = relation.columns.iter();
    let there = there.map(|column| MaskState { name: &column.name, number: column.number, mask: column.mask.as_ref() });
    let omitted = relation.omitted.iter();
    let omitted =
        omitted.map(|column| MaskState { name: &column.name, number: column.number, mask: Some(&Mask::Omit) });
    there.chain(omitted)
}

/// What the masks of a table mean, given those that its events were last written by; none if they are the same.
/// Columns that came or went say nothing.
pub fn mask_change(former: &Relation, now: &Relation) -> Option<MaskChange> {
    let has_any = |relation: &Relation| states(relation).any(|state| state.mask.is_some());
    if !has_any(former) && !has_any(now) {
        return None;
    }
    let mut changed = None;
    for is in states(now) {
        let Some(was) = states(former).find(|was| was.is_of(&is)) else { continue };
        if was.hiding() == is.hiding() {
            continue;
        }
        if was.hiding().is_some() && is.mask.is_none() && was.name != is.name {
            let (was, is) = (was.name, is.name);
            return Some(MaskChange::Unnamed(format!(
                "its column '{was}', which is masked, is called '{is}' by now, and no rule names that: add '{is}' to mask \
                 (\"keep\" carries it as it is)"
            )));
        }
        changed.get_or_insert_with(|| described(&was, &is));
    }
    changed.map(MaskChange::Rules)
}

/// Why a table cannot be copied under its masks: a masked column has a name by now that no rule knows.
pub fn unnamed_mask(former: &Relation, now: &Relation) -> Option<String> {
    match mask_change(former, now)? {
        MaskChange::Unnamed(why) => Some(why),
        MaskChange::Rules(_) => None,
    }
}

fn described(was: &MaskState<'_>, is: &MaskState<'_>) -> String {
    let name = is.name;
    match (was.hiding(), is.hiding()) {
        (Some(Mask::Hash(_)), Some(Mask::Hash(_))) => format!("column '{name}' is hashed by another key"),
        (None, Some(mask)) => format!("column '{name}' is masked now ({mask})"),
        (Some(mask), None) => format!("column '{name}' is not masked any more ({mask})"),
        (Some(former), Some(mask)) => format!("the mask of column '{name}' changed from {former} to {mask}"),
        (None, None) => format!("the mask of column '{name}' changed"),
    }
}
