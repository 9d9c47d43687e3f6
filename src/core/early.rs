//! Early invalidation: keys leave the moment they are decoded, in parallel with the visibility probe, so that a reader
//! without a protocol sees a change as soon as a naive consumer would show it. It counts for nothing and is never repeated:
//! the delivery that counts follows when the commits are visible. Under backlog nothing leaves early, but for keys that a
//! probe has shown not to be visible yet (`gate`): their delivery may be long in coming.

use super::pending::Stage;
use super::target::TargetState;
use super::{Core, Output, WINDOW_DELIVERIES};
use crate::types::invalidation::{Action, Batch};

/// The most keys that leave early together. More of them are a backlog.
const KEYS_MAX: usize = 64;

impl Core {
    /// Says which targets take early invalidations, in the order of their numbers. Without this none does.
    #[must_use]
    pub fn with_early(mut self, takes_early: impl IntoIterator<Item = bool>) -> Core {
        for (target, takes_early) in self.targets.iter_mut().zip(takes_early) {
            target.takes_early = takes_early;
        }
        self
    }

    /// Sends what was just decoded, unless it is visible already: then it leaves anyway, and counts.
    pub(super) fn send_early(&mut self, is_behind: bool) {
        if !is_behind && !self.feed.visibility.is_clear() {
            self.invalidate_early(Stage::Fresh, KEYS_MAX);
        }
    }

    /// Whether everything that no probe was sent for has left early.
    pub(super) fn all_have_left_early(&self) -> bool {
        let mut fresh = self.targets.iter().map(|target| target.queue.stages.at(Stage::Fresh));
        fresh.all(|its| its.early == its.batch.len() && its.batch.keys(Action::Publish).next().is_none())
    }

    /// Sends the keys in a stage that have not left early, unless there are more than `most`.
    pub(super) fn invalidate_early(&mut self, stage: Stage, most: usize) {
        for target in &mut self.targets {
            let (batch, target) = (target.early(stage, most), *target.index);
            self.feed.outputs.extend(batch.map(|batch| Output::Early { target, batch }));
        }
    }
}

impl TargetState {
    /// A target that is slow, or away, is not sent anything twice.
    fn early(&mut self, stage: Stage, most: usize) -> Option<Batch> {
        let has_room = self.up && self.is_served() && self.queue.deliveries() < WINDOW_DELIVERIES;
        let pending = self.queue.at(stage);
        let more = pending.batch.len() - pending.early;
        if !self.takes_early || !has_room || more == 0 || more > most {
            return None;
        }
        let mut early = Batch::default();
        let keys = pending.batch.items().skip(pending.early);
        // Subscribers to a channel would see each key twice.
        for (maker, action, key) in keys.filter(|(_, action, _)| *action != Action::Publish) {
            early.push_again(maker, action, key);
        }
        pending.early = pending.batch.len();
        (!early.is_empty()).then_some(early)
    }
}
