//! What is gathered passes the gate, in every lane alike.

use super::{Lanes, just_before};
use crate::gate::Passed;
use crate::ledger::Place;
use crate::lsn::Lsn;
use crate::sight::Sight;

impl Lanes {
    /// Everything that is known to be visible is ready, and what is not is asked about. Gives whether a question is to
    /// be put; `again`: also where only what is blocked waits for an answer.
    pub(in crate::pipeline) fn pass(&mut self, again: bool) -> bool {
        if self.gate.is_clear() {
            self.put(Place::Gathering, Place::Ready);
        }
        let asks = self.gate.ask(again);
        if asks {
            self.put(Place::Gathering, Place::Asked);
        }
        asks
    }

    /// An answer came.
    pub(in crate::pipeline) fn answered(&mut self, sight: Sight) {
        let Passed { asked, blocked } = self.gate.answered(sight);
        if blocked {
            self.put(Place::Blocked, Place::Ready);
        }
        if asked {
            self.put(Place::Asked, Place::Ready);
        } else {
            self.strike_early(Place::Asked);
        }
    }

    /// No answer came in time.
    pub(in crate::pipeline) fn answer_is_late(&mut self) {
        self.gate.block();
        self.strike_early(Place::Asked);
        self.strike_early(Place::Gathering);
    }

    /// The stream is a new one.
    pub(in crate::pipeline) fn ask_anew(&mut self) {
        self.gate.start_over();
        self.strike_early(Place::Asked);
        self.strike_early(Place::Gathering);
    }

    /// Strikes at once, for readers without a protocol, and once more when it is visible. Only that counts.
    fn strike_early(&mut self, place: Place) {
        if !self.gate.is_blocked() {
            // All of it is known to be visible, and nothing would ever let it pass.
            return self.put(place, Place::Ready);
        }
        let Lanes { lanes, routes, pending_keys_max, .. } = self;
        for lane in lanes {
            let early = std::mem::take(lane.pile(place));
            let ready = lane.pile(Place::Ready);
            ready.batch.append(&early.batch);
            let coarsened = ready.limit(*pending_keys_max, routes);
            lane.overflow.note(coarsened);
            *lane.pile(place) = early;
        }
        self.put(place, Place::Blocked);
    }

    /// The scopes that stand in for all a lane has missed are about to leave. Where commits wait for the gate whose keys
    /// were not gathered for the lane, they leave once more when those are visible.
    pub(super) fn strike_again_when_visible(&mut self, index: usize) {
        if !self.gate.is_waiting() {
            return;
        }
        self.answer_is_late();
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let ready = std::mem::take(lane.pile(Place::Ready));
        lane.pile(Place::Blocked).batch.append(&ready.batch);
        *lane.pile(Place::Ready) = ready;
        self.ledger.blocked_too(index);
    }

    /// Another history is followed, which shares with the one before what is before `shared`: nothing waits for the gate
    /// or for replicas any more.
    pub(super) fn let_all_pass(&mut self, shared: Lsn) {
        self.gate.begin_anew();
        self.furthest = self.furthest.min(just_before(shared));
        for sent in self.lanes.iter_mut().flat_map(|lane| &mut lane.in_flight) {
            // Or it would wait for what is never replayed.
            sent.about.last = sent.about.last.min(just_before(shared));
        }
        for place in [Place::Gathering, Place::Asked, Place::Blocked] {
            self.put(place, Place::Ready);
        }
        for index in 0..self.lanes.len() {
            self.collapse_echoes(index);
        }
    }

    fn put(&mut self, from: Place, to: Place) {
        let Lanes { lanes, routes, pending_keys_max, ledger, .. } = self;
        for (index, lane) in lanes.iter_mut().enumerate() {
            let mut pile = std::mem::take(lane.pile(from));
            if !pile.is_empty() {
                lane.pile(to).absorb(&mut pile);
                let coarsened = lane.pile(to).limit(*pending_keys_max, routes);
                lane.overflow.note(coarsened);
            }
            // With its memory.
            *lane.pile(from) = pile;
            ledger.moved(index, from, to);
        }
    }
}
