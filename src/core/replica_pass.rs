//! The replica pass: repeats invalidations that replicas had not replayed at the first pass, and flushes the rules of
//! which a replica missed changes once it is back.

use super::feed::Feed;
use super::pending::Pending;
use super::queue::Queue;
use super::target::{Mode, TargetState};
use super::{Core, Event, Why, just_before};
use crate::types::invalidation::RuleId;
use crate::types::lsn::Lsn;

/// How many parts may wait for replicas, per target. Anything more joins the last part, so that the first parts are
/// never delayed.
const PARTS_MAX: usize = 8;

impl Queue {
    /// Moves what is replayed to its replica pass; with `all`, everything.
    pub(super) fn take_replayed(&mut self, feed: &Feed, all: bool) {
        let is_taken = |pending: &mut Pending| all || !feed.replicas.lacks(pending.last);
        while let Some(pending) = self.awaiting_replay.pop_front_if(is_taken) {
            self.memory.merge(&mut self.replayed, pending, feed);
        }
    }

    /// A first pass was confirmed: its batch waits for the replicas.
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
    /// A replica is held again that had replayed everything before `since` when it left. Its readers may have filled
    /// caches with values older than what has settled meanwhile. The rules touched meanwhile are flushed once the
    /// replica has replayed everything decoded.
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

    /// Whether the target's record may list the rule: no repair for changes that are not in the log is under way, and
    /// no replica left before it had replayed what concerns the rule.
    pub(super) fn may_list(&self, feed: &Feed, rule: RuleId) -> bool {
        !self.queue.is_repaired() && !feed.replicas.left().is_some_and(|since| feed.touched.since(rule, since))
    }
}

impl Core {
    /// Whether a repair is under way: until it is done, values that readers of a replica filled in may be stale.
    pub(super) fn is_repairing(&self) -> bool {
        self.targets.iter().any(|target| target.queue.is_repaired())
    }

    /// No record says that anything later is settled; `None` while a record is unknown.
    pub(super) fn settled_at_most(&self) -> Option<Lsn> {
        let are_known = self.targets.iter().all(|target| target.mode == Mode::Live);
        let floors = self.targets.iter().map(|target| target.record.floor.settled);
        are_known.then(|| floors.fold(self.feed.decoded, Lsn::max))
    }
}
