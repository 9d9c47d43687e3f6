//! The replica pass: what replicas had not replayed when it was invalidated is invalidated a second time, and rules that a
//! replica missed are flushed when it is back.

use super::gathering::push_scopes;
use super::pending::Pending;
use super::target::{Mode, TargetState};
use super::{Core, just_before};
use crate::invalidation::RuleId;
use crate::lsn::Lsn;

/// What waits for replicas for one target, in parts. More is joined to the last part, so that the first ones are never put
/// off.
const PARTS_MAX: usize = 8;

impl Core {
    /// What is replayed by now, and what need not be, waits for its replica pass.
    pub(super) fn take_replayed(&mut self, index: usize, need_not_be: impl Fn(&Pending) -> bool) {
        let Core { targets, routes, policy, replicas, .. } = self;
        let Some(target) = targets.get_mut(index) else { return };
        let is_taken = |pending: &mut Pending| !replicas.lacks(pending.last) || need_not_be(pending);
        while let Some(mut pending) = target.awaiting_replay.pop_front_if(is_taken) {
            target.replayed.absorb(&mut pending);
            target.overflow.note(target.replayed.limit(policy.pending_keys, routes));
            target.spare.push(pending.batch);
        }
    }

    /// A first pass was confirmed: what was in it waits for the replicas.
    pub(super) fn await_replay(&mut self, index: usize, pending: Pending) {
        let Core { targets, routes, policy, .. } = self;
        let Some(target) = targets.get_mut(index) else { return };
        target.awaiting_replay.push_back(pending);
        let keys: usize = target.awaiting_replay.iter().map(|pending| pending.batch.len()).sum();
        let is_too_much = keys > policy.pending_keys;
        while target.awaiting_replay.len() > PARTS_MAX || (is_too_much && target.awaiting_replay.len() > 1) {
            let (Some(mut last), Some(before)) = (target.awaiting_replay.pop_back(), target.awaiting_replay.back_mut())
            else {
                break;
            };
            before.absorb(&mut last);
            target.overflow.note(before.limit(policy.pending_keys, routes));
            target.spare.push(last.batch);
        }
        self.take_replayed(index, |_| false);
    }

    /// A replica is held again that had replayed everything before `since` when it left: its readers may have filled in
    /// what was older than what had settled meanwhile. Once it has replayed everything decoded, the rules touched meanwhile
    /// are flushed. Returns whether there are any of this target.
    pub(super) fn replica_returned(&mut self, index: usize, since: Lsn) -> bool {
        let rules = self.rules_of(index, |rule| self.was_touched(rule, since));
        if rules.is_empty() {
            return false;
        }
        let touched = rules.iter().filter_map(|rule| self.touched.get(usize::from(rule.0))).max();
        let last = just_before(self.decoded.max(touched.copied().unwrap_or_default()));
        let since = Some(self.decoded);
        let mut pending = Pending { since, last, repairs: true, ..Pending::default() };
        push_scopes(&rules, &self.routes, &mut pending.batch);
        self.rules_are_due = true;
        self.furthest = self.furthest.max(last);
        self.await_replay(index, pending);
        true
    }

    /// Whether the target's record may list the rule: no repair is under way that is not in the log, and no replica has left
    /// before it replayed what concerns the rule.
    pub(super) fn may_list(&self, target: usize, rule: RuleId) -> bool {
        let is_repaired = self.targets.get(target).is_some_and(TargetState::is_repaired);
        !is_repaired && !self.replicas.left().is_some_and(|since| self.was_touched(rule, since))
    }

    /// Whether anything is flushed that readers of a replica may have spoiled, or still may.
    pub(super) fn is_repairing(&self) -> bool {
        self.targets.iter().any(TargetState::is_repaired)
    }

    /// Nothing later counts as settled in any record; `None` while one of them is not known.
    pub(super) fn settled_at_most(&self) -> Option<Lsn> {
        let are_known = self.targets.iter().all(|target| target.mode == Mode::Live);
        are_known.then(|| self.targets.iter().map(|target| target.floor.settled).fold(self.decoded, Lsn::max))
    }

    fn was_touched(&self, rule: RuleId, since: Lsn) -> bool {
        let touched = self.touched.get(usize::from(rule.0)).copied().unwrap_or(Lsn::ZERO);
        // How far one had come that was restarted, or has never answered, is not known: it may lack what is older than
        // this history.
        touched >= since && (touched > Lsn::ZERO || since == Lsn::ZERO)
    }
}
