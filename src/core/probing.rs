//! When the source is asked what its new snapshots show, and what its replicas' answers mean.

use std::time::{Duration, Instant};

use super::replicas::Turn;
use super::{Core, Event, Output, Reopen, Why};
use crate::snapshot::{ReplicaSeen, Snapshot};

/// How long an answer is waited for before invalidations leave early.
const ANSWER_IS_LATE: Duration = Duration::from_millis(100);
/// Waits before it is asked again about a commit that an answer did not show. As a rule its backend is about to make it
/// visible; otherwise it waits for a synchronous standby.
const AGAIN_FIRST: Duration = Duration::from_micros(500);
/// The longest of them.
const AGAIN_MOST: Duration = Duration::from_millis(50);
/// How often replicas are looked at that say nothing. One that is silent says nothing either of being late.
const REPLICAS_EVERY: Duration = Duration::from_millis(100);

/// When the source was asked, and when to ask again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Probing {
    at: Instant,
    again: Instant,
    pause: Duration,
    /// The source was in recovery when it answered last.
    in_recovery: bool,
    /// When the replicas were looked at last.
    replicas: Instant,
}

impl Probing {
    pub(super) fn new(now: Instant) -> Probing {
        Probing { at: now, again: now, pause: AGAIN_FIRST, in_recovery: false, replicas: now }
    }

    /// See [`Core::rest`].
    pub(super) fn rest(&mut self, now: Instant) {
        *self = Probing { in_recovery: self.in_recovery, ..Probing::new(now) };
    }
}

impl Core {
    /// Lets pass what may, and asks about the rest.
    pub(super) fn pass_or_probe(&mut self, now: Instant) {
        if self.walsender().is_none() {
            return;
        }
        if self.pass(now >= self.probing.again) {
            self.probing.at = now;
            self.outputs.push(Output::Probe);
        } else if self.visibility.is_probing() && now >= self.probing.at + ANSWER_IS_LATE {
            self.answer_is_late();
            // Once for each such time, not at every turn.
            self.probing.at = now;
        }
        if !self.replicas.is_empty() && self.replicas.wanted() < self.furthest {
            self.replicas.want(self.furthest, now);
        }
        if now >= self.probing.replicas + REPLICAS_EVERY {
            self.probing.replicas = now;
            self.replicas_turned(now);
        }
        if std::mem::replace(&mut self.polled, self.furthest) != self.furthest {
            self.outputs.push(Output::PollReplicas(self.furthest));
        }
    }

    /// When an answer is late, or it is time to ask again. Without a stream nobody is asked, however late it is.
    pub(super) fn probe_due(&self) -> Option<Instant> {
        self.walsender()?;
        let late = self.visibility.is_probing().then(|| self.probing.at + ANSWER_IS_LATE);
        late.or_else(|| self.visibility.is_blocked().then_some(self.probing.again))
    }

    /// The source says what its new snapshots show.
    pub(super) fn probe_answered(&mut self, walsender: u32, snapshot: Snapshot, now: Instant) {
        if self.walsender() != Some(walsender) {
            return;
        }
        let in_recovery = matches!(snapshot, Snapshot::Standby(_));
        self.replicas.source_takes_writes(!in_recovery);
        if std::mem::replace(&mut self.probing.in_recovery, in_recovery) && !in_recovery {
            return self.reopen(Reopen::Promoted);
        }
        self.answered(snapshot);
        self.probing.pause =
            if self.visibility.is_blocked() { (self.probing.pause * 2).min(AGAIN_MOST) } else { AGAIN_FIRST / 2 };
        self.probing.again = now + self.probing.pause;
    }

    /// A replica has answered.
    pub(super) fn replica_reported(&mut self, replica: usize, seen: ReplicaSeen, now: Instant) {
        self.replicas.answered(replica, seen, now);
        self.replicas_turned(now);
    }

    /// Which replicas are held, and how far they have come.
    pub(super) fn replicas_turned(&mut self, now: Instant) {
        if self.replicas.is_empty() {
            return;
        }
        while let Some(turn) = self.replicas.turn(now) {
            match turn {
                Turn::Left { replica, why } => self.tell(Event::ReplicaLeft(replica, why)),
                Turn::Returned { replica, since } => {
                    self.tell(Event::ReplicaReturned(replica));
                    for target in 0..self.target_count() {
                        if self.replica_returned(target, since) {
                            self.tell(Event::Flushing(target, Why::ReplicaReturned));
                        }
                    }
                }
            }
        }
        let left = self.replicas.left();
        self.rules_are_due |= std::mem::replace(&mut self.left_when_listed, left) != left;
        for target in 0..self.target_count() {
            self.take_replayed(target, |_| false);
        }
        let (reached, is_repairing) = (self.settled_at_most(), self.is_repairing());
        let relied_on: Vec<bool> = self.replicas.are_relied_on(reached).collect();
        for (index, is_relied_on) in relied_on.into_iter().enumerate() {
            self.tell(Event::ReplicaHeld(index, is_relied_on && !is_repairing));
        }
    }
}
