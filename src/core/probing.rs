//! Decides when to send a visibility probe and when to poll replicas, and acts on their answers.

use std::time::{Duration, Instant};

use super::replicas::Turn;
use super::{Core, Event, Output, Reopen};
use crate::types::lsn::Lsn;
use crate::types::snapshot::{ReplicaSeen, Snapshot};

/// How long to wait for an answer before every key that waits for it leaves early, however many there are.
const ANSWER_IS_LATE: Duration = Duration::from_millis(100);
/// The least time between two probes while everything leaves early.
const EARLY_PAUSE: Duration = Duration::from_millis(1);
/// The first wait before another probe for a commit that an answer did not show. Usually its backend is about to make
/// it visible; otherwise it waits for a synchronous standby.
const AGAIN_FIRST: Duration = Duration::from_micros(500);
/// The longest such wait.
const AGAIN_MOST: Duration = Duration::from_millis(50);
/// How often to check the replicas while none answers. A silent replica does not report either that it lags.
const REPLICAS_EVERY: Duration = Duration::from_millis(100);

/// When the source was last probed, and when to probe again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Probing {
    at: Instant,
    again: Instant,
    pause: Duration,
    /// The source was in recovery when it last answered.
    in_recovery: bool,
    /// When the replicas were last checked.
    replicas: Instant,
    /// The last commit record for which they were polled.
    polled: Lsn,
    /// What replicas that had left had replayed when the rules were last listed.
    left_when_listed: Option<Lsn>,
}

impl Probing {
    pub(super) fn new(now: Instant) -> Probing {
        Probing {
            at: now,
            again: now,
            pause: AGAIN_FIRST,
            in_recovery: false,
            replicas: now,
            polled: Lsn::ZERO,
            left_when_listed: None,
        }
    }

    /// The stream is a new one.
    pub(super) fn opened(&mut self, now: Instant) {
        let Probing { polled, left_when_listed, .. } = *self;
        *self = Probing { polled, left_when_listed, ..Probing::new(now) };
    }

    /// See [`Core::rest`].
    pub(super) fn rest(&mut self, now: Instant) {
        let in_recovery = self.in_recovery;
        self.opened(now);
        self.in_recovery = in_recovery;
    }
}

impl Core {
    /// Moves on what is visible, and probes for the rest.
    pub(super) fn pass_or_probe(&mut self, now: Instant) {
        if self.following.walsender().is_none() {
            return;
        }
        if self.pass(now >= self.probing.again, self.rests(now)) {
            self.probing.at = now;
            self.feed.outputs.push(Output::Probe);
        } else if self.feed.visibility.is_probing() && now >= self.probing.at + ANSWER_IS_LATE {
            self.answer_is_late();
            // Once per such interval, not at every turn.
            self.probing.at = now;
        }
        if !self.feed.replicas.is_empty() && self.feed.replicas.wanted() < self.feed.furthest {
            self.feed.replicas.want(self.feed.furthest, now);
        }
        if now >= self.probing.replicas + REPLICAS_EVERY {
            self.probing.replicas = now;
            self.replicas_turned(now);
        }
        if std::mem::replace(&mut self.probing.polled, self.feed.furthest) != self.feed.furthest {
            self.feed.outputs.push(Output::PollReplicas(self.feed.furthest));
        }
    }

    /// Whether the next probe can wait a moment, so that one answers for more commits: their keys have left early, and
    /// nobody waits for them to settle.
    fn rests(&self, now: Instant) -> bool {
        let is_awaited = || self.targets.iter().any(|target| target.record.recorded < self.feed.awaited);
        now < self.probing.at + EARLY_PAUSE && self.all_have_left_early() && !is_awaited()
    }

    /// When an answer becomes late, or the next probe is due. Without a stream there are no probes.
    pub(super) fn probe_due(&self) -> Option<Instant> {
        self.following.walsender()?;
        let visibility = &self.feed.visibility;
        let late = visibility.is_probing().then(|| self.probing.at + ANSWER_IS_LATE);
        let fresh = || (!visibility.is_clear()).then(|| self.probing.at + EARLY_PAUSE);
        late.or_else(fresh).or_else(|| visibility.is_blocked().then_some(self.probing.again))
    }

    /// The source answered a probe.
    pub(super) fn probe_answered(&mut self, walsender: u32, snapshot: Snapshot, now: Instant) {
        if self.following.walsender() != Some(walsender) {
            return;
        }
        let in_recovery = matches!(snapshot, Snapshot::Standby(_));
        self.feed.replicas.source_takes_writes(!in_recovery);
        if std::mem::replace(&mut self.probing.in_recovery, in_recovery) && !in_recovery {
            return self.reopen(Reopen::Promoted);
        }
        self.answered(snapshot);
        self.probing.pause =
            if self.feed.visibility.is_blocked() { (self.probing.pause * 2).min(AGAIN_MOST) } else { AGAIN_FIRST / 2 };
        self.probing.again = now + self.probing.pause;
    }

    /// A replica answered.
    pub(super) fn replica_reported(&mut self, replica: usize, seen: ReplicaSeen, now: Instant) {
        self.feed.replicas.answered(replica, seen, now);
        self.replicas_turned(now);
    }

    /// Updates which replicas are held, and how far they have replayed.
    pub(super) fn replicas_turned(&mut self, now: Instant) {
        if self.feed.replicas.is_empty() {
            return;
        }
        while let Some(turn) = self.feed.replicas.turn(now) {
            match turn {
                Turn::Left { replica, why } => self.feed.tell(Event::ReplicaLeft(replica, why)),
                Turn::Returned { replica, since } => {
                    self.feed.tell(Event::ReplicaReturned(replica));
                    self.targets.iter_mut().for_each(|target| target.replica_returned(&mut self.feed, since));
                }
            }
        }
        let left = self.feed.replicas.left();
        self.feed.rules_are_due |= std::mem::replace(&mut self.probing.left_when_listed, left) != left;
        self.targets.iter_mut().for_each(|target| target.queue.take_replayed(&self.feed, false));
        let (reached, is_repairing) = (self.settled_at_most(), self.is_repairing());
        let relied_on: Vec<bool> = self.feed.replicas.are_relied_on(reached).collect();
        for (index, is_relied_on) in relied_on.into_iter().enumerate() {
            self.feed.tell(Event::ReplicaHeld(index, is_relied_on && !is_repairing));
        }
    }
}
