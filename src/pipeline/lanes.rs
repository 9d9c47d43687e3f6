//! The rows of deliveries, one a target. What is gathered waits for the gate, leaves when there is room, is confirmed,
//! and leaves once more where replicas had not replayed it yet.

mod gathering;
mod gating;
mod giving_up;
mod pile;
mod repeating;
mod replicas;
mod shipping;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::Settings;
use crate::continuity::{Known, Recent, Verdict, judge};
use crate::gate::Gate;
use crate::invalidation::{Batch, RuleId, Scope};
use crate::ledger::{Ledger, Place, Places, Strike, Ticket};
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::record::Recollection;
use crate::rules::config::Rule;
use crate::sight::Commit;
use crate::table::TableName;
use crate::target::delivery::Lane as Worker;
use gathering::Routes;
use pile::{About, Pile};

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
    in_flight: VecDeque<Sent>,
    /// What waits to leave for the first time, by its [`Place`].
    waiting: Places<Pile>,
    /// What was confirmed once and waits for the replicas, oldest first.
    echoes: VecDeque<Pile>,
    /// What may be struck a second time.
    again: Pile,
    /// What waits to be repeated, soonest first, and what may be now.
    repeats: VecDeque<repeating::Repeat>,
    repeat: Pile,
    spare: Vec<Batch>,
    /// The furthest `applied` of a record confirmed since the slot is followed.
    written: Lsn,
    /// A record was confirmed to this process, whatever became of the slot since.
    acquainted: bool,
    /// The sequence of the last delivery confirmed since the slot is followed.
    confirmed_sequence: u64,
    recent: Recent,
    overflow: gathering::Overflow,
    /// The marks of the rules that are whole, and whether a record has still to be written with them.
    marks: (Arc<str>, bool),
    /// What the record said when it was last read: it is never moved back.
    floor: Floor,
    /// Invalidations were confirmed since the record last said what is settled, and it will say so by then.
    settled_due: Option<Instant>,
    last_sent: Instant,
    /// The moves of the record so far have used up the time until then; see [`shipping`].
    paced_until: Instant,
    /// Where it held the slot at the last look at the server, if it owed something then.
    held_at: Option<Lsn>,
}

/// What a record said when it was read.
#[derive(Debug, Clone, Copy, Default)]
struct Floor {
    applied: Lsn,
    struck: Lsn,
    settled: Lsn,
}

/// What is sent and not confirmed.
#[derive(Debug, Clone, Copy)]
struct Sent {
    ticket: Ticket,
    strike: Strike,
    about: About,
    /// What was decoded when it left.
    decoded: Lsn,
    /// How many scopes it flushes.
    scopes: usize,
}

/// All lanes, and the ledger that knows how far each has come.
pub(super) struct Lanes {
    pub(super) ledger: Ledger,
    pub(super) gate: Gate,
    lanes: Vec<Lane>,
    /// For each rule, in the order of its id, its lanes and scopes.
    routes: Vec<(Vec<usize>, Vec<Scope>)>,
    pending_keys_max: usize,
    /// A target that the slot waits for holds more keys named by hand than it may.
    is_stuck: bool,
    repeat_after: Duration,
    identity: (u64, u32),
    /// The transaction being read, and when it was committed.
    commit: Option<(Commit, PgTime)>,
    /// For each rule, the commit record of the latest transaction that made a key of it since the history is followed.
    touched: Vec<Lsn>,
    /// The commit record, or other position, that replicas have to replay.
    furthest: Lsn,
    replicas: replicas::Seen,
    /// Records may vouch for other rules than before.
    marks_are_due: bool,
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
    /// Tables that were flushed by hand while a lane was halted, not looked at yet.
    pub(super) flushed_by_hand: BTreeSet<TableName>,
}

