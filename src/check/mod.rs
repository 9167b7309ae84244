//! Every precondition of a pipeline, looked at without changing anything: what was found and, where it fails, the
//! statement or setting that mends it.

mod kafka;
mod lake;
mod schemas;
mod source;

use serde::Serialize;
use sooner_api::Error;

use crate::config::Config;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// The pipeline runs, but somebody should know.
    Warning,
    /// The pipeline, or this table, cannot run.
    Failed,
}

/// One precondition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub finding: String,
    /// What mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(check: impl Into<String>, finding: impl Into<String>) -> Finding {
        Finding { check: check.into(), verdict: Verdict::Ok, finding: finding.into(), remedy: None }
    }

    fn warning(check: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let remedy = Some(remedy.into());
        Finding { check: check.into(), verdict: Verdict::Warning, finding: finding.into(), remedy }
    }

    fn failed(check: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) -> Finding {
        let remedy = Some(remedy.into());
        Finding { check: check.into(), verdict: Verdict::Failed, finding: finding.into(), remedy }
    }

    fn error(check: impl Into<String>, error: &Error) -> Finding {
        Finding::failed(check, format!("{}: {}", error.what, error.why), &error.remedy)
    }
}

/// Looks at everything.
pub async fn run(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(source) = &config.source {
        findings.extend(source::look(source).await);
    }
    if let Some(kafka) = &config.kafka {
        findings.extend(kafka::look(kafka, config.source.as_ref()).await);
    }
    if let Some(lake) = &config.lake {
        findings.extend(lake::look(lake).await);
    }
    findings
}

/// Findings as a person reads them, one or two lines each.
pub fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED ",
        };
        text.push_str(&format!("{mark}  {:width$}  {}\n", finding.check, finding.finding));
        if let Some(remedy) = &finding.remedy {
            text.push_str(&format!("         {:width$}  → {remedy}\n", ""));
        }
    }
    text
}
