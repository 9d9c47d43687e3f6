//! Deliveries leave and are confirmed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pile::{About, Pile};
use super::{Lane, Lanes, Sent, Stance};
use crate::ledger::{Place, Strike, Ticket};
use crate::pgoutput::PgTime;
use crate::record::Record;
use crate::target::Delivery;
use crate::target::delivery::Shipment;

/// A record on a stream that brings no invalidations moves this often in the long run, unless somebody waits for it; and,
/// with nothing to say, about this often too: it is how a target that has gone away is noticed.
const RECORD_PACE: Duration = Duration::from_secs(1);
/// When deliveries have come to rest, the record says so after this time: under load the next delivery does, which brings
/// a record anyway.
const RECORD_AFTER: Duration = Duration::from_millis(2);
/// Moves that were not needed are saved up, as time, so that on a quiet database nobody waits for a timer.
const RECORD_SAVED: Duration = Duration::from_mins(5);

impl Lanes {
    /// Whether nothing is left to do for any target that answers. What waits for the gate or for replicas may do so for
    /// long, and comes again.
    pub(in crate::pipeline) fn is_drained(&self) -> bool {
        let drained = |(index, lane): (usize, &Lane)| {
            let leaves_soon = [Place::Gathering, Place::Asked, Place::Ready].map(|place| lane.waiting.at(place));
            let is_quiet = leaves_soon.into_iter().chain([&lane.again]).all(Pile::is_empty);
            is_quiet && lane.in_flight.is_empty() && !lane.marks.1 && !self.ledger.record_is_behind(index)
        };
        self.lanes.iter().enumerate().filter(|(_, lane)| lane.up).all(drained)
    }

