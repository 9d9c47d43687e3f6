//! The protocol: what waits for which target, what may leave, and how far the slot may be acknowledged.
//!
//! The core does no IO and reads no clock. Rows come in by plain calls ([`Gather`](crate::transaction::Gather)) between
//! [`Core::begun`] and [`Core::committed`]; everything else is an [`Input`] of [`Core::step`]. What has to be done comes out of
//! [`Core::take_outputs`], and whoever performs it decides nothing. Everything that a commit is waiting for is a value in
//! here, once: a [`Pending`](pending::Pending) in one place of one target.
//!
//! Start with [`target::TargetState`], then [`watermark`].

mod attesting;
mod canonical;
pub mod continuity;
mod following;
mod gate;
mod gathering;
mod halting;
mod history;
mod input;
mod observing;
mod overflow;
mod pending;
mod policy;
mod probing;
mod reconciling;
mod repairing;
mod repeating;
mod replica_pass;
mod replicas;
mod sending;
mod suspending;
mod target;
#[cfg(test)]
mod tests;
mod uncounted;
mod visibility;
mod watermark;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::invalidation::RuleId;
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::record::StoredRecord;
use crate::rules::config::Rule;
use crate::snapshot::Commit;
pub use attesting::{ACKNOWLEDGE_BEHIND_EVERY, ACKNOWLEDGE_EVERY};
use continuity::Stuck;
pub use input::{Event, Input, Opening, Output, Reopen, Why};
use pending::Route;
pub use policy::{OnFirstStart, OnGap, Policy, RECENT_BYTES};
use repairing::Repair;
pub use replicas::{Absent, Replicas};
pub use target::Ticket;
use target::{Floor, Mode, TargetState};
use uncounted::Uncounted;
use visibility::Visibility;
pub use watermark::{AckLsn, Watermarks};

/// The most deliveries to one target that are sent and not confirmed. Enough to keep the wire busy; more would only make
/// batches smaller, because what is not sent yet keeps gathering.
pub const WINDOW_DELIVERIES: usize = 4;

/// How often the loop turns when nothing happens.
pub const TURN_EVERY: Duration = Duration::from_millis(100);

/// All targets, and everything that waits for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Core {
    policy: Uncounted<Policy>,
    /// The slot that is followed, as records name it.
    slot: Uncounted<Arc<str>>,
    following: following::Following,
    decoded: Lsn,
    acknowledged: Lsn,
    visibility: Visibility,
    probing: probing::Probing,
    replicas: Replicas,
    targets: Vec<TargetState>,
    /// In the order of the rules' ids.
    routes: Uncounted<Arc<[Route]>>,
    /// For each rule, the commit record of the latest transaction that made a key of it since the history is followed.
    touched: Vec<Lsn>,
    catalogue: observing::Catalogue,
    stuck: Stuck,
    halts: halting::Halts,
    attesting: attesting::Attesting,
    /// Targets whose records were read when they could not be reconciled yet.
    early: Vec<(usize, StoredRecord)>,
    /// The transaction that is being read, and when it was committed.
    commit: Option<(Commit, PgTime)>,
    /// The last commit record that replicas have to replay, and the one that they were last asked for.
    furthest: Lsn,
    polled: Lsn,
    /// What replicas that have left had replayed when the rules were listed last.
    left_when_listed: Option<Lsn>,
    /// A target that the slot waits for holds more manual keys than it may.
    manual_is_full: bool,
    /// Manual keys that a suspended target could not hold, not told yet.
    manual_lost: u64,
    /// Stored records may list other rules than before.
    rules_are_due: bool,
    /// The sequence of the last delivery, over all targets.
    sequence: u64,
    /// The last one before the slot was followed.
    sequence_before: u64,
    /// Where the log ended at the last look at the server.
    log_end: Option<Lsn>,
    /// Somebody waits for this position: records that are behind it move at once.
    awaited: Lsn,
    shown: history::Shown,
    /// Targets that turned out to belong to another history.
    other_histories: Vec<(usize, Commit)>,
    /// Nothing more is read.
    is_draining: bool,
    outputs: Uncounted<Vec<Output>>,
}

