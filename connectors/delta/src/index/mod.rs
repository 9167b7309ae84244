//! Where each live row lies, by its key.

pub mod build;
pub mod key;
pub mod key_index;
