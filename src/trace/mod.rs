//! Why is a row old? One row is followed from Postgres by the stream, and the topic, to its file in the lake.
//!
//! [`key`] reads what a person wrote; [`gather`] asks Postgres, the status, Kafka and the lake, each through a look of
//! its own ([`looks`]); [`report`] is what came of that ([`hops`]), [`verdict`] says what it means, and [`render`]
//! prints it. [`aside`] does so beside a running pipeline.

pub mod aside;
pub mod gather;
pub mod hops;
pub mod key;
pub mod looks;
pub mod render;
pub mod report;
pub mod verdict;
