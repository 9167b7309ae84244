//! How the tables of a cut are read, in the languages of engines.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sooner_delta::cuts::{Cut, CutVersion};
use sooner_delta::store::location::{readers_path, sparks_path};
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
    let names = view_names(cut);
    let kinds = cut
        .tables
        .iter()
        .flat_map(|(table, versions)| [(table, "mirror", &versions.mirror), (table, "history", &versions.history)]);
    kinds.filter_map(move |(table, kind, version)| {
        let name = names.get(&(table, kind))?;
        Some((table, kind, statement(table, (kind, name), version.as_ref()?, engine)))
    })
}

/// What tables of a cut are called in the statements, by their names and kinds: `schema_table`, histories with
/// `_history` behind it. Where that would be the name of another one, also to engines that do not tell capitals from
/// small letters, a number follows.
pub fn view_names(cut: &Cut) -> BTreeMap<(&TableName, &'static str), String> {
    let (mut names, mut taken) = (BTreeMap::new(), BTreeSet::new());
    for (kind, suffix) in [("mirror", ""), ("history", "_history")] {
        for table in cut.tables.keys() {
            let name = format!("{}_{}{suffix}", table.schema, table.table);
            let numbered = (2..).map(|number| format!("{name}_{number}"));
            let free = std::iter::once(name.clone()).chain(numbered).find(|name| taken.insert(name.to_lowercase()));
            names.insert((table, kind), free.unwrap_or(name));
        }
    }
    names
}

fn statement(table: &TableName, (kind, name): (&str, &str), found: &CutVersion, engine: Engine) -> String {
    let suffix = if kind == "history" { "_history" } else { "" };
    let (mut place, version) = (readers_path(&found.url), found.version);
    if engine == Engine::Spark {
        place = sparks_path(&place);
    }
    let bound = found.up_to.map(|lsn| lsn.0);
    let only = bound.map_or_else(String::new, |bound| format!(" WHERE _commit_lsn <= {bound}"));
    match engine {
        Engine::Spark => format!(
            "CREATE OR REPLACE TEMPORARY VIEW {} AS SELECT * FROM delta.{} VERSION AS OF {version}{only};",
            quoted(name, '`'),
            quoted(&place, '`')
        ),
        Engine::Duckdb => {
            let attached = |name: &str| {
                format!("ATTACH {} AS {} (TYPE delta, VERSION {version});", quoted(&place, '\''), quoted(name, '"'))
            };
            match bound {
                None => attached(name),
                Some(_) => {
                    let whole = format!("{name}_and_later");
                    let (view, all) = (quoted(name, '"'), quoted(&whole, '"'));
                    format!("{} CREATE OR REPLACE VIEW {view} AS SELECT * FROM {all}{only};", attached(&whole))
                }
            }
        }
        Engine::Polars => {
            let only =
                bound.map_or_else(String::new, |bound| format!(".filter(polars.col(\"_commit_lsn\") <= {bound})"));
            format!("frames[{name:?}] = polars.scan_delta({place:?}, version={version}){only}")
        }
        // Its catalog has the pipeline's own tables under their names; one that was made for the cut has to be
        // registered.
        Engine::Trino if found.rebuilt.is_some() => {
            let call = format!("schema_name => {}, table_name => {}", quoted(&table.schema, '\''), quoted(name, '\''));
            // It takes a local folder as a URL.
            let place = if place.starts_with('/') { format!("file://{place}") } else { place };
            format!(
                "CALL system.register_table({call}, table_location => {}); SELECT * FROM {}.{};",
                quoted(&place, '\''),
                quoted(&table.schema, '"'),
                quoted(name, '"')
            )
        }
        Engine::Trino => format!(
            "SELECT * FROM {}.{} FOR VERSION AS OF {version}{only};",
            quoted(&table.schema, '"'),
            quoted(&format!("{}{suffix}", table.table), '"')
        ),
    }
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
    fn tables_whose_names_are_alike_are_told_apart_and_spark_reads_buckets_by_its_own_scheme() {
        let found =
            |url: &str| Some(CutVersion { url: format!("s3://lake/{url}/"), version: 1, rebuilt: None, up_to: None });
        let table = |name: &str, history: Option<CutVersion>| {
            (TableName::new("public", name), CutTable { mirror: found(name), history })
        };
        let named = [table("orders", found("h")), table("Orders", None), table("orders_history", None)];
        let cut = Cut {
            name: "q3".to_owned(),
            lsn: Lsn(9),
            commit_micros: 0,
            made_micros: 0,
            until_millis: None,
            tables: named
                .into_iter()
                .chain([(TableName::new("a", "b_c"), CutTable { mirror: found("x"), history: None })])
                .chain([(TableName::new("a_b", "c"), CutTable { mirror: found("y"), history: None })])
                .collect(),
        };
        let duck = text(&cut, Engine::Duckdb);
        let mut views: Vec<_> = duck.lines().filter_map(|line| line.split('"').nth(1)).map(str::to_lowercase).collect();
        views.sort();
        let all = views.len();
        views.dedup();
        assert_eq!((all, views.len()), (6, 6), "{duck}");
        assert!(text(&cut, Engine::Spark).contains("delta.`s3a://lake/orders`"), "{}", text(&cut, Engine::Spark));
        assert!(duck.contains("'s3://lake/orders'"));
    }

    #[test]
    fn each_engine_is_told_the_version_in_its_own_language() {
        let found =
            Some(CutVersion { url: "file:///lake/public/it-27s/".to_owned(), version: 7, rebuilt: None, up_to: None });
        let url = "file:///lake/public/it-27s-history/".to_owned();
        let history = Some(CutVersion { url, version: 9, rebuilt: None, up_to: None });
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
        assert_eq!(readers_path("file:///data/my%20lake/public/t/"), "/data/my lake/public/t");
        assert_eq!(readers_path("s3://lake/public/t/"), "s3://lake/public/t");
        let mut cut = cut;
        cut.tables.values_mut().for_each(|table| table.history.as_mut().unwrap().up_to = Some(Lsn(77)));
        let only = "CREATE OR REPLACE VIEW \"public_it's_history\" AS SELECT * FROM \"public_it's_history_and_later\" \
                    WHERE _commit_lsn <= 77;\n";
        assert!(text(&cut, Engine::Duckdb).ends_with(only), "{}", text(&cut, Engine::Duckdb));
        assert!(text(&cut, Engine::Spark).ends_with("VERSION AS OF 9 WHERE _commit_lsn <= 77;\n"));
    }
}
