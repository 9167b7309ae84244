//! `sooner check`: checks every precondition without changing anything that the pipeline uses, and reports what was
//! found and, where a check fails, the statement or setting that remedies it.

mod audit;
mod kafka;
mod lake;
mod masks;
mod reports;
mod schemas;
mod slot_limits;
mod source;
mod values;

use serde::Serialize;
use sooner_api::Error;

use crate::config::Config;

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The precondition holds.
    Ok,
    /// The pipeline runs, but an operator should know.
    Warning,
    /// The pipeline, or this table, cannot run.
    Failed,
}

/// What a check of one precondition found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Name of the check: what was inspected.
    pub check: String,
    /// Outcome of the check.
    pub verdict: Verdict,
    /// What was found, as a phrase for a person.
    pub finding: String,
    /// Statement or setting that remedies it; none where the check passed.
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

/// Runs the checks of all sections that the configuration has.
pub async fn run(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(source) = &config.source {
        findings.extend(source::inspect(source).await);
        findings.extend(masks::inspect(config, source).await);
    }
    if let Some(kafka) = &config.kafka {
        findings.extend(kafka::inspect(kafka, config.source.as_ref()).await);
    }
    if let Some(lake) = &config.lake {
        findings.extend(lake::inspect(lake).await);
        findings.extend(lake::log_stores(lake, &config.name).await);
        findings.extend(lake::costs(lake, &config.tables));
        findings.extend(reports::inspect(&config.reports).await);
    }
    if let Some(settings) = &config.audit {
        findings.extend(audit::inspect(config, settings).await);
    }
    findings
}

/// Renders findings as text for a person, one or two lines each.
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
