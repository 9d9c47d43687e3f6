//! The gate: moves what is visible to the stage in which it may leave, for every target alike.

use super::Core;
use super::pending::Stage;
use super::visibility::Passed;
use crate::types::lsn::Lsn;
use crate::types::snapshot::Snapshot;

impl Core {
    /// Makes ready what is known to be visible. Returns whether to send a probe for the rest. `again`: also probe if
    /// only blocked invalidations wait for an answer.
    pub(super) fn pass(&mut self, again: bool, rests: bool) -> bool {
        if self.feed.visibility.is_clear() {
            self.put(Stage::Fresh, Stage::Ready);
        }
        let probes = !rests && self.feed.visibility.probe(again);
        if probes {
            self.put(Stage::Fresh, Stage::Probed);
        }
        probes
    }

    /// A probe was answered.
    pub(super) fn answered(&mut self, snapshot: Snapshot) {
        let Passed { probed, blocked } = self.feed.visibility.answered(snapshot);
        if blocked {
            self.put(Stage::Blocked, Stage::Ready);
        }
        if probed {
            self.put(Stage::Probed, Stage::Ready);
        } else {
            self.block(Stage::Probed);
        }
        self.invalidate_early(Stage::Blocked, usize::MAX);
    }

    /// No answer came in time.
    pub(super) fn answer_is_late(&mut self) {
        self.feed.visibility.block();
        self.block(Stage::Probed);
        self.block(Stage::Fresh);
        self.invalidate_early(Stage::Blocked, usize::MAX);
    }

    fn block(&mut self, stage: Stage) {
        // If nothing is blocked, all of it is known to be visible, and no later answer would let it pass.
        let to = if self.feed.visibility.is_blocked() { Stage::Blocked } else { Stage::Ready };
        self.put(stage, to);
    }

    /// The scopes that stand in for everything that a target missed are about to leave. Commits whose keys were not
    /// gathered for the target may still wait for their visibility. Then the scopes leave again once those commits are
    /// visible.
    pub(super) fn invalidate_again_when_visible(&mut self, index: usize) {
        if !self.feed.visibility.is_waiting() {
            return;
        }
        self.answer_is_late();
        let Some(target) = self.targets.get_mut(index) else { return };
        let ready = std::mem::take(target.queue.at(Stage::Ready));
        target.queue.at(Stage::Blocked).join(&ready);
        *target.queue.at(Stage::Ready) = ready;
    }

    /// Another history is followed. It shares with the previous one what is before `shared`. Nothing waits for its
    /// visibility or for replicas any more.
    pub(super) fn let_all_pass(&mut self, shared: Lsn) {
        self.feed.visibility.begin_anew();
        self.feed.furthest = self.feed.furthest.min(super::just_before(shared));
        // Otherwise they would wait for what is never replayed.
        self.targets.iter_mut().for_each(|target| target.waits_for_no_replay_after(shared));
        for stage in [Stage::Fresh, Stage::Probed, Stage::Blocked] {
            self.put(stage, Stage::Ready);
        }
        if shared == Lsn::ZERO {
            self.targets.iter_mut().for_each(|target| target.queue.take_replayed(&self.feed, true));
        }
    }

    fn put(&mut self, from: Stage, to: Stage) {
        self.targets.iter_mut().for_each(|target| target.queue.put(from, to, &self.feed));
    }
}
