//! Brings states into one form if they differ only in numbers and times without a meaning, for code that explores all
//! states.

use std::time::Instant;

use super::Core;
use crate::types::record::StoredRecord;

impl Core {
    /// Every sequence that the core holds. Only their order counts, and that the next one is greater.
    pub fn sequences_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let targets = self.targets.iter_mut().flat_map(|target| {
            let unproved = target.queue.unproved.iter_mut().map(|flush| &mut flush.sequence);
            let stored = target.halt.stored.as_mut().and_then(sequence_of);
            [&mut target.record.sequence].into_iter().chain(unproved).chain(stored)
        });
        let stored = self.early.iter_mut().filter_map(|(_, stored)| sequence_of(stored));
        let sequences = &mut self.feed.sequences;
        [&mut sequences.last, &mut sequences.before].into_iter().chain(targets).chain(stored)
    }

    /// Sets all times as if it had always been `now`: what is paced can happen once time passes again, and not before.
    pub fn rest(&mut self, now: Instant) {
        self.following.rest(now);
        self.probing.rest(now);
        self.attesting.rest(now);
        self.feed.replicas.rest(now);
        for target in &mut self.targets {
            target.pace.rest(now);
            target.queue.repeats.iter_mut().for_each(|repeat| repeat.rest(now));
        }
    }
}

fn sequence_of(stored: &mut StoredRecord) -> Option<&mut u64> {
    stored.record.as_mut().map(|record| &mut record.sequence)
}
