//! The protocol: what waits for which target, what may leave, and how far the slot may be acknowledged.
//!
//! The core does no IO and reads no clock. Rows come in by plain calls ([`Gather`](crate::transaction::Gather)); everything
//! else is a method that takes what happened and, where time matters, `now`. What has to be done comes out of
//! [`Core::take_outputs`], and whoever performs it decides nothing. Everything that a commit is waiting for is a value in
//! here, once: a [`Pending`](pending::Pending) in one place of one target.
//!
//! Start with [`target::TargetState`], then [`watermark`].

mod gathering;
mod history;
mod passing;
mod pending;
mod repairing;
mod repeating;
mod replica_pass;
mod replicas;
mod sending;
mod suspending;
mod target;
#[cfg(test)]
mod tests;
mod visibility;
mod watermark;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::continuity::{Gap, Known, Server, Verdict, judge};
use crate::invalidation::{Batch, RuleId};
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::record::{Delivery, Recollection};
use crate::rules::config::Rule;
use crate::sight::Commit;
use crate::table::TableName;
use pending::Route;
pub use repairing::Repair;
pub use replicas::{Replicas, Standing, Turn, Why};
pub use target::Ticket;
use target::{Floor, Mode, TargetState};
pub use visibility::Visibility;
pub use watermark::{AckLsn, Watermarks};

/// What all targets together were delivered lately and is kept in memory, in bytes, to be sent again to a target that has
/// lost it.
const RECENT_BYTES: usize = 8 << 20;

/// The most deliveries to one target that are sent and not confirmed. Enough to keep the wire busy; more would only make
/// batches smaller, because what is not sent yet keeps gathering.
pub const WINDOW_DELIVERIES: usize = 4;

/// What the core needs of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `limits.max_pending_keys`.
    pub pending_keys: usize,
    /// `repeat_after`; zero for never.
    pub repeat_after: Duration,
}

/// Something to be done.
#[derive(Debug)]
pub enum Output {
    /// Send a delivery to a target. The worker has room: no more than [`WINDOW_DELIVERIES`] are in flight.
    Send {
        /// Which target.
        target: usize,
        /// Comes back with the confirmation.
        ticket: Ticket,
        /// What to send.
        delivery: Delivery,
    },
    /// Have a target flush the scopes of a batch, beside its deliveries. No other flush of it is in flight.
    Flush {
        /// Which target.
        target: usize,
        /// Comes back with the confirmation.
        ticket: Ticket,
        /// Scopes and nothing else.
        batch: Batch,
    },
    /// Ask a target for its stored record before anything more is sent to it.
    LoadRecord {
        /// Which target.
        target: usize,
    },
}

/// All targets, and everything that waits for them.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    decoded: Lsn,
    acknowledged: Lsn,
    pub(crate) visibility: Visibility,
    targets: Vec<TargetState>,
    /// In the order of the rules' ids.
    routes: Vec<Route>,
    /// For each rule, the commit record of the latest transaction that made a key of it since the history is followed.
    touched: Vec<Lsn>,
    /// System identifier and timeline of the source.
    identity: (u64, u32),
    /// The transaction that is being read, and when it was committed.
    commit: Option<(Commit, PgTime)>,
    /// The last commit record that replicas have to replay.
    furthest: Lsn,
    replay: replica_pass::Replay,
    /// A target that the slot waits for holds more manual keys than it may.
    manual_is_full: bool,
    /// Manual keys that a suspended target could not hold, not reported yet.
    manual_lost: u64,
    /// Tables that were flushed manually while a target was halted, not looked at yet.
    manual_flushes: BTreeSet<TableName>,
    /// Stored records may list other rules than before.
    rules_are_due: bool,
    /// The sequence of the last delivery, over all targets.
    sequence: u64,
    /// The first one since the slot is followed.
    first_sequence: u64,
    /// Where the log ended at the last look at the server.
    log_end: Option<Lsn>,
    /// Somebody waits for this position: records that are behind it move at once.
    awaited: Lsn,
    shown: history::Shown,
    /// Targets that belong to another history, not reported yet.
    other_histories: Vec<(usize, Commit)>,
    /// Suspended targets that are served again, not reported yet.
    resumed: Vec<usize>,
    outputs: Vec<Output>,
}

