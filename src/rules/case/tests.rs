use super::*;
use crate::rules::config::{MissingOld, RawRule, resolve as resolve_rules};

fn rules(raw: &[RawRule]) -> Vec<Rule> {
    resolve_rules(raw, &["cache".into()]).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "as the fields of a case are")]
fn values(columns: &[(&str, &str)]) -> Option<BTreeMap<String, RawValue>> {
    let value = |text: &str| if text == "-" { RawValue::Null } else { RawValue::Text(text.into()) };
    Some(columns.iter().map(|(name, text)| ((*name).to_owned(), value(text))).collect())
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn users() -> RawRule {
    RawRule { on_missing_old: MissingOld::Flush, ..RawRule::of("users", &["user:{id}", "mail:{email}"]) }
}

fn update(old: &[(&str, &str)], new: &[(&str, &str)], expect: &[&str]) -> RawCase {
    RawCase {
        update: Some("users".into()),
        old: values(old),
        new: values(new),
        expect: texts(expect),
        ..RawCase::default()
    }
}

fn run(raw: &RawCase, rules: &[Rule]) -> Outcome {
    resolve(raw, rules).unwrap().run(rules)
}

#[test]
fn a_case_passes_if_its_change_invalidates_exactly_what_it_expects() {
    let rules = rules(&[users()]);
    let good = update(&[("id", "1"), ("email", "a")], &[("email", "b")], &["mail:b", "user:1", "mail:a", "mail:a"]);
    assert!(run(&good, &rules).passed());
    for expect in [&["user:1", "mail:a"][..], &["user:1", "mail:a", "mail:b", "mail:c"], &[]] {
        assert!(!run(&RawCase { expect: texts(expect), ..good.clone() }, &rules).passed(), "{expect:?}");
    }
    let flush = RawCase { flush: texts(&["user:*"]), ..good };
    assert!(!run(&flush, &rules).passed(), "an expected flush that does not come");
}

#[test]
fn what_old_leaves_out_is_not_in_the_log() {
    let rules = rules(&[users()]);
    let raw = update(&[("id", "1")], &[("email", "b")], &["user:1", "mail:b"]);
    let outcome = run(&raw, &rules);
    assert_eq!(outcome.flushes.iter().map(|made| made.text.as_str()).collect::<Vec<_>>(), ["mail:*"]);
    assert!(run(&RawCase { flush: texts(&["mail:*"]), ..raw }, &rules).passed());
    let deleted = RawCase {
        delete: Some("users".into()),
        old: values(&[("id", "1")]),
        expect: texts(&["user:1"]),
        flush: texts(&["mail:*"]),
        ..RawCase::default()
    };
    assert!(run(&deleted, &rules).passed());
    let truncated =
        RawCase { truncate: Some("public.users".into()), flush: texts(&["mail:*", "user:*"]), ..RawCase::default() };
    assert!(run(&truncated, &rules).passed());
}

#[test]
fn types_decide_conditions_and_short_forms() {
    let posts = RawRule {
        condition: Some("live AND score > 9".into()),
        ..RawRule::of("posts", &["post:{id}:{live}", "tag:{tags[]}", "theme:{data->>theme}"])
    };
    let rules = rules(&[posts]);
    let list = RawValue::List(vec![RawValue::Text("a \"b\"\\".into()), RawValue::Null, RawValue::Text("c".into())]);
    let data = RawValue::Map([("theme".to_owned(), RawValue::Text("dark".into()))].into());
    let mut new = values(&[("id", "1"), ("live", "true"), ("score", "10")]).unwrap();
    new.extend([("tags".to_owned(), list), ("data".to_owned(), data)]);
    let insert = RawCase {
        insert: Some("posts".into()),
        new: Some(new),
        types: [("live", "boolean"), ("score", "int")].map(|(name, its)| (name.to_owned(), its.to_owned())).into(),
        expect: texts(&["post:1:t", "tag:a \"b\"\\", "tag:c", "theme:dark"]),
        ..RawCase::default()
    };
    let outcome = run(&insert, &rules);
    assert!(outcome.passed(), "{outcome:?}");
    let mut low = insert.clone();
    low.new.as_mut().unwrap().insert("score".into(), RawValue::Text("9".into()));
    assert_eq!(run(&low, &rules).keys, []);
    low.types.clear();
    assert_ne!(run(&low, &rules).keys, [], "the daemon does not know how values of an unknown type compare");
}

#[test]
fn a_failure_names_the_template_that_made_each_key() {
    let rules = rules(&[users(), RawRule::of("users", &["user:{id}"])]);
    let outcome = run(&update(&[("id", "1"), ("email", "-")], &[("email", "b")], &["user:2"]), &rules);
    let told: Vec<String> = outcome.keys.iter().map(|made| format!("{} {}", made.text, made.by.join("; "))).collect();
    assert_eq!(
        told,
        [
            "mail:b rules[0] public.users \"mail:{email}\"",
            "user:1 rules[0] public.users \"user:{id}\"; rules[1] public.users \"user:{id}\""
        ]
    );
}

#[test]
fn a_case_that_cannot_be_run_says_what_to_write() {
    let rules = rules(&[users()]);
    let error = |raw: &RawCase| {
        let (field, reason) = resolve(raw, &rules).unwrap_err();
        format!("{field}: {reason}")
    };
    let good = update(&[("id", "1")], &[("email", "b")], &[]);
    let table = |table: &str| Some(table.to_owned());
    insta::assert_snapshot!(error(&RawCase { update: None, ..good.clone() }), @": it names no table; write one of insert, update, delete and truncate, e.g. update: public.users");
    insta::assert_snapshot!(error(&RawCase { insert: table("users"), ..good.clone() }), @"update: insert is given too; a case is one change, so keep one of them");
    insta::assert_snapshot!(error(&RawCase { update: table("user"), ..good.clone() }), @r#"update: no rule names public."user", so that nothing could be invalidated; did you mean public.users?"#);
    insta::assert_snapshot!(error(&RawCase { old: None, ..good.clone() }), @"old: it is missing; write column: value for the row");
    insta::assert_snapshot!(error(&RawCase { update: None, delete: table("users"), ..good.clone() }), @"new: this change has no new row; leave it out");
    insta::assert_snapshot!(error(&RawCase { new: values(&[("id", "2")]), ..good.clone() }), @r#"new: rules[0] public.users reads column "email", which has no value here; give one (null for NULL)"#);
    insta::assert_snapshot!(error(&RawCase { old: values(&[("ID", "1"), ("id", "1")]), ..good.clone() }), @"old: id is there twice: names are folded to lower case; leave one out");
    let typed = |name: &str, its: &str| RawCase { types: [(name.to_owned(), its.to_owned())].into(), ..good.clone() };
    insta::assert_snapshot!(error(&typed("id", "integr")), @r#"types: "integr" is no known type; did you mean "integer"? known: boolean, bool, smallint, int2, integer, int, int4, bigint, int8, oid, numeric, decimal, name, text, varchar, uuid, date, timestamp, timestamptz, real, double precision, json, jsonb, text[], int[]. Leave the types of other columns out"#);
    insta::assert_snapshot!(error(&typed("age", "int")), @r#"types: neither old nor new has a column "age"; leave its type out, or give a value"#);
}
