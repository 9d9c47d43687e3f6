//! One form for states that differ only in numbers and times which mean nothing: for whoever explores all of them.

use std::time::Instant;

use super::Core;

impl Core {
    /// Every sequence that the core knows. Only their order means anything, and that the next one is greater.
    pub fn sequences_mut(&mut self) -> impl Iterator<Item = &mut u64> {
        let targets = self.targets.iter_mut().flat_map(|target| {
            let unproved = target.unproved.iter_mut().map(|flush| &mut flush.sequence);
            [&mut target.confirmed_sequence].into_iter().chain(unproved)
        });
        let stored = self.early.iter_mut().map(|(_, stored)| stored).chain(self.halts.stored_mut());
        let stored = stored.filter_map(|stored| stored.record.as_mut()).map(|record| &mut record.sequence);
        [&mut self.sequence, &mut self.sequence_before].into_iter().chain(targets).chain(stored)
    }

    /// It has been `now` for ever: what is paced may happen when time passes again, and nothing before.
    pub fn rest(&mut self, now: Instant) {
        self.following.rest(now);
        self.probing.rest(now);
        self.attesting.rest(now);
        self.replicas.rest(now);
        for target in &mut self.targets {
            target.last_sent = now;
            target.paced_until = now;
            target.settled_due = target.settled_due.map(|_| now);
            target.repeats.iter_mut().for_each(|repeat| repeat.rest(now));
        }
    }
}
