//! The audit trail of a pipeline: what it did, and who asked for what, as a Delta table `_sooner/<pipeline>/audit` of
//! the lake that is only ever appended to. Each entry contains the hash of the one before ([`chain`]), the last entry
//! of each commit may be signed ([`keys`]), and [`check`] finds what was changed, removed or cut off, with nothing but
//! the table's files. `src/docs/audit.md` writes the rule down for those who check it without this program.

pub mod chain;
pub mod check;
mod columns;
pub mod digits;
pub mod keys;
pub mod table;
