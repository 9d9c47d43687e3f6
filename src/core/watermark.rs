//! Watermarks: how far each stage has come, and how far the slot may be acknowledged.
//!
//! One rule makes all of them: a target has passed a stage up to the smallest `since` of what has not passed it, and up to
//! everything decoded where there is none. It holds for commits that match no rule, for transactions that leave in pieces
//! and for deliveries that are confirmed out of order.

use super::Core;
use super::pending::Stage;
use super::target::TargetState;
use crate::types::lsn::Lsn;

/// A position that every target has confirmed and recorded. Only this module makes one, and it is all that a stream's
/// `acknowledge` takes: acknowledging too early does not compile.
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
    /// Read from the log, keys rendered.
    pub decoded: Lsn,
    /// Visible to new snapshots on the source.
    pub visible: Lsn,
    /// Confirmed by every target.
    pub applied: Lsn,
    /// Applied, replayed by every held replica and invalidated again after that; every rule covered.
    pub settled: Lsn,
}

impl TargetState {
    /// Everything up to this position is confirmed for the first time.
    pub(super) fn applied(&self, decoded: Lsn) -> Lsn {
        self.queue.unapplied().chain(self.unverified).min().unwrap_or(decoded)
    }

    /// The same, where the replica pass is confirmed too.
    pub(super) fn confirmed_up_to(&self, decoded: Lsn) -> Lsn {
        self.queue.unconfirmed().min().unwrap_or(decoded).min(self.applied(decoded))
    }

    /// The same, where every rule was covered all the time, and the history is known to be the target's.
    pub(super) fn settled(&self, decoded: Lsn) -> Lsn {
        let unproved = self.record.history.map(|history| history.since);
        self.uncovered.into_iter().chain(unproved).min().unwrap_or(Lsn::MAX).min(self.confirmed_up_to(decoded))
    }

    /// How far the slot may go on for this target; `None` where it goes on without the target.
    fn allows(&self, decoded: Lsn) -> Option<Lsn> {
        self.suspended.is_none().then(|| self.confirmed_up_to(decoded))
    }

    /// What the slot waits for the target to confirm, where it waits for nothing but the target.
    pub(super) fn held_by(&self, decoded: Lsn) -> Option<Lsn> {
        let waiting = self.queue.stages.at(Stage::Ready).since.or(self.queue.replayed.since).or(self.unverified);
        let waits_for_target = waiting.is_some() || !self.queue.in_flight.is_empty();
        Some(waits_for_target.then(|| self.allows(decoded))??.min(self.record.recorded))
    }

    /// How far a delivery that leaves now brings the target: up to what still waits for its visibility.
    pub(super) fn recordable(&self, decoded: Lsn) -> Lsn {
        let held_up = [Stage::Fresh, Stage::Probed, Stage::Blocked].map(|stage| self.queue.stages.at(stage).since);
        held_up.into_iter().flatten().min().unwrap_or(decoded).max(self.record.sent)
    }

    /// Whether acknowledging further, up to `allowed`, waits only for the record of this target to move.
    pub(super) fn record_is_behind(&self, allowed: Lsn) -> bool {
        self.suspended.is_none() && self.record.recorded < allowed
    }
}

impl Core {
    /// Everything up to this position is decoded.
    pub fn decoded(&self) -> Lsn {
        self.feed.decoded
    }

    /// The present watermarks.
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

    /// What one target has confirmed without a gap.
    pub fn applied(&self, target: usize) -> Lsn {
        self.targets.get(target).map_or(self.feed.decoded, |target| target.applied(self.feed.decoded))
    }

    /// What every target has confirmed that the slot waits for.
    pub(super) fn allowed(&self) -> Lsn {
        let decoded = self.feed.decoded;
        self.targets.iter().filter_map(|target| target.allows(decoded)).min().unwrap_or(decoded)
    }

    /// The position that may be acknowledged, where it is further than the last one. It is never past what a target's
    /// stored record says is confirmed, or the next start would take the record for one that went back in time. Past the
    /// record of a suspended target it always is, so that the next start finds the gap.
    pub(super) fn acknowledgeable(&self) -> Option<AckLsn> {
        let waited_for = self.targets.iter().filter(|target| target.suspended.is_none());
        let recorded = waited_for.map(|target| target.record.recorded).min().unwrap_or(Lsn::MAX);
        // What this stream has not shown may be of another history.
        let position = recorded.min(self.allowed()).min(self.shown.up_to);
        let suspended = self.targets.iter().filter_map(|target| target.suspended).max();
        let proves_the_gap = suspended.is_none_or(|past| position > past);
        (position > self.attesting.acknowledged && proves_the_gap).then_some(AckLsn(position))
    }

    /// Whether what is acknowledged, or may be, is past what is settled: because a target is suspended, a rule is not
    /// covered, or a target's record has not been read yet.
    pub(super) fn is_ahead_of_settled(&self) -> bool {
        self.acknowledgeable().map_or(self.attesting.acknowledged, AckLsn::lsn) > self.watermarks().settled
    }

    /// The position to acknowledge, where it is further than the last one.
    pub fn acknowledge(&mut self) -> Option<AckLsn> {
        let position = self.acknowledgeable()?;
        self.attesting.acknowledged = position.lsn();
        Some(position)
    }

    /// What a stream may be told that begins at `start`: no more than the slot has acknowledged already.
    pub(super) fn acknowledged_at(&self, start: Lsn) -> AckLsn {
        AckLsn(self.attesting.acknowledged.min(start))
    }
}
