//! What follows from observing the source: drift of the catalogue, and the log that the slot holds back.

use std::time::Instant;

use super::continuity::{Budget, Coverage, Drift};
use super::repairing::Repair;
use super::{Core, Event, Reopen, Why, goes_to};
use crate::rules::config::Rule;
use crate::types::invalidation::RuleId;
use crate::types::lsn::Lsn;
use crate::types::observation::Observation;

/// The state that observing the source has produced.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Catalogue {
    pub(super) coverage: Coverage,
    pub(super) budget: Budget,
    /// The end of the log at the last look at the source.
    pub(super) end: Lsn,
}

impl Catalogue {
    pub(super) fn new(rules: Vec<Rule>, wal_budget: Option<u64>) -> Catalogue {
        Catalogue { coverage: Coverage::new(rules), budget: Budget::new(wal_budget), end: Lsn::ZERO }
    }
}

impl Core {
    /// Handles one look at the source.
    pub(super) fn observed(&mut self, look: &Observation, reinherited: &[RuleId], now: Instant) {
        self.catalogue.end = look.log_end;
        if let (Some(held), Some(followed)) = (look.wal, &mut self.following.followed) {
            followed.looked(held.end);
        }
        let is_first = !self.catalogue.coverage.is_known();
        let drifts = self.catalogue.coverage.looked(look, reinherited);
        if is_first {
            // Later looks are compared with the one before, which shows this too.
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
            self.held_back(held);
        }
        if let Some(why) = &look.synchronous {
            self.reopen(Reopen::Synchronous(why.clone()));
        }
    }

    fn drifted(&mut self, drift: &Drift, before: Option<&Drift>) {
        // While no history is followed, nothing can be sent. Records that do not list the rule prove the gap later.
        let follows = self.following.followed.is_some();
        match drift {
            Drift::Uncovered(rule, text) => {
                self.feed.tell(Event::Uncovered(*rule, text.clone()));
                if follows {
                    self.may_miss(*rule, Why::Uncovered(*rule));
                }
            }
            Drift::Faulty(rule, text) => self.feed.tell(Event::Uncovered(*rule, text.clone())),
            Drift::Covered(rule) => self.feed.tell(Event::Covered(*rule)),
            Drift::Broken(rule) if follows => self.may_miss(*rule, Why::Republished(*rule)),
            Drift::Repaired(rule) if follows => {
                // If the same look found it broken, it has just been flushed.
                let flush = (before != Some(&Drift::Broken(*rule))).then(|| self.flush_of(vec![*rule]));
                for index in self.targets_of(*rule) {
                    let is_whole = self.catalogue.coverage.is_whole(goes_to(index));
                    self.with(index, |target, feed| {
                        if let Some(flush) = &flush {
                            target.repair(feed, flush);
                        }
                        if is_whole {
                            target.repaired(feed.decoded);
                        }
                    });
                }
            }
            Drift::Broken(_) | Drift::Repaired(_) => {}
        }
    }

    /// Other tables came to inherit from the rule's table after the rules were read and before the first look.
    fn reinherited(&mut self, rule: RuleId) {
        if self.following.followed.is_some() {
            self.catalogue.coverage.reinherited(rule);
            self.may_miss(rule, Why::Reinherited(rule));
        }
    }

    /// Changes that concern the rule may have been missed, and more may follow.
    fn may_miss(&mut self, rule: RuleId, why: Why) {
        let flush = self.flush_of(vec![rule]);
        for index in self.targets_of(rule) {
            self.with(index, |target, feed| target.withhold(feed.decoded));
            if self.gap(index, why.clone()) {
                self.with(index, |target, feed| target.repair(feed, &flush));
            }
        }
    }

    /// The flush of these rules. Their changes may have been missed up to the last known end of the log, because the
    /// catalogue shows more than what has been read.
    pub(super) fn flush_of(&self, rules: Vec<RuleId>) -> Repair {
        Repair { sent_after: None, rules, missed_until: self.catalogue.end }
    }

    /// Makes the records list the rules that are whole.
    pub(super) fn list_rules(&mut self) {
        for target in &mut self.targets {
            let goes_there = goes_to(*target.index);
            let is_listed = |rule: &Rule| goes_there(rule) && target.may_list(&self.feed, rule.id);
            let marks = self.catalogue.coverage.marks(is_listed);
            if *target.record.marks != *marks {
                // The next delivery writes it.
                (target.record.marks, target.record.marks_are_due) = (marks.into(), true);
            }
        }
    }
}
