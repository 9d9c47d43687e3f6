//! Sends deliveries and handles their confirmations. Each delivery carries the record that is written after it.

use std::sync::Arc;
use std::time::Instant;

use super::feed::Feed;
use super::pending::{Pending, Stage};
use super::queue::{Pass, Queue, Sent, Ticket, Unproved};
use super::target::{Mode, TargetState};
use super::{Core, Event, Opening, Output};
use crate::types::invalidation::Batch;
use crate::types::lsn::Lsn;
use crate::types::record::{Delivery, Record};
use crate::types::snapshot::Commit;

/// The most unconfirmed deliveries to one target. Four keep the connection busy. More would only make batches smaller,
/// because keys that are not sent yet keep gathering.
pub const WINDOW_DELIVERIES: usize = 4;

impl Core {
    /// Whether nothing is left to do for any target that answers. What waits for its visibility or for replicas is
    /// left out: it may wait for long, and the slot sends it again.
    pub fn is_drained(&self) -> bool {
        let allowed = self.allowed();
        let is_due = |target: &TargetState| target.record.marks_are_due || target.record_is_behind(allowed);
        self.targets.iter().filter(|target| target.up).all(|target| target.queue.is_quiet() && !is_due(target))
    }

    /// Sends everything that can be sent, and the last records.
    pub(super) fn send_last(&mut self, now: Instant) {
        let allowed = self.allowed();
        for target in self.targets.iter_mut().filter(|target| target.record_is_behind(allowed)) {
            target.pace.settled_due = Some(now);
        }
        self.send(now);
    }

    /// Sends everything that can be sent: invalidations at once, a record alone when one is due.
    pub(super) fn send(&mut self, now: Instant) {
        for index in 0..self.targets.len() {
            let Core { targets, feed, .. } = self;
            if targets.get_mut(index).is_some_and(|target| target.resume(feed)) {
                self.invalidate_again_when_visible(index);
            }
            let allowed = self.allowed();
            let Core { targets, feed, following, .. } = self;
            let Some(target) = targets.get_mut(index) else { continue };
            target.queue.repeat(feed, now);
            let Some(opening) = following.opening() else { continue };
            while target.send(feed, opening, allowed, now) {}
            target.send_flush(feed);
        }
    }

    /// When the next record is due that waits only for its time.
    pub(super) fn record_due(&self, now: Instant) -> Option<Instant> {
        let waits = self.targets.iter().filter(|target| target.mode == Mode::Live && target.queue.deliveries() == 0);
        waits.filter_map(|target| target.pace.settled_due).filter(|due| *due > now).min()
    }
}

impl TargetState {
    /// Sends one delivery, if one may leave. `allowed`: up to here the slot waits only for records to move.
    fn send(&mut self, feed: &mut Feed, opening: &Opening, allowed: Lsn, now: Instant) -> bool {
        let (deliveries, is_bare) = (self.queue.deliveries(), !self.queue.has_keys_to_send());
        if !self.is_served() || deliveries >= WINDOW_DELIVERIES {
            return false;
        }
        let is_behind = self.record_is_behind(allowed);
        let is_due = self.record.marks_are_due || self.pace.is_due(is_behind, self.record.recorded < feed.awaited, now);
        if is_bare && (deliveries > 0 || !is_due) {
            return false;
        }
        self.pace.leaves(is_bare && is_behind, now);
        let record = self.next_record(feed, opening);
        let (pass, pending) = self.queue.take_next();
        self.record.sent = self.record.sent.max(record.applied);
        let (ticket, batch) = self.queue.leaves(feed, pass, pending, false);
        feed.outputs.push(Output::Send { target: *self.index, ticket, delivery: Delivery { batch, record } });
        true
    }

    /// Sends one flush in parallel to the deliveries, because scopes take long. A flush needs no record of its own.
    /// Until it is confirmed, it holds back `confirmed` in the records of deliveries, or keeps its rules out of them.
    fn send_flush(&mut self, feed: &mut Feed) {
        let is_flushing = self.queue.in_flight.iter().any(|sent| sent.is_flush);
        if !self.is_served() || is_flushing || !self.record.anchored {
            return;
        }
        let Some((pass, scopes)) = self.queue.take_flush() else { return };
        let (ticket, batch) = self.queue.leaves(feed, pass, scopes, true);
        feed.outputs.push(Output::Flush { target: *self.index, ticket, batch });
    }