impl Core {
    /// `count` targets, in the order of the numbers that rules name; `slot` is the one that is followed.
    pub fn new(count: usize, rules: Vec<Rule>, slot: &str, policy: Policy, replicas: Replicas, now: Instant) -> Core {
        let target = || TargetState::new(policy.recent_bytes / count.max(1), now);
        let route = |rule: &Rule| Route { targets: rule.targets.clone(), scopes: rule.scopes.as_slice().into() };
        Core {
            following: following::Following::new(now),
            decoded: Lsn::ZERO,
            acknowledged: Lsn::ZERO,
            visibility: Visibility::default(),
            probing: probing::Probing::new(now),
            replicas,
            targets: std::iter::repeat_with(target).take(count).collect(),
            routes: Uncounted(rules.iter().map(route).collect()),
            touched: vec![Lsn::ZERO; rules.len()],
            stuck: Stuck::new(policy.decoding_timeout),
            halts: halting::Halts::new(count, &rules),
            catalogue: observing::Catalogue::new(rules, policy.wal_budget),
            attesting: attesting::Attesting::new(now),
            policy: Uncounted(policy),
            slot: Uncounted(slot.into()),
            early: Vec::new(),
            commit: None,
            furthest: Lsn::ZERO,
            polled: Lsn::ZERO,
            left_when_listed: None,
            manual_is_full: false,
            manual_lost: 0,
            rules_are_due: false,
            sequence: 0,
            sequence_before: u64::MAX,
            log_end: None,
            awaited: Lsn::ZERO,
            shown: history::Shown::default(),
            other_histories: Vec::new(),
            is_draining: false,
            outputs: Uncounted::default(),
        }
    }

    /// A core without targets: everything decoded after `start` may be acknowledged.
    pub fn without_targets(start: Lsn) -> Core {
        let now = Instant::now();
        let replicas = Replicas::new(0, Duration::ZERO, now);
        let mut core = Core::new(0, Vec::new(), "", Policy::patient(), replicas, now);
        (core.decoded, core.acknowledged) = (start, start);
        core
    }

