//! What a target has to be sent beside what is gathered for it: something it has lost, or the scopes of rules of which it
//! may have missed changes.

use super::gathering::push_scopes;
use super::pending::{Route, Stage};
use super::{Core, just_before};
use crate::core::continuity::Recent;
use crate::invalidation::{Batch, RuleId};
use crate::lsn::Lsn;

/// A repair.
#[derive(Debug, Default)]
pub struct Repair {
    /// What the target was sent for commits after this position is sent again.
    pub sent_after: Option<Lsn>,
    /// The scopes of these rules are flushed.
    pub rules: Vec<RuleId>,
    /// The end of what the scopes stand in for, where it is later than what is decoded: the end of the log when the fault
    /// was seen.
    pub missed_until: Lsn,
}

impl Repair {
    /// Whether there is nothing to repair.
    pub(super) fn is_nothing(&self) -> bool {
        self.sent_after.is_none() && self.rules.is_empty()
    }

    fn put(&self, recent: &mut Recent, routes: &[Route], into: &mut Batch) {
        if let Some(after) = self.sent_after {
            recent.since(after, into);
        }
        push_scopes(&self.rules, routes, into);
    }
}

impl Core {
    /// Returns what has to be sent again with the oldest delivery in flight, so that no record is written before. Where
    /// nothing is in flight it leaves with the next delivery instead; and scopes always leave by themselves, when the target is
    /// anchored.
    pub(super) fn repair(&mut self, index: usize, repair: &Repair) -> Batch {
        let mut answer = Batch::default();
        if let (Some(target), Some(after)) = (self.targets.get_mut(index), repair.sent_after)
            && target.in_flight.iter().any(|sent| !sent.is_flush)
        {
            target.recent.since(after, &mut answer);
        }
        let scopes = answer.take_scopes();
        // The worker returns nothing of it that a replica pass could repeat.
        let is_sent = !answer.is_empty() && self.replicas.is_empty();
        let sent_after = repair.sent_after.filter(|_| !is_sent);
        let later = Repair { sent_after, rules: repair.rules.clone(), missed_until: repair.missed_until };
        if !later.is_nothing() {
            self.repair_later(index, &later);
        }
        if is_sent && !scopes.is_empty() {
            let decoded = self.decoded;
            let Some(target) = self.targets.get_mut(index) else { return answer };
            let since = target.since(decoded);
            let ready = target.stage(Stage::Ready);
            ready.batch.append(&scopes);
            ready.holds_since(since);
        }
        answer
    }

    /// The same, where no worker waits for an answer: behind whatever is in flight.
    pub(super) fn repair_later(&mut self, index: usize, repair: &Repair) {
        let decoded = self.decoded;
        let Some(target) = self.targets.get_mut(index) else { return };
        let since = target.since(decoded);
        let ready = target.stages.at_mut(Stage::Ready);
        repair.put(&mut target.recent, &self.routes, &mut ready.batch);
        ready.holds_since(since);
        if !repair.rules.is_empty() {
            let last = just_before(decoded.max(repair.missed_until));
            ready.repairs = true;
            ready.last = ready.last.max(last);
            self.rules_are_due = true;
            self.furthest = self.furthest.max(last);
            self.touch(&repair.rules, decoded.max(repair.missed_until));
        }
    }

    /// Changes for a target may be missing from the stream from here on. Nothing more of it settles until
    /// [`Core::repaired`]; the slot goes on.
    pub(super) fn withhold(&mut self, index: usize) {
        let decoded = self.decoded;
        if let Some(target) = self.targets.get_mut(index) {
            target.uncovered.get_or_insert(target.applied(decoded));
        }
    }

    /// The repair of everything that was missed since [`Core::withhold`] is gathered and ready: once it is confirmed,
    /// everything settles again.
    pub(super) fn repaired(&mut self, index: usize) {
        let decoded = self.decoded;
        if let Some(target) = self.targets.get_mut(index) {
            let since = target.since(decoded);
            let since = target.uncovered.take().map_or(since, |uncovered| uncovered.min(since));
            target.stage(Stage::Ready).holds_since(since);
        }
    }
}
