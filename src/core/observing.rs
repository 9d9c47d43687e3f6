//! What follows from watching the server: drift of the catalogue, and the log that the slot holds back.

use std::time::Instant;

use super::continuity::{Budget, Coverage, Drift, Overspent};
use super::{Core, Event, OnGap, Reopen, Repair, Why, goes_to};
use crate::invalidation::RuleId;
use crate::lsn::Lsn;
use crate::observation::Observation;
use crate::rules::config::Rule;

/// What watching the server has shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Catalogue {
    pub(super) coverage: Coverage,
    pub(super) budget: Budget,
    /// The end of the log at the last look at the server.
    pub(super) end: Lsn,
}

impl Catalogue {
    pub(super) fn new(rules: Vec<Rule>, wal_budget: Option<u64>) -> Catalogue {
        Catalogue { coverage: Coverage::new(rules), budget: Budget::new(wal_budget), end: Lsn::ZERO }
    }
}

impl Core {
    /// The server was looked at.
    pub(super) fn observed(&mut self, look: &Observation, reinherited: &[RuleId], now: Instant) {
        self.catalogue.end = look.log_end;
        if let (Some(held), Some(followed)) = (look.wal, &mut self.following.followed) {
            followed.looked(held.end);
        }
        let is_first = !self.catalogue.coverage.is_known();
        let drifts = self.catalogue.coverage.looked(look, reinherited);
        if is_first {
            // Later looks are compared with the one before, which shows that too.
            for rule in reinherited {
                self.reinherited(*rule);
            }
        }
        let mut before = None;
        for drift in &drifts {
            self.drifted(drift, before.replace(drift));
        }
        if is_first || !drifts.is_empty() || !look.tables.is_empty() {
            self.list_rules();
        }
        for (target, stored) in std::mem::take(&mut self.early) {
            self.record_loaded(target, stored, now);
        }
        if let (Some(held), Some(_)) = (look.wal, &self.following.followed) {
            let laggards = self.laggards(&held);
            if let Some(spent) = self.catalogue.budget.looked(held) {
                self.stuck.hurry();
                self.go_on_without(&laggards, held.end, spent);
            }
        }
        if let Some(why) = &look.synchronous {
            self.reopen(Reopen::Synchronous(why.clone()));
        }
    }

    fn drifted(&mut self, drift: &Drift, before: Option<&Drift>) {
        // While nothing is followed nothing can be sent either: records that do not list the rule prove it later.
        let follows = self.following.followed.is_some();
        match drift {
            Drift::Uncovered(rule, text) => {
                self.tell(Event::Uncovered(*rule, text.clone()));
                if follows {
                    self.may_miss(*rule, Why::Uncovered(*rule));
                }
            }
            Drift::Faulty(rule, text) => self.tell(Event::Uncovered(*rule, text.clone())),
            Drift::Covered(rule) => self.tell(Event::Covered(*rule)),
            Drift::Broken(rule) if follows => self.may_miss(*rule, Why::Republished(*rule)),
            Drift::Repaired(rule) if follows => {
                for target in self.targets_of(*rule) {
                    // Where it was broken at the same look, it has just been flushed.
                    if before != Some(&Drift::Broken(*rule)) {
                        self.repair_later(target, &self.flush_of(vec![*rule]));
                    }
                    if self.catalogue.coverage.is_whole(goes_to(target)) {
                        self.repaired(target);
                    }
                }
            }
            Drift::Broken(_) | Drift::Repaired(_) => {}
        }
    }

    /// Between what the rules were read with and the first look, other tables came to inherit from the rule's.
    fn reinherited(&mut self, rule: RuleId) {
        if self.following.followed.is_some() {
            self.catalogue.coverage.reinherited(rule);
            self.may_miss(rule, Why::Reinherited(rule));
        }
    }

    /// Changes that concern the rule may have been missed, and may be still.
    fn may_miss(&mut self, rule: RuleId, why: Why) {
        for target in self.targets_of(rule) {
            self.withhold(target);
            if self.gap(target, why.clone()) {
                self.repair_later(target, &self.flush_of(vec![rule]));
            }
        }
    }

    /// The flush of these rules, whose changes may have been missed up to the end of the log as it was last seen: the
    /// catalogue shows what lies beyond what has been read.
    pub(super) fn flush_of(&self, rules: Vec<RuleId>) -> Repair {
        Repair { sent_after: None, rules, missed_until: self.catalogue.end }
    }

    /// Has the records list the rules that are whole.
    pub(super) fn list_rules(&mut self) {
        for index in 0..self.target_count() {
            let marks = self.catalogue.coverage.marks(|rule| goes_to(index)(rule) && self.may_list(index, rule.id));
            if let Some(target) = self.targets.get_mut(index)
                && *target.rules.0 != *marks
            {
                // The record says so with the next delivery.
                target.rules = (marks.into(), true);
            }
        }
    }

    /// Where nobody lags, a long transaction holds the log back, or this process has only just begun to read it.
    fn go_on_without(&mut self, laggards: &[usize], end: Lsn, spent: Overspent) {
        let found = self.following.followed.as_ref().map_or(Lsn::ZERO, |followed| followed.reached);
        for &index in laggards {
            self.suspend(index, found);
            self.tell(Event::Suspended(index, Why::Overspent(end, spent)));
            if self.policy.on_gap == OnGap::Halt {
                self.halt(index, Why::Overspent(end, spent));
            }
        }
    }
}
