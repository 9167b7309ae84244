//! The configuration's own sections: what they default to, and what is said of a mistake.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sooner::config::{Config, TableBlocks, TablePattern};
use sooner_api::{Class, Code};
use sooner_schemas::TableName;

/// A configuration with these lines at the top, in `[source]` and in `[lake]`.
pub fn text(top: &str, source: &str, lake: &str) -> String {
    let name = if top.contains("name = ") { "" } else { "name = 'shop'\n" };
    format!("{name}{top}\n[source]\nurl = 'postgres://me@db/shop'\n{source}\n[lake]\nurl = '/lake'\n{lake}\n")
}

/// All problems of a text.
pub fn problems(text: &str) -> Vec<String> {
    match Config::parse(text, Path::new("/nowhere")) {
        Ok(_) => Vec::new(),
        Err(problems) => problems,
    }
}

fn parsed(top: &str, source: &str, lake: &str) -> Config {
    Config::parse(&text(top, source, lake), Path::new("/etc")).unwrap()
}

#[test]
fn each_mistake_is_told_with_its_place_and_what_was_expected() {
    let long = format!("name = '{}'", "x".repeat(51));
    let cases = [
        ("name = 'My Shop'", "", "", "name: 'My Shop': expected up to 50 of: lower-case letters"),
        (long.as_str(), "", "", "expected up to 50 of"),
        ("name = ''", "", "", "name: '': expected up to 50 of"),
        ("state_dir = 7", "", "", "state_dir: expected a text in quotes"),
        ("memory = '1MiB'", "", "", "memory: '1MiB': expected at least"),
        ("memory = 'lots'", "", "", "memory: 'lots': expected a size such as \"64MiB\""),
        ("memory = 64", "", "", "memory: expected a text in quotes"),
        ("", "slot = 'my-slot'", "", "source.slot: 'my-slot': expected up to 63 of"),
        ("", "tables = 'public.*'", "", "source.tables: expected a list of texts, such as [\"public.*\"]"),
        ("", "tables = ['public.*', 'orders']", "", "source.tables[1]: 'orders': expected schema.table"),
        ("", "exclude = ['.x']", "", "source.exclude[0]: '.x': expected schema.table"),
        ("", "copy_tables_at_once = 0", "", "source.copy_tables_at_once: expected a number from 1 to 32"),
        ("", "copy_tables_at_once = '2'", "", "source.copy_tables_at_once: expected a number from 1 to 32"),
        ("", "password = { file = 'none' }", "", "source.password: the file none cannot be read"),
        ("", "password = { vault = 'x' }", "", "expected { env = \"VARIABLE\" } or { file = \"path\" }"),
        ("", "publicaton = 'p'", "", "source.publicaton: is not known; did you mean 'publication'?"),
        ("", "", "freshness = '10ms'", "lake.freshness: '10ms': expected at least 50ms"),
        ("", "", "freshness = 'soon'", "lake.freshness: 'soon': expected a duration such as \"1s\" or \"500ms\""),
        ("", "", "colour = 'red'", "lake.colour: is not known; allowed here: url, freshness"),
        ("", "", "access_key_id = 'AKIA'", "lake.access_key_id: secrets do not belong in the file"),
    ];
    for (top, source, lake, expected) in cases {
        let found = problems(&text(top, source, lake));
        let is_told = found.iter().any(|problem| problem.contains(expected));
        assert!(is_told, "'{expected}' is not told of {top}{source}{lake}, but {found:?}");
    }
}

#[test]
fn one_mistake_is_one_problem() {
    for (source, lake) in [("slot = 'my-slot'", ""), ("", "freshness = '10ms'"), ("tables = ['x']", "")] {
        assert_eq!(problems(&text("", source, lake)).len(), 1, "{source}{lake}");
    }
    assert_eq!(problems("name = ").len(), 1, "what is no TOML is told once");
}

