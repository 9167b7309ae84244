//! The script that an engine runs: tables as views, the query, and where its result goes. DuckDB's SQL. Without I/O.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use sooner_delta::cuts::Cut;
use sooner_schemas::TableName;

use crate::cut_sql::{self, Engine, view_names};
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
    /// The columns of the rows.
    pub columns: PathBuf,
}

/// DuckDB's integer of 128 bits, without its sign if a `U` stands before.
const WIDE: &str = "HUGEINT";
/// What holds its digits in Parquet.
const EXACT: &str = "DECIMAL(38,0)";

impl Outputs {
    /// The files in a folder.
    pub fn of(folder: &Path) -> Outputs {
        let names = ["result.parquet", "result.csv", "version.txt", "columns.txt"];
        let [parquet, csv, version, columns] = names.map(|name| folder.join(name));
        Outputs { parquet, csv, version, columns }
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

/// What a run's query can name: the tables, each with the query that reads it, and the run itself.
pub fn views_script(settings: &ReportSettings, told: &RunTold, views: &[(TableName, String)]) -> String {
    let mut script =
        format!("SET TimeZone = {};\nCREATE SCHEMA IF NOT EXISTS sooner;\n", text(settings.schedule.zone.name()));
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
        let view = format!("CREATE VIEW {schema}.{table} AS\n{query};");
        let _ = writeln!(script, "CREATE SCHEMA IF NOT EXISTS {schema};\n{view}");
    }
    script
}

/// A run of a report of views, to paste into DuckDB: statements that attach the cut's tables, the tables under their
/// own names, also those that have only a history, and the query as a view of the report's name.
pub fn cut_views_script(
    settings: &ReportSettings,
    told: &RunTold,
    cut: &Cut,
    of_histories: &[(TableName, String)],
) -> String {
    let names = view_names(cut);
    let with_rows = cut.tables.iter().filter(|(_, versions)| versions.mirror.is_some()).map(|(table, _)| table);
    let query_of = |table: &TableName| Some(format!("SELECT * FROM {}", name(names.get(&(table, "mirror"))?)));
    let with_rows = with_rows.filter_map(|table| Some((table.clone(), query_of(table)?)));
    let views: Vec<_> = with_rows.chain(of_histories.iter().cloned()).collect();
    let is_taken = names.values().any(|name| name.eq_ignore_ascii_case(&settings.name));
    let report = if is_taken { format!("{}_report", settings.name) } else { settings.name.clone() };
    let (tables, report) = (cut_sql::text(cut, Engine::Duckdb), name(&report));
    let query = format!("CREATE VIEW {report} AS\n{}\n;\n", settings.sql);
    format!("{tables}{}{query}", views_script(settings, told, &views))
}

/// Writes the columns of a query: on each line a name and a type, both as hexadecimal digits, since both may hold
/// anything.
pub fn columns_script(query: &str, outputs: &Outputs) -> String {
    let found = format!("SELECT hex(column_name), hex(column_type) FROM (DESCRIBE\n{query}\n)");
    table_script(&found, &outputs.columns)
}

/// A query's columns, as the engine wrote them.
pub fn parse_columns(text: &str) -> Option<Vec<(String, String)>> {
    let text_of = |digits: &str| {
        let digits = digits.trim().trim_matches('"');
        let byte = |at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
        String::from_utf8((0..digits.len()).step_by(2).map(byte).collect::<Option<_>>()?).ok()
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let columns =
        lines.map(|line| line.split_once(',').and_then(|(name, kind)| Some((text_of(name)?, text_of(kind)?))));
    columns.collect()
}

/// The same query, but for integers of 128 bits, as which DuckDB adds whole numbers up: it would write them to Parquet
/// as floating-point numbers, and lose digits. As decimals they keep all of them; one of more than 38 digits is an
/// error.
pub fn exact_query(query: &str, columns: &[(String, String)]) -> String {
    let wide = columns.iter().filter(|(_, kind)| kind.contains(WIDE));
    let casts: Vec<_> = wide
        .map(|(column, kind)| {
            let kind = kind.replace(&format!("U{WIDE}"), EXACT).replace(WIDE, EXACT);
            format!("CAST({column} AS {kind}) AS {column}", column = name(column))
        })
        .collect();
    match casts.is_empty() {
        true => query.to_owned(),
        false => format!("SELECT * REPLACE ({}) FROM (\n{query}\n) AS found", casts.join(", ")),
    }
}

/// What a query finds goes to files, and so does the engine's version.
pub fn result_script(query: &str, format: Format, outputs: &Outputs) -> String {
    let mut script = version_script(outputs);
    // Writing to a string cannot fail.
    let _ = writeln!(script, "COPY (\n{query}\n) TO {} (FORMAT parquet);", path(&outputs.parquet));
    if format == Format::Csv {
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
        let outputs = Outputs::of(Path::new("/it's"));
        let result = result_script(&settings.sql, settings.format, &outputs);
        let script = views_script(&settings, &told, &views) + &columns_script(&settings.sql, &outputs) + &result;
        for expected in [
            "CREATE SCHEMA IF NOT EXISTS \"it's\";\nCREATE VIEW \"it's\".\"o\"\"d\" AS\nSELECT * FROM",
            "read_parquet(['/a/it''s.parquet'])",
            "COPY (\nSELECT 1 -- all\n) TO '/it''s/result.parquet' (FORMAT parquet);",
            "TIMESTAMPTZ '1970-01-01T00:00:00Z' AS due",
            "TO '/it''s/result.csv' (FORMAT csv, HEADER true)",
            "SET TimeZone = 'UTC'",
            "DESCRIBE\nSELECT 1 -- all\n)",
        ] {
            assert!(script.contains(expected), "{expected} is not in\n{script}");
        }
    }

    #[test]
    fn sums_keep_their_digits() {
        let columns = parse_columns("61,48554745494e54\n\"6f2264\",444f55424c45\n").unwrap();
        let expected = [("a", "HUGEINT"), ("o\"d", "DOUBLE")].map(|(name, kind)| (name.to_owned(), kind.to_owned()));
        assert_eq!(columns, expected);
        let exact = "SELECT * REPLACE (CAST(\"a\" AS DECIMAL(38,0)) AS \"a\") FROM (\nSELECT x\n) AS found";
        assert_eq!(exact_query("SELECT x", &columns), exact);
        assert_eq!(exact_query("SELECT x", &columns[1..]), "SELECT x");
        let nested = [("l".to_owned(), "STRUCT(a UHUGEINT, b HUGEINT[])".to_owned())];
        assert!(exact_query("x", &nested).contains("AS STRUCT(a DECIMAL(38,0), b DECIMAL(38,0)[])) AS"));
        assert_eq!((parse_columns("6"), parse_columns("zz,zz"), parse_columns("61")), (None, None, None));
    }
}