    /// Sends whatever can be sent, and the last records.
    pub(in crate::pipeline) fn ship_last(&mut self, now: Instant) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if self.ledger.record_is_behind(index) {
                lane.settled_due = Some(now);
            }
        }
        self.ship(now);
    }

    /// Sends whatever can be sent: invalidations at once, a bare record where one is due.
    pub(in crate::pipeline) fn ship(&mut self, now: Instant) {
        for index in 0..self.lanes.len() {
            self.repeat(index, now);
            while self.ship_one(index, now) {}
        }
    }

    /// When a record is due that waits for nothing but its time.
    pub(in crate::pipeline) fn record_due(&self, now: Instant) -> Option<Instant> {
        let waits = self.lanes.iter().filter(|lane| lane.stance == Stance::Judged && lane.in_flight.is_empty());
        waits.filter_map(|lane| lane.settled_due).filter(|due| *due > now).min()
    }

    fn ship_one(&mut self, index: usize, now: Instant) -> bool {
        let record_is_behind = self.ledger.record_is_behind(index);
        let is_given_up = self.ledger.is_given_up(index);
        let record_is_awaited = self.ledger.recorded(index) < self.awaited;
        let Some(lane) = self.lanes.get_mut(index) else {
            return false;
        };
        let is_bare = lane.again.is_empty() && lane.pile(Place::Ready).is_empty() && lane.repeat.is_empty();
        if lane.stance != Stance::Judged
            || !lane.worker.has_room()
            // Its scopes wait until it answers, and take nothing up meanwhile.
            || (is_given_up && !lane.up)
            || (is_bare && !lane.record_is_due(record_is_behind, record_is_awaited, now))
        {
            return false;
        }
        if is_bare && record_is_behind && lane.settled_due.is_none() {
            // However many had to move for somebody who waits, the next one comes in time.
            lane.paced_until = lane.paced_until.clamp(now, now + RECORD_SAVED) + RECORD_PACE;
        }
        lane.settled_due = None;
        lane.last_sent = now;
        if is_given_up {
            self.ledger.take_back(index);
            self.returned.push(index);
            self.strike_again_when_visible(index);
        }
        let Some(lane) = self.lanes.get_mut(index) else { return false };
        let (strike, Pile { batch, about }) = lane.take_next();
        let strike = match strike {
            // A record alone is struck for no reader.
            Strike::First if batch.is_empty() || !self.replicas.lack(about.last) => Strike::Only,
            strike => strike,
        };
        let record = self.next_record(index);
        let ticket = self.ledger.sent(index, record.applied, strike);
        let decoded = self.ledger.decoded();
        let Some(lane) = self.lanes.get_mut(index) else { return false };
        let scopes = batch.scopes().len();
        lane.in_flight.push_back(Sent { ticket, strike, about, decoded, scopes });
        // There is room, so it can only be refused where the worker has ended; then nothing is confirmed any more.
        lane.worker.send(Shipment { ticket, delivery: Delivery { batch, record } }).is_ok()
    }

    fn next_record(&mut self, index: usize) -> Record {
        let (system_id, timeline) = self.identity;
        self.sequence += 1;
        let lane = self.lanes.get_mut(index);
        let floor = lane.as_ref().map(|lane| lane.floor).unwrap_or_default();
        Record {
            applied: self.ledger.vouchable(index).max(floor.applied),
            struck: self.ledger.struck(index).max(floor.struck),
            settled: self.ledger.settled(index).max(floor.settled),
            system_id,
            timeline,
            sequence: self.sequence,
            marks: lane.and_then(|lane| std::mem::take(&mut lane.marks.1).then(|| Arc::clone(&lane.marks.0))),
        }
    }

    /// A target has confirmed a delivery. Gives the commit time of the oldest commit in it, where it was struck for the
    /// first time.
    pub(in crate::pipeline) fn confirmed(
        &mut self,
        index: usize,
        ticket: Ticket,
        delivery: Delivery,
    ) -> Option<PgTime> {
        let counts = self.ledger.confirmed(index, ticket, delivery.record.struck);
        let lane = self.lanes.get_mut(index)?;
        let at = lane.in_flight.iter().position(|sent| sent.ticket == ticket);
        let Sent { strike, about, decoded, .. } = at.and_then(|at| lane.in_flight.remove(at))?;
        if counts {
            lane.written = lane.written.max(delivery.record.applied);
            lane.confirmed_sequence = lane.confirmed_sequence.max(delivery.record.sequence);
        }
        lane.acquainted = true;
        if lane.in_flight.is_empty() && lane.load().keys == 0 {
            lane.overflow.is_over();
        }
        // What it holds may have overtaken what its record has to wait for.
        lane.recent.remember(delivery.record.applied.max(decoded), &delivery.batch);
        if !delivery.batch.is_empty() {
            lane.settled_due.get_or_insert_with(|| Instant::now() + RECORD_AFTER);
        }
        self.marks_are_due |= about.heals;
        let mut batch = delivery.batch;
        match strike {
            Strike::First => self.wait_for_replicas(index, Pile { batch, about: About { oldest: None, ..about } }),
            Strike::Repeat => {
                batch.clear();
                lane.spare.push(batch);
            }
            Strike::Only | Strike::Second => self.repeat_later(index, batch, Instant::now()),
        }
        about.oldest
    }
}

impl Lane {
    /// What leaves next: neither the first strikes nor the second ones hold the others up, and repetitions hold up none.
    fn take_next(&mut self) -> (Strike, Pile) {
        let was_first = self.in_flight.back().is_some_and(|sent| sent.strike != Strike::Second);
        let ready_is_empty = self.pile(Place::Ready).is_empty();
        let (strike, pile) = match (self.again.is_empty(), self.repeat.is_empty()) {
            (false, _) if ready_is_empty || was_first => (Strike::Second, &mut self.again),
            (true, false) if ready_is_empty => (Strike::Repeat, &mut self.repeat),
            _ => (Strike::First, self.waiting.at_mut(Place::Ready)),
        };
        let spare = Pile { batch: self.spare.pop().unwrap_or_default(), about: About::default() };
        (strike, std::mem::replace(pile, spare))
    }

    fn record_is_due(&self, is_behind: bool, is_awaited: bool, now: Instant) -> bool {
        let moves = is_behind && (is_awaited || (self.settled_due.is_none() && self.paced_until <= now + RECORD_SAVED));
        let heartbeat = now.duration_since(self.last_sent) >= RECORD_PACE;
        let settled_is_due = self.settled_due.is_some_and(|due| due <= now);
        self.in_flight.is_empty() && (settled_is_due || self.marks.1 || moves || heartbeat)
    }
}