#[test]
fn without_brokers_both_ends_are_needed() {
    let found = problems("name = 'shop'");
    assert_eq!(found, ["source.url: is missing", "lake.url: is missing"]);
    let found = problems("name = 'shop'\nsource = 5\n[lake]\nurl = '/lake'");
    assert_eq!(found, ["line 2: source: expected a section"]);
}

#[test]
fn what_is_set_counts() {
    let top = "state_dir = '/var/lib/sooner'\nmemory = '64MiB'";
    let source = "slot = 'a_slot'\npublication = 'A publication'\ncopy_tables_at_once = 32";
    let lake = "freshness = '250ms'\nendpoint = 'http://store:9000'\nregion = 'eu-central-1'";
    let config = parsed(top, source, lake);
    assert_eq!((config.state_dir.as_path(), config.memory_bytes), (Path::new("/var/lib/sooner"), 64 << 20));
    let source = config.source().unwrap();
    assert_eq!((source.slot.as_str(), source.publication.as_str()), ("a_slot", "A publication"));
    assert_eq!(source.copy_tables_at_once, 32);
    let lake = config.lake().unwrap();
    assert_eq!((lake.url.as_str(), lake.freshness), ("/lake", Duration::from_millis(250)));
    assert_eq!(lake.s3.endpoint.as_deref(), Some("http://store:9000"));
    assert_eq!(lake.s3.region.as_deref(), Some("eu-central-1"));
    assert_eq!(lake.s3.credentials, None);
}

#[test]
fn names_at_the_database_follow_from_the_pipelines_name_by_its_rules() {
    let config = parsed("name = 'my-shop_2'", "", "");
    let source = config.source().unwrap();
    assert_eq!((source.slot.as_str(), source.publication.as_str()), ("sooner_my_shop_2", "sooner_my_shop_2"));
}

#[test]
fn what_is_excluded_is_left_out_although_it_is_listed() {
    let config = parsed("", "tables = ['public.*', 'sales.orders']\nexclude = ['public.tmp_*']", "");
    let selects = |schema: &str, table: &str| (config.source().unwrap().filter().names)(&TableName::new(schema, table));
    assert!(selects("public", "orders") && selects("sales", "orders"));
    assert!(!selects("public", "tmp_1") && !selects("sales", "lines") && !selects("public2", "orders"));
}

#[test]
fn a_pattern_needs_a_schema_and_a_table() {
    for text in ["", "orders", ".orders", "public.", "*"] {
        assert!(TablePattern::parse(text).unwrap_err().contains("expected schema.table"), "{text}");
    }
    let all = TablePattern::parse("*.*").unwrap();
    assert!(all.matches(&TableName::new("odd.schema", "t")) && all.matches(&TableName::new("a", "b.c")));
    let middle = TablePattern::parse("public.a*b*c").unwrap();
    assert!(middle.matches(&TableName::new("public", "abc")) && middle.matches(&TableName::new("public", "axxbxbyc")));
    assert!(!middle.matches(&TableName::new("public", "acb")));
}

#[test]
fn secrets_are_read_from_files_beside_the_configuration_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pw"), "hunter2\r\n").unwrap();
    fs::write(folder.path().join("id"), "AKIA").unwrap();
    fs::write(folder.path().join("key"), "a key \n").unwrap();
    let lake = "access_key_id = { file = 'id' }\nsecret_access_key = { file = 'key' }";
    let config = Config::parse(&text("", "password = { file = 'pw' }", lake), folder.path()).unwrap();
    let source = config.source().unwrap();
    assert_eq!(source.connect.password.as_ref().map(|password| password.reveal()), Some("hunter2"));
    assert!(!format!("{source:?}").contains("hunter2"));
    let credentials = config.lake().unwrap().s3.credentials.clone();
    assert_eq!(credentials, Some(("AKIA".to_owned(), "a key ".to_owned())), "only line breaks are dropped");
    let half = Config::parse(&text("", "", "access_key_id = { file = 'id' }"), folder.path()).unwrap_err();
    let expected = "lake.access_key_id: access_key_id and secret_access_key go together: set both or neither";
    assert_eq!(half, [format!("line 8: {expected}")]);
}

