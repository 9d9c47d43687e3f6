//! What the richer constructs of rules invalidate: conditions, variables, arrays, JSON, hashes, `default`.

use super::binding_tests::{self, cells};
use super::config::{MissingOld, RawHash, RawRule, resolve};
use super::template::Vars;
use crate::types::change::{Change, Column, OldImage, Relation, ReplicaIdentity, Row};

const NAME: u32 = 19;
const INTEGER: u32 = 23;
const BOOLEAN: u32 = 16;
const TEXT: u32 = 25;
const TEXTS: u32 = 1009;
const JSONB: u32 = 3802;

/// public.posts; the last column is of a type that coherd does not know.
const COLUMNS: [(&str, u32); 7] = [
    ("id", INTEGER),
    ("status", NAME),
    ("live", BOOLEAN),
    ("tags", TEXTS),
    ("data", JSONB),
    ("title", TEXT),
    ("mood", 16_500),
];

fn posts(identity: ReplicaIdentity) -> Relation {
    let column = |(name, type_oid): (&str, u32)| Column { name: name.into(), type_oid, in_identity: name == "id" };
    Relation { oid: 1, schema: "public".into(), name: "posts".into(), identity, columns: COLUMNS.map(column).to_vec() }
}

fn invalidated(rule: &RawRule, identity: ReplicaIdentity, change: &Change<'_>) -> Vec<String> {
    let rules = resolve(std::slice::from_ref(rule), &["cache".into()]).unwrap();
    binding_tests::invalidated(&rules, &posts(identity), change)
}

fn row(cells: &[u8]) -> Row<'_> {
    Row::new(7, cells)
}

fn inserted(rule: &RawRule, new: [&str; 7]) -> Vec<String> {
    invalidated(rule, ReplicaIdentity::Full, &Change::Insert { new: row(&cells(&new)) })
}

fn updated(rule: &RawRule, old: [&str; 7], new: [&str; 7]) -> Vec<String> {
    let (old, new) = (cells(&old), cells(&new));
    let change = Change::Update { old: OldImage::Full(row(&old)), new: row(&new) };
    invalidated(rule, ReplicaIdentity::Full, &change)
}

fn rule(keys: &[&str]) -> RawRule {
    RawRule { on_missing_old: MissingOld::Flush, ..RawRule::of("public.posts", keys) }
}

fn wherever(condition: &str) -> RawRule {
    RawRule { condition: Some(condition.into()), ..rule(&["post:{id}"]) }
}

const ROW: [&str; 7] = ["1", "a", "t", "{x,y}", "{}", "T", "ok"];

