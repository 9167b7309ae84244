//! What the tests run on: [`postgres`], [`kafka`], [`registry`] and [`s3`] are real servers, [`pipeline`] is the real program, [`readers`] are
//! independent, [`between`] starts what stands around Kafka, [`topics`] is a consumer and the judge of what it sees, [`load`] changes rows at random from a seed, and [`simulation`] is a world in memory.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(clippy::missing_panics_doc)]

pub mod avro_json;
pub mod between;
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
use std::sync::atomic::{AtomicU32, Ordering};

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

/// A port that nobody listens on at the moment, and that is given to nobody else of this process. It is none of those that the
/// kernel gives to outgoing connections, so that a server which was killed finds its port again.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 16_000..32_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes at the same time begin at different places.
    let first = std::process::id().wrapping_mul(97);
    for _ in 0..PORTS.len() {
        let number = first.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
        let port = (PORTS.start + number % PORTS.len() as u32) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("all ports of {PORTS:?} are in use")
}