#[test]
fn any_value_may_be_that_of_a_variable() {
    // Every process has this one.
    let path = std::env::var("PATH").unwrap();
    let config = parsed("", "publication = { env = 'PATH' }", "");
    assert_eq!(config.source().unwrap().publication, path);
    let column = "\n[[table]]\nmatch = 'a.b'\nunholdable_columns = { env = 'null' }";
    assert_eq!(problems(&text("", "", column)), Vec::<String>::new(), "a column may have that name");
    let found = problems(&text("", "exclude = ['a.b', { env = 'SOONER_UNSET' }]", ""));
    assert!(found[0].contains("source.exclude[1]: the environment variable SOONER_UNSET is not set"), "{found:?}");
    let found = problems(&text("", "copy_tables_at_once = { env = 'PATH' }", ""));
    assert!(found[0].contains("expected a number"), "{found:?}");
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_all_its_problems() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sooner.toml");
    let missing = Config::load(&path).unwrap_err().to_string();
    assert!(
        missing.contains("sooner.toml") && missing.contains("To do") && missing.contains("sooner init"),
        "{missing}"
    );
    fs::write(&path, text("nmae = 'x'", "slto = 'x'", "")).unwrap();
    let refused = Config::load(&path).unwrap_err().to_string();
    assert!(refused.contains("sooner.toml has 2 problem(s)"), "{refused}");
    for expected in ["\n  - line 2: nmae: is not known", ": source.slto: is not known"] {
        assert!(refused.contains(expected), "'{expected}' not in {refused}");
    }
    fs::write(&path, text("", "", "")).unwrap();
    assert_eq!(Config::load(&path).unwrap().state_dir, folder.path().join(".sooner").join("shop"));
}

#[test]
fn a_section_that_a_command_needs_is_named() {
    let error = parsed("", "", "").kafka().unwrap_err();
    assert_eq!((error.code, error.class), (Code::ConfigurationIncomplete, Class::Operator));
    assert!(error.why.contains("[kafka]") && !error.remedy.is_empty(), "{error}");
}

#[test]
fn values_that_a_target_cannot_hold_go_where_the_last_block_says_that_names_column_type_or_table() {
    use sooner_schemas::policy::ValuePolicy::{Clamp, Null, Park, Text};
    use sooner_schemas::{Column, ColumnType, Scalar};
    let blocks = "[[table]]\nmatch = '*.*'\nunholdable = 'null'\nunholdable_types = { date = 'clamp' }\n\
                  [[table]]\nmatch = 'public.orders'\nunholdable = 'park'\nunholdable_columns = { until = 'text' }";
    let config = parsed("", "", blocks);
    let policies = config.source().unwrap().policies();
    let policy = |table: &str, column: &str, scalar| {
        policies(&TableName::new("public", table), &Column::new(column, ColumnType::Scalar(scalar)))
    };
    assert_eq!(policy("orders", "until", Scalar::Date), Text);
    assert_eq!(policy("orders", "since", Scalar::Date), Clamp, "a type counts before a table");
    assert_eq!(policy("orders", "at", Scalar::Timestamp(6)), Park);
    assert_eq!(policy("lines", "at", Scalar::Timestamp(6)), Null);
    let wrong = "[[table]]\nmatch = 'a.b'\nunholdable = 'drop'\nunholdable_types = { text = 'null' }";
    let problems = problems(&text("", "", wrong)).join("\n");
    assert!(problems.contains("'drop': expected \"park\"") && problems.contains("unholdable_types.text"), "{problems}");
}

