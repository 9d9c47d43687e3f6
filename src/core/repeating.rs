//! `repeat_after`: invalidates everything confirmed again after a pause, for readers without a protocol, because one
//! of them may have taken longer between its read and its SET than the invalidation took. It holds back no watermark.

use std::time::{Duration, Instant};

use super::Core;
use super::feed::Feed;
use super::pending::Pending;
use super::queue::Queue;
use crate::types::invalidation::Batch;

/// The number of parts of the pause: what is confirmed within one part is repeated together.
const PARTS: u32 = 8;

/// What is repeated together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Repeat {
    /// When the first of it is due.
    first: Instant,
    /// When the last of it is due.
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
        self.targets.iter().filter_map(|target| target.queue.repeats.front()).map(|repeat| repeat.due).min()
    }
}

impl Queue {
    /// Schedules the repetition of a batch that is confirmed for good.
    pub(super) fn repeat_later(&mut self, batch: Batch, feed: &Feed, now: Instant) {
        let pause = feed.policy.repeat_after;
        if pause == Duration::ZERO || batch.is_empty() {
            return self.memory.keep(batch);
        }
        let due = now + pause;
        let pending = Pending { batch, ..Pending::default() };
        match self.repeats.back_mut().filter(|last| due < last.first + pause / PARTS) {
            Some(last) => {
                self.memory.merge(&mut last.pending, pending, feed);
                last.due = due;
            }
            None => self.repeats.push_back(Repeat { first: due, due, pending }),
        }
    }

    /// Takes the repetitions that are due.
    pub(super) fn repeat(&mut self, feed: &Feed, now: Instant) {
        while let Some(Repeat { pending, .. }) = self.repeats.pop_front_if(|repeat| repeat.due <= now) {
            self.memory.merge(&mut self.repeat, pending, feed);
        }
    }
}
