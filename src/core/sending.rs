//! Deliveries leave and are confirmed, each with the record that it leaves behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pending::{Pending, Stage};
use super::target::{Mode, Pass, Sent, TargetState, Ticket, Unproved};
use super::{Core, Event, Opening, Output, WINDOW_DELIVERIES};
use crate::invalidation::Batch;
use crate::pgoutput::PgTime;
use crate::record::{Delivery, Record};
use crate::snapshot::Commit;

/// A record on a stream that brings no invalidations moves this often in the long run, unless somebody waits for it; and,
/// with nothing to say, about this often too: that is how a target that has gone away is noticed.
const RECORD_PACE: Duration = Duration::from_secs(1);
/// When deliveries have come to rest, the record says so after this time: under load the next delivery does, which brings
/// a record anyway.
const RECORD_AFTER: Duration = Duration::from_millis(2);
/// Moves that were not needed are saved up, as time, so that on a quiet database nobody waits for a timer.
const RECORD_SAVED: Duration = Duration::from_mins(5);

impl Core {
    /// Whether nothing is left to do for any target that answers. What waits for its visibility or for replicas may do so
    /// for long, and comes again.
    pub fn is_drained(&self) -> bool {
        let drained = |(index, target): (usize, &TargetState)| {
            let leaves_soon = [Stage::Fresh, Stage::Probed, Stage::Ready].map(|stage| target.stages.at(stage));
            let is_quiet = leaves_soon.into_iter().chain([&target.replayed]).all(Pending::is_empty);
            is_quiet && target.sent().next().is_none() && !target.rules.1 && !self.record_is_behind(index)
        };
        self.targets.iter().enumerate().filter(|(_, target)| target.up).all(drained)
    }

    /// Sends whatever can be sent, and the last records.
    pub(super) fn send_last(&mut self, now: Instant) {
        for index in 0..self.targets.len() {
            if self.record_is_behind(index)
                && let Some(target) = self.targets.get_mut(index)
            {
                target.settled_due = Some(now);
            }
        }
        self.send(now);
    }

    /// Sends whatever can be sent: invalidations at once, a bare record where one is due.
    pub(super) fn send(&mut self, now: Instant) {
        for index in 0..self.targets.len() {
            self.repeat(index, now);
            self.resume(index);
            while self.send_one(index, now) {}
            self.send_flush(index);
        }
    }

    /// When a record is due that waits for nothing but its time.
    pub(super) fn record_due(&self, now: Instant) -> Option<Instant> {
        let waits = self.targets.iter().filter(|target| target.mode == Mode::Live && target.deliveries() == 0);
        waits.filter_map(|target| target.settled_due).filter(|due| *due > now).min()
    }

    /// A suspended target that answers is served again. Until then its scopes wait, and take nothing up.
    fn resume(&mut self, index: usize) {
        let Some(target) = self.targets.get_mut(index) else { return };
        if target.mode == Mode::Live && target.up && target.suspended.take().is_some() {
            self.tell(Event::Resumed(index));
            self.invalidate_again_when_visible(index);
        }
    }

    fn send_one(&mut self, index: usize, now: Instant) -> bool {
        let record_is_behind = self.record_is_behind(index);
        let awaited = self.awaited;
        let Some(target) = self.targets.get_mut(index) else { return false };
        let record_is_awaited = target.recorded < awaited;
        let has_keys = |pending: &Pending| pending.batch.has_keys();
        let is_bare = ![target.stages.at(Stage::Ready), &target.replayed, &target.repeat].into_iter().any(has_keys);
        if target.mode != Mode::Live
            || target.suspended.is_some()
            || target.deliveries() >= WINDOW_DELIVERIES
            || (is_bare && !target.record_is_due(record_is_behind, record_is_awaited, now))
        {
            return false;
        }
        if is_bare && record_is_behind && target.settled_due.is_none() {
            // However many had to move for somebody who waits, the next one comes in time.
            target.paced_until = target.paced_until.clamp(now, now + RECORD_SAVED) + RECORD_PACE;
        }
        target.settled_due = None;
        target.last_sent = now;
        let record = self.next_record(index);
        let Some(target) = self.targets.get_mut(index) else { return false };
        let (pass, pending) = target.take_next();
        target.sent = target.sent.max(record.applied);
        let (ticket, batch) = self.leaves(index, pass, pending, false);
        self.outputs.push(Output::Send { target: index, ticket, delivery: Delivery { batch, record } });
        true
    }

