//! What waits for one target, and what is on its way to it. An invalidation that counts is in exactly one place in here.

use std::collections::VecDeque;

use super::feed::Feed;
use super::overflow::Memory;
use super::pending::{Pending, Stage, Stages};
use super::repeating::Repeat;
use crate::pgoutput::PgTime;
use crate::types::invalidation::{Batch, Load};
use crate::types::lsn::Lsn;

/// One delivery on its way; comes back with its confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket of delivery `number` to a target.
    pub const fn new(number: u64) -> Ticket {
        Ticket(number)
    }
}

/// What a delivery is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pass {
    /// The first pass, and the only one: every held replica has replayed its commits.
    Only,
    /// The first pass; the replica pass follows when the replicas have replayed its commits.
    First,
    /// The replica pass.
    Replica,
    /// Once more after everything is confirmed (`repeat_after`). It holds no watermark.
    Repeat,
}

/// A delivery that is sent and not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is something that is so or not")]
pub(super) struct Sent {
    pub(super) ticket: Ticket,
    pub(super) pass: Pass,
    /// [`Pending::since`], `last`, `oldest` and `repairs` of what was sent.
    pub(super) since: Lsn,
    pub(super) last: Lsn,
    pub(super) oldest: Option<PgTime>,
    pub(super) repairs: bool,
    /// What was decoded when it left.
    pub(super) decoded: Lsn,
    /// How many scopes it flushes.
    pub(super) scopes: usize,
    /// It is a flush, beside the deliveries and without a record.
    pub(super) is_flush: bool,
    /// Its record belongs to a history that is not followed any more.
    pub(super) is_void: bool,
    /// A flush that may be done before the target is anchored: it leaves once more.
    pub(super) leaves_again: bool,
}

impl Sent {
    /// What was sent, where it waits again.
    pub(super) fn pending(&self, batch: Batch) -> Pending {
        let Sent { since, last, repairs, .. } = *self;
        Pending { batch, since: Some(since), last, repairs, ..Pending::default() }
    }
}

/// A flush that is done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Unproved {
    pub(super) sent: Sent,
    pub(super) batch: Batch,
    /// The sequence of the last delivery that was sent before it was done.
    pub(super) sequence: u64,
}

/// Everything that one target is still to be sent, or has not confirmed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Queue {
    /// What waits for its first pass.
    pub(super) stages: Stages,
    pub(super) in_flight: VecDeque<Sent>,
    /// Flushes that are done. A failover could still take them back unnoticed, so they hold what they hold until a record
    /// proves them that was sent later.
    pub(super) unproved: Vec<Unproved>,
    /// Whether the flush that left last was a replica pass.
    pub(super) flushed_replica_pass: bool,
    /// What was confirmed once and waits for the replicas, oldest first.
    pub(super) awaiting_replay: VecDeque<Pending>,
    /// What the replicas have replayed: it waits for its replica pass.
    pub(super) replayed: Pending,
    /// What waits to be repeated, soonest first, and what is due.
    pub(super) repeats: VecDeque<Repeat>,
    pub(super) repeat: Pending,
    pub(super) memory: Memory,
}

impl Queue {
    pub(super) fn at(&mut self, stage: Stage) -> &mut Pending {
        self.stages.at_mut(stage)
    }

    /// Everything that waits.
    pub(super) fn pendings(&self) -> impl Iterator<Item = &Pending> {
        let repeats = self.repeats.iter().map(|repeat| &repeat.pending);
        self.stages.all().chain(&self.awaiting_replay).chain([&self.replayed, &self.repeat]).chain(repeats)
    }

    pub(super) fn pendings_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        let repeats = self.repeats.iter_mut().map(|repeat| &mut repeat.pending);
        let others = [&mut self.replayed, &mut self.repeat];
        self.stages.all_mut().chain(&mut self.awaiting_replay).chain(others).chain(repeats)
    }

    /// What is sent and not proved by a record.
    pub(super) fn sent(&self) -> impl Iterator<Item = &Sent> {
        self.in_flight.iter().chain(self.unproved.iter().map(|unproved| &unproved.sent))
    }

    pub(super) fn sent_mut(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.in_flight.iter_mut().chain(self.unproved.iter_mut().map(|unproved| &mut unproved.sent))
    }

    /// The `since` of all that has not had its first pass.
    pub(super) fn unapplied(&self) -> impl Iterator<Item = Lsn> {
        // Not only the oldest delivery: a repair reaches further back than what left before it.
        let in_flight = self.sent().filter(|sent| matches!(sent.pass, Pass::Only | Pass::First));
        self.stages.all().filter_map(|pending| pending.since).chain(in_flight.map(|sent| sent.since))
    }

    /// The `since` of all whose replica pass is still to come or is not confirmed.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = Lsn> {
        let in_flight = self.sent().filter(|sent| sent.pass != Pass::Repeat).map(|sent| sent.since);
        self.awaiting_replay.iter().chain([&self.replayed]).filter_map(|pending| pending.since).chain(in_flight)
    }

    /// Whether it holds a repair, waiting or sent.
    pub(super) fn is_repaired(&self) -> bool {
        self.pendings().any(|pending| pending.repairs) || self.sent().any(|sent| sent.repairs)
    }

    /// Everything that waits, wherever.
    pub(super) fn load(&self) -> Load {
        sum(self.pendings().map(Pending::load))
    }

    /// What is blocked, or waits for replicas, is not what the target is behind by.
    pub(super) fn has_room(&self, most: Load) -> bool {
        let behind = [Stage::Fresh, Stage::Probed, Stage::Ready].map(|stage| self.stages.at(stage).load());
        let Load { keys, bytes } = sum(behind.into_iter());
        keys < most.keys && bytes < most.bytes
    }

    /// The manual keys among what waits.
    pub(super) fn manual(&self) -> Load {
        sum(self.pendings().map(|pending| pending.batch.manual()))
    }

    /// Nothing in it counts as rendered later than `at`.
    pub(super) fn clamp(&mut self, at: Lsn) {
        self.sent_mut().for_each(|sent| sent.since = sent.since.min(at));
        self.pendings_mut().for_each(|pending| pending.clamp(at));
    }

    /// Moves everything on to another stage, which keeps within its bounds.
    pub(super) fn put(&mut self, from: Stage, to: Stage, feed: &Feed) {
        let mut pending = std::mem::take(self.at(from));
        let had_keys = !pending.is_empty();
        let into = self.stages.at_mut(to);
        into.absorb(&mut pending);
        if had_keys {
            self.memory.bound(into, feed);
        }
        // With its memory.
        *self.at(from) = pending;
    }
}

fn sum(loads: impl Iterator<Item = Load>) -> Load {
    loads.fold(Load::default(), |sum, load| Load { keys: sum.keys + load.keys, bytes: sum.bytes + load.bytes })
}
