//! `repeat_after`: for readers without a protocol, what was struck for good is struck once more after a pause, because
//! one of them may have been slower between its read and its SET than the strike. It holds nothing up and counts for
//! nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::Lanes;
use super::pile::{About, Pile};
use crate::invalidation::Batch;

/// Into how many parts the pause is divided: what is confirmed within one is repeated together.
const PARTS: u32 = 8;

/// What is to be repeated together.
#[derive(Debug)]
pub(super) struct Repeat {
    /// When the first of it is due.
    first: Instant,
    /// When the last of it is.
    due: Instant,
    pub(super) pile: Pile,
}

impl Lanes {
    /// When the next repetition is due.
    pub(in crate::pipeline) fn next_repeat(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(|lane| lane.repeats.front()).map(|repeat| repeat.due).min()
    }

    /// What was struck for good is repeated after the pause.
    pub(super) fn repeat_later(&mut self, index: usize, mut batch: Batch, now: Instant) {
        let Lanes { lanes, routes, pending_keys_max, repeat_after, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return };
        if *repeat_after == Duration::ZERO || batch.is_empty() {
            batch.clear();
            return lane.spare.push(batch);
        }
        let due = now + *repeat_after;
        let mut pile = Pile { batch, about: About::default() };
        match lane.repeats.back_mut().filter(|last| due < last.first + *repeat_after / PARTS) {
            Some(last) => {
                last.pile.absorb(&mut pile);
                lane.overflow.note(last.pile.limit(*pending_keys_max, routes));
                last.due = due;
                lane.spare.push(pile.batch);
            }
            None => lane.repeats.push_back(Repeat { first: due, due, pile }),
        }
    }

    /// Takes what is due now.
    pub(super) fn repeat(&mut self, index: usize, now: Instant) {
        let Lanes { lanes, routes, pending_keys_max, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return };
        while let Some(Repeat { mut pile, .. }) = lane.repeats.pop_front_if(|repeat| repeat.due <= now) {
            lane.repeat.absorb(&mut pile);
            lane.overflow.note(lane.repeat.limit(*pending_keys_max, routes));
            lane.spare.push(pile.batch);
        }
    }
}
