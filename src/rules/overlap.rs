//! Checks rules against each other and against the records: keys that two rules treat differently, and flushes that
//! cover more than a rule owns. Takes column types into account: a number is never `by-email:…`.

use super::config::Rule;
use super::shape::Shape;
use crate::types::database::Database;
use crate::types::finding::{Code, Finding};
use crate::types::invalidation::Action;

/// The most other rules that one finding names.
const NAMED_MAX: usize = 3;

/// The key of some other slot's record. Record keys have this form unless the configuration sets another.
const RECORD: &str = "coherd:another_slot";

/// A glob with fewer literal bytes covers nearly every key.
const LITERALS_MIN: usize = 2;

/// A target, reduced to what rules can conflict with.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// Its name in the configuration.
    pub name: &'a str,
    /// The key of its record.
    pub record: &'a str,
}

/// A rule and the shapes of its keys.
struct Shaped<'a> {
    rule: &'a Rule,
    keys: Vec<Shape>,
}

impl<'a> Shaped<'a> {
    fn of(rule: &'a Rule, database: &Database) -> Self {
        let table = database.table(&rule.table);
        Shaped { rule, keys: rule.keys.iter().map(|key| Shape::of_template(key, table)).collect() }
    }
}

/// Every problem among `rules`, which go to `targets`.
pub fn overlaps(rules: &[Rule], targets: &[Destination<'_>], database: &Database) -> Vec<Finding> {
    let all: Vec<Shaped> = rules.iter().map(|rule| Shaped::of(rule, database)).collect();
    let mut findings = Vec::new();
    for (number, one) in all.iter().enumerate() {
        findings.extend(scopes(one, &all));
        findings.extend(all.iter().skip(number + 1).filter_map(|other| conflict(one, other)));
        findings.extend(records(one, targets));
    }
    for (index, target) in targets.iter().enumerate() {
        if !rules.iter().any(|rule| rule.targets.contains(&index)) {
            let message = "no rule goes to it, so that no key in it is ever invalidated; name it in a rule's targets, or \
                           take it out";
            findings.push(Finding::warning(Code::TARGET_UNUSED, format!("target {}", target.name), message));
        }
    }
    findings
}

fn share_a_target(one: &Rule, other: &Rule) -> bool {
    one.targets.iter().any(|target| other.targets.contains(target))
}

/// The template of `other` that can make a key that `one` can make too.
fn common<'a>(one: &Shaped, other: &Shaped<'a>) -> Option<&'a str> {
    let mut pairs = other.rule.keys.iter().zip(&other.keys);
    pairs.find(|(_, shape)| one.keys.iter().any(|own| own.meets(shape))).map(|(template, _)| template.text())
}

/// Whether the rules delete and bump the same key. A reader uses either the plain entry or the version that the pointer
/// names.
fn conflict(one: &Shaped, other: &Shaped) -> Option<Finding> {
    let actions = (one.rule.action, other.rule.action);
    let differ = matches!(actions, (Action::Delete, Action::Bump) | (Action::Bump, Action::Delete));
    if !differ || !share_a_target(one.rule, other.rule) {
        return None;
    }
    let template = common(one, other)?;
    let message = format!(
        "{} can make the same key with {template:?}, but that rule's action is {} and this one's is {}: a reader \
         follows only one of the two and misses the invalidations of the other. Give both the same action",
        other.rule.subject(),
        actions.1.name(),
        actions.0.name()
    );
    Some(Finding::warning(Code::KEY_CONFLICT, one.rule.subject(), message))
}

/// Whether a flush covers keys that are not the rule's.
fn scopes(one: &Shaped, all: &[Shaped]) -> Option<Finding> {
    let rule = one.rule;
    if rule.action == Action::Publish {
        return None;
    }
    let globs = rule.scopes.iter().map(|scope| scope.keys.to_string());
    let scopes: Vec<(String, Shape)> = globs.map(|glob| (glob.clone(), Shape::of_glob(&glob))).collect();
    if let Some((pattern, _)) = scopes.iter().find(|(_, shape)| shape.literals() < LITERALS_MIN) {
        let message = format!(
            "a flush of it covers {pattern:?}: nearly every key in the cache, including those of other programs, and \
             the records of other coherd daemons. Give its keys a prefix, or set scope: to what a flush may remove"
        );
        return Some(Finding::warning(Code::SCOPE_WIDE, rule.subject(), message));
    }
    let records = Shape::of_key(RECORD.as_bytes());
    if let (Action::Delete, Some((pattern, _))) = (rule.action, scopes.iter().find(|(_, shape)| shape.meets(&records)))
    {
        let message = format!(
            "a flush of it covers {pattern:?}, and so the records of other coherd daemons in that cache \
             (coherd:<slot>). They would then flush all their keys. Give its keys another prefix, or set scope: to \
             what a flush may remove"
        );
        return Some(Finding::warning(Code::SCOPE_RECORD, rule.subject(), message));
    }
    let covered = |other: &&Shaped| {
        let foreign = other.rule.table != rule.table && other.rule.action == rule.action;
        let is_covered = |key: &Shape| {
            scopes.iter().any(|(_, scope)| scope.meets(key)) && !one.keys.iter().any(|own| own.meets(key))
        };
        foreign && share_a_target(rule, other.rule) && other.keys.iter().any(is_covered)
    };
    let others: Vec<String> = all.iter().filter(covered).take(NAMED_MAX).map(|other| other.rule.subject()).collect();
    let patterns: Vec<&str> = scopes.iter().map(|(pattern, _)| pattern.as_str()).collect();
    let message = format!(
        "a flush of it ({}) also covers keys of {}, so it invalidates more than necessary. Give the keys of one of the \
         rules another prefix",
        patterns.join(", "),
        others.join(", ")
    );
    (!others.is_empty()).then(|| Finding::warning(Code::SCOPE_FOREIGN, rule.subject(), message))
}

/// Whether a key can be the record itself.
fn records(one: &Shaped, targets: &[Destination<'_>]) -> Option<Finding> {
    if one.rule.action != Action::Delete {
        return None;
    }
    let own = one.rule.targets.iter().filter_map(|target| targets.get(*target));
    let could_be =
        |target: &&Destination| one.keys.iter().any(|key| key.meets(&Shape::of_key(target.record.as_bytes())));
    let target = own.into_iter().find(could_be)?;
    let message = format!(
        "one of its keys can be {:?}, the record of target {}. coherd would then delete the record, and flush the \
         target at the next start. Give the keys another prefix, or the target another record",
        target.record, target.name
    );
    Some(Finding::warning(Code::KEY_RECORD, one.rule.subject(), message))
}