    fn next_record(&mut self, feed: &mut Feed, opening: &Opening) -> Record {
        let decoded = feed.decoded;
        let applied = self.recordable(decoded);
        let (confirmed, settled) = (self.confirmed_up_to(decoded), self.settled(decoded));
        let its = &mut self.record;
        let floor = its.floor;
        // The record is written after the batch, so it names what leaves with it. While `history` is set, the stored
        // commit stays, because it is the proof.
        its.commit = Commit::latest(its.commit, self.queue.stages.at(Stage::Ready).newest);
        Record {
            applied: applied.max(floor.applied),
            confirmed: confirmed.max(floor.confirmed),
            settled: settled.max(floor.settled),
            system_id: opening.system.id,
            timeline: opening.system.timeline,
            sequence: feed.sequences.next(),
            commit: its.history.is_none().then(|| its.commit.unwrap_or(Commit::NONE)),
            rules: std::mem::take(&mut its.marks_are_due).then(|| Arc::clone(&its.marks)),
        }
    }

    /// The target has confirmed a delivery.
    pub(super) fn confirmed(&mut self, feed: &mut Feed, ticket: Ticket, delivery: Delivery, now: Instant) {
        let Some(sent) = self.queue.take_sent(ticket) else { return };
        let Delivery { batch, record } = delivery;
        if !sent.is_void {
            self.record.wrote(&record);
        }
        (self.record.anchored, self.record.acquainted) = (true, true);
        // The batch may hold commits beyond `applied`, which stops at what waits for its visibility.
        self.recent.remember(record.applied.max(sent.decoded), &batch);
        self.landed(feed, sent, batch, now);
        if !sent.is_void {
            self.prove(feed, record.sequence, now);
        }
        feed.tell(Event::Applied(sent.oldest));
    }

    /// The target has flushed the scopes of a batch.
    pub(super) fn flushed(&mut self, feed: &mut Feed, ticket: Ticket, batch: Batch, now: Instant) {
        let Some(sent) = self.queue.take_sent(ticket) else { return };
        self.recent.remember(sent.decoded, &batch);
        if sent.leaves_again {
            self.queue.put_back(sent, batch);
        } else {
            self.queue.unproved.push(Unproved { sent, batch, sequence: feed.sequences.last });
            self.pace.comes_to_rest(now);
        }
        feed.tell(Event::Applied(sent.oldest));
    }

    /// A record was confirmed: it proves the flushes that were confirmed before it was sent.
    fn prove(&mut self, feed: &mut Feed, sequence: u64, now: Instant) {
        let unproved = std::mem::take(&mut self.queue.unproved);
        let (proved, unproved) = unproved.into_iter().partition(|flush| flush.sequence < sequence);
        self.queue.unproved = unproved;
        for Unproved { sent, batch, .. } in proved {
            self.landed(feed, sent, batch, now);
        }
    }

    /// The target may have lost flushes that no record proves: they leave again once the target is anchored.
    pub(super) fn flush_again(&mut self) {
        self.record.anchored = false;
        for flush in self.queue.in_flight.iter_mut().filter(|sent| sent.is_flush) {
            flush.leaves_again = true;
        }
        for Unproved { sent, batch, .. } in std::mem::take(&mut self.queue.unproved) {
            self.queue.put_back(sent, batch);
        }
    }

    fn landed(&mut self, feed: &mut Feed, sent: Sent, batch: Batch, now: Instant) {
        if self.queue.in_flight.is_empty() && self.queue.load().keys == 0 {
            self.queue.memory.is_over();
        }
        if !batch.is_empty() {
            self.pace.comes_to_rest(now);
        }
        feed.rules_are_due |= sent.repairs;
        match sent.pass {
            Pass::First => self.queue.await_replay(sent.pending(batch), feed),
            Pass::Repeat => self.queue.memory.keep(batch),
            Pass::Only | Pass::Replica => self.queue.repeat_later(batch, feed, now),
        }
    }
}

