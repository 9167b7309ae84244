//! What `sooner erase` consists of: [`source`] asks the database whether it still has a subject, [`remains`] says what
//! keeps a value and until when, and [`certificate`] is what is left as evidence.

pub mod certificate;
pub mod remains;
pub mod source;
