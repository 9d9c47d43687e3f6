//! The rows of deliveries, one a target: gathering, sending, confirming.

mod giving_up;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use crate::continuity::{Known, Recent, Verdict, judge};
use crate::invalidation::{Action, BATCH_BYTES_MAX, Batch, Load, RuleId, Scope};
use crate::ledger::{Ledger, Ticket};
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::record::{Recollection, Record};
use crate::rules::config::Rule;
use crate::target::Delivery;
use crate::target::delivery::{Lane as Worker, Shipment};
use crate::transaction::Gather;

/// Keys gathered for the least loaded target beyond which nothing more is read. What is not read stays in the log.
const INTAKE_KEYS: usize = 32 << 10;
/// The same in bytes of key text.
const INTAKE_BYTES: usize = 2 << 20;
/// A record on a stream that brings no invalidations moves this often in the long run, unless somebody waits for it; and,
/// with nothing to say, about this often too: it is how a target that has gone away is noticed.
const RECORD_PACE: Duration = Duration::from_secs(1);
/// Moves that were not needed are saved up, as time, so that on a quiet database nobody waits for a timer.
const RECORD_SAVED: Duration = Duration::from_mins(5);

/// What all targets together were delivered lately and is kept in memory, in bytes, to be sent again to one that has
/// lost it.
const RECENT_BYTES: usize = 8 << 20;

/// Whether a target may be sent anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stance {
    /// It has still to be asked what it remembers: a record would be written over one that has not been read.
    Unjudged,
    Judged,
    /// It has missed something, and nobody may mend that but a person.
    Halted,
}

/// One target's deliveries.
pub(super) struct Lane {
    up: bool,
    stance: Stance,
    worker: Worker,
    /// Tickets of what is sent and not confirmed, each with the commit time of the oldest commit in it.
    in_flight: VecDeque<(Ticket, Option<PgTime>)>,
    gathering: Batch,
    spare: Vec<Batch>,
    oldest_commit: Option<PgTime>,
    /// The furthest record confirmed since the slot is followed.
    written: Lsn,
    /// A record was confirmed to this process, whatever became of the slot since.
    acquainted: bool,
    /// The sequence of the last delivery confirmed since the slot is followed.
    confirmed_sequence: u64,
    recent: Recent,
    /// The marks of the rules that are whole, and whether a record has still to be written with them.
    marks: (Arc<str>, bool),
    /// What the record said when it was last read: it is never moved back.
    floor: (Lsn, Lsn),
    /// Invalidations were confirmed since the record last said what is settled.
    settled_is_due: bool,
    last_sent: Instant,
    /// The moves of the record so far have used up the time until then; see [`RECORD_SAVED`].
    paced_until: Instant,
    /// Where it held the slot at the last look at the server, if it owed something then.
    held_at: Option<Lsn>,
}

/// All lanes, and the ledger that knows how far each has come.
pub(super) struct Lanes {
    pub(super) ledger: Ledger,
    lanes: Vec<Lane>,
    /// For each rule, in the order of its id, its lanes and scopes.
    routes: Vec<(Vec<usize>, Vec<Scope>)>,
    pending_keys_max: usize,
    identity: (u64, u32),
    commit_time: Option<PgTime>,
    /// The sequence of the last delivery, over all lanes.
    sequence: u64,
    /// The first one since the slot is followed.
    first_sequence: u64,
    /// Where the log ended at the last look at the server.
    last_end: Option<Lsn>,
    /// Lanes that were given up and are brought along again, not told yet.
    returned: Vec<usize>,
    /// Somebody waits for this position: records that are behind it move at once.
    awaited: Lsn,
    /// Keys named by hand that a lane that is given up could not hold, not told yet.
    lost_by_hand: u64,
}

impl Lanes {
    pub(super) fn new(workers: Vec<Worker>, rules: &[Rule], pending_keys_max: usize) -> Self {
        let now = Instant::now();
        let recent_bytes = RECENT_BYTES / workers.len().max(1);
        let lane = |worker| Lane {
            up: false,
            stance: Stance::Unjudged,
            worker,
            in_flight: VecDeque::new(),
            gathering: Batch::default(),
            spare: Vec::new(),
            oldest_commit: None,
            written: Lsn::ZERO,
            acquainted: false,
            confirmed_sequence: 0,
            recent: Recent::new(recent_bytes),
            marks: ("".into(), false),
            floor: (Lsn::ZERO, Lsn::ZERO),
            settled_is_due: true,
            last_sent: now,
            paced_until: now,
            held_at: None,
        };
        let lanes: Vec<Lane> = workers.into_iter().map(lane).collect();
        Lanes {
            ledger: Ledger::new(Lsn::ZERO, lanes.iter().map(|_| Lsn::ZERO)),
            lanes,
            routes: rules.iter().map(|rule| (rule.lanes.clone(), rule.scopes.clone())).collect(),
            pending_keys_max,
            identity: (0, 0),
            commit_time: None,
            // Later than whatever another process has given out before.
            sequence: micros_since_epoch(),
            first_sequence: u64::MAX,
            last_end: None,
            returned: Vec::new(),
            awaited: Lsn::ZERO,
            lost_by_hand: 0,
        }
    }

