//! Reports: queries of cuts, when a schedule says so. Enters: settings and the clock; leaves: for each time at which a
//! report is due, one result with a manifest, whatever dies on the way.
//!
//! [`scheduler`] decides what is to be made and when, on a thread of its own; [`making`] makes one run: it asks for a
//! cut, writes its tables as plain files ([`sooner_delta::report_data`]), has an [`engine`] run a [`script`] over them,
//! and stores what it wrote. [`runs`] knows what has been made, by the folder of results, in which a [`manifest`]
//! counts and nothing else. [`backfill`] makes runs for times that have passed, from histories. [`turn`] lets one run
//! be made at a time.

pub mod backfill;
pub mod completeness;
pub mod engine;
pub mod making;
pub mod manifest;
pub mod runs;
pub mod scheduler;
pub mod script;
pub mod turn;
