//! How the tables of a cut are read, in the languages of engines.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sooner_delta::cuts::{Cut, CutVersion};
use sooner_schemas::TableName;

/// Who reads a cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// Spark SQL, with Delta Lake.
    #[default]
    Spark,
    /// DuckDB, with its extension delta.
    Duckdb,
    /// Polars, in Python.
    Polars,
    /// Trino, whose catalog has the tables under their own names.
    Trino,
}

/// Statements that have an engine read the tables of a cut as of it, as a script.
pub fn text(cut: &Cut, engine: Engine) -> String {
    statements(cut, engine).map(|(_, _, statement)| format!("{statement}\n")).collect()
}

/// The same as JSON, by the names of tables.
pub fn json(cut: &Cut, engine: Engine) -> Value {
    let mut tables = Map::new();
    for (table, kind, statement) in statements(cut, engine) {
        tables.entry(table.to_string()).or_insert_with(|| json!({}))[kind] = Value::String(statement);
    }
    json!({ "cut": cut.name, "tables": tables })
}

/// A statement for each table and kind, `mirror` or `history`.
fn statements(cut: &Cut, engine: Engine) -> impl Iterator<Item = (&TableName, &'static str, String)> {
    let kinds = cut
        .tables
        .iter()
        .flat_map(|(table, versions)| [(table, "mirror", &versions.mirror), (table, "history", &versions.history)]);
    kinds.filter_map(move |(table, kind, version)| {
        Some((table, kind, statement(table, kind, version.as_ref()?, engine)))
    })
}

fn statement(table: &TableName, kind: &str, found: &CutVersion, engine: Engine) -> String {
    let suffix = if kind == "history" { "_history" } else { "" };
    let name = format!("{}_{}{suffix}", table.schema, table.table);
    let (place, version) = (local_path(&found.url), found.version);
    match engine {
        Engine::Spark => format!(
            "CREATE OR REPLACE TEMPORARY VIEW {} AS SELECT * FROM delta.{} VERSION AS OF {version};",
            quoted(&name, '`'),
            quoted(&place, '`')
        ),
        Engine::Duckdb => {
            format!("ATTACH {} AS {} (TYPE delta, VERSION {version});", quoted(&place, '\''), quoted(&name, '"'))
        }
        Engine::Polars => format!("frames[{name:?}] = polars.scan_delta({place:?}, version={version})"),
        Engine::Trino => format!(
            "SELECT * FROM {}.{} FOR VERSION AS OF {version};",
            quoted(&table.schema, '"'),
            quoted(&format!("{}{suffix}", table.table), '"')
        ),
    }
}

/// A local folder as a path; any other location as it is.
fn local_path(url: &str) -> String {
    let path = url.strip_prefix("file://").unwrap_or(url);
    path.trim_end_matches('/').to_owned()
}

fn quoted(text: &str, quote: char) -> String {
    let twice: String = [quote, quote].into_iter().collect();
    format!("{quote}{}{quote}", text.replace(quote, &twice))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sooner_delta::cuts::CutTable;
    use sooner_schemas::Lsn;

    use super::*;

    #[test]
    fn each_engine_is_told_the_version_in_its_own_language() {
        let found = Some(CutVersion { url: "file:///lake/public/it-27s/".to_owned(), version: 7 });
        let history = Some(CutVersion { url: "file:///lake/public/it-27s-history/".to_owned(), version: 9 });
        let tables = BTreeMap::from([(TableName::new("public", "it's"), CutTable { mirror: found, history })]);
        let cut =
            Cut { name: "q3".to_owned(), lsn: Lsn(9), commit_micros: 0, made_micros: 0, until_millis: None, tables };
        let spark = "CREATE OR REPLACE TEMPORARY VIEW `public_it's` AS SELECT * FROM delta.`/lake/public/it-27s` VERSION AS OF 7;\n";
        assert!(text(&cut, Engine::Spark).starts_with(spark));
        let duck = "ATTACH '/lake/public/it-27s' AS \"public_it's\" (TYPE delta, VERSION 7);\n\
                    ATTACH '/lake/public/it-27s-history' AS \"public_it's_history\" (TYPE delta, VERSION 9);\n";
        assert_eq!(text(&cut, Engine::Duckdb), duck);
        let told = super::json(&cut, Engine::Duckdb);
        let lines: Vec<_> = duck.lines().collect();
        assert_eq!(told["tables"]["public.it's"], json!({"mirror": lines[0], "history": lines[1]}));
    }
}
