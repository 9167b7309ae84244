//! The harness of the integration tests: [`postgres`], [`kafka`], [`registry`] and [`s3`] are real servers,
//! [`pipeline`] is the real program, [`readers`] are independent readers of the lake, [`between`] starts the servers
//! around Kafka, [`msk`] a broker that admits by AWS' IAM, [`mod@glue`] registries of other kinds, [`crowd`] is the
//! board of very many tables, [`topics`] is a consumer and the judge of what it sees, [`load`] changes rows at random
//! from a seed, and [`simulation`] is a world in memory.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
#![allow(clippy::missing_panics_doc)]

pub mod avro_json;
pub mod between;
pub mod certificates;
pub mod crowd;
pub mod cut_sums;
pub mod debezium;
pub mod glue;
pub mod identity;
pub mod kafka;
pub mod load;
pub mod msk;
pub mod pipeline;
pub mod postgres;
pub mod prometheus;
pub mod readers;
pub mod registry;
pub mod s3;
pub mod server;
pub mod simulation;
pub mod spark;
pub mod topics;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Root folder of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is the parent").to_owned()
}

/// Folder of the servers and tools that `install.sh` installed.
pub fn stack() -> PathBuf {
    root().join(".stack")
}

/// Path of the Python interpreter that has the readers' packages.
pub fn python() -> PathBuf {
    stack().join("venv/bin/python")
}

/// Returns a TCP port on 127.0.0.1 that has no listener at the moment, a different one at each call in this process.
/// It is outside the range that the kernel gives to outgoing connections, so that a killed server finds its port free
/// when it is started again.
pub fn free_port() -> u16 {
    const PORTS: std::ops::Range<u32> = 16_000..32_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Concurrent processes start their search at different ports.
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

/// All files in a folder, which need not be there, and in those below it.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
