//! Coarsens what has grown too large for a target: the scopes of a rule replace its keys. `pending` limits one batch, and
//! `transaction` the keys of one transaction.

use super::Core;
use super::feed::Feed;
use super::pending::Pending;
use super::target::TargetState;
use super::uncounted::Uncounted;
use crate::types::invalidation::{BATCH_BYTES_MAX, Batch, Load, RuleId};

/// Manual keys, which no scope can replace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Manual {
    /// A target that the slot waits for holds more of them than allowed.
    pub(super) is_full: bool,
    /// How many a suspended target could not hold, not yet reported.
    pub(super) lost: u64,
}

impl Core {
    /// Coarsens everything that waits for a target, in all stages, if it exceeds the limit. Once a turn is enough,
    /// because reading in between is bounded by `gathering::INTAKE_KEYS`.
    pub(super) fn bound(&mut self) {
        let Core { targets, feed, manual, .. } = self;
        for target in &mut *targets {
            target.bound(feed);
        }
        let mut waited_for = targets.iter().filter(|target| target.suspended.is_none());
        manual.is_full = waited_for.any(|target| target.is_full_of_manual(feed));
    }
}

impl TargetState {
    fn bound(&mut self, feed: &Feed) {
        let Load { keys, bytes } = self.queue.load();
        if keys > feed.policy.pending_keys || bytes > BATCH_BYTES_MAX {
            let coarsened: Vec<RuleId> =
                self.queue.pendings_mut().flat_map(|pending| pending.limit(0, &feed.routes)).collect();
            self.queue.memory.note(coarsened);
        }
    }

    /// Whether it holds more manual keys than allowed: half of what may wait for a target.
    pub(super) fn is_full_of_manual(&self, feed: &Feed) -> bool {
        let Load { keys, bytes } = self.queue.manual();
        keys > feed.policy.pending_keys / 2 || bytes > BATCH_BYTES_MAX / 2
    }
}

/// The memory of waiting batches: bounded and reused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Memory {
    /// Empty batches that keep their memory.
    spare: Uncounted<Vec<Batch>>,
    /// The rules whose scopes replaced their keys, until nothing waits any more.
    coarsened: Vec<RuleId>,
    /// The overflow has not been reported yet.
    is_new: bool,
}

impl Memory {
    /// Coarsens a batch that is too large.
    pub(super) fn bound(&mut self, pending: &mut Pending, feed: &Feed) {
        let coarsened = pending.limit(feed.policy.pending_keys, &feed.routes);
        self.note(coarsened);
    }

    /// Moves one batch into the other, within bounds.
    pub(super) fn merge(&mut self, into: &mut Pending, mut from: Pending, feed: &Feed) {
        into.absorb(&mut from);
        self.bound(into, feed);
        self.spare.push(from.batch);
    }

    /// An empty batch, reused if possible.
    pub(super) fn take(&mut self) -> Batch {
        self.spare.pop().unwrap_or_default()
    }

    /// Keeps the memory of a batch that is no longer needed.
    pub(super) fn keep(&mut self, mut batch: Batch) {
        batch.clear();
        self.spare.push(batch);
    }

    fn note(&mut self, coarsened: Vec<RuleId>) {
        self.is_new |= self.coarsened.is_empty() && !coarsened.is_empty();
        for rule in coarsened {
            if !self.coarsened.contains(&rule) {
                self.coarsened.push(rule);
            }
        }
    }

    /// Ends the overflow: everything that waited is confirmed.
    pub(super) fn is_over(&mut self) {
        self.coarsened.clear();
    }

    /// The rules concerned, if an overflow began since the last call.
    pub(super) fn overflow(&mut self) -> Option<Vec<RuleId>> {
        std::mem::take(&mut self.is_new).then(|| self.coarsened.clone())
    }
}
