//! One page over many pipelines: a real one with a token of its own, one of very many tables, one that is not there.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use integration_tests::crowd::Crowd;
use integration_tests::pipeline::{Pipeline, program};
use integration_tests::postgres::{Postgres, Version};
use integration_tests::{free_port, python, root};
use reqwest::StatusCode;
use serde_json::Value;

const OF_FLEET: &str = "the token of the page";
const OF_SHOP: &str = "the token of the shop";

/// A running `sooner fleet`.
struct Fleet {
    url: String,
    process: Child,
    folder: tempfile::TempDir,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Fleet {
    fn start(pipelines: &str) -> Fleet {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let text = format!("[http]\nlisten = \"{address}\"\ntoken = {{ env = \"FLEET_TOKEN\" }}\n{pipelines}");
        std::fs::write(folder.path().join("fleet.toml"), text).unwrap();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let mut command = command(folder.path());
        let process = command.env("FLEET_TOKEN", OF_FLEET).env("SHOP_TOKEN", OF_SHOP).stderr(log).spawn().unwrap();
        Fleet { url: format!("http://{address}"), process, folder }
    }

    async fn pipelines(&self) -> Option<Vec<Value>> {
        let request = reqwest::Client::new().get(format!("{}/api/v1/pipelines", self.url)).bearer_auth(OF_FLEET);
        Some(request.send().await.ok()?.json().await.unwrap())
    }

    /// Waits until the pipelines are seen so.
    async fn wait_for(&self, what: &str, holds: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let started = Instant::now();
        loop {
            let seen = self.pipelines().await.unwrap_or_default();
            if holds(&seen) {
                return seen;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{what}: {seen:?}, {}", self.log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(program());
    command.arg("fleet").arg("--config").arg(folder.join("fleet.toml")).stdout(Stdio::null());
    command
}

fn healths(seen: &[Value]) -> Vec<(&str, &str)> {
    seen.iter().map(|seen| (seen["name"].as_str().unwrap(), seen["health"].as_str().unwrap_or_default())).collect()
}

fn look(url: &str) {
    let mut browser = Command::new(python());
    browser.arg(root().join("integration-tests/browser/fleet.py")).args(["--url", url, "--token", OF_FLEET]);
    if let Ok(folder) = std::env::var("SOONER_SCREENSHOTS") {
        browser.args(["--screenshots", &folder]);
    }
    let output = browser.output().expect("the browser is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pipelines_are_on_one_page_with_the_worst_first() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50)").await;
    let mut shop = Pipeline::local(&postgres);
    let shop_url = format!("127.0.0.1:{}", free_port());
    shop.append_settings(&format!("[http]\nlisten = \"{shop_url}\"\ntoken = {{ env = \"SHOP_TOKEN\" }}"));
    shop.set("SHOP_TOKEN", OF_SHOP);
    shop.start();
    shop.catch_up(&postgres).await;
    let crowd = Crowd::start(3000).await;
    let gone = format!("http://127.0.0.1:{}", free_port());
    let fleet = Fleet::start(&format!(
        "[[pipeline]]\nurl = \"http://{shop_url}\"\ntoken = {{ env = \"SHOP_TOKEN\" }}\npage = \"https://shop.example/\"\n\
         [[pipeline]]\nurl = \"{}\"\n[[pipeline]]\nurl = \"{gone}\"",
        crowd.url
    ));

    let all = [(gone.as_str(), "silent"), ("crowd", "error"), ("shop", "ok")];
    let seen = fleet.wait_for("three are asked", |seen| healths(seen) == all).await;
    assert!(seen[0]["silent_because"].as_str().unwrap().contains("refused"), "{}", seen[0]);
    assert_eq!(
        (&seen[1]["summary"]["tables_count"], &seen[1]["summary"]["phases"]["parked"]),
        (&3000.into(), &3.into())
    );
    assert!(seen[2]["summary"]["slot"]["retained_bytes"].is_u64(), "{}", seen[2]);
    assert_eq!(seen[2]["page"], "https://shop.example");
    let refused = reqwest::get(format!("{}/api/v1/pipelines", fleet.url)).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let url = fleet.url.clone();
    tokio::task::spawn_blocking(move || look(&url)).await.unwrap();

    // What was known of one that is gone stays, with since when it is.
    shop.stop();
    let is_silent = |seen: &[Value]| healths(seen).contains(&("shop", "silent"));
    let seen = fleet.wait_for("the shop does not answer", is_silent).await;
    let shop_seen = seen.iter().find(|seen| seen["name"] == "shop").unwrap();
    assert!(shop_seen["silent_since_micros"].as_i64() > shop_seen["heard_micros"].as_i64(), "{shop_seen}");
    assert_eq!(shop_seen["summary"]["tables_count"], 1);
    shop.start();
    fleet.wait_for("it answers again", |seen| healths(seen).contains(&("shop", "ok"))).await;
    assert!(!fleet.log().contains(OF_SHOP) && !fleet.log().contains(OF_FLEET), "{}", fleet.log());
}

#[test]
fn what_is_wrong_with_its_configuration_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("fleet.toml"), "[http]\n[[pipeline]]\nurl = \"orders:9640\"\n").unwrap();
    let output = command(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("line 3: pipeline[0].url: 'orders:9640': expected a URL"),
        "{said}"
    );
}
