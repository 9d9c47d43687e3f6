//! The slot goes on without a lane that holds it back for too long.

use super::pile::{About, Pile};
use super::{Lanes, just_before, push_scopes};
use crate::invalidation::Batch;
use crate::ledger::Place;
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
            let holds_at = self.ledger.holds_at(index).filter(|_| self.ledger.waits_for_target(index));
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
        let rules = self.rules(index, |_| true);
        let about =
            About { last: just_before(self.ledger.decoded()), heals: self.replicas.are_listed(), ..About::default() };
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let mut all = Batch::default();
        for pile in lane.piles_mut() {
            // The scopes stand in for all but what was named by hand.
            let _stood_in_for = pile.batch.coarsen(|_| &[]);
            all.append(&std::mem::take(&mut pile.batch));
            pile.about = About::default();
        }
        lane.echoes.clear();
        lane.repeats.clear();
        push_scopes(&rules, &self.routes, &mut all);
        *lane.pile(Place::Ready) = Pile { batch: all, about };
        self.ledger.collapse(index);
        self.ledger.gathered(index, Place::Ready);
        self.ledger.give_up(index, found);
        self.touch(&rules);
    }
}