    /// Another history is followed from `start` on, for the first time or because the one before came to an end:
    /// everything up to there is settled as far as the slot knows, but every target may have missed any of it and is
    /// asked what it remembers.
    pub(super) fn begin(&mut self, start: Lsn, system_id: u64, timeline: u32) {
        self.ledger.begin_anew(start);
        self.sequence = self.sequence.max(micros_since_epoch());
        self.first_sequence = self.sequence + 1;
        self.identity = (system_id, timeline);
        self.awaited = Lsn::ZERO;
        for lane in &mut self.lanes {
            lane.unjudge();
            lane.written = Lsn::ZERO;
            lane.confirmed_sequence = 0;
            lane.floor = (Lsn::ZERO, Lsn::ZERO);
            lane.recent.begin(start);
        }
    }

    /// Nothing is sent to any target before it has been asked again what it remembers.
    pub(super) fn unjudge(&mut self) {
        for lane in &mut self.lanes {
            lane.unjudge();
        }
    }

    /// Asks every target again that may not be sent anything before.
    pub(super) fn recall_unjudged(&self) {
        for lane in self.lanes.iter().filter(|lane| lane.stance == Stance::Unjudged) {
            lane.worker.recall();
        }
    }

    /// The server is on another timeline, which left the one that was followed at `at`: what is gathered and sent of
    /// commits after that is not part of its history, and neither are the records of it.
    pub(super) fn fork(&mut self, at: Lsn, timeline: u32) {
        let decoded = self.ledger.decoded();
        self.ledger.fork(at);
        self.identity.1 = timeline;
        self.awaited = self.awaited.min(at);
        for lane in &mut self.lanes {
            if lane.floor.0 > decoded {
                // A process before this one has sent more than this one has come to.
                lane.recent.begin(lane.floor.0);
            }
            lane.written = lane.written.min(at);
            lane.floor = (lane.floor.0.min(at), lane.floor.1.min(at));
        }
    }

    /// Somebody waits until everything before `at` is settled, and said so outside of every transaction.
    pub(super) fn awaited(&mut self, at: Lsn) {
        self.ledger.idle(at);
        self.awaited = self.awaited.max(at);
    }

    pub(super) fn commit_time(&mut self, time: PgTime) {
        self.commit_time = Some(time);
    }

    /// Whether there is room for more: as long as one target keeps up, the others do not hold it back. Keys named by
    /// hand do, because no scope can stand in for them: they may take half of what a target may be behind by.
    pub(super) fn has_room(&self) -> bool {
        let each = || self.lanes.iter().enumerate();
        // What is given up takes nothing, and so has always room.
        let has_room = |(index, lane): (usize, &Lane)| {
            let small = lane.gathering.len() < INTAKE_KEYS && lane.gathering.bytes() < INTAKE_BYTES;
            small || self.ledger.is_given_up(index)
        };
        let most = self.pending_keys_max / 2;
        let is_stuck = |(index, lane): (usize, &Lane)| is_stuck(lane, most) && !self.ledger.is_given_up(index);
        each().any(has_room) && !each().any(is_stuck)
    }