    /// Something has happened. What follows is in [`Core::take_outputs`].
    pub fn step(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::StreamOpened(opening, clock_us) => self.stream_opened(opening, clock_us, now),
            Input::StreamClosed if self.walsender().is_none() => {}
            Input::StreamClosed => self.stream_closed(),
            Input::SlotBusy => self.slot_busy(),
            Input::SlotLost(why) => self.following.lost_because = Some(why.to_owned()),
            Input::Snapshot(walsender, snapshot) => self.probe_answered(walsender, snapshot, now),
            Input::ReplicaReported(replica, seen) => self.replica_reported(replica, seen, now),
            Input::Observed(look, reinherited) => self.observed(look, reinherited, now),
            Input::Unobserved => self.attestation_is_out_of_reach(),
            Input::Attested(walsender) => self.attested(walsender),
            Input::RecordLoaded(target, stored) => self.record_loaded(target, stored, now),
            Input::Confirmed(target, ticket, delivery) => {
                let oldest = self.confirmed(target, ticket, delivery, now);
                self.tell(Event::Applied(oldest));
            }
            Input::Flushed(target, ticket, batch) => {
                let oldest = self.flushed(target, ticket, batch, now);
                self.tell(Event::Applied(oldest));
            }
            Input::Trouble(target, may_have_changed) => {
                if may_have_changed {
                    self.doubt(target);
                }
                self.set_up(target, false);
            }
            Input::Up(target) => self.set_up(target, true),
            Input::Turned => self.turned(now),
            Input::Read(is_behind) => self.read(is_behind, now),
            Input::Drain => self.is_draining = true,
        }
    }

    /// Moves everything on by as much as there is room for.
    fn read(&mut self, is_behind: bool, now: Instant) {
        self.got_past_failure();
        self.other_histories();
        self.release(now);
        self.bound();
        self.pass_or_probe(now);
        if std::mem::take(&mut self.rules_are_due) {
            self.list_rules();
        }
        if self.is_draining {
            self.send_last(now);
        } else {
            self.send(now);
        }
        self.tell_source(is_behind, now);
        match std::mem::take(&mut self.manual_lost) {
            0 => {}
            lost => self.tell(Event::ManualLost(lost)),
        }
        for (target, rules) in self.take_overflows() {
            self.tell(Event::Overflowed(target, rules));
        }
    }

    /// When the loop has to turn although nothing happens.
    pub fn turn_due(&self, now: Instant) -> Instant {
        let due = self.probe_due().into_iter().chain(self.next_repeat()).chain(self.record_due(now));
        due.chain(self.acknowledgement_due(now)).fold(now + TURN_EVERY, Instant::min)
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push(Output::Event(event));
    }

    /// Another history is followed from `start` on, for the first time or because the one before came to an end:
    /// everything up to there is settled as far as the slot knows, but every target may have missed any of it and is
    /// asked for its record.
    fn begin(&mut self, start: Lsn, clock_us: u64) {
        self.let_all_pass(Lsn::ZERO);
        (self.decoded, self.acknowledged) = (start, start);
        self.touched.fill(Lsn::ZERO);
        self.sequence = self.sequence.max(clock_us);
        self.sequence_before = self.sequence;
        (self.awaited, self.commit) = (Lsn::ZERO, None);
        for (index, target) in self.targets.iter_mut().enumerate() {
            target.clamp(Lsn::ZERO);
            target.unverified = Some(Lsn::ZERO);
            if target.suspended.take().is_some() {
                self.outputs.push(Output::Event(Event::Resumed(index)));
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
    fn fork(&mut self, at: Lsn) {
        let decoded = self.decoded;
        self.let_all_pass(at);
        self.decoded = self.decoded.min(at);
        self.acknowledged = self.acknowledged.min(at);
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
    fn is_awaited(&self) -> bool {
        self.acknowledged < self.awaited
    }

    /// Nothing is sent to any target before its record was loaded again.
    fn unverify(&mut self) {
        self.targets.iter_mut().for_each(TargetState::unverify);
    }

    /// Asks every target for its record that may not be sent anything before.
    fn load_records(&mut self) {
        let unverified = |target: &(usize, &TargetState)| target.1.mode == Mode::Unverified;
        let unverified = self.targets.iter().enumerate().filter(unverified);
        self.outputs.extend(unverified.map(|(target, _)| Output::LoadRecord(target)));
    }

    /// It is not known what the target holds: its connection is lost. Nothing more of it counts as applied until
    /// [`Core::verified`].
    fn doubt(&mut self, target: usize) {
        let decoded = self.decoded;
        if let Some(target) = self.targets.get_mut(target) {
            target.unverified.get_or_insert(decoded);
        }
    }

    /// The target has missed what was sent to it after `at`: no more than that counts as applied until the repair is
    /// confirmed.
    fn missed_since(&mut self, target: usize, at: Lsn) {
        let at = at.min(self.decoded);
        if let Some(target) = self.targets.get_mut(target) {
            target.sent_mut().for_each(|sent| sent.since = sent.since.min(at));
            target.stages.all_mut().for_each(|pending| pending.clamp(at));
            target.unverified = Some(target.unverified.map_or(at, |since| since.min(at)));
        }
    }

    /// The target's record was reconciled, and what it may have missed is gathered.
    fn verified(&mut self, target: usize) {
        if let Some(target) = self.targets.get_mut(target).filter(|target| target.mode != Mode::Halted) {
            target.unverified = None;
        }
    }

    /// The target answers, or does not.
    fn set_up(&mut self, target: usize, up: bool) {
        if let Some(target) = self.targets.get_mut(target) {
            target.up = up;
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

    /// The targets that a rule goes to.
    pub fn targets_of(&self, rule: RuleId) -> Vec<usize> {
        self.routes.get(usize::from(rule.0)).map(|route| route.targets.clone()).unwrap_or_default()
    }

    /// Those rules of a target that `of` picks.
    fn rules_of(&self, target: usize, of: impl Fn(RuleId) -> bool) -> Vec<RuleId> {
        let ids = (0..=u16::MAX).map(RuleId).zip(self.routes.iter());
        let picked = ids.filter(|(rule, route)| route.targets.contains(&target) && of(*rule));
        picked.map(|(rule, _)| rule).collect()
    }

    /// What has to be done, in order, is moved behind what is in `into`.
    pub fn take_outputs(&mut self, into: &mut Vec<Output>) {
        into.append(&mut self.outputs);
    }
}

/// The last position that is replayed by whoever has replayed everything before `at`.
fn just_before(at: Lsn) -> Lsn {
    Lsn::new(at.as_u64().saturating_sub(1))
}

/// Whether a rule goes to the target.
fn goes_to(target: usize) -> impl Fn(&Rule) -> bool {
    move |rule| rule.targets.contains(&target)
}
