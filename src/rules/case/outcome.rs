//! Runs a case, and compares what its change invalidates with what the case expects.

use super::{Case, Cells, Event};
use crate::rules::binding::{Binding, Invalidation, Scratch};
use crate::rules::config::Rule;
use crate::rules::heirs::Heirs;
use crate::types::change::{Change, OldImage, Relation, ReplicaIdentity, Row};

/// A key, or a scope, and what makes it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Made {
    /// The key, or the scope's glob. A key that is not UTF-8 has replacement characters.
    pub text: String,
    /// Rules and templates, as messages name them; empty for what was only expected.
    pub by: Vec<String>,
}

/// What a case has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The keys that were expected, sorted.
    pub expected_keys: Vec<String>,
    /// The scopes that were expected, sorted.
    pub expected_flushes: Vec<String>,
    /// The keys that the change invalidates, sorted.
    pub keys: Vec<Made>,
    /// The scopes that it flushes, sorted.
    pub flushes: Vec<Made>,
}

impl Outcome {
    /// Whether the change invalidates exactly what was expected.
    pub fn passed(&self) -> bool {
        let same = |made: &[Made], expected: &[String]| made.iter().map(|made| &made.text).eq(expected);
        same(&self.keys, &self.expected_keys) && same(&self.flushes, &self.expected_flushes)
    }
}

impl Case {
    /// Carries the change out with `rules`.
    pub fn run(&self, rules: &[Rule]) -> Outcome {
        let (keys, flushes) = self.invalidated(rules);
        let unnamed = |text: String| Made { text, by: Vec::new() };
        let mut outcome = Outcome {
            expected_keys: self.expect.clone(),
            expected_flushes: self.flush.clone(),
            keys: keys.into_iter().map(unnamed).collect(),
            flushes: flushes.into_iter().map(unnamed).collect(),
        };
        // Only a failure is explained.
        if !outcome.passed() {
            self.explain(rules, &mut outcome);
        }
        outcome
    }

    /// Notes which template makes each key and scope, by running the case with one template at a time.
    fn explain(&self, rules: &[Rule], outcome: &mut Outcome) {
        for rule in rules {
            for (number, template) in rule.keys.iter().enumerate() {
                let scopes = rule.scope(number).cloned().into_iter().collect();
                let alone = Rule { keys: vec![template.clone()], scopes, ..rule.clone() };
                let (keys, flushes) = self.invalidated(&[alone]);
                let by = format!("{} {:?}", rule.subject(), template.text());
                for (made, texts) in [(&mut outcome.keys, keys), (&mut outcome.flushes, flushes)] {
                    made.iter_mut().filter(|made| texts.contains(&made.text)).for_each(|made| made.by.push(by.clone()));
                }
            }
        }
    }

    /// The keys and the scopes, each sorted and once.
    fn invalidated(&self, rules: &[Rule]) -> (Vec<String>, Vec<String>) {
        let binding = Binding::new(rules, &self.relation, &Heirs::default());
        let (mut keys, mut flushes) = (Vec::new(), Vec::new());
        let mut note = |invalidation: Invalidation<'_>| match invalidation {
            Invalidation::Key { key, .. } => keys.push(String::from_utf8_lossy(key).into_owned()),
            Invalidation::Scope { scope, .. } => flushes.push(scope.keys.to_string()),
        };
        match &self.event {
            Event::Truncate => binding.invalidate_scopes(&mut note),
            Event::Insert { new } => {
                binding.invalidate(&Change::Insert { new: row(new) }, &mut Scratch::default(), &mut note);
            }
            Event::Update { old, new } => {
                let change = Change::Update { old: image(&self.relation, old), new: row(new) };
                binding.invalidate(&change, &mut Scratch::default(), &mut note);
            }
            Event::Delete { old } => {
                let change = Change::Delete { old: image(&self.relation, old) };
                binding.invalidate(&change, &mut Scratch::default(), &mut note);
            }
        }
        for texts in [&mut keys, &mut flushes] {
            texts.sort();
            texts.dedup();
        }
        (keys, flushes)
    }
}

fn row((count, cells): &Cells) -> Row<'_> {
    Row::new(*count, cells)
}

fn image<'a>(relation: &Relation, old: &'a Cells) -> OldImage<'a> {
    match relation.identity {
        ReplicaIdentity::Full => OldImage::Full(row(old)),
        _ => OldImage::Key(row(old)),
    }
}
