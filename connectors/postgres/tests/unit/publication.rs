//! Statements for the publication quote every name, whatever it holds.

use sooner_postgres::client::{quote_name, quote_text};
use sooner_postgres::publication::{add_statement, create_statement, quote_table};
use sooner_schemas::TableName;

#[test]
fn names_are_quoted_as_names() {
    for (name, quoted) in [
        ("orders", r#""orders""#),
        ("Order Lines", r#""Order Lines""#),
        (r#"a"b"#, r#""a""b""#),
        (r#"""#, r#""""""#),
        ("it's", r#""it's""#),
        ("", r#""""#),
    ] {
        assert_eq!(quote_name(name), quoted);
    }
}

#[test]
fn texts_are_quoted_as_texts() {
    for (text, quoted) in [("shop", "'shop'"), ("it's", "'it''s'"), ("''", "''''''"), (r#"a"b"#, r#"'a"b'"#)] {
        assert_eq!(quote_text(text), quoted);
    }
}

#[test]
fn a_table_is_quoted_by_its_parts() {
    for (schema, table, quoted) in [
        ("public", "orders", r#""public"."orders""#),
        ("a.b", "c.d", r#""a.b"."c.d""#),
        (r#"s"; DROP TABLE x; --"#, "t", r#""s""; DROP TABLE x; --"."t""#),
    ] {
        assert_eq!(quote_table(&TableName::new(schema, table)), quoted);
    }
}

#[test]
fn statements_list_the_tables_in_their_order() {
    let tables = [TableName::new("public", "orders"), TableName::new("Sales", r#"odd"one"#)];
    assert_eq!(
        create_statement("sooner", &tables, false),
        r#"CREATE PUBLICATION "sooner" FOR TABLE "public"."orders", "Sales"."odd""one""#
    );
    let through_roots = create_statement("sooner", &[], true);
    assert_eq!(through_roots, r#"CREATE PUBLICATION "sooner" WITH (publish_via_partition_root = true)"#);
    assert_eq!(add_statement("my pub", &tables[..1]), r#"ALTER PUBLICATION "my pub" ADD TABLE "public"."orders""#);
}
