//! Reports on rules: whether each is covered, and why coherd flushed its keys.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::{error, info};

use super::Spell;
use crate::admin::status::Board;
use crate::core::Why;
use crate::rules::config::Rule;
use crate::targets::Replaced;
use crate::types::invalidation::{Action, Batch, RuleId};

pub(crate) struct Rules {
    board: Board,
    /// [`Rule::subject`] of every rule, by its id.
    subjects: Vec<Arc<str>>,
    uncovered: HashMap<RuleId, Spell>,
}

impl Rules {
    pub(crate) fn new(board: &Board, rules: &[Rule]) -> Rules {
        let subjects: Vec<Arc<str>> = rules.iter().map(|rule| rule.subject().into()).collect();
        board.rules(subjects.iter().cloned());
        Rules { board: board.clone(), subjects, uncovered: HashMap::new() }
    }

    fn subject(&self, rule: RuleId) -> &str {
        self.subjects.get(usize::from(rule.0)).map_or("?", |subject| subject)
    }

    /// Each rule once.
    pub(crate) fn names(&self, rules: &[RuleId]) -> String {
        let mut names: Vec<&str> = Vec::new();
        for name in rules.iter().map(|rule| self.subject(*rule)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(", ")
    }

    /// The reason for a flush, a halt or a suspension, for people.
    pub(crate) fn text(&self, why: &Why) -> String {
        match why {
            Why::FirstStart => "first start (on_first_start: flush)".to_owned(),
            Why::Gap(gap, None) => gap.to_string(),
            Why::Gap(gap, Some(why)) => format!("{gap}: {why}"),
            Why::NotListed(rules) => format!(
                "{}: the rule, its table, or how the publication contains it has changed since the target's record was \
                 written, or a replica had missed changes",
                self.names(rules)
            ),
            Why::Uncovered(rule) => {
                format!("{}: changes of its table may be missing from the stream", self.subject(*rule))
            }
            Why::Republished(rule) => {
                format!("{}: its table, or how the publication contains it, has changed", self.subject(*rule))
            }
            Why::Reinherited(rule) => format!("{}: other tables inherit from its table now", self.subject(*rule)),
            Why::ReplicaReturned => "a replica is back".to_owned(),
            Why::Overspent(end, spent) => format!("suspended at {end}: {spent}"),
        }
    }

    /// `text` continues the sentence "the rule is not covered: ". It may end in SQL, so nothing may follow it.
    pub(crate) fn uncovered(&mut self, rule: RuleId, text: &str) {
        self.board.uncover(usize::from(rule.0), text);
        if self.uncovered.entry(rule).or_default().begins() {
            error!("{} is not covered: {text}", self.subject(rule));
        }
    }

    pub(crate) fn covered(&mut self, rule: RuleId) {
        self.board.cover(usize::from(rule.0));
        if self.uncovered.entry(rule).or_default().ends() {
            info!("{} is covered again", self.subject(rule));
        }
    }

    /// The rules and scopes of `batch` whose version pointers have replaced other values.
    pub(crate) fn replaced(&self, batch: &Batch, Replaced { keys, scopes }: &Replaced) -> Vec<String> {
        if keys.is_empty() && scopes.is_empty() {
            return Vec::new();
        }
        let bumps = batch.items().filter(|(_, action, _)| *action == Action::Bump);
        let makers = bumps.enumerate().filter(|(place, _)| keys.contains(place)).map(|(_, (maker, _, _))| maker.rule());
        let rules = makers.map(|rule| rule.map_or("manual keys".to_owned(), |rule| self.subject(rule).to_owned()));
        let flushed = scopes.iter().filter_map(|place| batch.scopes().get(*place));
        rules.chain(flushed.map(|scope| format!("the scope {}", scope.keys))).collect()
    }
}
