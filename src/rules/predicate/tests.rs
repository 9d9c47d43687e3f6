//! What conditions say, and which are refused.

use super::*;

/// Every kind of column, as (name, kind, value); `None` is unknown, `-` is NULL.
const ROW: &[(&str, Kind, Option<&str>)] = &[
    ("n", Kind::Number, Some("9007199254740993")),
    ("price", Kind::Number, Some("1.50")),
    ("odd", Kind::Number, Some("NaN")),
    ("live", Kind::Bool, Some("t")),
    ("status", Kind::Exact, Some("published")),
    ("mail", Kind::Unsure, Some("Ann@x")),
    ("gone", Kind::Exact, Some("-")),
    ("lost", Kind::Exact, None),
    ("data", Kind::Unsure, Some(r#"{"a": {"b": ["x", 2]}, "on": true, "none": null}"#)),
];

fn truths(condition: &str) -> Truths {
    let place = |name: &str| {
        let index = ROW.iter().position(|(its, ..)| *its == name)?;
        Some(Place { index, in_identity: true, kind: ROW[index].1 })
    };
    let bound = parse(condition).unwrap_or_else(|error| panic!("{condition}: {error}")).bind(&place).unwrap();
    bound.of(&|index, _| match ROW[index].2? {
        "-" => Some(Cell::Null),
        text => Some(Cell::Text(text.as_bytes())),
    })
}

/// `SELECT …` on a row with these values gives the same where nothing is unknown.
#[test]
fn conditions_have_the_truth_values_of_sql() {
    for (condition, expected) in [
        ("n = 9007199254740993", Truths::TRUE),
        ("n = 9007199254740992", Truths::FALSE),
        ("n = '9007199254740993'", Truths::TRUE),
        ("price = 1.5 AND price <= 1.500", Truths::TRUE),
        ("price < -1", Truths::FALSE),
        ("price <> 1.5", Truths::FALSE),
        ("NOT price > 2", Truths::TRUE),
        ("live", Truths::TRUE),
        ("NOT live", Truths::FALSE),
        ("live = FALSE OR live = 't'", Truths::TRUE),
        ("live IS NOT TRUE", Truths::FALSE),
        ("status = 'published'", Truths::TRUE),
        ("Status != 'draft'", Truths::TRUE),
        ("status IN ('draft', 'published')", Truths::TRUE),
        ("status NOT IN ('draft', 'published')", Truths::FALSE),
        ("status LIKE 'pub%'", Truths::TRUE),
        ("status NOT LIKE 'dra%'", Truths::TRUE),
        ("gone IS NULL AND status IS NOT NULL", Truths::TRUE),
        ("gone = 'x'", Truths::NULL),
        ("gone = 'x' OR live", Truths::TRUE),
        ("gone = 'x' AND NOT live", Truths::FALSE),
        ("NOT gone = 'x'", Truths::NULL),
        ("gone IN ('a', 'b')", Truths::NULL),
        ("gone IS TRUE", Truths::FALSE),
        ("gone IS NOT TRUE", Truths::TRUE),
        ("data->'a'->'b'->>0 = 'x'", Truths::TRUE),
        ("data->'a'->'b'->> -1 = 2", Truths::TRUE),
        ("data->>'on' = TRUE", Truths::TRUE),
        ("data->>'none' IS NULL AND data->>'nothing' IS NULL", Truths::TRUE),
        ("(live OR gone = 'x') AND (NOT live OR status = 'draft')", Truths::FALSE),
    ] {
        assert_eq!(truths(condition), expected, "{condition}");
    }
}

#[test]
fn what_is_unknown_or_undecided_may_be_true() {
    for (condition, expected) in [
        ("lost = 'x'", Truths::UNKNOWN),
        ("NOT lost = 'x'", Truths::UNKNOWN),
        ("lost IS NULL", Truths::UNDECIDED),
        ("lost = 'x' AND NOT live", Truths::FALSE),
        ("lost = 'x' OR live", Truths::TRUE),
        ("mail = 'Ann@x'", Truths::TRUE),
        ("mail = 'ann@x'", Truths::UNDECIDED),
        ("mail LIKE 'ann%'", Truths::UNDECIDED),
        ("odd = 1", Truths::UNDECIDED),
        ("price = 'abc'", Truths::UNDECIDED),
    ] {
        assert_eq!(truths(condition), expected, "{condition}");
    }
    assert!(!truths("gone = 'x' AND lost = 'y'").can_be_true(), "NULL and anything is never true");
    assert!(truths("gone = 'x' OR lost = 'y'").can_be_true());
}

/// `'2026-2-3' = '2026-02-03'::date`, `'A0EEBC99-…'::uuid` and `0.10000000000000001::float8 = 0.1` are true.
#[test]
fn what_only_postgres_compares_is_undecided() {
    for type_oid in [25, 1043, 1042, 18, 1082, 1114, 1184, 2950, 700, 701, 16_500] {
        assert_eq!(kind_of(type_oid), Kind::Unsure, "{type_oid}");
        for literal in [Literal::Text("2026-2-3".into()), Literal::Number("0.1".into()), Literal::Bool(true)] {
            assert_eq!(compared(kind_of(type_oid), b"2026-02-03", Comparison::Equal, &literal), Truths::UNDECIDED);
        }
    }
    let long = Literal::Text("x".repeat(64));
    assert_eq!(compared(kind_of(19), "x".repeat(63).as_bytes(), Comparison::Equal, &long), Truths::UNDECIDED);
}

fn error(condition: &str) -> String {
    parse(condition).unwrap_err().to_string()
}

#[test]
fn what_is_outside_the_subset_is_refused_and_says_where() {
    insta::assert_snapshot!(error("status = "), @r#""status = " is no SQL condition: Expected: an expression, found: EOF"#);
    insta::assert_snapshot!(error("status = 'a' status"), @r#""status = 'a' status" is no SQL condition: Expected: EOF, found: status at Line: 1, Column: 14"#);
    insta::assert_snapshot!(error("status < 'b'"), @r#"status < 'b': only numbers are compared with <; the order of texts depends on their collation"#);
    insta::assert_snapshot!(error("status = NULL"), @r#"nothing equals NULL; write IS NULL or IS NOT NULL"#);
    insta::assert_snapshot!(error("status = other"), @r#"other is a column; a value is compared with a number, TRUE, FALSE or a text in single quotes"#);
    insta::assert_snapshot!(error("'a' = status"), @r#"'a': a column comes first, as in status = 'published'"#);
    insta::assert_snapshot!(error("live AND lower(status) = 'a'"), @r#"lower(status) at column 10 is not part of what a condition can say: comparisons of a column, or of JSON by ->>, with literals, IN, LIKE 'prefix%', IS NULL, AND, OR, NOT and parentheses"#);
    insta::assert_snapshot!(error("status LIKE '%a'"), @r#"LIKE '%a': the pattern is a text and one % at its end, as in LIKE 'draft-%'"#);
    insta::assert_snapshot!(error("data->'a' = 'x'"), @r#"data -> 'a' is JSON, not text; the last arrow is ->>"#);
    insta::assert_snapshot!(error("n = 1e5"), @r#"1e5 is no decimal number; write its digits"#);
    insta::assert_snapshot!(error("id IN (SELECT 1)"), @r#"id IN (SELECT 1) at column 1 is not part of what a condition can say: comparisons of a column, or of JSON by ->>, with literals, IN, LIKE 'prefix%', IS NULL, AND, OR, NOT and parentheses"#);
    insta::assert_snapshot!(error("public.posts.id = 1"), @r#"public.posts.id at column 1 is not part of what a condition can say: comparisons of a column, or of JSON by ->>, with literals, IN, LIKE 'prefix%', IS NULL, AND, OR, NOT and parentheses"#);
    assert!(error(&format!("{}live", "NOT ".repeat(900))).contains("is no SQL condition"));
    assert!(error(&format!("{}live{}", "(".repeat(1900), ")".repeat(1900))).contains("is no SQL condition"));
    insta::assert_snapshot!(error(&"live AND ".repeat(5000)), @"it has 45000 bytes; a condition has at most 4000");
    assert_eq!(truths(&format!("{}live", "live AND ".repeat(400))), Truths::TRUE);
}
