//! A collection of tables of every type and shape: each is copied, and each of its rows is changed while it is
//! followed. Whatever is in it, the lake equals the source, or holds what a policy says.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;
use std::time::Duration;

use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::readers::{Reader, assert_equal, eventually_equal};
use sooner::status::Status;

/// A type, and three of its values as text.
type Values = (&'static str, [&'static str; 3]);

/// Types that can be keys.
const KEYS: [Values; 38] = [
    ("boolean", ["true", "false", "true"]),
    ("smallint", ["-32768", "32767", "0"]),
    ("integer", ["-2147483648", "2147483647", "7"]),
    ("bigint", ["-9223372036854775808", "9223372036854775807", "1"]),
    ("real", ["1.5", "-0.25", "0"]),
    ("double precision", ["1.5", "-2.25", "1e100"]),
    ("numeric", ["1.50", "-0.000001", "123456789012345678901234567890123456789012345.6"]),
    ("numeric(10, 2)", ["1.50", "-99999999.99", "0"]),
    ("numeric(38, 10)", ["0.0000000001", "-1", "9999999999999999999999999999.9999999999"]),
    ("numeric(60, 5)", ["1.5", "-1", "1234567890123456789012345678901234567890.12345"]),
    ("numeric(3, -2)", ["12300", "-100", "0"]),
    ("text", ["a", "ünï €\n\t\"quoted\"", "it''s"]),
    ("varchar(20)", ["a", "b c", "€"]),
    ("char(8)", ["a", "b c", ""]),
    ("name", ["a", "b c", "x"]),
    ("\"char\"", ["a", "b", "z"]),
    ("bytea", ["\\x00ff10", "\\x", "\\x7f"]),
    ("date", ["2020-02-29", "0001-01-01", "9999-12-31"]),
    ("time", ["00:00", "23:59:59.999999", "24:00:00"]),
    ("time(3)", ["00:00", "23:59:59.999", "12:00"]),
    ("timetz", ["00:00+00", "23:59:59.5-11:30", "12:00+02"]),
    ("timestamp", ["2020-02-29 12:00:00.123456", "0001-01-01 00:00", "9999-12-31 23:59:59"]),
    ("timestamp(3)", ["2020-02-29 12:00:00.123", "1969-12-31 23:59:59.999", "1970-01-01"]),
    ("timestamptz", ["2020-02-29 12:00:00.123456+02", "1883-01-01 00:00+00", "2500-01-01 00:00+00"]),
    ("interval", ["1 year 2 mons 3 days 04:05:06.7", "-1 day", "0"]),
    (
        "uuid",
        [
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "12345678-1234-1234-1234-123456789012",
        ],
    ),
    ("inet", ["10.0.0.1", "10.1.0.0/16", "::1"]),
    ("cidr", ["10.0.0.0/8", "192.168.0.0/24", "2001:db8::/32"]),
    ("macaddr", ["08:00:2b:01:02:03", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"]),
    ("macaddr8", ["08:00:2b:01:02:03:04:05", "00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff"]),
    ("bit(4)", ["1010", "0000", "1111"]),
    ("bit varying(9)", ["1", "", "101010101"]),
    ("money", ["1.50", "-1000", "0"]),
    ("oid", ["0", "4294967295", "7"]),
    ("pg_lsn", ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"]),
    ("jsonb", ["{\"a\": [1, null]}", "\"text\"", "1.50"]),
    ("mood", ["sad", "ok", "it''s fine"]),
    ("positive", ["1", "2147483647", "7"]),
];

/// Types that cannot.
const OTHERS: [Values; 17] = [
    ("json", ["{\"a\":  1}", "[]", "null"]),
    ("xml", ["<a>1</a>", "<b/>", "text"]),
    ("point", ["(1,2)", "(-1.5,0)", "(0,0)"]),
    ("line", ["{1,2,3}", "{0,1,0}", "{1,0,0}"]),
    ("lseg", ["[(0,0),(1,1)]", "[(1,2),(3,4)]", "[(0,0),(0,0)]"]),
    ("box", ["(1,1),(0,0)", "(3,4),(1,2)", "(0,0),(0,0)"]),
    ("path", ["[(0,0),(1,1)]", "((0,0),(1,1),(2,0))", "[(5,5)]"]),
    ("polygon", ["((0,0),(1,1),(2,0))", "((5,5))", "((0,0),(1,0))"]),
    ("circle", ["<(0,0),1>", "<(1,2),3>", "<(0,0),0>"]),
    ("tsvector", ["a:1 b:2", "''it''", ""]),
    ("tsquery", ["a & b", "!c", "d | e"]),
    ("int4range", ["[1,5)", "empty", "(,)"]),
    ("tstzrange", ["[2020-01-01 00:00+00,2021-01-01 00:00+00)", "empty", "(,)"]),
    ("nummultirange", ["{[1.5,2.5)}", "{}", "{(,0),(5,)}"]),
    ("jsonpath", ["$.a", "$[*]", "$"]),
    ("pair", ["(1,text)", "(,)", "(2,\"a,b\")"]),
    ("txid_snapshot", ["1:1:", "1:5:2,3", "10:20:10,14,15"]),
];

/// Types of which arrays are read alike by everybody who compares.
const ITEMS: [&str; 11] = [
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "numeric(10, 2)",
    "text",
    "varchar(20)",
    "date",
    "uuid",
    "mood",
    "jsonb",
];

/// Tables of odd shapes, each with the column `v` that is changed in all of its rows, and one of its values as SQL.
const SHAPES: [(&str, &str, &str); 16] = [
    ("list_key", "k text[] PRIMARY KEY, v int", "'{a,NULL,\"b c\"}', 1"),
    (
        "wide_key",
        "a int, b text, c date, d uuid, v int, PRIMARY KEY (d, c, b, a)",
        "1, 'b', '2020-01-01', gen_random_uuid(), 1",
    ),
    ("key_in_the_middle", "x text, id int PRIMARY KEY, v int, y text", "'x', 1, 1, 'y'"),
    ("key_last", "v int, x text, id bigint PRIMARY KEY", "1, 'x', 1"),
    ("only_key_and_v", "v int PRIMARY KEY", "1"),
    ("serials", "id bigserial PRIMARY KEY, v int, s smallserial", "1, 1, 1"),
    ("identity", "id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v int", "1, 1"),
    (
        "defaults",
        "id int PRIMARY KEY DEFAULT 7, v int DEFAULT 5, t text DEFAULT 'x', ts timestamptz DEFAULT now()",
        "1, 1, 'x', now()",
    ),
    (
        "vectors",
        "id int PRIMARY KEY, v int, i int2vector, o oidvector, many int2vector[]",
        "1, 1, '1 2', '7', '{1 2,3}'",
    ),
    ("generated", "id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (id * 2) STORED", "1, 1"),
    ("\"SELECT\"", "\"from\" int PRIMARY KEY, v int, \"order\" text, \"A\" int, \"a\" int", "1, 1, 'o', 1, 2"),
    ("\"a b.c\"", "id int PRIMARY KEY, v int, \"x y\" text", "1, 1, 'x'"),
    ("full_identity", "id int PRIMARY KEY, v int, t text", "1, 1, repeat('x', 5000)"),
    ("compressed", "id int PRIMARY KEY, v int, t text", "1, 1, repeat('long ', 100000)"),
    (
        "out_of_line",
        "id int PRIMARY KEY, v int, t text, b bytea, a text[]",
        "1, 1, (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) i), decode(repeat('00ff', 9000), 'hex'), ARRAY(SELECT md5(i::text) FROM generate_series(1, 300) i)",
    ),
    ("checked", "id int PRIMARY KEY CHECK (id > 0), v int CHECK (v < 100), EXCLUDE (v WITH =)", "1, 1"),
];

/// Columns of a table that has as many as there can be.
const MOST_COLUMNS: usize = 1600;

const PRELUDE: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s fine');
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TYPE pair AS (n int, t text);
    ALTER DATABASE shop SET bytea_output = 'hex';
";

struct Collection {
    /// Creates and fills all tables, then changes each of their rows.
    create: Vec<String>,
    change: Vec<String>,
    names: Vec<String>,
}

impl Collection {
    fn add(&mut self, name: &str, columns: &str, rows: &str, change: &str) {
        self.create.push(format!("CREATE TABLE {name} ({columns}); INSERT INTO {name} VALUES {rows}"));
        self.change.push(format!("UPDATE {name} SET {change}"));
        self.names.push(format!("public.{}", name.trim_matches('"')));
    }
}

fn literal(of: &str, text: &str) -> String {
    format!("'{text}'::{of}")
}

fn collection() -> Collection {
    let mut all = Collection { create: Vec::new(), change: Vec::new(), names: Vec::new() };
    for (number, (of, [first, second, third])) in KEYS.iter().chain(&OTHERS).enumerate() {
        let [a, b, c] = [first, second, third].map(|text| literal(of, text));
        let plain = format!("(1, {a}, 0), (2, {b}, 0), (3, {c}, 0), (4, NULL, 0)");
        let change = format!("n = n + 1, v = CASE id WHEN 1 THEN {b} WHEN 2 THEN {c} WHEN 3 THEN NULL ELSE {a} END");
        all.add(&format!("plain_{number}"), &format!("id int PRIMARY KEY, v {of}, n int"), &plain, &change);
        let required = format!("(1, {a}, 0), (2, {b}, 0)");
        let change = format!("v = {c}, n = n + 1");
        all.add(
            &format!("required_{number}"),
            &format!("id int PRIMARY KEY, v {of} NOT NULL DEFAULT {c}, n int"),
            &required,
            &change,
        );
    }
    for (number, (of, [first, second, _])) in KEYS.iter().enumerate() {
        let [a, b] = [first, second].map(|text| literal(of, text));
        all.add(
            &format!("key_{number}"),
            &format!("k {of} PRIMARY KEY, n int"),
            &format!("({a}, 0), ({b}, 0)"),
            "n = n + 1",
        );
        let rows = format!("({a}, 1, 0), ({a}, 2, 0), ({b}, 1, 0)");
        all.add(&format!("part_{number}"), &format!("k {of}, id int, n int, PRIMARY KEY (id, k)"), &rows, "id = -id");
    }
    let items = KEYS.iter().filter(|(of, _)| ITEMS.contains(of));
    for (number, (of, [first, second, third])) in items.enumerate() {
        let [a, b, c] = [first, second, third].map(|text| literal(of, text));
        let rows = format!("(1, ARRAY[{a}, NULL, {b}]), (2, '{{}}'), (3, NULL), (4, ARRAY[{c}])");
        let change = format!("v = ARRAY[{c}, {a}]::{of}[]");
        all.add(&format!("array_{number}"), &format!("id int PRIMARY KEY, v {of}[]"), &rows, &change);
    }
    for (name, columns, row) in SHAPES {
        all.add(name, columns, &format!("({row})"), "v = v + 1");
    }
    let (mut columns, mut values) = ("id int PRIMARY KEY".to_owned(), "1".to_owned());
    for column in 1..MOST_COLUMNS {
        let _ = write!(columns, ", c{column} boolean");
        values.push_str(if column % 3 == 0 { ", NULL" } else { ", true" });
    }
    all.add("widest", &columns, &format!("({values})"), "c3 = true, c1599 = NULL");
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_every_type_and_shape_equal_their_source_copied_and_changed() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(PRELUDE).await;
    let all = collection();
    assert!(all.names.len() >= 200, "{} tables", all.names.len());
    for create in &all.create {
        postgres.sql(create).await;
    }
    postgres
        .sql("ALTER TABLE full_identity REPLICA IDENTITY FULL; ALTER TABLE out_of_line ALTER t SET STORAGE EXTERNAL")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let names: Vec<_> = all.names.iter().map(String::as_str).collect();
    eventually_equal(&postgres, &pipeline.lake, &names, || pipeline.log()).await;
    for change in &all.change {
        postgres.sql(change).await;
    }
    pipeline.catch_up(&postgres).await;
    eventually_equal(&postgres, &pipeline.lake, &names, || pipeline.log()).await;
    let none_waits = |status: &Status| status.tables.values().all(|table| table.reason().is_none());
    pipeline.wait_for("no table waits for a person", Duration::from_secs(10), none_waits).await;
    assert_equal(Reader::Spark, &postgres, &pipeline.lake, None, &names[names.len() - 15..names.len() - 1]);
    pipeline.stop();
}
