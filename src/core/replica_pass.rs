//! The replica pass: what replicas had not replayed when it was invalidated is invalidated a second time, and rules that a
//! replica missed are flushed when it is back.

use super::feed::Feed;
use super::pending::Pending;
use super::queue::Queue;
use super::target::{Mode, TargetState};
use super::{Core, Event, Why, just_before};
use crate::types::invalidation::RuleId;
use crate::types::lsn::Lsn;

/// What waits for replicas for one target, in parts. More is joined to the last part, so that the first ones are never put
/// off.
const PARTS_MAX: usize = 8;

impl Queue {
    /// What is replayed by now waits for its replica pass; or all of it, whether it is replayed or not.
    pub(super) fn take_replayed(&mut self, feed: &Feed, all: bool) {
        let is_taken = |pending: &mut Pending| all || !feed.replicas.lacks(pending.last);
        while let Some(pending) = self.awaiting_replay.pop_front_if(is_taken) {
            self.memory.merge(&mut self.replayed, pending, feed);
        }
    }

    /// A first pass was confirmed: what was in it waits for the replicas.
    pub(super) fn await_replay(&mut self, pending: Pending, feed: &Feed) {
        let parts = &mut self.awaiting_replay;
        parts.push_back(pending);
        let keys: usize = parts.iter().map(|pending| pending.batch.len()).sum();
        let is_too_much = keys > feed.policy.pending_keys;
        while parts.len() > PARTS_MAX || (is_too_much && parts.len() > 1) {
            let (Some(last), Some(before)) = (parts.pop_back(), parts.back_mut()) else { break };
            self.memory.merge(before, last, feed);
        }
        self.take_replayed(feed, false);
    }
}

impl TargetState {
    /// A replica is held again that had replayed everything before `since` when it left: its readers may have filled in
    /// what was older than what had settled meanwhile. Once it has replayed everything decoded, the rules touched meanwhile
    /// are flushed.
    pub(super) fn replica_returned(&mut self, feed: &mut Feed, since: Lsn) {
        let rules = feed.rules_of(*self.index, |rule| feed.touched.since(rule, since));
        let Some(touched) = rules.iter().map(|rule| feed.touched.at(*rule)).max() else { return };
        let last = just_before(feed.decoded.max(touched));
        let mut pending = Pending { since: Some(feed.decoded), last, repairs: true, ..Pending::default() };
        feed.push_scopes(&rules, &mut pending.batch);
        feed.rules_are_due = true;
        feed.furthest = feed.furthest.max(last);
        self.queue.await_replay(pending, feed);
        feed.tell(Event::Flushing(*self.index, Why::ReplicaReturned));
    }

    /// Whether the target's record may list the rule: no repair is under way that is not in the log, and no replica has left
    /// before it replayed what concerns the rule.
    pub(super) fn may_list(&self, feed: &Feed, rule: RuleId) -> bool {
        !self.queue.is_repaired() && !feed.replicas.left().is_some_and(|since| feed.touched.since(rule, since))
    }
}

impl Core {
    /// Whether anything is flushed that readers of a replica may have spoiled, or still may.
    pub(super) fn is_repairing(&self) -> bool {
        self.targets.iter().any(|target| target.queue.is_repaired())
    }

    /// Nothing later counts as settled in any record; `None` while one of them is not known.
    pub(super) fn settled_at_most(&self) -> Option<Lsn> {
        let are_known = self.targets.iter().all(|target| target.mode == Mode::Live);
        let floors = self.targets.iter().map(|target| target.record.floor.settled);
        are_known.then(|| floors.fold(self.feed.decoded, Lsn::max))
    }
}