    /// Scopes take long, and leave beside the deliveries: one flush at a time. They need no record of their own. As long as
    /// they are not confirmed they hold `confirmed` in the records of other deliveries, or keep their rules out of them.
    fn send_flush(&mut self, index: usize) {
        let Some(target) = self.targets.get_mut(index) else { return };
        let is_flushing = target.in_flight.iter().any(|sent| sent.is_flush);
        if target.mode != Mode::Live || target.suspended.is_some() || is_flushing || !target.anchored {
            return;
        }
        let [ready, replayed, repeat] = [target.stages.at_mut(Stage::Ready), &mut target.replayed, &mut target.repeat];
        let mut places = [(Pass::First, ready), (Pass::Replica, replayed), (Pass::Repeat, repeat)];
        if !target.flushed_replica_pass {
            // In turns, or one of them may wait for ever.
            places.swap(0, 1);
        }
        let has_scopes = |(_, pending): &(Pass, &mut Pending)| !pending.batch.scopes().is_empty();
        let Some((pass, pending)) = places.into_iter().find(has_scopes) else { return };
        target.flushed_replica_pass = pass == Pass::Replica;
        let scopes = pending.take_scopes();
        if pending.is_empty() {
            pending.since = None;
        }
        let (ticket, batch) = self.leaves(index, pass, scopes, true);
        self.outputs.push(Output::Flush { target: index, ticket, batch });
    }

    /// What is pending is in flight from now on.
    fn leaves(&mut self, index: usize, pass: Pass, pending: Pending, is_flush: bool) -> (Ticket, Batch) {
        let Pending { batch, since, last, oldest, repairs, .. } = pending;
        let pass = match pass {
            // A record alone is for no reader.
            Pass::First if batch.is_empty() || !self.replicas.lacks(last) => Pass::Only,
            pass => pass,
        };
        let decoded = self.decoded;
        let Some(target) = self.targets.get_mut(index) else { return (Ticket::new(0), batch) };
        let ticket = target.unused_ticket();
        target.in_flight.push_back(Sent {
            ticket,
            pass,
            since: since.unwrap_or(decoded),
            last,
            oldest,
            repairs,
            decoded,
            scopes: batch.scopes().len(),
            is_flush,
            is_void: false,
            leaves_again: false,
        });
        (ticket, batch)
    }

    fn next_record(&mut self, index: usize) -> Record {
        self.sequence += 1;
        let applied = self.recordable(index);
        let decoded = self.decoded;
        let (Some(target), Some(followed)) = (self.targets.get_mut(index), &self.following.followed) else {
            return Record::UNREADABLE;
        };
        let Opening { system_id, timeline, .. } = followed.opening;
        let marks = std::mem::take(&mut target.rules.1).then(|| Arc::clone(&target.rules.0));
        let (confirmed, settled, floor) = (target.confirmed_up_to(decoded), target.settled(decoded), target.floor);
        // What leaves with this record, too: the record is written after it. The proof of another history is kept.
        target.commit = Commit::latest(target.commit, target.stages.at(Stage::Ready).newest);
        let commit = target.history.is_none().then(|| target.commit.unwrap_or(Commit::NONE));
        Record {
            applied: applied.max(floor.applied),
            confirmed: confirmed.max(floor.confirmed),
            settled: settled.max(floor.settled),
            system_id,
            timeline,
            sequence: self.sequence,
            commit,
            rules: marks,
        }
    }

    /// A target has confirmed a delivery. Returns the commit time of the oldest commit in it, where this was its first pass.
    pub(super) fn confirmed(
        &mut self,
        index: usize,
        ticket: Ticket,
        delivery: Delivery,
        now: Instant,
    ) -> Option<PgTime> {
        let target = self.targets.get_mut(index)?;
        let sent = target.take_sent(ticket)?;
        let Delivery { batch, record } = delivery;
        if !sent.is_void {
            target.recorded = target.recorded.max(record.confirmed);
            target.written = target.written.max(record.applied);
            target.confirmed_sequence = target.confirmed_sequence.max(record.sequence);
        }
        (target.anchored, target.acquainted) = (true, true);
        // What it holds may have overtaken what its record has to wait for.
        target.recent.remember(record.applied.max(sent.decoded), &batch);
        self.landed(index, sent, batch, now);
        if !sent.is_void {
            self.prove(index, record.sequence, now);
        }
        sent.oldest
    }

    /// A target has flushed the scopes of a batch. Returns the same.
    pub(super) fn flushed(&mut self, index: usize, ticket: Ticket, batch: Batch, now: Instant) -> Option<PgTime> {
        let target = self.targets.get_mut(index)?;
        let sent = target.take_sent(ticket)?;
        target.recent.remember(sent.decoded, &batch);
        if sent.leaves_again {
            target.put_back(sent, batch);
            return sent.oldest;
        }
        let sequence = self.sequence;
        target.unproved.push(Unproved { sent, batch, sequence });
        target.settled_due.get_or_insert_with(|| now + RECORD_AFTER);
        sent.oldest
    }

