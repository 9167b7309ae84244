//! What `sooner erase` consists of: [`source`] asks the database whether it still has a subject, [`topics`],
//! [`reports`] and [`local`] search what lies beside the lake's tables, [`remains`] says what keeps a value and until
//! when, and [`certificate`] is what is left as evidence.

pub mod certificate;
pub mod local;
pub mod remains;
pub mod reports;
pub mod source;
pub mod topics;
