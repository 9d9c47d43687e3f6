//! What waits for one target, and what is in flight to it. An invalidation that counts is in exactly one place here.

use std::collections::VecDeque;

use super::feed::Feed;
use super::overflow::Memory;
use super::pending::{Pending, Stage, Stages};
use super::repeating::Repeat;
use crate::pgoutput::PgTime;
use crate::types::invalidation::{Batch, Load};
use crate::types::lsn::Lsn;

/// Identifies a delivery in flight; it is returned with the confirmation.
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
    /// The first and only pass: every held replica has replayed its commits.
    Only,
    /// The first pass; the replica pass follows once the replicas have replayed its commits.
    First,
    /// The replica pass.
    Replica,
    /// A repetition after everything is confirmed (`repeat_after`). It holds back no watermark.
    Repeat,
}

/// A delivery that was sent and is not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is something that is so or not")]
pub(super) struct Sent {
    pub(super) ticket: Ticket,
    pub(super) pass: Pass,
    /// [`Pending::since`], `last`, `oldest` and `repairs` of the batch that was sent.
    pub(super) since: Lsn,
    pub(super) last: Lsn,
    pub(super) oldest: Option<PgTime>,
    pub(super) repairs: bool,
    /// Everything was decoded up to here when it left.
    pub(super) decoded: Lsn,
    /// How many scopes it flushes.
    pub(super) scopes: usize,
    /// It is a flush, sent in parallel to the deliveries and without a record.
    pub(super) is_flush: bool,
    /// Its record belongs to a history that is not followed any more.
    pub(super) is_void: bool,
    /// It is a flush that may be carried out before the target is anchored, so it leaves again.
    pub(super) leaves_again: bool,
}

impl Sent {
    /// The batch that was sent, as pending again.
    pub(super) fn pending(&self, batch: Batch) -> Pending {
        let Sent { since, last, repairs, .. } = *self;
        Pending { batch, since: Some(since), last, repairs, ..Pending::default() }
    }
}

/// A flush that the target has confirmed and no record proves yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Unproved {
    pub(super) sent: Sent,
    pub(super) batch: Batch,
    /// The sequence of the last delivery that was sent before the flush was confirmed.
    pub(super) sequence: u64,
}

/// Everything that one target still has to be sent, or has not confirmed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Queue {
    /// What waits for its first pass.
    pub(super) stages: Stages,
    pub(super) in_flight: VecDeque<Sent>,
    /// Confirmed flushes. A failover of the target could undo them unnoticed, so they hold back watermarks until a
    /// record that was sent later is confirmed.
    pub(super) unproved: Vec<Unproved>,
    /// Whether the last flush that left was a replica pass.
    pub(super) flushed_replica_pass: bool,
    /// What is confirmed once and waits for the replicas, oldest first.
    pub(super) awaiting_replay: VecDeque<Pending>,
    /// What the replicas have replayed and waits for its replica pass.
    pub(super) replayed: Pending,
    /// Repetitions that are not due yet, soonest first, and what is due.
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

    /// Everything that was sent and that no record proves.
    pub(super) fn sent(&self) -> impl Iterator<Item = &Sent> {
        self.in_flight.iter().chain(self.unproved.iter().map(|unproved| &unproved.sent))
    }

    pub(super) fn sent_mut(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.in_flight.iter_mut().chain(self.unproved.iter_mut().map(|unproved| &mut unproved.sent))
    }

    /// The `since` of everything that has not completed its first pass.
    pub(super) fn unapplied(&self) -> impl Iterator<Item = Lsn> {
        // The oldest delivery is not enough: a repair reaches further back than what left before it.
        let in_flight = self.sent().filter(|sent| matches!(sent.pass, Pass::Only | Pass::First));
        self.stages.all().filter_map(|pending| pending.since).chain(in_flight.map(|sent| sent.since))
    }

    /// The `since` of everything whose replica pass is still to come or not confirmed.
    pub(super) fn unconfirmed(&self) -> impl Iterator<Item = Lsn> {
        let in_flight = self.sent().filter(|sent| sent.pass != Pass::Repeat).map(|sent| sent.since);
        self.awaiting_replay.iter().chain([&self.replayed]).filter_map(|pending| pending.since).chain(in_flight)
    }

    /// Whether a repair is waiting or in flight.
    pub(super) fn is_repaired(&self) -> bool {
        self.pendings().any(|pending| pending.repairs) || self.sent().any(|sent| sent.repairs)
    }

    /// Everything that waits, in any stage.
    pub(super) fn load(&self) -> Load {
        sum(self.pendings().map(Pending::load))
    }

    /// Whether the target is behind by less than `most`. What is blocked or waits for replicas does not count: the
    /// target does not cause that.
    pub(super) fn has_room(&self, most: Load) -> bool {
        let behind = [Stage::Fresh, Stage::Probed, Stage::Ready].map(|stage| self.stages.at(stage).load());
        let Load { keys, bytes } = sum(behind.into_iter());
        keys < most.keys && bytes < most.bytes
    }

    /// The manual keys among everything that waits.
    pub(super) fn manual(&self) -> Load {
        sum(self.pendings().map(|pending| pending.batch.manual()))
    }

    /// Makes everything count as rendered no later than `at`.
    pub(super) fn clamp(&mut self, at: Lsn) {
        self.sent_mut().for_each(|sent| sent.since = sent.since.min(at));
        self.pendings_mut().for_each(|pending| pending.clamp(at));
    }

    /// Moves everything to another stage, which stays within its bounds.
    pub(super) fn put(&mut self, from: Stage, to: Stage, feed: &Feed) {
        let mut pending = std::mem::take(self.at(from));
        let had_keys = !pending.is_empty();
        let into = self.stages.at_mut(to);
        into.absorb(&mut pending);
        if had_keys {
            self.memory.bound(into, feed);
        }
        // The emptied batch keeps its memory.
        *self.at(from) = pending;
    }
}

fn sum(loads: impl Iterator<Item = Load>) -> Load {
    loads.fold(Load::default(), |sum, load| Load { keys: sum.keys + load.keys, bytes: sum.bytes + load.bytes })
}
