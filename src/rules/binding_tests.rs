//! What each kind of change invalidates, for each replica identity.

use super::binding::{Binding, Invalidation, Scratch};
use super::config::{MissingOld, RawRule, Rule, resolve};
use super::heirs::Heirs;
use crate::types::change::{Change, Column, OldImage, Relation, ReplicaIdentity, Row};

/// Cells as tests write them: `~` is an unchanged TOAST value, `-` is NULL, `#` is a value too large to hold.
pub(super) fn cells(values: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        match *value {
            "~" => out.push(b'u'),
            "-" => out.push(b'n'),
            "#" => out.push(crate::types::change::CUT),
            text => {
                out.push(b't');
                out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                out.extend(text.bytes());
            }
        }
    }
    out
}

/// public.users (id, email, qty) with the columns of `identity` in its replica identity.
fn users(kind: ReplicaIdentity, identity: &[&str]) -> Relation {
    let column = |name: &str| Column { name: name.into(), type_oid: 25, in_identity: identity.contains(&name) };
    let columns = ["id", "email", "qty"].map(column).to_vec();
    Relation { oid: 1, schema: "public".into(), name: "users".into(), identity: kind, columns }
}

fn rules(keys: &[&str], on_missing_old: MissingOld, when_changed: &[&str]) -> Vec<Rule> {
    let raw = RawRule {
        when_changed: when_changed.iter().map(|&column| column.into()).collect(),
        on_missing_old,
        ..RawRule::of("public.users", keys)
    };
    resolve(&[raw], &["cache".into()]).unwrap()
}

/// The keys and scopes of one change, sorted and each once.
pub(super) fn invalidated(rules: &[Rule], relation: &Relation, change: &Change<'_>) -> Vec<String> {
    let mut out = Vec::new();
    Binding::new(rules, relation, &Heirs::default()).invalidate(change, &mut Scratch::default(), &mut |invalidation| {
        match invalidation {
            Invalidation::Key { key, .. } => out.push(String::from_utf8(key.to_vec()).unwrap()),
            Invalidation::Scope { scope, .. } => out.push(format!("SCOPE {}", scope.keys)),
        }
    });
    out.sort();
    out.dedup();
    out
}

fn update(rules: &[Rule], relation: &Relation, old: Option<&[&str]>, new: &[&str]) -> Vec<String> {
    let (old_cells, new_cells) = (cells(old.unwrap_or_default()), cells(new));
    let row = Row::new(3, &old_cells);
    let old = match (old, relation.identity) {
        (None, _) => OldImage::Absent,
        (Some(_), ReplicaIdentity::Full) => OldImage::Full(row),
        (Some(_), _) => OldImage::Key(row),
    };
    invalidated(rules, relation, &Change::Update { old, new: Row::new(3, &new_cells) })
}

const BOTH: &[&str] = &["user:{id}", "user:by-email:{email|lower}"];

#[test]
fn an_insert_invalidates_every_key_of_the_new_row() {
    let new = cells(&["7", "Ann@X", "1"]);
    let change = Change::Insert { new: Row::new(3, &new) };
    let rules = rules(BOTH, MissingOld::Refuse, &[]);
    let relation = users(ReplicaIdentity::Full, &[]);
    assert_eq!(invalidated(&rules, &relation, &change), ["user:7", "user:by-email:ann@x"]);
}

#[test]
fn with_full_identity_both_images_of_an_update_are_invalidated() {
    let rules = rules(BOTH, MissingOld::Refuse, &[]);
    let relation = users(ReplicaIdentity::Full, &[]);
    let keys = update(&rules, &relation, Some(&["7", "old@x", "1"]), &["7", "new@x", "1"]);
    assert_eq!(keys, ["user:7", "user:by-email:new@x", "user:by-email:old@x"]);
}

#[test]
fn an_index_identity_gives_the_old_key_only_where_it_changed() {
    let rules = rules(BOTH, MissingOld::Refuse, &[]);
    let relation = users(ReplicaIdentity::Index, &["id", "email"]);
    let keys = update(&rules, &relation, Some(&["7", "old@x", "-"]), &["7", "new@x", "1"]);
    assert_eq!(keys, ["user:7", "user:by-email:new@x", "user:by-email:old@x"]);
    assert_eq!(update(&rules, &relation, None, &["7", "a@x", "2"]), ["user:7", "user:by-email:a@x"]);
}

#[test]
fn a_column_outside_the_identity_flushes_or_is_skipped_as_the_rule_says() {
    let relation = users(ReplicaIdentity::Default, &["id"]);
    let with = |missing| update(&rules(BOTH, missing, &[]), &relation, None, &["7", "a@x", "1"]);
    assert_eq!(with(MissingOld::Flush), ["SCOPE user:by-email:*", "user:7", "user:by-email:a@x"]);
    assert_eq!(with(MissingOld::Skip), ["user:7", "user:by-email:a@x"]);
    assert_eq!(with(MissingOld::Refuse), with(MissingOld::Flush), "the identity changed while running");
}

#[test]
fn a_null_outside_the_key_part_of_an_old_row_is_not_taken_for_a_value() {
    let old = cells(&["7", "-", "-"]);
    let change = Change::Delete { old: OldImage::Key(Row::new(3, &old)) };
    let relation = users(ReplicaIdentity::Default, &["id"]);
    let with = |missing| invalidated(&rules(BOTH, missing, &[]), &relation, &change);
    assert_eq!(with(MissingOld::Flush), ["SCOPE user:by-email:*", "user:7"]);
    assert_eq!(with(MissingOld::Skip), ["user:7"]);
}

