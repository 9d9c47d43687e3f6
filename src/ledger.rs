//! How far each stage has come, and so how far the slot may be acknowledged.
//!
//! A *lane* is one target's row of deliveries. A lane that owes nothing has applied everything decoded; a lane that
//! owes something has applied what was decoded before the oldest thing it owes. That is the whole rule: it holds for
//! commits that match nothing, for transactions sent in pieces, and for deliveries confirmed out of order.

use std::collections::VecDeque;

use crate::lsn::{CommitLsn, Lsn};

/// A position that every target has confirmed and recorded. Only a [`Ledger`] makes one, and it is all that a source's
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
    /// Applied, replayed by every listed replica and struck again.
    pub settled: Lsn,
}

/// One delivery on its way; given back when it is confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Owed {
    ticket: Ticket,
    /// What was decoded before the first invalidation of this delivery was gathered.
    before: Lsn,
    confirmed: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// Set while invalidations are gathered that no delivery holds yet.
    gathering: Option<Lsn>,
    /// Set while it is not known what the target holds: what was decoded when that began.
    doubted: Option<Lsn>,
    owed: VecDeque<Owed>,
    next_ticket: u64,
    /// The position in the record that the target is known to hold.
    record: Lsn,
}

impl Lane {
    fn applied(&self, decoded: Lsn) -> Lsn {
        let owed = self.owed.front().map(|oldest| oldest.before);
        [owed, self.gathering, self.doubted].into_iter().flatten().min().unwrap_or(decoded)
    }
}

/// The positions of one run of the daemon.
#[derive(Debug)]
pub struct Ledger {
    decoded: Lsn,
    acknowledged: Lsn,
    lanes: Vec<Lane>,
}

impl Ledger {
    /// Everything at or before `start` is known to be settled. `records` holds, for each target, the position in its
    /// record.
    pub fn new(start: Lsn, records: impl IntoIterator<Item = Lsn>) -> Self {
        let lane = |record| Lane { record, ..Lane::default() };
        Ledger { decoded: start, acknowledged: start, lanes: records.into_iter().map(lane).collect() }
    }

    /// A Commit message was read and its keys gathered.
    pub fn committed(&mut self, at: CommitLsn) {
        self.decoded = self.decoded.max(at.end());
    }

    /// The source has told, while no transaction was half read, that nothing before `at` is still to come.
    pub fn idle(&mut self, at: Lsn) {
        self.decoded = self.decoded.max(at);
    }

