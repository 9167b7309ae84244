//! The script that an engine runs: tables as views, the query, and where its result goes. DuckDB's SQL. Without I/O.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use sooner_schemas::TableName;

use crate::report_settings::{Format, ReportSettings};
use crate::schedule::Due;

/// Files that an engine writes, in a folder.
#[derive(Clone, Debug)]
pub struct Outputs {
    /// The rows.
    pub parquet: PathBuf,
    /// The same as text.
    pub csv: PathBuf,
    /// The engine's version.
    pub version: PathBuf,
}

impl Outputs {
    /// The files in a folder.
    pub fn of(folder: &Path) -> Outputs {
        let [parquet, csv, version] = ["result.parquet", "result.csv", "version.txt"].map(|name| folder.join(name));
        Outputs { parquet, csv, version }
    }
}

/// What a run tells its query of itself, in the view `sooner.run`.
#[derive(Clone, Debug)]
pub struct RunTold {
    /// When it is due.
    pub due: Due,
    /// Of when its rows are, as RFC 3339.
    pub as_of: String,
    /// LSN of its cut.
    pub lsn: String,
}

/// The script of a run. `views` are the tables, each with the query that reads it.
pub fn report_script(
    settings: &ReportSettings,
    told: &RunTold,
    views: &[(TableName, String)],
    outputs: &Outputs,
) -> String {
    let mut script = format!("SET TimeZone = {};\nCREATE SCHEMA sooner;\n", text(settings.schedule.zone.name()));
    // Writing to a string cannot fail.
    let _ = writeln!(
        script,
        "CREATE VIEW sooner.run AS SELECT {} AS report, TIMESTAMPTZ {} AS due, TIMESTAMPTZ {} AS as_of, {} AS lsn;",
        text(&settings.name),
        text(&told.due.to_string()),
        text(&told.as_of),
        text(&told.lsn)
    );
    for (table, query) in views {
        let (schema, table) = (name(&table.schema), name(&table.table));
        let _ = writeln!(script, "CREATE SCHEMA IF NOT EXISTS {schema};\nCREATE VIEW {schema}.{table} AS\n{query};");
    }
    script.push_str(&version_script(outputs));
    let _ = writeln!(script, "COPY (\n{}\n) TO {} (FORMAT parquet);", settings.sql, path(&outputs.parquet));
    if settings.format == Format::Csv {
        let (from, to) = (path(&outputs.parquet), path(&outputs.csv));
        let _ = writeln!(script, "COPY (SELECT * FROM read_parquet({from})) TO {to} (FORMAT csv, HEADER true);");
    }
    script
}

/// A script that tells the engine's version.
pub fn version_script(outputs: &Outputs) -> String {
    format!("COPY (SELECT version()) TO {} (FORMAT csv, HEADER false);\n", path(&outputs.version))
}

/// A script that writes what a query finds, as lines of numbers apart by commas.
pub fn table_script(query: &str, to: &Path) -> String {
    format!("COPY (\n{query}\n) TO {} (FORMAT csv, HEADER false);\n", path(to))
}

/// The query of a table that lies in files.
pub fn files_query(files: &[PathBuf]) -> String {
    let files: Vec<_> = files.iter().map(|file| path(file)).collect();
    format!("SELECT * FROM read_parquet([{}])", files.join(", "))
}

fn path(path: &Path) -> String {
    text(&path.display().to_string())
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;
    use crate::schedule::{CatchUp, Schedule};

    #[test]
    fn names_and_paths_are_quoted_and_a_comment_at_the_end_hides_nothing() {
        let settings = ReportSettings {
            name: "daily".to_owned(),
            schedule: Schedule::parse("0 6 * * *", Tz::UTC).unwrap(),
            tables: Vec::new(),
            sql: "SELECT 1 -- all".to_owned(),
            engine: vec!["duckdb".to_owned()],
            format: Format::Csv,
            output: None,
            keep: None,
            catch_up: CatchUp::All,
            time_limit: std::time::Duration::from_secs(1),
        };
        let told = RunTold { due: Due(0), as_of: "1970-01-01T00:00:01Z".to_owned(), lsn: "0/9".to_owned() };
        let views = [(TableName::new("it's", "o\"d"), files_query(&[PathBuf::from("/a/it's.parquet")]))];
        let script = report_script(&settings, &told, &views, &Outputs::of(Path::new("/it's")));
        for expected in [
            "CREATE SCHEMA IF NOT EXISTS \"it's\";\nCREATE VIEW \"it's\".\"o\"\"d\" AS\nSELECT * FROM",
            "read_parquet(['/a/it''s.parquet'])",
            "COPY (\nSELECT 1 -- all\n) TO '/it''s/result.parquet' (FORMAT parquet);",
            "TIMESTAMPTZ '1970-01-01T00:00:00Z' AS due",
            "TO '/it''s/result.csv' (FORMAT csv, HEADER true)",
            "SET TimeZone = 'UTC'",
        ] {
            assert!(script.contains(expected), "{expected} is not in\n{script}");
        }
    }
}
