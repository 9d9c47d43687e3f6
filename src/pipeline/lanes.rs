//! The rows of deliveries, one a target: gathering, sending, confirming.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::continuity::{Known, Verdict, judge};
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
/// A record on a stream that brings no invalidations moves at most this often, and, with nothing to say, about this
/// often too: it is how a target that has gone away is noticed.
const RECORD_PACE: Duration = Duration::from_secs(1);

/// One target's deliveries.
pub(super) struct Lane {
    up: bool,
    /// Whether the target has been asked what it remembers. Before that nothing is sent, or a record would be written
    /// over one that has not been read.
    judged: bool,
    worker: Worker,
    /// Tickets of what is sent and not confirmed, each with the commit time of the oldest commit in it.
    in_flight: VecDeque<(Ticket, Option<PgTime>)>,
    gathering: Batch,
    spare: Vec<Batch>,
    oldest_commit: Option<PgTime>,
    /// The furthest record confirmed to this process.
    written: Lsn,
    /// What the record said when it was last read: it is never moved back.
    floor: (Lsn, Lsn),
    /// Invalidations were confirmed since the record last said what is settled.
    settled_is_due: bool,
    last_sent: Instant,
    last_moved: Instant,
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
}

impl Lanes {
    pub(super) fn new(workers: Vec<Worker>, rules: &[Rule], pending_keys_max: usize) -> Self {
        let now = Instant::now();
        let lane = |worker| Lane {
            up: false,
            judged: false,
            worker,
            in_flight: VecDeque::new(),
            gathering: Batch::default(),
            spare: Vec::new(),
            oldest_commit: None,
            written: Lsn::ZERO,
            floor: (Lsn::ZERO, Lsn::ZERO),
            settled_is_due: true,
            last_sent: now,
            last_moved: now,
        };
        let lanes: Vec<Lane> = workers.into_iter().map(lane).collect();
        Lanes {
            ledger: Ledger::new(Lsn::ZERO, lanes.iter().map(|_| Lsn::ZERO)),
            lanes,
            routes: rules.iter().map(|rule| (rule.lanes.clone(), rule.scopes.clone())).collect(),
            pending_keys_max,
            identity: (0, 0),
            commit_time: None,
        }
    }

    /// The stream begins for the first time: everything up to `start` is settled as far as the slot knows, but a target
    /// that has not been asked yet may have missed any of it.
    pub(super) fn begin(&mut self, start: Lsn, system_id: u64, timeline: u32) {
        self.ledger = Ledger::new(start, self.lanes.iter().map(|_| Lsn::ZERO));
        self.identity = (system_id, timeline);
        (0..self.lanes.len()).for_each(|lane| self.ledger.doubt_everything(lane));
    }

    /// The server is on another timeline now; records say so from here on.
    pub(super) fn identify(&mut self, system_id: u64, timeline: u32) {
        self.identity = (system_id, timeline);
    }

    pub(super) fn commit_time(&mut self, time: PgTime) {
        self.commit_time = Some(time);
    }