#[test]
fn masks_are_those_of_the_last_block_that_names_a_column() {
    use sooner_schemas::masking::{ColumnRule, NewColumns};
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "0123456789abcdef\n").unwrap();
    let blocks = "[masking]\nkey = { file = 'key' }\n[[table]]\nmatch = '*.*'\nmask = { email = 'hash', ssn = 'omit' }\n\
                  new_columns = 'mask'\nknown_columns = ['id']\n[[table]]\nmatch = 'public.users'\nmask_key = true\n\
                  mask = { email = 'keep', phone = { truncate = 4 }, notes = 'null' }\nknown_columns = ['id', 'name']";
    let config = Config::parse(&text("", "", blocks), folder.path()).unwrap();
    let masks = config.source().unwrap().filter().masks;
    let users = masks(&TableName::new("public", "users"));
    let of = |column: &str| users.columns.get(column).copied();
    assert_eq!((of("email"), of("ssn")), (Some(ColumnRule::Keep), Some(ColumnRule::Omit)));
    assert_eq!((of("phone"), of("notes")), (Some(ColumnRule::Truncate(4)), Some(ColumnRule::Null)));
    assert_eq!(users.expected.iter().map(String::as_str).collect::<Vec<_>>(), ["notes", "phone"]);
    assert_eq!((users.new_columns, users.hashes_keys, users.known.len()), (NewColumns::Mask, true, 2));
    let others = masks(&TableName::new("public", "orders"));
    assert_eq!(others.columns.get("email"), Some(&ColumnRule::Hash));
    assert!(others.expected.is_empty() && !others.hashes_keys && others.key.is_some());
}

#[test]
fn masks_that_nobody_can_make_are_told() {
    let wrong =
        "[[table]]\nmatch = 'a.b'\nmask = { x = 'hash', y = 'blur', z = { truncate = 0 }, w = 3 }\nnew_columns = 'ask'";
    let found = problems(&text("", "", wrong)).join("\n");
    for expected in [
        "table[0].mask.x: needs a key",
        "table[0].mask.y: 'blur': expected \"hash\"",
        "table[0].mask.z: expected \"hash\"",
        "table[0].mask.w: expected",
        "table[0].new_columns: 'ask'",
    ] {
        assert!(found.contains(expected), "'{expected}' not in:\n{found}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "too short").unwrap();
    let short = text("", "", "[masking]\nkey = { file = 'key' }\n[[table]]\nmatch = 'a.b'\nmask = { x = 'hash' }");
    let found = Config::parse(&short, folder.path()).unwrap_err().join("\n");
    assert!(found.contains("masking.key: expected at least 16 bytes") && !found.contains("too short"), "{found}");
}

const SMALLEST: &str = "name = 's'\n[source]\nurl = 'postgres://me@db/s'\n[lake]\nurl = '/l'\n";

fn with_blocks(blocks: &str) -> Result<Config, Vec<String>> {
    Config::parse(&format!("{SMALLEST}{blocks}"), Path::new("."))
}

#[test]
fn the_last_block_that_matches_counts() {
    let text = "[[table]]\nmatch = 'billing.*'\nfreshness = '1h'\n[[table]]\nmatch = '*.invoices'\nfreshness = '250ms'\n\
                [[table]]\nmatch = 'billing.*'";
    let blocks = with_blocks(text).unwrap().tables;
    let of = |schema: &str, table: &str| blocks.freshness(&TableName::new(schema, table));
    assert_eq!(of("billing", "lines"), Some(Duration::from_secs(3600)));
    assert_eq!(of("billing", "invoices"), Some(Duration::from_millis(250)));
    assert_eq!(of("public", "orders"), None);
    assert_eq!(with_blocks("").unwrap().tables, TableBlocks::default());
}

#[test]
fn problems_are_told_with_the_block_that_they_are_in() {
    let found =
        with_blocks("[[table]]\nmatch = 'a.b'\n[[table]]\nfreshness = '1ms'\nfresh = 1").unwrap_err().join("\n");
    for expected in ["table[1].match: is missing", "table[1].freshness: '1ms'", "table[1].fresh: is not known"] {
        assert!(found.contains(expected), "'{expected}' not in:\n{found}");
    }
    assert!(with_blocks("[table]\nmatch = 'a.b'").unwrap_err()[0].contains("[[table]]"));
}