    /// An invalidation was gathered for `lane`. In doubt, it may be the mending of what was missed before it.
    pub fn gathered(&mut self, lane: usize) {
        let decoded = self.decoded;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.gathering.get_or_insert(lane.doubted.unwrap_or(decoded));
        }
    }

    /// It is not known what the target of `lane` holds: it was never asked, or its connection is lost. Until
    /// [`Ledger::trust`] nothing more of it counts as applied.
    pub fn doubt(&mut self, lane: usize) {
        let decoded = self.decoded;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.doubted.get_or_insert(decoded);
        }
    }

    /// The target of `lane` may have missed anything that ever happened, also from before the ledger's start: a slot that
    /// had to be created anew begins after it.
    pub fn doubt_everything(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.doubted = Some(Lsn::ZERO);
        }
    }

    /// The target has been asked, and what it may have missed has been gathered.
    pub fn trust(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.doubted = None;
        }
    }

    /// What was gathered for `lane` leaves as one delivery.
    pub fn sent(&mut self, lane: usize) -> Ticket {
        let decoded = self.decoded;
        let Some(lane) = self.lanes.get_mut(lane) else {
            return Ticket(0);
        };
        let ticket = Ticket(lane.next_ticket);
        lane.next_ticket += 1;
        lane.owed.push_back(Owed { ticket, before: lane.gathering.take().unwrap_or(decoded), confirmed: false });
        ticket
    }

    /// The target confirmed the delivery, and with it that its record says `record`.
    pub fn confirmed(&mut self, lane: usize, ticket: Ticket, record: Lsn) {
        let Some(lane) = self.lanes.get_mut(lane) else {
            return;
        };
        if let Some(owed) = lane.owed.iter_mut().find(|owed| owed.ticket == ticket) {
            owed.confirmed = true;
        }
        while lane.owed.front().is_some_and(|oldest| oldest.confirmed) {
            lane.owed.pop_front();
        }
        lane.record = lane.record.max(record);
    }

    /// Everything decoded so far: what a delivery sent now vouches for, together with those before it.
    pub fn decoded(&self) -> Lsn {
        self.decoded
    }

    /// What `lane` has confirmed without a gap.
    pub fn applied(&self, lane: usize) -> Lsn {
        self.lanes.get(lane).map_or(self.decoded, |lane| lane.applied(self.decoded))
    }

    /// Whether acknowledging further waits only for the record of `lane` to move.
    pub fn record_is_behind(&self, lane: usize) -> bool {
        let settled = self.watermarks().settled;
        self.lanes.get(lane).is_some_and(|lane| lane.record < settled)
    }

    /// The present watermarks.
    pub fn watermarks(&self) -> Watermarks {
        let lanes = self.lanes.iter().map(|lane| lane.applied(self.decoded));
        let applied = lanes.min().unwrap_or(self.decoded);
        Watermarks { decoded: self.decoded, visible: self.decoded, applied, settled: applied }
    }

    /// The position to acknowledge, where it is further than the last one. It is never past a target's record, or the
    /// next start would take the record for one that went back in time.
    pub fn acknowledge(&mut self) -> Option<AckLsn> {
        let settled = self.watermarks().settled;
        let recorded = self.lanes.iter().map(|lane| lane.record).min();
        let position = recorded.map_or(settled, |record| record.min(settled));
        (position > self.acknowledged).then(|| {
            self.acknowledged = position;
            AckLsn(position)
        })
    }

    /// The last position given out by [`Ledger::acknowledge`], for a stream that begins anew.
    pub fn acknowledged(&self) -> AckLsn {
        AckLsn(self.acknowledged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    fn commit(n: u64) -> CommitLsn {
        CommitLsn::from_end(lsn(n))
    }

    fn one_lane() -> Ledger {
        Ledger::new(lsn(100), [lsn(100)])
    }

    #[test]
    fn a_commit_that_matches_nothing_settles_at_once_but_is_acknowledged_only_after_the_record() {
        let mut ledger = one_lane();
        ledger.committed(commit(200));
        assert_eq!(ledger.watermarks().settled, lsn(200));
        assert!(ledger.record_is_behind(0));
        assert_eq!(ledger.acknowledge(), None);
        let ticket = ledger.sent(0);
        ledger.confirmed(0, ticket, lsn(200));
        assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(200)));
        assert_eq!(ledger.acknowledge(), None, "once is enough");
    }

    #[test]
    fn a_commit_whose_keys_are_not_confirmed_holds_every_watermark_after_decoded() {
        let mut ledger = one_lane();
        ledger.gathered(0);
        ledger.committed(commit(200));
        assert_eq!(ledger.watermarks().settled, lsn(100));
        let ticket = ledger.sent(0);
        ledger.committed(commit(300));
        ledger.idle(lsn(400));
        assert_eq!(ledger.watermarks().decoded, lsn(400));
        assert_eq!(ledger.watermarks().settled, lsn(100));
        ledger.confirmed(0, ticket, lsn(200));
        assert_eq!(ledger.watermarks().settled, lsn(400));
        assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(200)), "as far as the record goes");
    }

    #[test]
    fn a_transaction_sent_in_pieces_settles_with_its_commit() {
        let mut ledger = one_lane();
        ledger.gathered(0);
        let first = ledger.sent(0);
        ledger.confirmed(0, first, lsn(100));
        assert_eq!(ledger.watermarks().settled, lsn(100), "its commit is still to come");
        ledger.gathered(0);
        let second = ledger.sent(0);
        ledger.committed(commit(200));
        assert_eq!(ledger.watermarks().settled, lsn(100));
        ledger.confirmed(0, second, lsn(100));
        assert_eq!(ledger.watermarks().settled, lsn(200));
    }

    #[test]
    fn deliveries_confirmed_out_of_order_move_nothing_past_the_oldest_one_owed() {
        let mut ledger = one_lane();
        let tickets: Vec<Ticket> = [200, 300, 400]
            .into_iter()
            .map(|end| {
                ledger.gathered(0);
                ledger.committed(commit(end));
                ledger.sent(0)
            })
            .collect();
        ledger.confirmed(0, tickets[2], lsn(400));
        ledger.confirmed(0, tickets[1], lsn(300));
        assert_eq!(ledger.watermarks().settled, lsn(100));
        assert_eq!(ledger.acknowledge(), None);
        ledger.confirmed(0, tickets[0], lsn(200));
        assert_eq!(ledger.watermarks().settled, lsn(400));
        assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(400)));
    }

    #[test]
    fn the_slowest_target_holds_the_acknowledgement_but_not_the_others_watermark() {
        let mut ledger = Ledger::new(lsn(100), [lsn(100), lsn(100)]);
        ledger.gathered(0);
        ledger.gathered(1);
        ledger.committed(commit(200));
        let (fast, slow) = (ledger.sent(0), ledger.sent(1));
        ledger.confirmed(0, fast, lsn(200));
        assert_eq!((ledger.applied(0), ledger.applied(1)), (lsn(200), lsn(100)));
        assert_eq!(ledger.acknowledge(), None);
        ledger.confirmed(1, slow, lsn(200));
        assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(200)));
    }

    #[test]
    fn nothing_counts_as_applied_while_the_target_is_in_doubt() {
        let mut ledger = one_lane();
        ledger.doubt(0);
        ledger.committed(commit(200));
        ledger.doubt(0);
        assert_eq!(ledger.watermarks().settled, lsn(100));
        ledger.gathered(0);
        ledger.trust(0);
        assert_eq!(ledger.watermarks().settled, lsn(100), "what it missed is owed");
        let ticket = ledger.sent(0);
        ledger.confirmed(0, ticket, lsn(200));
        assert_eq!(ledger.watermarks().settled, lsn(200));
    }

    #[test]
    fn a_lane_that_may_have_missed_anything_has_settled_nothing_until_that_is_mended() {
        let mut ledger = one_lane();
        ledger.doubt_everything(0);
        ledger.doubt(0);
        ledger.idle(lsn(200));
        assert_eq!(ledger.watermarks().settled, Lsn::ZERO);
        ledger.gathered(0);
        ledger.trust(0);
        let ticket = ledger.sent(0);
        assert_eq!(ledger.watermarks().settled, Lsn::ZERO, "the mending is not confirmed");
        ledger.confirmed(0, ticket, lsn(200));
        assert_eq!(ledger.watermarks().settled, lsn(200));
        assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(200)));
    }

    #[test]
    fn a_position_seen_again_after_a_reconnect_moves_nothing_back() {
        let mut ledger = one_lane();
        ledger.committed(commit(300));
        ledger.committed(commit(200));
        ledger.idle(lsn(150));
        assert_eq!(ledger.watermarks().decoded, lsn(300));
    }
}