#[test]
fn a_changed_primary_key_invalidates_both() {
    let rules = rules(&["user:{id}"], MissingOld::Refuse, &[]);
    let relation = users(ReplicaIdentity::Default, &["id"]);
    assert_eq!(update(&rules, &relation, Some(&["7", "-", "-"]), &["8", "a", "1"]), ["user:7", "user:8"]);
}

#[test]
fn null_means_no_such_key() {
    let rules = rules(BOTH, MissingOld::Refuse, &[]);
    let relation = users(ReplicaIdentity::Full, &[]);
    let keys = update(&rules, &relation, Some(&["7", "-", "1"]), &["7", "new@x", "1"]);
    assert_eq!(keys, ["user:7", "user:by-email:new@x"]);
}

#[test]
fn an_unchanged_toast_value_is_taken_from_the_old_row_or_flushes_the_scope() {
    let rules = rules(BOTH, MissingOld::Skip, &[]);
    let full = users(ReplicaIdentity::Full, &[]);
    let keys = update(&rules, &full, Some(&["7", "long@x", "1"]), &["7", "~", "2"]);
    assert_eq!(keys, ["user:7", "user:by-email:long@x"]);
    let default = users(ReplicaIdentity::Default, &["id"]);
    assert_eq!(update(&rules, &default, None, &["7", "~", "2"]), ["SCOPE user:by-email:*", "user:7"]);
}

#[test]
fn when_changed_ignores_an_update_only_where_the_old_row_proves_it() {
    let rules = rules(&["user:{id}"], MissingOld::Refuse, &["email"]);
    let full = users(ReplicaIdentity::Full, &[]);
    assert!(update(&rules, &full, Some(&["7", "a", "1"]), &["7", "a", "2"]).is_empty());
    assert!(update(&rules, &full, Some(&["7", "a", "1"]), &["7", "~", "2"]).is_empty());
    assert_eq!(update(&rules, &full, Some(&["7", "a", "1"]), &["7", "b", "1"]), ["user:7"]);
    let default = users(ReplicaIdentity::Default, &["id"]);
    assert_eq!(update(&rules, &default, None, &["7", "a", "2"]), ["user:7"], "not proved");
}

#[test]
fn when_changed_does_not_hide_a_row_that_moves_from_one_key_to_another() {
    let rules = rules(&["user:{id}"], MissingOld::Refuse, &["email"]);
    let full = users(ReplicaIdentity::Full, &[]);
    assert_eq!(update(&rules, &full, Some(&["7", "a", "1"]), &["8", "a", "1"]), ["user:7", "user:8"]);
}

#[test]
fn an_update_without_the_old_row_that_full_identity_promises_flushes_the_scope() {
    let rules = rules(&["user:by-email:{email}"], MissingOld::Refuse, &["email"]);
    let full = users(ReplicaIdentity::Full, &["id", "email", "qty"]);
    let keys = update(&rules, &full, None, &["7", "new@x", "1"]);
    assert_eq!(keys, ["SCOPE user:by-email:*", "user:by-email:new@x"]);
}

#[test]
fn a_column_that_is_gone_flushes_the_scope_of_its_template_only() {
    let rules = rules(BOTH, MissingOld::Refuse, &[]);
    let mut relation = users(ReplicaIdentity::Full, &[]);
    relation.columns[1].name = "mail".into();
    let keys = update(&rules, &relation, Some(&["7", "a", "1"]), &["7", "b", "1"]);
    assert_eq!(keys, ["SCOPE user:by-email:*", "user:7"]);
}

#[test]
fn a_key_too_long_to_be_one_flushes_the_scope() {
    let rules = rules(BOTH, MissingOld::Refuse, &[]);
    let long = "x".repeat(70_000);
    let new = cells(&["7", &long, "1"]);
    let change = Change::Insert { new: Row::new(3, &new) };
    let relation = users(ReplicaIdentity::Full, &[]);
    assert_eq!(invalidated(&rules, &relation, &change), ["SCOPE user:by-email:*", "user:7"]);
}

#[test]
fn a_table_that_no_rule_names_has_an_empty_binding() {
    let rules = rules(BOTH, MissingOld::Refuse, &[]);
    let mut other = users(ReplicaIdentity::Full, &[]);
    other.schema = "archive".into();
    assert!(Binding::new(&rules, &other, &Heirs::default()).is_empty());
}

#[test]
fn filters_are_applied_in_their_order() {
    let rules = rules(&["u:{email|trim|lower|hex}"], MissingOld::Refuse, &[]);
    let new = cells(&["7", " AB ", "1"]);
    let change = Change::Insert { new: Row::new(3, &new) };
    assert_eq!(invalidated(&rules, &users(ReplicaIdentity::Full, &[]), &change), ["u:6162"]);
}

#[test]
fn a_value_that_was_too_large_to_hold_flushes_the_templates_that_need_it() {
    let full = users(ReplicaIdentity::Full, &["id"]);
    let rules = rules(&["user:{id}", "mail:{email}"], MissingOld::Refuse, &["qty"]);
    let both = ["SCOPE mail:*", "user:1"];
    assert_eq!(update(&rules, &full, Some(&["1", "a", "2"]), &["1", "#", "3"]), ["SCOPE mail:*", "mail:a", "user:1"]);
    assert_eq!(
        update(&rules, &full, Some(&["1", "#", "2"]), &["1", "~", "3"]),
        both,
        "what it was is not known either"
    );
    assert_eq!(update(&rules, &full, Some(&["1", "#", "#"]), &["1", "#", "#"]), both, "it may have changed");
    assert!(update(&rules, &full, Some(&["1", "#", "#"]), &["1", "~", "~"]).is_empty(), "it has not");
}