impl Lanes {
    pub(super) fn new(workers: Vec<Worker>, rules: &[Rule], settings: &Settings) -> Self {
        let now = Instant::now();
        let recent_bytes = RECENT_BYTES / workers.len().max(1);
        let lane = |worker| Lane {
            up: false,
            stance: Stance::Unjudged,
            worker,
            in_flight: VecDeque::new(),
            waiting: Places::default(),
            echoes: VecDeque::new(),
            again: Pile::default(),
            repeats: VecDeque::new(),
            repeat: Pile::default(),
            spare: Vec::new(),
            written: Lsn::ZERO,
            acquainted: false,
            confirmed_sequence: 0,
            recent: Recent::new(recent_bytes),
            overflow: gathering::Overflow::default(),
            marks: ("".into(), false),
            floor: Floor::default(),
            settled_due: Some(now),
            last_sent: now,
            paced_until: now,
            held_at: None,
        };
        let lanes: Vec<Lane> = workers.into_iter().map(lane).collect();
        Lanes {
            ledger: Ledger::new(Lsn::ZERO, lanes.iter().map(|_| Lsn::ZERO)),
            gate: Gate::default(),
            lanes,
            routes: rules.iter().map(|rule| (rule.lanes.clone(), rule.scopes.clone())).collect(),
            pending_keys_max: settings.pending_keys_max,
            is_stuck: false,
            repeat_after: settings.repeat_after,
            identity: (0, 0),
            commit: None,
            touched: vec![Lsn::ZERO; rules.len()],
            furthest: Lsn::ZERO,
            replicas: replicas::Seen::default(),
            marks_are_due: false,
            // Later than whatever another process has given out before.
            sequence: micros_since_epoch(),
            first_sequence: u64::MAX,
            last_end: None,
            returned: Vec::new(),
            awaited: Lsn::ZERO,
            lost_by_hand: 0,
            flushed_by_hand: BTreeSet::new(),
        }
    }

