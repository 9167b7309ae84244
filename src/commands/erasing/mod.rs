//! What `sooner erase` consists of: [`known`] says what the lake makes of a subject, [`source`] asks the database
//! whether it still has it, [`keeping`] knows what keeps it, [`topics`], [`reports`], [`beside`] and [`local`] search
//! what lies beside the lake's tables, [`remains`] says until when a value stays, and [`certificate`] is what is left
//! as evidence; [`dry_run`] only looks.

pub mod beside;
pub mod certificate;
pub mod dry_run;
pub mod holdable;
pub mod keeping;
pub mod known;
pub mod local;
pub mod remains;
pub mod reports;
pub mod source;
pub mod topics;