    pub(super) fn set_up(&mut self, index: usize, up: bool) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.up = up;
        }
    }

    /// Keys gathered for a target, and deliveries on their way to it.
    pub(super) fn waiting(&self, index: usize) -> (u64, u64) {
        self.lanes.get(index).map_or((0, 0), |lane| (lane.gathering.len() as u64, lane.in_flight.len() as u64))
    }

    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Judges what a target remembers.
    pub(super) fn judge(&mut self, index: usize, its: &Recollection, known: Known<'_>) -> Verdict {
        let Some(lane) = self.lanes.get_mut(index) else {
            return Verdict::Continue;
        };
        let ours = self.first_sequence..=self.sequence;
        let known = Known {
            written: lane.written,
            sequence: lane.confirmed_sequence,
            acquainted: lane.acquainted,
            is_ours: its.record.as_ref().is_some_and(|record| ours.contains(&record.sequence)),
            remembered: lane.recent.reaches_back_to(),
            ..known
        };
        let verdict = judge(&known, its);
        if lane.stance == Stance::Unjudged {
            lane.stance = Stance::Judged;
        }
        lane.floor = match (&verdict, &its.record) {
            (Verdict::Continue, Some(record)) => (record.applied, record.settled),
            _ => (Lsn::ZERO, Lsn::ZERO),
        };
        // It may have lost those too.
        lane.marks.1 = true;
        verdict
    }

    /// Takes a judgement back: nothing is sent before the next one.
    pub(super) fn judge_later(&mut self, index: usize) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.unjudge();
        }
    }

    /// Gives what a worker that waits for an answer has to send, so that no record is written before: everything that
    /// `put` puts in. Where the worker has nothing to send again, it is gathered here instead.
    pub(super) fn mend(&mut self, index: usize, put: impl FnOnce(&mut Recent, &mut Batch)) -> Batch {
        let mut answer = Batch::default();
        let Some(lane) = self.lanes.get_mut(index) else { return answer };
        if lane.in_flight.is_empty() {
            put(&mut lane.recent, &mut lane.gathering);
            self.ledger.gathered(index);
        } else {
            put(&mut lane.recent, &mut answer);
        }
        answer
    }

    /// The same, where no worker waits for an answer: behind whatever is in flight.
    pub(super) fn mend_later(&mut self, index: usize, put: impl FnOnce(&mut Recent, &mut Batch)) {
        if let Some(lane) = self.lanes.get_mut(index) {
            put(&mut lane.recent, &mut lane.gathering);
            self.ledger.gathered(index);
        }
    }

    /// The scopes of those rules of the lane that `of` picks.
    pub(super) fn scopes(&self, index: usize, of: impl Fn(RuleId) -> bool) -> Vec<Scope> {
        let ids = (0..=u16::MAX).map(RuleId);
        let picked = ids.zip(&self.routes).filter(|(rule, (lanes, _))| lanes.contains(&index) && of(*rule));
        picked.flat_map(|(_, (_, scopes))| scopes.iter().cloned()).collect()
    }

    /// The lanes that a rule goes to.
    pub(super) fn lanes_of(&self, rule: RuleId) -> Vec<usize> {
        self.routes.get(usize::from(rule.0)).map(|(lanes, _)| lanes.clone()).unwrap_or_default()
    }

    /// The rules that are whole have these marks now; the record will say so with the next delivery.
    pub(super) fn vouch(&mut self, index: usize, marks: &str) {
        if let Some(lane) = self.lanes.get_mut(index)
            && *lane.marks.0 != *marks
        {
            lane.marks = (marks.into(), true);
        }
    }

    /// Nothing more is sent to the lane.
    pub(super) fn halt(&mut self, index: usize) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.stance = Stance::Halted;
        }
    }

    /// The first lane whose worker has ended.
    pub(super) fn ended(&self) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.worker.has_ended())
    }

    /// Whether nothing is left to do for any target that answers.
    pub(super) fn is_drained(&self) -> bool {
        let drained = |(index, lane): (usize, &Lane)| {
            let is_quiet = lane.in_flight.is_empty() && lane.gathering.is_empty() && !lane.marks.1;
            is_quiet && !self.ledger.record_is_behind(index)
        };
        self.lanes.iter().enumerate().filter(|(_, lane)| lane.up).all(drained)
    }

    /// Sends whatever can be sent, and the last records.
    pub(super) fn ship_last(&mut self, now: Instant) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.settled_is_due |= self.ledger.record_is_behind(index);
        }
        self.ship(now);
    }

    /// Sends whatever can be sent: invalidations at once, a bare record where one is due.
    pub(super) fn ship(&mut self, now: Instant) {
        for index in 0..self.lanes.len() {
            while self.ship_one(index, now) {}
        }
    }

    fn ship_one(&mut self, index: usize, now: Instant) -> bool {
        let record_is_behind = self.ledger.record_is_behind(index);
        let settled = self.ledger.settled(index);
        let is_given_up = self.ledger.is_given_up(index);
        let awaited = self.awaited;
        let Some(lane) = self.lanes.get_mut(index) else {
            return false;
        };
        if lane.stance != Stance::Judged
            || !lane.worker.has_room()
            // Its scopes wait until it answers, and take nothing up meanwhile.
            || (is_given_up && !lane.up)
            || (lane.gathering.is_empty() && !lane.record_is_due(record_is_behind, awaited, now))
        {
            return false;
        }
        if lane.gathering.is_empty() && record_is_behind && !lane.settled_is_due {
            // However many had to move for somebody who waits, the next one comes in time.
            lane.paced_until = lane.paced_until.clamp(now, now + RECORD_SAVED) + RECORD_PACE;
        }
        let (system_id, timeline) = self.identity;
        self.sequence += 1;
        let record = Record {
            applied: self.ledger.decoded().max(lane.floor.0),
            settled: settled.max(lane.floor.1),
            system_id,
            timeline,
            sequence: self.sequence,
            marks: std::mem::take(&mut lane.marks.1).then(|| Arc::clone(&lane.marks.0)),
        };
        let batch = std::mem::replace(&mut lane.gathering, lane.spare.pop().unwrap_or_default());
        let ticket = self.ledger.sent(index, record.applied);
        if is_given_up {
            self.ledger.take_back(index);
            self.returned.push(index);
        }
        lane.settled_is_due = false;
        lane.last_sent = now;
        lane.in_flight.push_back((ticket, lane.oldest_commit.take()));
        // There is room, so it can only be refused where the worker has ended; then nothing is confirmed any more.
        lane.worker.send(Shipment { ticket, delivery: Delivery { batch, record } }).is_ok()
    }

    /// A target has confirmed a delivery. Gives the commit time of the oldest commit in it.
    pub(super) fn confirmed(&mut self, index: usize, ticket: Ticket, delivery: Delivery) -> Option<PgTime> {
        let counts = self.ledger.confirmed(index, ticket, delivery.record.applied);
        let lane = self.lanes.get_mut(index)?;
        let at = lane.in_flight.iter().position(|(sent, _)| *sent == ticket);
        let oldest_commit = at.and_then(|at| lane.in_flight.remove(at)).and_then(|(_, oldest)| oldest);
        if counts {
            lane.written = lane.written.max(delivery.record.applied);
            lane.confirmed_sequence = lane.confirmed_sequence.max(delivery.record.sequence);
        }
        lane.acquainted = true;
        lane.recent.remember(delivery.record.applied, &delivery.batch);
        lane.settled_is_due |= !delivery.batch.is_empty();
        let mut batch = delivery.batch;
        batch.clear();
        lane.spare.push(batch);
        oldest_commit
    }
}

