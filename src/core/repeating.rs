//! `repeat_after`: for readers without a protocol, everything confirmed is invalidated once more after a pause, because one
//! of them may have been slower between its read and its SET than the invalidation. It holds no watermark.

use std::time::{Duration, Instant};

use super::Core;
use super::pending::Pending;
use crate::invalidation::Batch;

/// Into how many parts the pause is divided: what is confirmed within one is repeated together.
const PARTS: u32 = 8;

/// What is to be repeated together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Repeat {
    /// When the first of it is due.
    first: Instant,
    /// When the last of it is.
    due: Instant,
    pub(super) pending: Pending,
}

impl Repeat {
    /// See [`Core::rest`].
    pub(super) fn rest(&mut self, now: Instant) {
        (self.first, self.due) = (now, now);
    }
}

impl Core {
    /// When the next repetition is due.
    pub(super) fn next_repeat(&self) -> Option<Instant> {
        self.targets.iter().filter_map(|target| target.repeats.front()).map(|repeat| repeat.due).min()
    }

    /// What was confirmed for good is repeated after the pause.
    pub(super) fn repeat_later(&mut self, index: usize, mut batch: Batch, now: Instant) {
        let Core { targets, routes, policy, .. } = self;
        let Some(target) = targets.get_mut(index) else { return };
        if policy.repeat_after == Duration::ZERO || batch.is_empty() {
            batch.clear();
            return target.spare.push(batch);
        }
        let due = now + policy.repeat_after;
        let mut pending = Pending { batch, ..Pending::default() };
        match target.repeats.back_mut().filter(|last| due < last.first + policy.repeat_after / PARTS) {
            Some(last) => {
                last.pending.absorb(&mut pending);
                target.overflow.note(last.pending.limit(policy.pending_keys, routes));
                last.due = due;
                target.spare.push(pending.batch);
            }
            None => target.repeats.push_back(Repeat { first: due, due, pending }),
        }
    }

    /// Takes what is due now.
    pub(super) fn repeat(&mut self, index: usize, now: Instant) {
        let Core { targets, routes, policy, .. } = self;
        let Some(target) = targets.get_mut(index) else { return };
        while let Some(Repeat { mut pending, .. }) = target.repeats.pop_front_if(|repeat| repeat.due <= now) {
            target.repeat.absorb(&mut pending);
            target.overflow.note(target.repeat.limit(policy.pending_keys, routes));
            target.spare.push(pending.batch);
        }
    }
}
