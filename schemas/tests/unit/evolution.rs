//! What differences between two shapes of a table ask for, beyond the plain ones.

use proptest::prelude::*;
use sooner_schemas::evolution::{Arrival, ColumnFacts, Evolution, compare};

/// A column that may be NULL, whose number and type are known.
fn column(name: &str, number: i16) -> ColumnFacts {
    ColumnFacts {
        name: name.to_owned(),
        number: Some(number),
        type_name: Some("long".to_owned()),
        nullable: true,
        fills_older_rows: false,
    }
}

fn required(name: &str, number: i16) -> ColumnFacts {
    ColumnFacts { nullable: false, ..column(name, number) }
}

fn filled(name: &str, number: i16) -> ColumnFacts {
    ColumnFacts { fills_older_rows: true, ..column(name, number) }
}

fn typed(name: &str, number: i16, type_name: Option<&str>) -> ColumnFacts {
    ColumnFacts { type_name: type_name.map(str::to_owned), ..column(name, number) }
}

fn unnumbered(name: &str) -> ColumnFacts {
    ColumnFacts { number: None, ..column(name, 0) }
}

/// A difference: its name, the columns before and after, and what it asks for; of a reason, a part.
type Case = (&'static str, Vec<ColumnFacts>, Vec<ColumnFacts>, Asked);

#[derive(Debug)]
enum Asked {
    Nothing,
    Metadata,
    Reshaped,
    Recopy(&'static str),
    Decision(&'static str),
}

fn check(cases: Vec<Case>, arrival: Arrival) {
    for (name, former, now, asked) in cases {
        let found = compare(&former, &now, arrival);
        let fits = match (&asked, &found) {
            (Asked::Nothing, Evolution::Same) | (Asked::Metadata, Evolution::Metadata) => true,
            (Asked::Reshaped, Evolution::Reshaped) => true,
            (Asked::Recopy(part), Evolution::Recopy(why)) | (Asked::Decision(part), Evolution::Decision(why)) => {
                why.contains(part)
            }
            _ => false,
        };
        assert!(fits, "{name}: {found:?}, not {asked:?}");
    }
}

#[test]
fn differences_of_what_arrives_in_order() {
    use Asked::{Decision, Metadata, Nothing, Recopy, Reshaped};
    let a = || column("a", 1);
    let b = || column("b", 2);
    check(
        vec![
            ("no columns at all", vec![], vec![], Nothing),
            ("the first column of a table", vec![], vec![a()], Metadata),
            ("the last column of a table goes", vec![a()], vec![], Reshaped),
            ("several are added", vec![a()], vec![a(), b(), column("c", 3)], Metadata),
            ("one that is required is added", vec![a()], vec![a(), required("b", 2)], Metadata),
            ("NOT NULL is declared", vec![a()], vec![required("a", 1)], Nothing),
            ("NOT NULL is taken away", vec![required("a", 1), b()], vec![a(), b()], Metadata),
            ("one that was filled before", vec![filled("a", 1)], vec![filled("a", 1)], Nothing),
            ("a column gets a default later", vec![a()], vec![filled("a", 1)], Nothing),
            ("one of the new fills older rows", vec![a()], vec![a(), b(), filled("c", 3)], Recopy("column 'c'")),
            ("filled and widened", vec![required("a", 1)], vec![a(), filled("b", 2)], Recopy("column 'b'")),
            ("filled and dropped", vec![a(), b()], vec![a(), filled("c", 3)], Recopy("column 'c'")),
            ("renamed", vec![a(), b()], vec![a(), column("z", 2)], Reshaped),
            ("names swapped", vec![a(), b()], vec![column("b", 1), column("a", 2)], Reshaped),
            ("dropped and another added", vec![a(), b()], vec![b(), column("c", 3)], Reshaped),
            ("dropped in the middle", vec![a(), b(), column("c", 3)], vec![a(), column("c", 3)], Reshaped),
            (
                "dropped where nobody knows numbers",
                vec![unnumbered("a"), unnumbered("b")],
                vec![unnumbered("a")],
                Decision("'b' was dropped"),
            ),
            (
                "renamed where nobody knows numbers",
                vec![unnumbered("a")],
                vec![unnumbered("z")],
                Decision("'a' was dropped or renamed"),
            ),
            ("put in the middle", vec![a(), b()], vec![a(), column("c", 3), b()], Decision("'b' moved")),
            ("swapped", vec![a(), b()], vec![b(), a()], Decision("'a' moved")),
            ("letters in another case", vec![a()], vec![column("A", 1)], Reshaped),
            ("dropped and added again", vec![a()], vec![column("a", 5)], Reshaped),
            (
                "dropped and added again, and required",
                vec![a()],
                vec![ColumnFacts { fills_older_rows: true, ..required("a", 5) }],
                Recopy("column 'a'"),
            ),
            (
                "a narrower type",
                vec![typed("a", 1, Some("long"))],
                vec![typed("a", 1, Some("integer"))],
                Decision("from long to integer"),
            ),
            (
                "more digits of the same type",
                vec![typed("a", 1, Some("decimal(10,2)"))],
                vec![typed("a", 1, Some("decimal(12,2)"))],
                Decision("from decimal(10,2) to decimal(12,2)"),
            ),
            (
                "a name outweighs a type",
                vec![typed("a", 1, Some("long"))],
                vec![typed("z", 1, Some("integer"))],
                Decision("renamed"),
            ),
        ],
        Arrival::InOrder,
    );
}

#[test]
fn what_one_side_does_not_know_is_not_compared() {
    check(
        vec![
            ("no number before", vec![unnumbered("a")], vec![column("a", 7)], Asked::Nothing),
            ("no number now", vec![column("a", 7)], vec![unnumbered("a")], Asked::Nothing),
            ("no type before", vec![typed("a", 1, None)], vec![typed("a", 1, Some("long"))], Asked::Nothing),
            ("no type now", vec![typed("a", 1, Some("long"))], vec![typed("a", 1, None)], Asked::Nothing),
            (
                "a type without numbers",
                vec![typed("a", 1, Some("long"))],
                vec![ColumnFacts { number: None, ..typed("a", 1, Some("string")) }],
                Asked::Decision("changed its type from long to string"),
            ),
        ],
        Arrival::InOrder,
    );
}

#[test]
fn differences_of_what_may_be_older() {
    let a = || column("a", 1);
    let b = || column("b", 2);
    check(
        vec![
            ("nothing is left", vec![a(), b()], vec![], Asked::Nothing),
            ("the last two are missing", vec![a(), b(), column("c", 3)], vec![a()], Asked::Nothing),
            ("a newer shape", vec![a()], vec![a(), b()], Asked::Metadata),
            ("a newer shape that fills rows", vec![a()], vec![a(), filled("b", 2)], Asked::Recopy("column 'b'")),
            ("one of the missing is required", vec![a(), b(), required("c", 3)], vec![a()], Asked::Reshaped),
            ("the first is missing", vec![a(), b()], vec![b()], Asked::Reshaped),
            ("as many under other names", vec![a(), b()], vec![a(), column("z", 2)], Asked::Reshaped),
        ],
        Arrival::MaybeOlder,
    );
}

fn facts() -> impl Strategy<Value = ColumnFacts> {
    let number = prop_oneof![Just(None), (1..4i16).prop_map(Some)];
    let type_name = prop_oneof![Just(None), "(int|long)".prop_map(Some)];
    ("[a-c]", number, type_name, any::<bool>(), any::<bool>()).prop_map(
        |(name, number, type_name, nullable, fills_older_rows)| ColumnFacts {
            name,
            number,
            type_name,
            nullable,
            fills_older_rows,
        },
    )
}

fn shape() -> impl Strategy<Value = Vec<ColumnFacts>> {
    prop::collection::vec(facts(), 0..4)
}

proptest! {
    #[test]
    fn what_lacks_nothing_is_judged_alike_in_any_order(former in shape(), now in shape()) {
        if now.len() >= former.len() {
            let in_order = compare(&former, &now, Arrival::InOrder);
            prop_assert_eq!(compare(&former, &now, Arrival::MaybeOlder), in_order);
        }
    }

    #[test]
    fn whatever_needs_no_copy_keeps_every_name_in_its_place_or_every_type_under_its_number(former in shape(), now in shape()) {
        let found = compare(&former, &now, Arrival::InOrder);
        if found == Evolution::Reshaped {
            for column in &now {
                let was = former.iter().find(|was| was.number == column.number);
                prop_assert!(was.is_none_or(|was| was.type_name == column.type_name));
            }
        } else if !matches!(found, Evolution::Decision(_) | Evolution::Recopy(_)) {
            let names = |columns: &[ColumnFacts]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
            prop_assert!(names(&now).starts_with(&names(&former)));
        }
    }

    #[test]
    fn equal_shapes_need_nothing_and_longer_ones_something(former in shape(), added in facts()) {
        let now = [former.clone(), vec![added]].concat();
        prop_assert_eq!(compare(&former, &former, Arrival::MaybeOlder), Evolution::Same);
        prop_assert_ne!(compare(&former, &now, Arrival::InOrder), Evolution::Same);
    }

    #[test]
    fn a_reason_names_a_column(former in shape(), now in shape()) {
        if let Evolution::Decision(why) | Evolution::Recopy(why) = compare(&former, &now, Arrival::InOrder) {
            let named = former.iter().chain(&now).any(|column| why.contains(&column.to_string()));
            prop_assert!(named, "{}", why);
        }
    }
}
