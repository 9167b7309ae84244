//! Prometheus, from Debian's package, scraping a pipeline by the alerts that ship.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{free_port, root};

/// Path of a program of Prometheus.
pub fn tool(name: &str) -> PathBuf {
    root().join(".stack/prometheus/usr/bin").join(name)
}

/// A Prometheus that scrapes one address every second.
pub struct Prometheus {
    process: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it; `adapt` makes the rules of those that ship, such as with shorter times.
    pub fn start(target: &str, adapt: impl FnOnce(String) -> String) -> Prometheus {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("prometheus.yml");
        let rules = folder.path().join("alerts.yml");
        let shipped = std::fs::read_to_string(root().join("monitoring/alerts.yml")).expect("readable");
        std::fs::write(&rules, adapt(shipped)).expect("writable");
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{}']\nscrape_configs:\n\
             - job_name: sooner\n  static_configs: [{{ targets: ['{target}'] }}]\n",
            rules.display()
        );
        std::fs::write(&config, text).expect("writable");
        let address = format!("127.0.0.1:{}", free_port());
        let process = Command::new(tool("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null())
            .spawn()
            .expect("Prometheus is installed");
        Prometheus { process, url: format!("http://{address}"), _folder: folder }
    }

    /// The series that a query finds; none while Prometheus does not answer. An error of the query panics.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let asked = reqwest::Client::new().get(format!("{}/api/v1/query", self.url)).query(&[("query", expression)]);
        let Ok(answer) = asked.send().await else { return Vec::new() };
        let answer: Value = answer.json().await.unwrap_or_default();
        assert_ne!(answer["status"], "error", "{expression}: {answer}");
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until a query finds what is wanted; fails after a minute.
    pub async fn eventually(&self, expression: &str, wanted: impl Fn(&[Value]) -> bool) {
        let asked = Instant::now();
        loop {
            let found = self.query(expression).await;
            if wanted(&found) {
                return;
            }
            assert!(asked.elapsed() < Duration::from_secs(60), "{expression}: {found:?}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