impl Core {
    /// `count` targets, in the order of the numbers that rules name. `clock_us`, microseconds since 1970, makes sequences
    /// later than whatever another process has given out.
    pub fn new(count: usize, rules: &[Rule], limits: Limits, now: Instant, clock_us: u64) -> Core {
        let target = || TargetState::new(RECENT_BYTES / count.max(1), now);
        Core {
            limits,
            decoded: Lsn::ZERO,
            acknowledged: Lsn::ZERO,
            visibility: Visibility::default(),
            targets: std::iter::repeat_with(target).take(count).collect(),
            routes: rules
                .iter()
                .map(|rule| Route { targets: rule.lanes.clone(), scopes: rule.scopes.as_slice().into() })
                .collect(),
            touched: vec![Lsn::ZERO; rules.len()],
            identity: (0, 0),
            commit: None,
            furthest: Lsn::ZERO,
            replay: replica_pass::Replay::default(),
            manual_is_full: false,
            manual_lost: 0,
            manual_flushes: BTreeSet::new(),
            rules_are_due: false,
            sequence: clock_us,
            first_sequence: u64::MAX,
            log_end: None,
            awaited: Lsn::ZERO,
            shown: history::Shown::default(),
            other_histories: Vec::new(),
            resumed: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// A core without targets: everything decoded after `start` may be acknowledged.
    pub fn without_targets(start: Lsn) -> Core {
        let limits = Limits { pending_keys: 0, repeat_after: Duration::ZERO };
        let mut core = Core::new(0, &[], limits, Instant::now(), 0);
        (core.decoded, core.acknowledged) = (start, start);
        core
    }

    /// Another history is followed from `start` on, for the first time or because the one before came to an end:
    /// everything up to there is settled as far as the slot knows, but every target may have missed any of it and is
    /// asked for its record.
    pub fn begin(&mut self, start: Lsn, (system_id, timeline): (u64, u32), clock_us: u64) {
        self.let_all_pass(Lsn::ZERO);
        (self.decoded, self.acknowledged) = (start, start);
        self.touched.fill(Lsn::ZERO);
        self.sequence = self.sequence.max(clock_us);
        self.first_sequence = self.sequence + 1;
        self.identity = (system_id, timeline);
        (self.awaited, self.commit) = (Lsn::ZERO, None);
        for (index, target) in self.targets.iter_mut().enumerate() {
            target.clamp(Lsn::ZERO);
            target.unverified = Some(Lsn::ZERO);
            if target.suspended.take().is_some() {
                self.resumed.push(index);
            }
            target.uncovered = None;
            target.unverify();
            (target.written, target.confirmed_sequence) = (Lsn::ZERO, 0);
            target.floor = Floor::default();
            target.recent.begin(start);
        }
    }

    /// The server is on another timeline, which left the one that was followed at `at`: what is gathered and sent of
    /// commits after that is not part of its history, and neither are the records of it.
    pub fn fork(&mut self, at: Lsn, timeline: u32) {
        let decoded = self.decoded;
        self.let_all_pass(at);
        self.decoded = self.decoded.min(at);
        self.acknowledged = self.acknowledged.min(at);
        self.identity.1 = timeline;
        self.awaited = self.awaited.min(at);
        self.commit = self.commit.filter(|(commit, _)| commit.at < at);
        for target in &mut self.targets {
            target.clamp(at);
            target.unverified.get_or_insert(at);
            if target.floor.applied > decoded {
                // A process before this one has sent more than this one has come to.
                target.recent.begin(target.floor.applied);
            }
            target.written = target.written.min(at);
            let Floor { applied, confirmed, settled } = target.floor;
            target.floor = Floor { applied: applied.min(at), confirmed: confirmed.min(at), settled: settled.min(at) };
        }
    }

    /// A transaction begins in the stream.
    pub fn begun(&mut self, commit: Commit, time: PgTime) {
        self.shows(commit);
        self.visibility.begun(commit);
        self.commit = Some((commit, time));
    }

    /// Its Commit message, which ends at `end`, was read, and its keys are gathered.
    pub fn committed(&mut self, end: Lsn) {
        self.shown.shows_up_to(end);
        self.decoded = self.decoded.max(end);
    }

    /// The source says, while no transaction is half read, that nothing before `at` is still to come.
    pub fn idle(&mut self, at: Lsn) {
        self.passes(at, None);
        self.decoded = self.decoded.max(at);
    }

    /// Somebody waits until everything before `at` is settled, and said so outside of every transaction.
    pub fn awaited(&mut self, at: Lsn) {
        self.idle(at);
        self.awaited = self.awaited.max(at);
    }

    /// Whether somebody waits for what is not acknowledged yet.
    pub fn is_awaited(&self) -> bool {
        self.acknowledged < self.awaited
    }

    /// Nothing is sent to any target before its record was loaded again.
    pub fn unverify(&mut self) {
        self.targets.iter_mut().for_each(TargetState::unverify);
    }

    /// Nothing is sent to this target before its record was loaded again.
    pub fn verify_later(&mut self, target: usize) {
        if let Some(target) = self.targets.get_mut(target) {
            target.unverify();
        }
    }

    /// Asks every target for its record that may not be sent anything before.
    pub fn load_records(&mut self) {
        let unverified = |target: &(usize, &TargetState)| target.1.mode == Mode::Unverified;
        let unverified = self.targets.iter().enumerate().filter(unverified);
        self.outputs.extend(unverified.map(|(target, _)| Output::LoadRecord { target }));
    }

    /// Compares a target's stored record with what is known. Unless the target is halted, it may be sent something from
    /// now on: what the verdict asks for first.
    pub fn reconcile(&mut self, index: usize, its: &Recollection, server: Server<'_>) -> Verdict {
        let ours = self.first_sequence..=self.sequence;
        let Some(target) = self.targets.get_mut(index) else { return Verdict::Continue };
        let sequence = its.record.as_ref().map_or(0, |record| record.sequence);
        let is_known = its.record.as_ref().is_some_and(|record| record.system_id == server.system_id);
        let last = self.sequence;
        self.sequence = sequence.max(last);
        if is_known && sequence > last && target.written > Lsn::ZERO {
            // Told apart once: where the stream turns out to be open still, its clock was ahead of this one's.
            return Verdict::Overtaken;
        }
        let known = Known {
            server,
            written: target.written,
            sequence: target.confirmed_sequence,
            acquainted: target.acquainted,
            is_ours: target.sent > Lsn::ZERO && ours.contains(&sequence),
            remembered: target.recent.reaches_back_to(),
        };
        let verdict = judge(&known, its);
        if target.mode == Mode::Unverified {
            target.mode = Mode::Live;
        }
        target.floor = match (&verdict, &its.record) {
            (Verdict::Continue, Some(record)) => {
                Floor { applied: record.applied, confirmed: record.confirmed, settled: record.settled }
            }
            _ => Floor::default(),
        };
        // It may have lost those too.
        target.rules.1 = true;
        self.sweep_again(index);
        let Some(target) = self.targets.get_mut(index) else { return verdict };
        if let (Verdict::Continue | Verdict::Resend { .. }, Some(record), false) =
            (&verdict, &its.record, known.is_ours)
        {
            target.history = None;
            if let Some(commit) = self.expect_history(index, record.commit) {
                return Verdict::Gap(Gap::OtherHistory { commit });
            }
        }
        verdict
    }

    /// It is not known what the target holds: its connection is lost. Nothing more of it counts as applied until
    /// [`Core::verified`].
    pub fn doubt(&mut self, target: usize) {
        let decoded = self.decoded;
        if let Some(target) = self.targets.get_mut(target) {
            target.unverified.get_or_insert(decoded);
        }
    }

    /// The target has missed what was sent to it after `at`: no more than that counts as applied until the repair is
    /// confirmed.
    pub fn missed_since(&mut self, target: usize, at: Lsn) {
        if let Some(target) = self.targets.get_mut(target) {
            target.sent_mut().for_each(|sent| sent.since = sent.since.min(at));
            target.stages.all_mut().for_each(|pending| pending.clamp(at));
            target.unverified = Some(target.unverified.map_or(at, |since| since.min(at)));
        }
    }

    /// The target's record was reconciled, and what it may have missed is gathered.
    pub fn verified(&mut self, target: usize) {
        if let Some(target) = self.targets.get_mut(target).filter(|target| target.mode != Mode::Halted) {
            target.unverified = None;
        }
    }

    /// Nothing more is sent to the target until [`Core::release`].
    pub fn halt(&mut self, target: usize) {
        if let Some(target) = self.targets.get_mut(target) {
            target.mode = Mode::Halted;
        }
    }

    /// The target is halted no more, and its record is to be reconciled.
    pub fn release(&mut self, target: usize) {
        if let Some(target) = self.targets.get_mut(target) {
            target.mode = Mode::Unverified;
        }
    }

    /// A table was flushed manually. Remembered only while a target is halted.
    pub fn flushed_manually(&mut self, table: TableName) {
        if self.targets.iter().any(|target| target.mode == Mode::Halted) {
            self.manual_flushes.insert(table);
        }
    }

    /// The tables that were flushed manually since the last call.
    pub fn take_manual_flushes(&mut self) -> BTreeSet<TableName> {
        std::mem::take(&mut self.manual_flushes)
    }

    /// The target answers, or does not.
    pub fn set_up(&mut self, target: usize, up: bool) {
        if let Some(target) = self.targets.get_mut(target) {
            target.up = up;
        }
    }

    /// The rules that have missed nothing have these marks now; the record says so with the next delivery.
    pub fn mark_rules(&mut self, target: usize, marks: &str) {
        if let Some(target) = self.targets.get_mut(target)
            && *target.rules.0 != *marks
        {
            target.rules = (marks.into(), true);
        }
    }

    /// Number of targets.
    pub fn target_count(&self) -> usize {
        self.targets.len()
    }

    /// Keys gathered for a target, and deliveries on their way to it.
    pub fn waiting(&self, target: usize) -> (u64, u64) {
        let target = self.targets.get(target);
        target.map_or((0, 0), |target| (target.load().keys as u64, target.in_flight.len() as u64))
    }

    /// Scopes that a target is being flushed of.
    pub fn flushing(&self, target: usize) -> usize {
        self.targets.get(target).map_or(0, |target| target.in_flight.iter().map(|sent| sent.scopes).sum())
    }

    /// The furthest `applied` of a record that was sent to the target in the history that is followed.
    pub fn furthest_record(&self, target: usize) -> Lsn {
        self.targets.get(target).map_or(Lsn::ZERO, |target| target.sent)
    }

    /// The targets that a rule goes to.
    pub fn targets_of(&self, rule: RuleId) -> Vec<usize> {
        self.routes.get(usize::from(rule.0)).map(|route| route.targets.clone()).unwrap_or_default()
    }

    /// Those rules of a target that `of` picks.
    pub fn rules_of(&self, target: usize, of: impl Fn(RuleId) -> bool) -> Vec<RuleId> {
        let ids = (0..=u16::MAX).map(RuleId).zip(&self.routes);
        let picked = ids.filter(|(rule, route)| route.targets.contains(&target) && of(*rule));
        picked.map(|(rule, _)| rule).collect()
    }

    /// What has to be done, in order.
    pub fn take_outputs(&mut self) -> std::vec::Drain<'_, Output> {
        self.outputs.drain(..)
    }
}

/// The last position that is replayed by whoever has replayed everything before `at`.
fn just_before(at: Lsn) -> Lsn {
    Lsn::new(at.as_u64().saturating_sub(1))
}