    /// A record was confirmed: it proves the flushes that were done before it was sent.
    fn prove(&mut self, index: usize, sequence: u64, now: Instant) {
        let Some(target) = self.targets.get_mut(index) else { return };
        let unproved = std::mem::take(&mut target.unproved);
        let (proved, unproved) = unproved.into_iter().partition(|flush| flush.sequence < sequence);
        target.unproved = unproved;
        for Unproved { sent, batch, .. } in proved {
            self.landed(index, sent, batch, now);
        }
    }

    /// The target may have lost flushes that no record proves: they leave once more, as soon as it is anchored.
    pub(super) fn flush_again(&mut self, index: usize) {
        let Some(target) = self.targets.get_mut(index) else { return };
        target.anchored = false;
        for flush in target.in_flight.iter_mut().filter(|sent| sent.is_flush) {
            flush.leaves_again = true;
        }
        for Unproved { sent, batch, .. } in std::mem::take(&mut target.unproved) {
            target.put_back(sent, batch);
        }
    }

    fn landed(&mut self, index: usize, sent: Sent, mut batch: Batch, now: Instant) {
        let Some(target) = self.targets.get_mut(index) else { return };
        if target.in_flight.is_empty() && target.load().keys == 0 {
            target.overflow.is_over();
        }
        if !batch.is_empty() {
            target.settled_due.get_or_insert_with(|| now + RECORD_AFTER);
        }
        let Sent { pass, since, last, repairs, .. } = sent;
        self.rules_are_due |= repairs;
        match pass {
            Pass::First => {
                self.await_replay(index, Pending { batch, since: Some(since), last, repairs, ..Pending::default() });
            }
            Pass::Repeat => {
                batch.clear();
                target.spare.push(batch);
            }
            Pass::Only | Pass::Replica => self.repeat_later(index, batch, now),
        }
    }
}

impl TargetState {
    /// What leaves next: neither first passes nor replica passes hold the others up, and repetitions hold up none.
    fn take_next(&mut self) -> (Pass, Pending) {
        let last = self.in_flight.iter().rev().find(|sent| !sent.is_flush);
        let was_first = last.is_some_and(|sent| sent.pass != Pass::Replica);
        let has_no_key = |pending: &Pending| !pending.batch.has_keys();
        let ready_is_empty = has_no_key(self.stages.at(Stage::Ready));
        let (pass, pending) = match (has_no_key(&self.replayed), has_no_key(&self.repeat)) {
            (false, _) if ready_is_empty || was_first => (Pass::Replica, &mut self.replayed),
            (true, false) if ready_is_empty => (Pass::Repeat, &mut self.repeat),
            _ => (Pass::First, self.stages.at_mut(Stage::Ready)),
        };
        let spare = Pending { batch: self.spare.pop().unwrap_or_default(), ..Pending::default() };
        let mut taken = std::mem::replace(pending, spare);
        if !taken.batch.scopes().is_empty() {
            // They wait for their flush.
            *pending = taken.take_scopes();
        }
        (pass, taken)
    }

    /// What was sent waits to be sent once more.
    fn put_back(&mut self, sent: Sent, batch: Batch) {
        let Sent { pass, since, last, repairs, .. } = sent;
        let mut pending = Pending { batch, since: Some(since), last, repairs, ..Pending::default() };
        let place = match pass {
            Pass::Only | Pass::First => self.stages.at_mut(Stage::Ready),
            Pass::Replica => &mut self.replayed,
            Pass::Repeat => &mut self.repeat,
        };
        place.absorb(&mut pending);
    }

    /// Deliveries that are in flight, flushes left out.
    fn deliveries(&self) -> usize {
        self.in_flight.iter().filter(|sent| !sent.is_flush).count()
    }

    /// A few are in flight at most.
    fn unused_ticket(&self) -> Ticket {
        let is_used = |ticket: &Ticket| self.in_flight.iter().any(|sent| sent.ticket == *ticket);
        let mut tickets = (0..=self.in_flight.len() as u64).map(Ticket::new);
        tickets.find(|ticket| !is_used(ticket)).unwrap_or(Ticket::new(0))
    }

    fn take_sent(&mut self, ticket: Ticket) -> Option<Sent> {
        let at = self.in_flight.iter().position(|sent| sent.ticket == ticket)?;
        self.in_flight.remove(at)
    }

    fn record_is_due(&self, is_behind: bool, is_awaited: bool, now: Instant) -> bool {
        let moves = is_behind && (is_awaited || (self.settled_due.is_none() && self.paced_until <= now + RECORD_SAVED));
        let heartbeat = now.duration_since(self.last_sent) >= RECORD_PACE;
        let settled_is_due = self.settled_due.is_some_and(|due| due <= now);
        self.deliveries() == 0 && (settled_is_due || self.rules.1 || moves || heartbeat)
    }
}
