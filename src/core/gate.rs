//! What is visible may leave, for every target alike.

use super::Core;
use super::pending::Stage;
use super::visibility::Passed;
use crate::lsn::Lsn;
use crate::snapshot::Snapshot;

impl Core {
    /// What is known to be visible is ready, and what is not is probed. Returns whether a probe is to be sent; `again`: also
    /// where only blocked invalidations wait for an answer.
    pub(super) fn pass(&mut self, again: bool) -> bool {
        if self.visibility.is_clear() {
            self.put(Stage::Fresh, Stage::Ready);
        }
        let probes = self.visibility.probe(again);
        if probes {
            self.put(Stage::Fresh, Stage::Probed);
        }
        probes
    }

    /// A probe was answered.
    pub(super) fn answered(&mut self, snapshot: Snapshot) {
        let Passed { probed, blocked } = self.visibility.answered(snapshot);
        if blocked {
            self.put(Stage::Blocked, Stage::Ready);
        }
        if probed {
            self.put(Stage::Probed, Stage::Ready);
        } else {
            self.invalidate_early(Stage::Probed);
        }
    }

    /// No answer came in time.
    pub(super) fn answer_is_late(&mut self) {
        self.visibility.block();
        self.invalidate_early(Stage::Probed);
        self.invalidate_early(Stage::Fresh);
    }

    /// No answer counts that was asked for so far.
    pub(super) fn invalidate_what_is_asked_about(&mut self) {
        self.visibility.start_over();
        self.invalidate_early(Stage::Probed);
        self.invalidate_early(Stage::Fresh);
    }

    /// Invalidates at once, for readers without a protocol, and once more when it is visible. Only that counts.
    fn invalidate_early(&mut self, stage: Stage) {
        if !self.visibility.is_blocked() {
            // All of it is known to be visible, and nothing would ever let it pass.
            return self.put(stage, Stage::Ready);
        }
        let Core { targets, routes, policy, .. } = self;
        for target in targets {
            let early = std::mem::take(target.stage(stage));
            let ready = target.stage(Stage::Ready);
            ready.batch.append(&early.batch);
            let coarsened = ready.limit(policy.pending_keys, routes);
            target.overflow.note(coarsened);
            *target.stage(stage) = early;
        }
        self.put(stage, Stage::Blocked);
    }

    /// The scopes that stand in for everything a target has missed are about to leave. Where commits wait for their
    /// visibility whose keys were not gathered for the target, the scopes leave once more when those are visible.
    pub(super) fn invalidate_again_when_visible(&mut self, index: usize) {
        if !self.visibility.is_waiting() {
            return;
        }
        self.answer_is_late();
        let Some(target) = self.targets.get_mut(index) else { return };
        let ready = std::mem::take(target.stage(Stage::Ready));
        target.stage(Stage::Blocked).join(&ready);
        *target.stage(Stage::Ready) = ready;
    }

    /// Another history is followed, which shares with the one before what is before `shared`: nothing waits for its
    /// visibility or for replicas any more.
    pub(super) fn let_all_pass(&mut self, shared: Lsn) {
        self.visibility.begin_anew();
        let last = super::just_before(shared);
        self.furthest = self.furthest.min(last);
        // Or it would wait for what is never replayed.
        for target in &mut self.targets {
            target.sent_mut().for_each(|sent| sent.last = sent.last.min(last));
            target.pendings_mut().for_each(|pending| pending.last = pending.last.min(last));
        }
        for stage in [Stage::Fresh, Stage::Probed, Stage::Blocked] {
            self.put(stage, Stage::Ready);
        }
        if shared == Lsn::ZERO {
            for index in 0..self.targets.len() {
                self.take_replayed(index, |_| true);
            }
        }
    }

    fn put(&mut self, from: Stage, to: Stage) {
        let Core { targets, routes, policy, .. } = self;
        for target in targets {
            let mut pending = std::mem::take(target.stage(from));
            let had_keys = !pending.is_empty();
            target.stage(to).absorb(&mut pending);
            if had_keys {
                let coarsened = target.stage(to).limit(policy.pending_keys, routes);
                target.overflow.note(coarsened);
            }
            // With its memory.
            *target.stage(from) = pending;
        }
    }
}