fn with<const N: usize>(changes: [(usize, &'static str); N]) -> [&'static str; 7] {
    let mut row = ROW;
    for (place, value) in changes {
        row[place] = value;
    }
    row
}

#[test]
fn a_condition_counts_for_the_old_row_and_for_the_new_one() {
    let rule = wherever("status = 'b'");
    let (draft, published) = (ROW, with([(1, "b")]));
    let moved = with([(0, "2"), (1, "b")]);
    assert!(inserted(&rule, draft).is_empty() && updated(&rule, draft, draft).is_empty());
    assert_eq!(inserted(&rule, published), ["post:1"]);
    assert_eq!(updated(&rule, draft, published), ["post:1"], "it enters");
    assert_eq!(updated(&rule, published, draft), ["post:1"], "it leaves");
    assert_eq!(updated(&rule, draft, moved), ["post:1", "post:2"], "both rows' keys");
    assert!(inserted(&rule, with([(1, "-")])).is_empty(), "NULL is not true");
}

#[test]
fn what_the_old_row_does_not_carry_counts_as_a_match() {
    let old = cells(&["1", "-", "-", "-", "-", "-", "-"]);
    let new = cells(&ROW);
    let of = |condition: &str, change: &Change<'_>| invalidated(&wherever(condition), ReplicaIdentity::Default, change);
    let delete = Change::Delete { old: OldImage::Key(row(&old)) };
    let update = Change::Update { old: OldImage::Absent, new: row(&new) };
    for change in [&delete, &update] {
        assert_eq!(of("status = 'b'", change), ["post:1"], "{change:?}");
        assert!(of("status = 'b' AND id > 5", change).is_empty(), "the id is known");
        assert_eq!(of("status IS NULL", change), ["post:1"], "it is unknown, not NULL");
    }
    let of_leaf = invalidated(&wherever("id > 5"), ReplicaIdentity::Full, &update);
    assert_eq!(of_leaf, ["SCOPE post:*", "post:1"], "a partition with another identity wrote it");
    let insert = Change::Insert { new: row(&new) };
    assert!(of("status = 'b'", &insert).is_empty());
    let gone = wherever("no_such_column = 1");
    assert_eq!(invalidated(&gone, ReplicaIdentity::Default, &insert), ["post:1"], "a column that is gone");
}

#[test]
fn an_unchanged_toast_value_is_read_from_the_old_row_or_is_unknown() {
    let rule = wherever("data->>'state' = 'on'");
    let (on, off) = (with([(4, r#"{"state": "on"}"#)]), with([(4, r#"{"state": "off"}"#)]));
    let kept = with([(4, "~")]);
    assert_eq!(updated(&rule, on, kept), ["post:1"]);
    assert!(updated(&rule, off, kept).is_empty());
    let new = cells(&kept);
    let change = Change::Update { old: OldImage::Absent, new: row(&new) };
    assert_eq!(invalidated(&rule, ReplicaIdentity::Default, &change), ["post:1"]);
    assert_eq!(inserted(&rule, with([(4, "no json")])), ["post:1"], "what cannot be read counts");
}

#[test]
fn a_type_that_may_compare_otherwise_counts_unless_it_is_null() {
    let rule = wherever("mood = 'bad'");
    assert_eq!(inserted(&rule, ROW), ["post:1"]);
    assert!(inserted(&rule, with([(6, "-")])).is_empty());
    assert!(inserted(&wherever("NOT mood = 'ok'"), ROW).is_empty(), "the same text is equal in every type");
}

#[test]
fn a_variable_gives_a_key_for_each_of_its_values() {
    let vars: Vars = [("lang".to_owned(), vec!["en".to_owned(), "f*r{".to_owned()])].into();
    let mut rule = RawRule { vars, ..rule(&["post:{id}:{lang|upper}:{Lang}"]) };
    assert_eq!(inserted(&rule, ROW), ["post:1:EN:en", "post:1:F*R{:f*r{"]);
    let resolved = resolve(std::slice::from_ref(&rule), &["cache".into()]).unwrap();
    let scopes: Vec<String> = resolved[0].scopes.iter().map(|scope| scope.keys.to_string()).collect();
    assert_eq!(scopes, ["post:*:EN:en", r"post:*:F\*R{:f\*r{"]);
    assert_eq!(resolved[0].keys[1].text(), r"post:{id}:F\*R{{:f\*r{{", "it reads back as the same template");
    let mut twice = rule.clone();
    twice.vars.insert("LANG".to_owned(), vec!["de".to_owned()]);
    let error = resolve(&[twice], &["cache".into()]).unwrap_err()[0].to_string();
    insta::assert_snapshot!(error, @"rules[0].vars: lang is there twice: names are folded to lower case; leave one out");
    rule.keys = vec!["post{ lang }".into()];
    assert_eq!(inserted(&rule, ROW), ["posten", "postf*r{"]);
    rule.keys = vec!["post:{id}:{\"lang\"}".into()];
    let error = resolve(&[rule], &["cache".into()]).unwrap_err()[0].to_string();
    insta::assert_snapshot!(error, @r#"rules[0].vars: no template names {lang}; use it in keys:, or leave it out"#);
}

#[test]
fn an_array_gives_a_key_for_each_element_old_and_new() {
    let rule = rule(&["tag:{tags[]|lower}"]);
    assert_eq!(updated(&rule, with([(3, "{A,b}")]), with([(3, "{b,\"c d\",NULL}")])), ["tag:a", "tag:b", "tag:c d"]);
    assert!(inserted(&rule, with([(3, "{}")])).is_empty() && inserted(&rule, with([(3, "-")])).is_empty());
    assert_eq!(inserted(&rule, with([(3, "no array")])), ["SCOPE tag:*"]);
    let many = format!("{{{}}}", (0..2000).map(|n| n.to_string()).collect::<Vec<_>>().join(","));
    let many: &'static str = many.leak();
    assert!(inserted(&rule, with([(3, many)])).contains(&"SCOPE tag:*".to_owned()));
    let long: &'static str = format!("{{{}}}", "x".repeat(70_000)).leak();
    assert_eq!(inserted(&rule, with([(3, long)])), ["SCOPE tag:*"], "a key that is too long");
    let pairs = self::rule(&["p:{tags[]}:{data->more[]|default:none}:{id}"]);
    let row = with([(3, "{a,b}"), (4, r#"{"more": [1, null]}"#)]);
    assert_eq!(inserted(&pairs, row), ["p:a:1:1", "p:a:none:1", "p:b:1:1", "p:b:none:1"]);
}

#[test]
fn json_is_read_by_its_path() {
    let rule = rule(&["theme:{data->>theme}", "first:{data->'a b'->>0|upper}"]);
    let row = with([(4, r#"{"theme": "d\u00e4rk", "a b": ["x"]}"#)]);
    assert_eq!(inserted(&rule, row), ["first:X", "theme:därk"]);
    assert!(inserted(&rule, with([(4, r#"{"theme": null}"#)])).is_empty());
    assert_eq!(inserted(&rule, with([(4, "{")])), ["SCOPE first:*", "SCOPE theme:*"]);
}

#[test]
fn a_hash_replaces_what_follows_the_literal_prefix() {
    let rule = RawRule { hash: Some(RawHash::Md5), ..rule(&["post:{id}:{tags[]}"]) };
    // `printf 1:x | md5sum`
    assert_eq!(inserted(&rule, with([(3, "{x}")])), [format!("post:{MD5_OF_1_X}")]);
    // Each element, also of two arrays, has the whole text before it: md5 of 1:x and 1:y, and of x:x to y:y.
    let two = with([(3, "{x,y}"), (4, r#"["x","y"]"#)]);
    assert_eq!(
        inserted(&rule, two),
        ["post:1557599ce784ca24ca6eddb84a076e68", "post:279dea7a4493c379514674bbe948b95f"]
    );
    let pairs = RawRule { hash: Some(RawHash::Md5), ..self::rule(&["pair:{tags[]}:{data[]}"]) };
    let keys = [
        "pair:19b396a66c885e7a67fb27360dd4f1b3",
        "pair:7d8bd7b4e49688e22321c7274f4d2ddc",
        "pair:866bed5eebd5c91f4705210ca3a36904",
        "pair:dad3d5041507451a94b32e0574382419",
    ];
    assert_eq!(inserted(&pairs, two), keys);
    let resolved = resolve(std::slice::from_ref(&rule), &["cache".into()]).unwrap();
    assert_eq!(resolved[0].scopes[0].keys.to_string(), "post:*");
    let vars = Vars::from([("lang".into(), vec!["en".into()])]);
    let of_lang = RawRule { hash: Some(RawHash::Md5), vars, ..self::rule(&["post:{lang}:{id}", "front:{lang}"]) };
    // md5 of en:1, and of en.
    let keys = ["front:9cfefed8fb9497baa5cd519d7d2bb5d7", "post:fc1537326c554581afb6422c6bb93aff"];
    assert_eq!(inserted(&of_lang, with([])), keys, "a variable is hashed too");
    let nothing = RawRule { hash: Some(RawHash::Sha1), ..self::rule(&["front-page"]) };
    let error = resolve(&[nothing], &["cache".into()]).unwrap_err()[0].to_string();
    insta::assert_snapshot!(error, @r#"rules[0].keys: key template "front-page": nothing in it is hashed: hash: applies to what follows the literal text at its start"#);
}

const MD5_OF_1_X: &str = "1557599ce784ca24ca6eddb84a076e68";

#[test]
fn default_stands_for_null_and_the_filters_behind_it_apply() {
    let rule = rule(&["t:{title|lower|default:No|upper}"]);
    assert_eq!(inserted(&rule, with([(5, "-")])), ["t:NO"]);
    assert_eq!(inserted(&rule, ROW), ["t:T"]);
}

#[test]
fn whatever_decides_the_keys_is_in_the_signature_and_an_old_rule_keeps_its_own() {
    let of = |rule: &RawRule| resolve(std::slice::from_ref(rule), &["cache".into()]).unwrap()[0].signature();
    let vars: Vars = [("lang".to_owned(), vec!["en".to_owned()])].into();
    let plain = rule(&["post:{id}:{tags[]}"]);
    let others = [
        RawRule { condition: Some("id > 5".into()), ..plain.clone() },
        RawRule { hash: Some(RawHash::Md5), ..plain.clone() },
        RawRule { hash: Some(RawHash::Sha1), ..plain.clone() },
        RawRule { vars, ..rule(&["post:{id}:{lang}"]) },
        rule(&["post:{id}:{data[]}"]),
        rule(&["post:{id}:{data->>a}"]),
        rule(&["post:{id}:{data->>a|pad:4}"]),
    ];
    let mut all: Vec<String> = others.iter().chain([&plain]).map(of).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 8);
    assert_eq!(of(&rule(&["post:{id}"])), "public.posts\nDelete [] Flush\npost:{id}\npost:*\n");
}
