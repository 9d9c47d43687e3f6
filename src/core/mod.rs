//! The invalidation protocol: what waits for each target, what may leave, and how far the slot may be acknowledged.
//!
//! The core does no IO and reads no clock. Rows come in by plain calls ([`Gather`](crate::transaction::Gather))
//! between [`Core::begun`] and [`Core::committed`]; everything else is an [`Input`] of [`Core::step`].
//! [`Core::take_outputs`] returns what has to be done, and the code that does it makes no decisions. Everything that a
//! commit waits for is one value in here: a [`Pending`](pending::Pending) in one place of one target.
//!
//! Start with [`target::TargetState`], then [`watermark`].

mod attesting;
mod canonical;
pub mod continuity;
mod early;
mod feed;
mod following;
mod gate;
mod gathering;
mod halting;
mod history;
mod input;
mod observing;
mod overflow;
mod pending;
mod probing;
mod queue;
mod reconciling;
mod record_state;
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

use std::time::{Duration, Instant};

use crate::pgoutput::PgTime;
use crate::rules::config::Rule;
use crate::types::invalidation::RuleId;
use crate::types::lsn::Lsn;
pub use crate::types::policy::{OnFirstStart, OnGap, Policy, RECENT_BYTES};
use crate::types::record::StoredRecord;
use crate::types::snapshot::Commit;
pub use attesting::{ACKNOWLEDGE_BEHIND_EVERY, ACKNOWLEDGE_EVERY};
use feed::Feed;
pub use input::{Event, Input, Opening, Output, Reopen, Why};
pub use queue::Ticket;
pub use replicas::{Absent, Replicas};
pub use sending::WINDOW_DELIVERIES;
use target::{Mode, TargetState};
pub use watermark::{AckLsn, Watermarks};

/// How often the loop turns when nothing happens.
pub const TURN_EVERY: Duration = Duration::from_millis(100);

/// All targets, and everything that waits for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Core {
    feed: Feed,
    targets: Vec<TargetState>,
    following: following::Following,
    shown: history::Shown,
    catalogue: observing::Catalogue,
    probing: probing::Probing,
    attesting: attesting::Attesting,
    /// Targets whose records were read before they could be reconciled, and the records.
    early: Vec<(usize, StoredRecord)>,
    manual: overflow::Manual,
    /// Reading has ended; only what is gathered is still sent.
    is_draining: bool,
}

impl Core {
    /// A core for `count` targets, numbered as in the rules, that follows `slot`.
    pub fn new(count: usize, rules: Vec<Rule>, slot: &str, policy: Policy, replicas: Replicas, now: Instant) -> Core {
        let target = |index| TargetState::new(index, policy.recent_bytes / count.max(1), now);
        Core {
            feed: Feed::new(&rules, policy, replicas),
            targets: (0..count).map(target).collect(),
            following: following::Following::new(slot, policy.decoding_timeout, now),
            shown: history::Shown::default(),
            catalogue: observing::Catalogue::new(rules, policy.wal_budget),
            probing: probing::Probing::new(now),
            attesting: attesting::Attesting::new(now),
            early: Vec::new(),
            manual: overflow::Manual::default(),
            is_draining: false,
        }
    }

    /// A core without targets: everything decoded after `start` may be acknowledged.
    pub fn without_targets(start: Lsn) -> Core {
        let now = Instant::now();
        let replicas = Replicas::new(0, Duration::ZERO, now);
        let mut core = Core::new(0, Vec::new(), "", Policy::patient(), replicas, now);
        (core.feed.decoded, core.attesting.acknowledged) = (start, start);
        core
    }