impl Queue {
    /// Whether a delivery would carry any key besides its record.
    fn has_keys_to_send(&self) -> bool {
        let ready = self.stages.at(Stage::Ready);
        [ready, &self.replayed, &self.repeat].into_iter().any(|pending| pending.batch.has_keys())
    }

    /// Whether nothing is in flight, and nothing would leave soon.
    fn is_quiet(&self) -> bool {
        let leaves_soon = [Stage::Fresh, Stage::Probed, Stage::Ready].map(|stage| self.stages.at(stage));
        let mut leaves_soon = leaves_soon.into_iter().chain([&self.replayed]);
        leaves_soon.all(Pending::is_empty) && self.sent().next().is_none()
    }

    /// Deliveries in flight, not counting flushes.
    pub(super) fn deliveries(&self) -> usize {
        self.in_flight.iter().filter(|sent| !sent.is_flush).count()
    }

    /// What leaves next. First passes and replica passes take turns, and repetitions delay neither.
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
        let spare = Pending { batch: self.memory.take(), ..Pending::default() };
        let mut taken = std::mem::replace(pending, spare);
        if !taken.batch.scopes().is_empty() {
            // The scopes wait for their flush.
            *pending = taken.take_scopes();
        }
        (pass, taken)
    }

    /// The scopes that leave next.
    fn take_flush(&mut self) -> Option<(Pass, Pending)> {
        let ready = self.stages.at_mut(Stage::Ready);
        let mut places = [(Pass::First, ready), (Pass::Replica, &mut self.replayed), (Pass::Repeat, &mut self.repeat)];
        if !self.flushed_replica_pass {
            // They take turns; otherwise one of them could wait for ever.
            places.swap(0, 1);
        }
        let has_scopes = |(_, pending): &(Pass, &mut Pending)| !pending.batch.scopes().is_empty();
        let (pass, pending) = places.into_iter().find(has_scopes)?;
        self.flushed_replica_pass = pass == Pass::Replica;
        let scopes = pending.take_scopes();
        if pending.is_empty() {
            pending.since = None;
        }
        Some((pass, scopes))
    }

    /// Puts a pending batch in flight.
    fn leaves(&mut self, feed: &Feed, pass: Pass, pending: Pending, is_flush: bool) -> (Ticket, Batch) {
        let Pending { batch, since, last, oldest, repairs, .. } = pending;
        let pass = match pass {
            // A record alone is not for readers, and needs no replica pass.
            Pass::First if batch.is_empty() || !feed.replicas.lacks(last) => Pass::Only,
            pass => pass,
        };
        let ticket = self.unused_ticket();
        self.in_flight.push_back(Sent {
            ticket,
            pass,
            since: since.unwrap_or(feed.decoded),
            last,
            oldest,
            repairs,
            decoded: feed.decoded,
            scopes: batch.scopes().len(),
            is_flush,
            is_void: false,
            leaves_again: false,
        });
        (ticket, batch)
    }

    /// Makes a batch that was sent wait to be sent again.
    fn put_back(&mut self, sent: Sent, batch: Batch) {
        let place = match sent.pass {
            Pass::Only | Pass::First => self.stages.at_mut(Stage::Ready),
            Pass::Replica => &mut self.replayed,
            Pass::Repeat => &mut self.repeat,
        };
        place.absorb(&mut sent.pending(batch));
    }

    /// The lowest unused ticket; only a few are in flight.
    fn unused_ticket(&self) -> Ticket {
        let is_used = |ticket: &Ticket| self.in_flight.iter().any(|sent| sent.ticket == *ticket);
        let mut tickets = (0..=self.in_flight.len() as u64).map(Ticket::new);
        tickets.find(|ticket| !is_used(ticket)).unwrap_or(Ticket::new(0))
    }

    fn take_sent(&mut self, ticket: Ticket) -> Option<Sent> {
        let at = self.in_flight.iter().position(|sent| sent.ticket == ticket)?;
        self.in_flight.remove(at)
    }
}