    /// Another history is followed from `start` on, for the first time or because the one before came to an end:
    /// everything up to there is settled as far as the slot knows, but every target may have missed any of it and is
    /// asked what it remembers.
    pub(super) fn begin(&mut self, start: Lsn, system_id: u64, timeline: u32) {
        self.let_all_pass(Lsn::ZERO);
        self.ledger.begin_anew(start);
        self.touched.fill(Lsn::ZERO);
        self.sequence = self.sequence.max(micros_since_epoch());
        self.first_sequence = self.sequence + 1;
        self.identity = (system_id, timeline);
        self.awaited = Lsn::ZERO;
        for lane in &mut self.lanes {
            lane.unjudge();
            lane.written = Lsn::ZERO;
            lane.confirmed_sequence = 0;
            lane.floor = Floor::default();
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
        self.let_all_pass(at);
        self.ledger.fork(at);
        self.identity.1 = timeline;
        self.awaited = self.awaited.min(at);
        for lane in &mut self.lanes {
            if lane.floor.applied > decoded {
                // A process before this one has sent more than this one has come to.
                lane.recent.begin(lane.floor.applied);
            }
            lane.written = lane.written.min(at);
            let Floor { applied, struck, settled } = lane.floor;
            lane.floor = Floor { applied: applied.min(at), struck: struck.min(at), settled: settled.min(at) };
        }
    }

    /// Somebody waits until everything before `at` is settled, and said so outside of every transaction.
    pub(super) fn awaited(&mut self, at: Lsn) {
        self.ledger.idle(at);
        self.awaited = self.awaited.max(at);
    }

    /// Whether somebody waits for what is not acknowledged yet.
    pub(super) fn is_awaited(&self) -> bool {
        self.ledger.acknowledged().lsn() < self.awaited
    }

    pub(super) fn set_up(&mut self, index: usize, up: bool) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.up = up;
        }
    }

    /// Keys gathered for a target, and deliveries on their way to it.
    pub(super) fn waiting(&self, index: usize) -> (u64, u64) {
        self.lanes.get(index).map_or((0, 0), |lane| (lane.load().keys as u64, lane.in_flight.len() as u64))
    }

    /// Scopes that a target is being flushed of.
    pub(super) fn flushing(&self, index: usize) -> usize {
        self.lanes.get(index).map_or(0, |lane| lane.in_flight.iter().map(|sent| sent.scopes).sum())
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
            (Verdict::Continue, Some(record)) => {
                Floor { applied: record.applied, struck: record.struck, settled: record.settled }
            }
            _ => Floor::default(),
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

    /// Gives what a worker that waits for an answer has to send, so that no record is written before. Where the worker
    /// has nothing to send again, it leaves with the next delivery instead.
    pub(super) fn mend(&mut self, index: usize, mending: &Mending) -> Batch {
        let mut answer = Batch::default();
        if let Some(lane) = self.lanes.get_mut(index).filter(|lane| !lane.in_flight.is_empty()) {
            mending.put(&mut lane.recent, &self.routes, &mut answer);
            if let Some(oldest) = lane.in_flight.front_mut() {
                oldest.scopes += answer.scopes().len();
            }
        }
        // The worker gives nothing back that could be struck a second time.
        if answer.is_empty() || self.replicas.are_listed() {
            self.mend_later(index, mending);
        }
        answer
    }

    /// The same, where no worker waits for an answer: behind whatever is in flight.
    pub(super) fn mend_later(&mut self, index: usize, mending: &Mending) {
        let (decoded, are_listed) = (self.ledger.decoded(), self.replicas.are_listed());
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let ready = lane.waiting.at_mut(Place::Ready);
        mending.put(&mut lane.recent, &self.routes, &mut ready.batch);
        self.ledger.gathered(index, Place::Ready);
        if !mending.rules.is_empty() {
            ready.about.heals |= are_listed;
            self.marks_are_due |= are_listed;
            ready.about.last = ready.about.last.max(just_before(decoded));
            self.furthest = self.furthest.max(just_before(decoded));
            self.touch(&mending.rules);
        }
    }

    /// Those rules of the lane that `of` picks.
    pub(super) fn rules(&self, index: usize, of: impl Fn(RuleId) -> bool) -> Vec<RuleId> {
        let ids = (0..=u16::MAX).map(RuleId).zip(&self.routes);
        let picked = ids.filter(|(rule, (lanes, _))| lanes.contains(&index) && of(*rule));
        picked.map(|(rule, _)| rule).collect()
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

    /// Whether any lane is halted.
    pub(super) fn is_halted(&self) -> bool {
        self.lanes.iter().any(|lane| lane.stance == Stance::Halted)
    }

    /// The lane is halted no more, and is judged again.
    pub(super) fn release(&mut self, index: usize) {
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.stance = Stance::Unjudged;
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
}

/// What a target has to be sent beside what is gathered for it.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// What it was sent for commits after this position.
    pub(super) sent_after: Option<Lsn>,
    /// The rules whose scopes are flushed.
    pub(super) rules: Vec<RuleId>,
}

impl Mending {
    pub(super) fn is_nothing(&self) -> bool {
        self.sent_after.is_none() && self.rules.is_empty()
    }

    fn put(&self, recent: &mut Recent, routes: &Routes, into: &mut Batch) {
        if let Some(after) = self.sent_after {
            recent.since(after, into);
        }
        push_scopes(&self.rules, routes, into);
    }
}

/// Puts the scopes of these rules into a batch.
fn push_scopes(rules: &[RuleId], routes: &Routes, into: &mut Batch) {
    let of = |rule: &RuleId| routes.get(usize::from(rule.0)).map_or(&[][..], |(_, scopes)| scopes);
    rules.iter().flat_map(of).for_each(|scope| into.push_scope(scope));
}

impl Lane {
    fn unjudge(&mut self) {
        if self.stance == Stance::Judged {
            self.stance = Stance::Unjudged;
        }
    }

    /// All that waits.
    fn piles(&self) -> impl Iterator<Item = &Pile> {
        let repeats = self.repeats.iter().map(|repeat| &repeat.pile);
        self.waiting.all().chain(&self.echoes).chain([&self.again, &self.repeat]).chain(repeats)
    }

    fn piles_mut(&mut self) -> impl Iterator<Item = &mut Pile> {
        let repeats = self.repeats.iter_mut().map(|repeat| &mut repeat.pile);
        self.waiting.all_mut().chain(&mut self.echoes).chain([&mut self.again, &mut self.repeat]).chain(repeats)
    }

    fn pile(&mut self, place: Place) -> &mut Pile {
        self.waiting.at_mut(place)
    }
}

/// The last position that is replayed by whoever has replayed everything before `at`.
fn just_before(at: Lsn) -> Lsn {
    Lsn::new(at.as_u64().saturating_sub(1))
}

fn micros_since_epoch() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}