    /// Whether there is room for more: as long as one target keeps up, the others do not hold it back. Keys named by
    /// hand do, because no scope can stand in for them: they may take half of what a target may be behind by.
    pub(super) fn has_room(&self) -> bool {
        let has_room = |lane: &Lane| lane.gathering.len() < INTAKE_KEYS && lane.gathering.bytes() < INTAKE_BYTES;
        let is_stuck = |lane: &Lane| {
            let Load { keys, bytes } = lane.gathering.by_hand();
            keys > self.pending_keys_max / 2 || bytes > BATCH_BYTES_MAX / 2
        };
        self.lanes.iter().any(has_room) && !self.lanes.iter().any(is_stuck)
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
    pub(super) fn judge(&mut self, index: usize, its: &Recollection, known: Known) -> Verdict {
        let Some(lane) = self.lanes.get_mut(index) else {
            return Verdict::Continue;
        };
        let verdict = judge(&Known { written: lane.written, ..known }, its);
        lane.judged = true;
        lane.floor = match (&verdict, &its.record) {
            (Verdict::Continue, Some(record)) => (record.applied, record.settled),
            _ => (Lsn::ZERO, Lsn::ZERO),
        };
        verdict
    }

    /// Sees to it that every scope of every rule of the lane is flushed. Gives the scopes that must go with what the
    /// worker is about to send again, so that no record is written before they are flushed; where it has nothing to
    /// send again they are gathered here.
    pub(super) fn heal(&mut self, index: usize) -> Vec<Scope> {
        if self.lanes.get(index).is_none_or(|lane| lane.in_flight.is_empty()) {
            self.heal_later(index);
            return Vec::new();
        }
        let its = self.routes.iter().filter(|(lanes, _)| lanes.contains(&index));
        its.flat_map(|(_, scopes)| scopes.iter().cloned()).collect()
    }

    /// Like [`Lanes::heal`], where no worker waits for an answer: behind whatever is in flight.
    pub(super) fn heal_later(&mut self, index: usize) {
        let Lanes { lanes, routes, ledger, .. } = self;
        let Some(lane) = lanes.get_mut(index) else {
            return;
        };
        let its = routes.iter().filter(|(lanes, _)| lanes.contains(&index));
        its.flat_map(|(_, scopes)| scopes).for_each(|scope| lane.gathering.push_scope(scope));
        ledger.gathered(index);
    }

    /// The first lane whose worker has ended.
    pub(super) fn ended(&self) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.worker.has_ended())
    }

    /// Whether nothing is left to do for any target that answers.
    pub(super) fn is_drained(&self) -> bool {
        let drained = |(index, lane): (usize, &Lane)| {
            lane.in_flight.is_empty() && lane.gathering.is_empty() && !self.ledger.record_is_behind(index)
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
        let applied = self.ledger.applied(index);
        let Some(lane) = self.lanes.get_mut(index) else {
            return false;
        };
        if !lane.judged
            || !lane.worker.has_room()
            || (lane.gathering.is_empty() && !lane.record_is_due(record_is_behind, now))
        {
            return false;
        }
        if lane.gathering.is_empty() && record_is_behind && !lane.settled_is_due {
            lane.last_moved = now;
        }
        let (system_id, timeline) = self.identity;
        let record = Record {
            applied: self.ledger.decoded().max(lane.floor.0),
            settled: applied.max(lane.floor.1),
            system_id,
            timeline,
        };
        let batch = std::mem::replace(&mut lane.gathering, lane.spare.pop().unwrap_or_default());
        let ticket = self.ledger.sent(index);
        lane.settled_is_due = false;
        lane.last_sent = now;
        lane.in_flight.push_back((ticket, lane.oldest_commit.take()));
        // There is room, so it can only be refused where the worker has ended; then nothing is confirmed any more.
        lane.worker.send(Shipment { ticket, delivery: Delivery { batch, record } }).is_ok()
    }

    /// A target has confirmed a delivery. Gives the commit time of the oldest commit in it.
    pub(super) fn confirmed(&mut self, index: usize, ticket: Ticket, delivery: Delivery) -> Option<PgTime> {
        self.ledger.confirmed(index, ticket, delivery.record.applied);
        let lane = self.lanes.get_mut(index)?;
        let at = lane.in_flight.iter().position(|(sent, _)| *sent == ticket);
        let oldest_commit = at.and_then(|at| lane.in_flight.remove(at)).and_then(|(_, oldest)| oldest);
        lane.written = lane.written.max(delivery.record.applied);
        lane.settled_is_due |= !delivery.batch.is_empty();
        let mut batch = delivery.batch;
        batch.clear();
        lane.spare.push(batch);
        oldest_commit
    }
}

impl Lane {
    fn record_is_due(&self, is_behind: bool, now: Instant) -> bool {
        let moves = is_behind && now.duration_since(self.last_moved) >= RECORD_PACE;
        let heartbeat = now.duration_since(self.last_sent) >= RECORD_PACE;
        self.in_flight.is_empty() && (self.settled_is_due || moves || heartbeat)
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

impl Gather for Lanes {
    fn key(&mut self, rule: RuleId, action: Action, key: &[u8]) {
        self.gather(rule, |batch| batch.push(action, rule, key));
    }

    fn scope(&mut self, rule: RuleId, scope: &Scope) {
        self.gather(rule, |batch| batch.push_scope(scope));
    }

    fn by_hand(&mut self, key: &[u8]) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.gathering.push_by_hand(Action::Delete, key);
            self.ledger.gathered(index);
        }
    }
}
