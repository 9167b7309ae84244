//! `make bench`: measures each figure and its peer or limit in the same run, and prints them with their ratio.
//!
//! Absolute times depend on the machine and on its other load; the ratios are what counts.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark may panic, and prints")]

mod append;
mod codec;
mod copy;
mod days;
mod kafka;
mod key_index;
mod latency;
mod merge;
mod page;
mod stream;
mod sustained;
mod tables;
mod usage;
mod verify;

/// One figure of the benchmark, as a row of the table that is printed.
pub struct Line {
    what: String,
    ours: String,
    peer: String,
    ratio: Option<f64>,
    wanted: &'static str,
    notes: String,
}

#[tokio::main]
async fn main() {
    let only = std::env::args().nth(1);
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    let mut lines = Vec::new();
    if wanted("codec") {
        lines.extend(codec::run());
    }
    if wanted("stream") {
        lines.extend(stream::run().await);
    }
    if wanted("copy") {
        lines.extend(copy::run().await);
    }
    if wanted("merge") {
        lines.extend(merge::run().await);
    }
    if wanted("append") {
        lines.extend(append::run().await);
    }
    if wanted("verify") {
        lines.extend(verify::run().await);
    }
    if wanted("sustained") {
        lines.extend(sustained::run().await);
    }
    if wanted("days") {
        lines.extend(days::run());
    }
    if wanted("index") {
        lines.extend(key_index::run().await);
    }
    if wanted("tables") {
        lines.extend(tables::run().await);
    }
    if wanted("page") {
        lines.extend(page::run().await);
    }
    if wanted("latency") {
        lines.extend(latency::run().await);
    }
    if wanted("kafka") {
        lines.extend(kafka::run().await);
    }
    if wanted("consumer") {
        lines.extend(kafka::consumer_latency().await);
    }
    print(&lines);
}

fn print(lines: &[Line]) {
    let widths = |pick: fn(&Line) -> &str| lines.iter().map(|line| pick(line).chars().count()).max().unwrap_or(0);
    let (what, ours, peer) = (widths(|line| &line.what), widths(|line| &line.ours), widths(|line| &line.peer));
    println!(
        "\n{:what$}  {:ours$}  {:peer$}  {:>8}  {:8}  notes",
        "figure", "sooner", "peer or limit", "ratio", "wanted"
    );
    for line in lines {
        let ratio = line.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}×"));
        println!(
            "{:what$}  {:ours$}  {:peer$}  {ratio:>8}  {:8}  {}",
            line.what, line.ours, line.peer, line.wanted, line.notes
        );
    }
}
