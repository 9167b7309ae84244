//! The audit trail, as the program writes it: a running process records what its journal says ([`recorder`], which
//! reads it by [`tail`]), and commands record what somebody asked for ([`trail`]). It vouches for [`certificates`].
//! What it is made of, and how it is checked, is in `connectors/delta/src/audit`.

pub mod actor;
pub mod certificates;
pub mod recorder;
pub mod tail;
pub mod trail;
