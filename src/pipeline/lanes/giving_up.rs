//! The slot goes on without a lane that holds it back for too long.

use super::Lanes;
use crate::lsn::Lsn;
use crate::observation::HeldWal;

impl Lanes {
    /// The next lane that was given up and is brought along again.
    pub(in crate::pipeline) fn take_returned(&mut self) -> Option<usize> {
        self.returned.pop()
    }

    /// How many keys named by hand were lost with a lane that is given up.
    pub(in crate::pipeline) fn take_lost_by_hand(&mut self) -> u64 {
        std::mem::take(&mut self.lost_by_hand)
    }

    /// The lanes that owe something, have come less far since the last look than the log, and hold back at least half of
    /// what the slot does: another part of it may be held back by a transaction that runs for long.
    pub(in crate::pipeline) fn laggards(&mut self, held: &HeldWal) -> Vec<usize> {
        let end = held.end;
        let grown = self.last_end.replace(end).map(|before| end.bytes_since(before));
        let mut laggards = Vec::new();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let holds_at = self.ledger.holds_at(index).filter(|_| self.ledger.applied(index) < self.ledger.decoded());
            let before = std::mem::replace(&mut lane.held_at, holds_at);
            if let (Some(grown), Some(before), Some(now)) = (grown, before, holds_at)
                && now.bytes_since(before) < grown
                && end.bytes_since(now) >= held.retained / 2
            {
                laggards.push(index);
            }
        }
        laggards
    }

    /// The slot goes on without the lane: its scopes stand in for all that it was still to be sent, and for all to come.
    /// `found` is the furthest record that the target may have had before this process came.
    pub(in crate::pipeline) fn give_up(&mut self, index: usize, found: Lsn) {
        let scopes = self.scopes(index, |_| true);
        let Lanes { lanes, ledger, routes, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return };
        lane.gathering.coarsen(|rule| routes.get(usize::from(rule.0)).map_or(&[][..], |(_, scopes)| scopes));
        for scope in &scopes {
            lane.gathering.push_scope(scope);
        }
        ledger.gathered(index);
        ledger.give_up(index, found);
    }
}
