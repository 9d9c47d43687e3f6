//! When the source is asked what its new snapshots show, and what its replicas' answers mean.

use std::time::{Duration, Instant};

use super::replicas::Turn;
use super::{Core, Event, Output, Reopen};
use crate::types::lsn::Lsn;
use crate::types::snapshot::{ReplicaSeen, Snapshot};

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
    /// The last commit record that they were asked for.
    polled: Lsn,
    /// What replicas that have left had replayed when the rules were listed last.
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
    /// Lets pass what may, and asks about the rest.
    pub(super) fn pass_or_probe(&mut self, now: Instant) {
        if self.following.walsender().is_none() {
            return;
        }
        if self.pass(now >= self.probing.again) {
            self.probing.at = now;
            self.feed.outputs.push(Output::Probe);
        } else if self.feed.visibility.is_probing() && now >= self.probing.at + ANSWER_IS_LATE {
            self.answer_is_late();
            // Once for each such time, not at every turn.
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

    /// When an answer is late, or it is time to ask again. Without a stream nobody is asked, however late it is.
    pub(super) fn probe_due(&self) -> Option<Instant> {
        self.following.walsender()?;
        let late = self.feed.visibility.is_probing().then(|| self.probing.at + ANSWER_IS_LATE);
        late.or_else(|| self.feed.visibility.is_blocked().then_some(self.probing.again))
    }

    /// The source says what its new snapshots show.
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

    /// A replica has answered.
    pub(super) fn replica_reported(&mut self, replica: usize, seen: ReplicaSeen, now: Instant) {
        self.feed.replicas.answered(replica, seen, now);
        self.replicas_turned(now);
    }

    /// Which replicas are held, and how far they have come.
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
