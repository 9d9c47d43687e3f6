//! How far each stage has come, and so how far the slot may be acknowledged.
//!
//! A *lane* is one target's row of deliveries. A lane that owes nothing has applied everything decoded; a lane that
//! owes something has applied what was decoded before the oldest thing it owes. That is the whole rule: it holds for
//! commits that match nothing, for transactions sent in pieces, and for deliveries confirmed out of order.
//!
//! What is gathered is owed from then on, wherever it waits: for the gate, for room, for the target. What is to be struck
//! a second time is owed once more from its first confirmation on, as far as settling goes.

mod places;

use std::collections::VecDeque;

pub use places::{Place, Places};

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

/// What a delivery is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// For the first time, and that is enough: every replica has replayed what it is for.
    Only,
    /// For the first time, and once more when the replicas have replayed what it is for.
    First,
    /// For the second time.
    Second,
    /// Once more after it was struck for good (`repeat_after`); that holds nothing up.
    Repeat,
}

impl Strike {
    /// Whether what is struck counts as applied only when this is confirmed.
    fn applies(self) -> bool {
        matches!(self, Strike::Only | Strike::First)
    }
}

#[derive(Debug)]
struct Owed {
    ticket: Ticket,
    strike: Strike,
    /// What was decoded before the first invalidation of this delivery was gathered.
    before: Lsn,
    confirmed: bool,
    /// Its record belongs to a history that is not followed any more.
    is_void: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// For each [`Place`] with something in it, what was decoded before the first of that was gathered.
    waiting: Places<Option<Lsn>>,
    /// The same for what waits for replicas after its first strike, oldest first.
    echoes: VecDeque<Lsn>,
    /// The same for what may be struck a second time.
    again: Option<Lsn>,
    /// Set while it is not known what the target holds: what was decoded when that began.
    doubted: Option<Lsn>,
    owed: VecDeque<Owed>,
    next_ticket: u64,
    /// What the record that the target is known to hold says was struck for good.
    record: Lsn,
    /// The furthest `applied` of a record that was sent.
    sent: Lsn,
    /// Set while the slot goes on without this target: the furthest record that the target may hold.
    given_up: Option<Lsn>,
    /// Set while a rule of the target is not covered: nothing after this counts as settled, but the slot goes on.
    withheld: Option<Lsn>,
}

impl Lane {
    fn applied(&self, decoded: Lsn) -> Lsn {
        // Not only the oldest: what mends something reaches further back than what left before it.
        let owed = self.owed.iter().filter(|owed| !owed.confirmed && owed.strike.applies());
        let waiting = self.waiting.all().flatten().copied();
        waiting.chain(self.doubted).chain(owed.map(|owed| owed.before)).min().unwrap_or(decoded)
    }

    /// What is confirmed for good.
    fn struck(&self, decoded: Lsn) -> Lsn {
        let counts = |owed: &&Owed| !owed.confirmed && owed.strike != Strike::Repeat;
        let owed = self.owed.iter().filter(counts).map(|owed| owed.before);
        let echoes = self.echoes.iter().copied().chain(self.again).chain(owed).min();
        self.applied(decoded).min(echoes.unwrap_or(decoded))
    }

    fn settled(&self, decoded: Lsn) -> Lsn {
        self.withheld.unwrap_or(Lsn::MAX).min(self.struck(decoded))
    }

    /// How far the slot may go on for this target's sake; `None` where it goes on without.
    fn allows(&self, decoded: Lsn) -> Option<Lsn> {
        self.given_up.is_none().then(|| self.struck(decoded))
    }

    fn owe(&mut self, place: Place, at: Lsn) {
        owe(self.waiting.at_mut(place), at);
    }

    fn place(&mut self, place: Place) -> &mut Option<Lsn> {
        self.waiting.at_mut(place)
    }

    /// What is owed for a position after `at` is owed for `at`, and its record counts no more.
    fn owe_from(&mut self, at: Lsn) {
        for owed in &mut self.owed {
            owed.before = owed.before.min(at);
            owed.is_void = true;
        }
        let marks = self.waiting.all_mut().flatten().chain(&mut self.echoes).chain(&mut self.again);
        marks.chain(&mut self.doubted).chain(&mut self.withheld).for_each(|mark| *mark = at.min(*mark));
        self.record = self.record.min(at);
        self.sent = self.sent.min(at);
        self.given_up = self.given_up.map(|past| past.min(at));
    }
}