impl Lane {
    fn unjudge(&mut self) {
        if self.stance == Stance::Judged {
            self.stance = Stance::Unjudged;
        }
    }

    fn record_is_due(&self, is_behind: bool, awaited: Lsn, now: Instant) -> bool {
        let moves = is_behind && (self.written < awaited || self.paced_until <= now + RECORD_SAVED);
        let heartbeat = now.duration_since(self.last_sent) >= RECORD_PACE;
        self.in_flight.is_empty() && (self.settled_is_due || self.marks.1 || moves || heartbeat)
    }
}

impl Lanes {
    /// Puts something into every gathering batch that `rule` goes to, and coarsens those that have grown too large.
    fn gather(&mut self, rule: RuleId, put: impl Fn(&mut Batch)) {
        let Lanes { lanes, routes, ledger, pending_keys_max, commit_time, .. } = self;
        let Some((to, _)) = routes.get(usize::from(rule.0)) else {
            return;
        };
        for &index in to {
            let Some(lane) = lanes.get_mut(index) else { continue };
            if ledger.is_given_up(index) {
                continue;
            }
            put(&mut lane.gathering);
            ledger.gathered(index);
            if lane.oldest_commit.is_none() {
                lane.oldest_commit = *commit_time;
            }
            if lane.gathering.len() > *pending_keys_max || lane.gathering.bytes() > BATCH_BYTES_MAX {
                lane.gathering.coarsen(|rule| routes.get(usize::from(rule.0)).map_or(&[][..], |(_, scopes)| scopes));
            }
        }
    }
}

fn micros_since_epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}

/// Whether it holds more keys named by hand than `most`.
fn is_stuck(lane: &Lane, most: usize) -> bool {
    let Load { keys, bytes } = lane.gathering.by_hand();
    keys > most || bytes > BATCH_BYTES_MAX / 2
}

impl Gather for Lanes {
    fn key(&mut self, rule: RuleId, action: Action, key: &[u8]) {
        self.gather(rule, |batch| batch.push(action, rule, key));
    }

    fn scope(&mut self, rule: RuleId, scope: &Scope) {
        self.gather(rule, |batch| batch.push_scope(scope));
    }

    fn by_hand(&mut self, key: &[u8]) {
        let most = self.pending_keys_max / 2;
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            // No scope stands in for it, and reading cannot wait for a target that the slot does not wait for.
            if self.ledger.is_given_up(index) && is_stuck(lane, most) {
                self.lost_by_hand += 1;
                continue;
            }
            lane.gathering.push_by_hand(Action::Delete, key);
            self.ledger.gathered(index);
        }
    }
}
