//! Measures the listener and the page of a pipeline of very many tables, in a real Chromium, beside the second that a
//! person waits; and beside what each look would take if the page asked for the whole status.

use std::process::Command;
use std::time::Instant;

use integration_tests::crowd::Crowd;
use integration_tests::{python, root};
use reqwest::Client;
use serde_json::Value;

use crate::Line;

/// Looks of which the median counts.
const LOOKS: usize = 9;
/// How long a person waits for a page, in milliseconds.
const PATIENCE: f64 = 1000.0;
/// What the page asks at each look.
const PAGE: [&str; 4] = [
    "/api/v1/summary",
    "/api/v1/health?limit=5",
    "/api/v1/tables?filter=&sort=worst&offset=0&limit=100",
    "/api/v1/events?limit=20",
];

/// Measures 10,000 tables, or `SOONER_BENCH_TABLES`.
pub async fn run() -> Vec<Line> {
    let tables = std::env::var("SOONER_BENCH_TABLES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000usize);
    let crowd = Crowd::start(tables).await;
    let (whole, whole_bytes) = ask(&crowd, &["/api/v1/status"]).await;
    let (look, look_bytes) = ask(&crowd, &PAGE).await;
    let mut lines = vec![Line {
        what: format!("(p) {tables} tables: what a look of the page asks for"),
        ours: format!("{look:.1} ms, {:.0} KiB", look_bytes / 1024.0),
        peer: format!("whole status {whole:.1} ms, {:.0} KiB", whole_bytes / 1024.0),
        ratio: Some(whole / look),
        wanted: "-",
        notes: format!("{:.0}× fewer bytes", whole_bytes / look_bytes),
    }];
    let url = crowd.url.clone();
    let times = tokio::task::spawn_blocking(move || in_browser(&url)).await.unwrap();
    for (size, name) in [("desk", "1280×900"), ("phone", "390×844")] {
        let time = |name: &str| times[format!("{size}{name}")].as_f64().unwrap();
        let shown = time("");
        lines.push(Line {
            what: format!("(p) {tables} tables: from navigation to rows, {name}"),
            ours: format!("{shown:.0} ms"),
            peer: format!("a second {PATIENCE:.0} ms"),
            ratio: Some(PATIENCE / shown),
            wanted: "1",
            notes: format!(
                "one table by its name {:.0} ms; {:.0} elements; asking for the whole status alone {:.0} ms",
                time("_filter"),
                time("_elements"),
                time("_whole_status")
            ),
        });
    }
    lines
}

/// Median of the milliseconds that it takes to ask for all of these paths, one after the other; and their bytes.
async fn ask(crowd: &Crowd, paths: &[&str]) -> (f64, f64) {
    let http = Client::new();
    let (mut took, mut bytes) = (Vec::new(), 0);
    for _ in 0..LOOKS {
        let started = Instant::now();
        bytes = 0;
        for path in paths {
            let answer = http.get(format!("{}{path}", crowd.url)).send().await.unwrap();
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
            bytes += answer.bytes().await.unwrap().len();
        }
        took.push(started.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    (took[LOOKS / 2], bytes as f64)
}

fn in_browser(url: &str) -> Value {
    let mut browser = Command::new(python());
    browser.arg(root().join("integration-tests/browser/many.py")).args(["--url", url, "--measure"]);
    let output = browser.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