fn owe(mark: &mut Option<Lsn>, at: Lsn) {
    *mark = Some(mark.map_or(at, |before| before.min(at)));
}

/// The positions of one run of the daemon.
#[derive(Debug)]
pub struct Ledger {
    decoded: Lsn,
    acknowledged: Lsn,
    lanes: Vec<Lane>,
}

impl Ledger {
    /// Everything at or before `start` is known to be settled. `records` holds, for each target, what its record says was
    /// struck for good.
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

    /// An invalidation was gathered for `lane` and waits in `place`. In doubt, it may be the mending of what was missed
    /// before it.
    pub fn gathered(&mut self, lane: usize, place: Place) {
        let decoded = self.decoded;
        if let Some(lane) = self.lanes.get_mut(lane) {
            let at = lane.doubted.unwrap_or(decoded);
            lane.place(place).get_or_insert(at);
        }
    }

    /// All that `lane` has waiting in one place waits in another one from now on.
    pub fn moved(&mut self, lane: usize, from: Place, to: Place) {
        if let Some(lane) = self.lanes.get_mut(lane)
            && let Some(at) = lane.place(from).take()
        {
            lane.owe(to, at);
        }
    }

    /// What is ready in `lane` is to be struck once more when nothing is blocked any more.
    pub fn blocked_too(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane)
            && let Some(at) = *lane.place(Place::Ready)
        {
            lane.owe(Place::Blocked, at);
        }
    }

    /// All that `lane` has waiting anywhere may leave, and once is enough: something stands in for it that is struck
    /// later than any of it would be.
    pub fn collapse(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            let waiting = lane.waiting.all_mut().filter_map(Option::take).min();
            let oldest = waiting.into_iter().chain(lane.echoes.drain(..)).chain(lane.again.take()).min();
            *lane.place(Place::Ready) = oldest;
        }
    }

    /// The oldest confirmed delivery of `lane` that is to be struck a second time may be now. Gives whether there is one.
    pub fn echo_is_due(&mut self, lane: usize) -> bool {
        let Some(lane) = self.lanes.get_mut(lane) else { return false };
        let oldest = lane.echoes.pop_front();
        oldest.is_some_and(|at| {
            owe(&mut lane.again, at);
            true
        })
    }

    /// The two confirmed deliveries of `lane` that are to be struck a second time and were confirmed last are one from
    /// now on.
    pub fn echoes_joined(&mut self, lane: usize) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        if let Some(last) = lane.echoes.pop_back() {
            match lane.echoes.back_mut() {
                Some(at) => *at = last.min(*at),
                None => lane.echoes.push_back(last),
            }
        }
    }

    /// Something that is in no delivery is to be struck in `lane` when the replicas have replayed everything decoded.
    pub fn echo_later(&mut self, lane: usize) {
        let decoded = self.decoded;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.echoes.push_back(decoded);
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

    /// The target of `lane` turns out to have missed what was sent to it after `at`: no more than that counts as applied
    /// until what mends it is confirmed.
    pub fn missed_since(&mut self, lane: usize, at: Lsn) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            for owed in &mut lane.owed {
                owed.before = owed.before.min(at);
            }
            lane.waiting.all_mut().flatten().for_each(|mark| *mark = at.min(*mark));
            owe(&mut lane.doubted, at);
        }
    }

    /// The target has been asked, and what it may have missed has been gathered.
    pub fn trust(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.doubted = None;
        }
    }

    /// Everything of `lane` is in doubt, whatever was known of it: another history is followed from `start` on, and
    /// `lane` has still to be asked what it remembers.
    pub fn begin_anew(&mut self, start: Lsn) {
        (self.decoded, self.acknowledged) = (start, start);
        for lane in &mut self.lanes {
            lane.owe_from(Lsn::ZERO);
            lane.doubted = Some(Lsn::ZERO);
            lane.given_up = None;
            lane.withheld = None;
        }
    }

    /// What was decoded after `at` is not part of the database's history; what was confirmed before stays so.
    pub fn fork(&mut self, at: Lsn) {
        self.decoded = self.decoded.min(at);
        self.acknowledged = self.acknowledged.min(at);
        self.lanes.iter_mut().for_each(|lane| lane.owe_from(at));
    }

    /// The slot goes on without `lane`, which therefore misses something. Its watermarks stay where they are, and its
    /// record will prove it: nothing is acknowledged that is not past every record that the target may hold.
    /// `found` is the furthest position that was there before anything was sent.
    pub fn give_up(&mut self, lane: usize, found: Lsn) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.given_up.get_or_insert(lane.sent.max(found));
        }
    }

    /// Whether the slot goes on without `lane`.
    pub fn is_given_up(&self, lane: usize) -> bool {
        self.lanes.get(lane).is_some_and(|lane| lane.given_up.is_some())
    }

    /// What `lane` has missed is gathered, and the slot waits for it again.
    pub fn take_back(&mut self, lane: usize) {
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.given_up = None;
        }
    }

    /// Changes for `lane` may be missing from the stream from here on. Nothing more of it counts as settled until
    /// [`Ledger::mending`]; the slot goes on.
    pub fn withhold(&mut self, lane: usize) {
        let decoded = self.decoded;
        if let Some(lane) = self.lanes.get_mut(lane) {
            lane.withheld.get_or_insert(lane.applied(decoded));
        }
    }

    /// What mends all that was missed since [`Ledger::withhold`] is gathered for `lane` and ready: once it is confirmed,
    /// all counts as settled again.
    pub fn mending(&mut self, lane: usize) {
        self.gathered(lane, Place::Ready);
        if let Some(lane) = self.lanes.get_mut(lane)
            && let Some(withheld) = lane.withheld.take()
        {
            lane.owe(Place::Ready, withheld);
        }
    }

    /// What is ready in `lane`, or is to be struck a second time or repeated, leaves as one delivery, with a record that
    /// says `applied`.
    pub fn sent(&mut self, lane: usize, applied: Lsn, strike: Strike) -> Ticket {
        let decoded = self.decoded;
        let Some(lane) = self.lanes.get_mut(lane) else {
            return Ticket(0);
        };
        let ticket = Ticket(lane.next_ticket);
        lane.next_ticket += 1;
        lane.sent = lane.sent.max(applied);
        let waiting = match strike {
            Strike::Only | Strike::First => lane.place(Place::Ready).take(),
            Strike::Second => lane.again.take(),
            Strike::Repeat => None,
        };
        let before = waiting.unwrap_or(decoded);
        lane.owed.push_back(Owed { ticket, strike, before, confirmed: false, is_void: false });
        ticket
    }

    /// The target confirmed the delivery, and with it that its record says `struck`. Gives whether that record belongs to
    /// the history that is followed. What has to be struck a second time waits for that from now on, behind what was
    /// confirmed before it.
    pub fn confirmed(&mut self, lane: usize, ticket: Ticket, struck: Lsn) -> bool {
        let Some(lane) = self.lanes.get_mut(lane) else {
            return false;
        };
        let owed = lane.owed.iter_mut().find(|owed| owed.ticket == ticket);
        let counts = owed.is_some_and(|owed| {
            owed.confirmed = true;
            if owed.strike == Strike::First {
                lane.echoes.push_back(owed.before);
            }
            !owed.is_void
        });
        if counts {
            lane.record = lane.record.max(struck);
        }
        while lane.owed.front().is_some_and(|oldest| oldest.confirmed) {
            lane.owed.pop_front();
        }
        counts
    }

    /// Everything decoded so far: what a delivery sent now vouches for, together with those before it.
    pub fn decoded(&self) -> Lsn {
        self.decoded
    }

    /// How far a delivery of `lane` brings it, together with those before: up to what still waits for the gate. Never
    /// back.
    pub fn vouchable(&self, lane: usize) -> Lsn {
        let Some(lane) = self.lanes.get(lane) else { return self.decoded };
        let held_up = [Place::Gathering, Place::Asked, Place::Blocked].map(|place| *lane.waiting.at(place));
        held_up.into_iter().flatten().min().unwrap_or(self.decoded).max(lane.sent)
    }

    /// Whether `lane` owes something that waits for nothing but its target.
    pub fn waits_for_target(&self, lane: usize) -> bool {
        self.lanes.get(lane).is_some_and(|lane| {
            let is_waiting = lane.waiting.at(Place::Ready).or(lane.again).or(lane.doubted).is_some();
            is_waiting || lane.owed.iter().any(|owed| !owed.confirmed)
        })
    }

    /// What `lane` has confirmed without a gap.
    pub fn applied(&self, lane: usize) -> Lsn {
        self.lanes.get(lane).map_or(self.decoded, |lane| lane.applied(self.decoded))
    }

    /// What is confirmed in `lane` for good.
    pub fn struck(&self, lane: usize) -> Lsn {
        self.lanes.get(lane).map_or(self.decoded, |lane| lane.struck(self.decoded))
    }

    /// The same, every rule of it being covered.
    pub fn settled(&self, lane: usize) -> Lsn {
        self.lanes.get(lane).map_or(self.decoded, |lane| lane.settled(self.decoded))
    }

    /// The furthest `applied` of a record that was sent to `lane` in the history that is followed.
    pub fn furthest_record(&self, lane: usize) -> Lsn {
        self.lanes.get(lane).map_or(Lsn::ZERO, |lane| lane.sent)
    }

    /// What the target of `lane` is known to have in its record as struck for good.
    pub fn recorded(&self, lane: usize) -> Lsn {
        self.lanes.get(lane).map_or(self.decoded, |lane| lane.record)
    }

    /// What the slot waits for `lane` to confirm, as a position that may not be passed; `None` where it does not wait.
    pub fn holds_at(&self, lane: usize) -> Option<Lsn> {
        let lane = self.lanes.get(lane)?;
        Some(lane.allows(self.decoded)?.min(lane.record))
    }

    /// Whether acknowledging further waits only for the record of `lane` to move.
    pub fn record_is_behind(&self, lane: usize) -> bool {
        let allowed = self.allowed();
        self.lanes.get(lane).is_some_and(|lane| lane.given_up.is_none() && lane.record < allowed)
    }

    /// The present watermarks; `visible` is what the gate has seen.
    pub fn watermarks(&self, visible: Lsn) -> Watermarks {
        let lowest = |of: fn(&Lane, Lsn) -> Lsn| self.lanes.iter().map(|lane| of(lane, self.decoded)).min();
        let [applied, settled] = [Lane::applied, Lane::settled].map(|of| lowest(of).unwrap_or(self.decoded));
        Watermarks { decoded: self.decoded, visible, applied, settled }
    }

    /// What all those targets have confirmed that the slot waits for.
    fn allowed(&self) -> Lsn {
        self.lanes.iter().filter_map(|lane| lane.allows(self.decoded)).min().unwrap_or(self.decoded)
    }

    /// The position that may be acknowledged, where it is further than the last one. It is never past what a target's
    /// record says was struck, or the next start would take the record for one that went back in time; past that of a
    /// target that was given up it always is, so that the next start does.
    fn acknowledgeable(&self) -> Option<Lsn> {
        let records = self.lanes.iter().filter(|lane| lane.given_up.is_none()).map(|lane| lane.record).min();
        let position = records.unwrap_or(Lsn::MAX).min(self.allowed());
        let given_up = self.lanes.iter().filter_map(|lane| lane.given_up).max();
        let proves_the_gap = given_up.is_none_or(|past| position > past);
        (position > self.acknowledged && proves_the_gap).then_some(position)
    }

    /// Whether what is acknowledged, or may be, is past what is settled: because a target was given up, a rule is not
    /// covered, or a target has still to be asked.
    pub fn is_ahead_of_settled(&self) -> bool {
        self.acknowledgeable().unwrap_or(self.acknowledged) > self.watermarks(self.decoded).settled
    }

    /// Whether [`Ledger::acknowledge`] would give one.
    pub fn can_acknowledge(&self) -> bool {
        self.acknowledgeable().is_some()
    }

    /// Gives out the position to acknowledge, where it is further than the last one.
    pub fn acknowledge(&mut self) -> Option<AckLsn> {
        let position = self.acknowledgeable()?;
        self.acknowledged = position;
        Some(AckLsn(position))
    }

    /// The last position given out by [`Ledger::acknowledge`], for a stream that begins anew.
    pub fn acknowledged(&self) -> AckLsn {
        AckLsn(self.acknowledged)
    }
}

#[cfg(test)]
mod tests;
