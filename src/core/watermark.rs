//! Watermarks: how far each stage has come, and how far the slot may be acknowledged.
//!
//! One rule defines all of them: a target has passed a stage up to the smallest `since` of everything that has not
//! passed it, or up to the decoded position if there is nothing. The rule holds for commits that match no rule, for
//! transactions that leave in pieces, and for deliveries that are confirmed out of order.

use super::Core;
use super::pending::Stage;
use super::target::TargetState;
use crate::types::lsn::Lsn;

/// A position that every target has confirmed and recorded. Only this module creates one, and a stream's `acknowledge`
/// takes nothing else: acknowledging too early does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AckLsn(Lsn);

impl AckLsn {
    /// The position.
    pub const fn lsn(self) -> Lsn {
        self.0
    }
}

/// The watermarks: everything committed at or before the position has passed the stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watermarks {
    /// Read from the log, with its keys rendered.
    pub decoded: Lsn,
    /// Visible to new snapshots on the source.
    pub visible: Lsn,
    /// Confirmed by every target.
    pub applied: Lsn,
    /// Applied, replayed by every held replica, and invalidated again after that, with every rule covered.
    pub settled: Lsn,
}

impl TargetState {
    /// The position up to which everything is confirmed at least once.
    pub(super) fn applied(&self, decoded: Lsn) -> Lsn {
        self.queue.unapplied().chain(self.unverified).min().unwrap_or(decoded)
    }

    /// Like `applied`, with the replica pass confirmed too.
    pub(super) fn confirmed_up_to(&self, decoded: Lsn) -> Lsn {
        self.queue.unconfirmed().min().unwrap_or(decoded).min(self.applied(decoded))
    }

    /// Like `confirmed_up_to`, with every rule covered all the time and the target's record known to belong to this
    /// history.
    pub(super) fn settled(&self, decoded: Lsn) -> Lsn {
        let unproved = self.record.history.map(|history| history.since);
        self.uncovered.into_iter().chain(unproved).min().unwrap_or(Lsn::MAX).min(self.confirmed_up_to(decoded))
    }

    /// How far the slot may advance for this target; `None` if the slot goes on without it.
    fn allows(&self, decoded: Lsn) -> Option<Lsn> {
        self.suspended.is_none().then(|| self.confirmed_up_to(decoded))
    }

    /// The position at which this target holds the slot, if the slot waits for nothing but the target.
    pub(super) fn held_by(&self, decoded: Lsn) -> Option<Lsn> {
        let waiting = self.queue.stages.at(Stage::Ready).since.or(self.queue.replayed.since).or(self.unverified);
        let waits_for_target = waiting.is_some() || !self.queue.in_flight.is_empty();
        Some(waits_for_target.then(|| self.allows(decoded))??.min(self.record.recorded))
    }

    /// How far a delivery that leaves now brings the target: up to the first commit that still waits for its
    /// visibility.
    pub(super) fn recordable(&self, decoded: Lsn) -> Lsn {
        let held_up = [Stage::Fresh, Stage::Probed, Stage::Blocked].map(|stage| self.queue.stages.at(stage).since);
        held_up.into_iter().flatten().min().unwrap_or(decoded).max(self.record.sent)
    }

    /// Whether acknowledging up to `allowed` waits only for this target's record to move.
    pub(super) fn record_is_behind(&self, allowed: Lsn) -> bool {
        self.suspended.is_none() && self.record.recorded < allowed
    }
}

impl Core {
    /// The position up to which everything is decoded.
    pub fn decoded(&self) -> Lsn {
        self.feed.decoded
    }

    /// The current watermarks.
    pub fn watermarks(&self) -> Watermarks {
        let decoded = self.feed.decoded;
        let lowest = |of: fn(&TargetState, Lsn) -> Lsn| {
            self.targets.iter().map(|target| of(target, decoded)).min().unwrap_or(decoded)
        };
        Watermarks {
            decoded,
            visible: self.feed.visibility.visible(decoded),
            applied: lowest(TargetState::applied),
            settled: lowest(TargetState::settled),
        }
    }

    /// The position up to which one target has confirmed everything.
    pub fn applied(&self, target: usize) -> Lsn {
        self.targets.get(target).map_or(self.feed.decoded, |target| target.applied(self.feed.decoded))
    }

    /// The position up to which all targets that the slot waits for have confirmed everything.
    pub(super) fn allowed(&self) -> Lsn {
        let decoded = self.feed.decoded;
        self.targets.iter().filter_map(|target| target.allows(decoded)).min().unwrap_or(decoded)
    }

    /// The position that may be acknowledged, if it is further than the last one. It never passes the `confirmed` of a
    /// stored record; otherwise the next start would conclude that the target went back in time. It always passes the
    /// record of a suspended target, so that the next start finds the gap.
    pub(super) fn acknowledgeable(&self) -> Option<AckLsn> {
        let waited_for = self.targets.iter().filter(|target| target.suspended.is_none());
        let recorded = waited_for.map(|target| target.record.recorded).min().unwrap_or(Lsn::MAX);
        // What this stream has not shown may belong to another history.
        let position = recorded.min(self.allowed()).min(self.shown.up_to);
        let suspended = self.targets.iter().filter_map(|target| target.suspended).max();
        let proves_the_gap = suspended.is_none_or(|past| position > past);
        (position > self.attesting.acknowledged && proves_the_gap).then_some(AckLsn(position))
    }

    /// Whether the acknowledged position, or the one that may be acknowledged, is past the settled one: because a
    /// target is suspended, a rule is not covered, or a target's record has not been read yet.
    pub(super) fn is_ahead_of_settled(&self) -> bool {
        self.acknowledgeable().map_or(self.attesting.acknowledged, AckLsn::lsn) > self.watermarks().settled
    }

    /// Returns the position to acknowledge, if it is further than the last one, and counts it as acknowledged.
    pub fn acknowledge(&mut self) -> Option<AckLsn> {
        let position = self.acknowledgeable()?;
        self.attesting.acknowledged = position.lsn();
        Some(position)
    }

    /// The position to acknowledge on a stream that begins at `start`: never more than the slot has acknowledged
    /// already.
    pub(super) fn acknowledged_at(&self, start: Lsn) -> AckLsn {
        AckLsn(self.attesting.acknowledged.min(start))
    }
}
