//! What the tests run on: [`postgres`], [`kafka`], [`registry`] and [`s3`] are real servers, [`pipeline`] is the real program, [`readers`] are
//! independent, [`topics`] is a consumer and the judge of what it sees, [`load`] changes rows at random from a seed, and [`simulation`] is a world in memory.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(clippy::missing_panics_doc)]

pub mod avro_json;
pub mod certificates;
pub mod debezium;
pub mod identity;
pub mod kafka;
pub mod load;
pub mod pipeline;
pub mod postgres;
pub mod readers;
pub mod registry;
pub mod s3;
pub mod server;
pub mod simulation;
pub mod topics;

use std::net::TcpListener;
use std::path::PathBuf;

/// The repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is the parent").to_owned()
}

/// What `install.sh` installed.
pub fn stack() -> PathBuf {
    root().join(".stack")
}

/// The Python that has the readers.
pub fn python() -> PathBuf {
    stack().join("venv/bin/python")
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
