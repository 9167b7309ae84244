//! Reports: when each is due next, and whether its engine does what it is told.

use sooner_api::Clock;

use super::Finding;
use crate::clock::SystemClock;
use crate::report_settings::ReportSettings;
use crate::reports::engine::try_engine;
use crate::schedule::Due;

/// Checks reports; each engine is tried once.
pub async fn inspect(reports: &[ReportSettings]) -> Vec<Finding> {
    let now = Due::of_micros(SystemClock.now_micros());
    let mut findings = Vec::new();
    let mut tried: Vec<&[String]> = Vec::new();
    for report in reports {
        let check = format!("report {}", report.name);
        let next = report.schedule.next_after(now).map_or_else(|| "never".to_owned(), |due| due.to_string());
        let due = format!("'{}' in {}: next at {next}", report.schedule.pattern, report.schedule.zone.name());
        findings.push(Finding::ok(&check, due));
        // Reports of views have no engine.
        if !report.engine.is_empty() && !tried.contains(&report.engine.as_slice()) {
            tried.push(&report.engine);
            findings.push(engine(&check, report).await);
        }
    }
    findings
}

async fn engine(check: &str, report: &ReportSettings) -> Finding {
    let name = report.engine.first().map(String::as_str).unwrap_or_default();
    // Others may check at the same time.
    let folder = std::env::temp_dir().join(format!("sooner-check-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir_all(&folder) {
        let remedy = "set TMPDIR to a folder that can be written to";
        return Finding::warning(check, format!("cannot try the engine '{name}': {error}"), remedy);
    }
    let tried = try_engine(&report.engine, &folder).await;
    let _ = std::fs::remove_dir_all(folder);
    match tried {
        Ok(version) => Finding::ok(check, format!("its engine '{name}' runs SQL, version {version}")),
        Err(error) => Finding::error(check, &error),
    }
}