    /// Takes in one event. [`Core::take_outputs`] returns what has to be done about it.
    pub fn step(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::StreamOpened(opening, clock_us) => self.stream_opened(opening, clock_us, now),
            Input::StreamClosed if self.following.walsender().is_none() => {}
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
                self.with(target, |target, feed| target.confirmed(feed, ticket, delivery, now));
            }
            Input::Flushed(target, ticket, batch) => {
                self.with(target, |target, feed| target.flushed(feed, ticket, batch, now));
            }
            Input::Trouble(target, may_have_changed) => self.with(target, |target, feed| {
                target.up = false;
                if may_have_changed {
                    target.doubt(feed.decoded);
                }
            }),
            Input::Up(target) => self.with(target, |target, _| target.up = true),
            Input::Turned => self.turned(now),
            Input::Decoded(is_behind) => self.send_early(is_behind),
            Input::Read(is_behind) => self.read(is_behind, now),
            Input::Drain => self.is_draining = true,
        }
    }

    /// Moves everything to its next stage, as far as there is room.
    fn read(&mut self, is_behind: bool, now: Instant) {
        self.got_past_failure();
        self.other_histories();
        self.release(now);
        self.bound();
        self.pass_or_probe(now);
        if std::mem::take(&mut self.feed.rules_are_due) {
            self.list_rules();
        }
        if self.is_draining {
            self.send_last(now);
        } else {
            self.send(now);
        }
        self.tell_source(is_behind, now);
        match std::mem::take(&mut self.manual.lost) {
            0 => {}
            lost => self.feed.tell(Event::ManualLost(lost)),
        }
        for target in &mut self.targets {
            if let Some(rules) = target.queue.memory.overflow() {
                self.feed.tell(Event::Overflowed(*target.index, rules));
            }
        }
    }

    /// When the loop must turn even if nothing happens.
    pub fn turn_due(&self, now: Instant) -> Instant {
        let due = self.probe_due().into_iter().chain(self.next_repeat()).chain(self.record_due(now));
        due.chain(self.acknowledgement_due(now)).fold(now + TURN_EVERY, Instant::min)
    }

    /// Applies `act` to a target; does nothing if there is no target with this number.
    fn with(&mut self, target: usize, act: impl FnOnce(&mut TargetState, &mut Feed)) {
        if let Some(target) = self.targets.get_mut(target) {
            act(target, &mut self.feed);
        }
    }

    /// Follows another history from `start`, either the first one or because the previous one ended. The slot has
    /// everything up to `start` settled, but a target may have missed any of it, so each is asked for its record.
    fn begin(&mut self, start: Lsn, clock_us: u64) {
        self.let_all_pass(Lsn::ZERO);
        self.attesting.acknowledged = start;
        self.feed.begin(start, clock_us);
        self.targets.iter_mut().for_each(|target| target.begin(start, &mut self.feed));
    }

    /// The server is on another timeline, which left the followed one at `at`. Whatever was gathered or sent for later
    /// commits is not part of its history, and neither are the records of those deliveries.
    fn fork(&mut self, at: Lsn) {
        let decoded = self.feed.decoded;
        self.let_all_pass(at);
        self.feed.fork(at);
        self.attesting.acknowledged = self.attesting.acknowledged.min(at);
        self.targets.iter_mut().for_each(|target| target.fork(at, decoded));
    }

    /// A transaction begins in the stream.
    pub fn begun(&mut self, commit: Commit, time: PgTime) {
        self.shows(commit);
        self.feed.visibility.begun(commit);
        self.feed.commit = Some((commit, time));
    }

    /// The Commit message of the transaction, which ends at `end`, was read, and its keys are gathered.
    pub fn committed(&mut self, end: Lsn) {
        self.shown.shows_up_to(end);
        self.feed.decoded = self.feed.decoded.max(end);
    }

    /// Outside any transaction, the source reports that it has sent everything before `at`.
    pub fn idle(&mut self, at: Lsn) {
        self.passes(at, None);
        self.feed.decoded = self.feed.decoded.max(at);
    }

    /// Outside any transaction, a client has asked to wait until everything before `at` is settled.
    pub fn awaited(&mut self, at: Lsn) {
        self.idle(at);
        self.feed.awaited = self.feed.awaited.max(at);
    }

    /// Makes every target wait for its record: nothing is sent to it until the record is loaded again.
    fn unverify(&mut self) {
        self.targets.iter_mut().for_each(TargetState::unverify);
    }

    /// Asks every unverified target for its record.
    fn load_records(&mut self) {
        let unverified = self.targets.iter().filter(|target| target.mode == Mode::Unverified);
        self.feed.outputs.extend(unverified.map(|target| Output::LoadRecord(*target.index)));
    }

    /// Number of targets.
    pub fn target_count(&self) -> usize {
        self.targets.len()
    }

    /// Keys gathered for a target, and deliveries in flight to it.
    pub fn waiting(&self, target: usize) -> (u64, u64) {
        let queue = self.targets.get(target).map(|target| &target.queue);
        queue.map_or((0, 0), |queue| (queue.load().keys as u64, queue.in_flight.len() as u64))
    }

    /// Number of scopes that are being flushed from a target.
    pub fn flushing(&self, target: usize) -> usize {
        self.targets.get(target).map_or(0, |target| target.queue.in_flight.iter().map(|sent| sent.scopes).sum())
    }

    /// The targets that a rule goes to.
    pub fn targets_of(&self, rule: RuleId) -> Vec<usize> {
        self.feed.routes.get(usize::from(rule.0)).map(|route| route.targets.clone()).unwrap_or_default()
    }

    /// Moves what has to be done to the end of `into`, in order.
    pub fn take_outputs(&mut self, into: &mut Vec<Output>) {
        into.append(&mut self.feed.outputs);
    }
}

/// The last position that a replica has replayed once it has replayed everything before `at`.
fn just_before(at: Lsn) -> Lsn {
    Lsn::new(at.as_u64().saturating_sub(1))
}

/// Whether a rule goes to the target.
fn goes_to(target: usize) -> impl Fn(&Rule) -> bool {
    move |rule| rule.targets.contains(&target)
}
