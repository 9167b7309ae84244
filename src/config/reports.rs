//! The sections `[[report]]` of the configuration.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use chrono_tz::Tz;
use sooner_schemas::TableName;

use super::reader::Section;
use crate::report_settings::{Format, ReportSettings, check_report_name};
use crate::schedule::{CatchUp, Schedule, parse_zone};

/// How long an engine may take, unless configured.
const TIME_LIMIT: Duration = Duration::from_secs(3600);

/// Reads all reports; their names differ.
pub fn read_reports(root: &mut Section) -> Vec<ReportSettings> {
    let reports = root.sections("report", read_report);
    let mut names = BTreeSet::new();
    for (number, report) in reports.iter().enumerate() {
        if !names.insert(&report.name) {
            root.problem(&format!("report[{number}].name"), "another report has this name");
        }
    }
    if !reports.is_empty() && !root.has("lake") {
        root.problem("report[0]", "reports are made where the lake is written: add [lake]");
    }
    reports
}

fn read_report(section: &mut Section) -> Option<ReportSettings> {
    let name = section.text("name", |name| check_report_name(name).map(|()| name.to_owned()));
    let zone = section.optional("time_zone", parse_zone).unwrap_or(Tz::UTC);
    let schedule = section.text("schedule", |pattern| Schedule::parse(pattern, zone));
    let tables = section.list("tables", |table| table.parse::<TableName>().map_err(|_| "expected schema.table".into()));
    let sql = read_sql(section);
    let engine = section.list("engine", |word| Ok::<_, String>(word.to_owned()));
    if engine.as_ref().is_some_and(Vec::is_empty) {
        section.problem("engine", "name the command that runs SQL, such as [\"duckdb\"]");
    }
    let format = section.optional("format", |text| match text {
        "parquet" => Ok(Format::Parquet),
        "csv" => Ok(Format::Csv),
        "views" => Ok(Format::Views),
        _ => Err("expected \"parquet\", \"csv\" or \"views\"".to_owned()),
    });
    let catch_up = section.optional("catch_up", |text| match text {
        "all" => Ok(CatchUp::All),
        "last" => Ok(CatchUp::Last),
        "none" => Ok(CatchUp::Never),
        _ => Err("expected \"all\", \"last\" or \"none\"".to_owned()),
    });
    let output = section.optional("output", |text| Ok(text.to_owned()));
    let keep = section.optional_duration("keep", Duration::from_secs(1));
    if format == Some(Format::Views) {
        if keep.is_none() && !section.has("keep") {
            section.problem("format", "views read the cut of a run: set keep, to say how long cuts are kept");
        }
        if engine.is_some() {
            section.problem("engine", "no engine is run for views: leave it out");
        }
    }
    let time_limit = section.duration("time_limit", TIME_LIMIT, Duration::from_secs(1));
    Some(ReportSettings {
        name: name?,
        schedule: schedule?,
        tables: tables.unwrap_or_default(),
        sql: sql?,
        engine: match format {
            Some(Format::Views) => Vec::new(),
            _ => engine.unwrap_or_else(|| vec!["duckdb".to_owned()]),
        },
        format: format.unwrap_or(Format::Parquet),
        output,
        keep,
        catch_up: catch_up.unwrap_or(CatchUp::All),
        time_limit,
    })
}

/// The query, from `sql` or from the file that `sql_file` names.
fn read_sql(section: &mut Section) -> Option<String> {
    let (is_inline, is_file) = (section.has("sql"), section.has("sql_file"));
    let inline = section.optional("sql", |text| Ok(text.to_owned()));
    let file: Option<PathBuf> = section.path("sql_file");
    let text = match (is_inline, is_file) {
        (true, false) => inline?,
        (false, true) => match std::fs::read_to_string(file?) {
            Ok(text) => text,
            Err(error) => {
                section.problem("sql_file", &format!("the file cannot be read: {error}"));
                return None;
            }
        },
        _ => {
            section.problem("sql", "a report has one query: set either sql or sql_file");
            return None;
        }
    };
    let query = text.trim().trim_end_matches(';').trim_end();
    if query.is_empty() {
        section.problem(if is_inline { "sql" } else { "sql_file" }, "is empty");
        return None;
    }
    Some(query.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const SMALLEST: &str = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\n[lake]\nurl = '/l'\n";

    fn read(text: &str) -> Result<Vec<ReportSettings>, String> {
        let config = Config::parse(&format!("{SMALLEST}{text}"), Path::new(env!("CARGO_MANIFEST_DIR")));
        config.map(|config| config.reports).map_err(|problems| problems.join("\n"))
    }

    #[test]
    fn a_report_needs_a_name_a_schedule_and_a_query() {
        let reports = read("[[report]]\nname = 'daily'\nschedule = '0 6 * * *'\nsql = 'SELECT 1; '").unwrap();
        let [report] = &reports[..] else { panic!("{reports:?}") };
        assert_eq!((report.sql.as_str(), report.engine.as_slice()), ("SELECT 1", &["duckdb".to_owned()][..]));
        assert_eq!((report.format, report.catch_up, report.keep), (Format::Parquet, CatchUp::All, None));
        let filled = "[[report]]\nname = 'a'\nschedule = '0 6 * * *'\ntime_zone = 'Europe/Berlin'\n\
                      tables = ['public.a']\nsql_file = 'Cargo.toml'\nformat = 'csv'\nkeep = '7y'\ncatch_up = 'last'";
        let report = read(filled).unwrap().remove(0);
        assert!(report.sql.starts_with("[workspace]") && report.schedule.zone.name() == "Europe/Berlin");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let found = read(
            "[[report]]\nname = 'a'\nschedule = '0 25 * * *'\nsql = 'SELECT 1'\n[[report]]\nname = 'b b'\n\
             schedule = '0 6 * * *'\ntime_zone = 'Mars'\nsql = 'x'\nsql_file = 'y'\ntables = ['orders']\nformat = 'pdf'",
        )
        .unwrap_err();
        for expected in [
            "line 8: report[0].schedule: '0 25 * * *'",
            "line 11: report[1].name: 'b b'",
            "line 13: report[1].time_zone: 'Mars'",
            "report[1].sql_file: 'y': the file cannot be read",
            "line 14: report[1].sql: a report has one query",
            "line 16: report[1].tables[0]: 'orders'",
            "line 17: report[1].format: 'pdf'",
        ] {
            assert!(found.contains(expected), "'{expected}' not in:\n{found}");
        }
        let twice = "[[report]]\nname = 'a'\nschedule = '0 6 * * *'\nsql = 'SELECT 1'\n";
        assert!(read(&format!("{twice}{twice}")).unwrap_err().contains("report[1].name: another report"));
        let views = "[[report]]\nname = 'a'\nschedule = '0 6 * * *'\nsql = 'SELECT 1'\nformat = 'views'\n";
        let found = read(&format!("{views}engine = ['duckdb']")).unwrap_err();
        assert!(found.contains("report[0].format: views read the cut") && found.contains("leave it out"), "{found}");
        assert_eq!(read(&format!("{views}keep = '7y'")).unwrap()[0].engine, Vec::<String>::new());
        assert!(read("[[report]]\nname = 'a'").unwrap_err().contains("report[0].schedule: is missing"));
    }
}
