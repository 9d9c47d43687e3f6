//! What readers of the source and of its replicas see lets strikes pass.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::link::Link;
use super::{Pipeline, Stopped};
use crate::core::{Replicas, Standing, Turn};
use crate::lsn::Lsn;
use crate::sight::Sight;
use crate::source::{Question, Seen, Sighted, Source, SourceError, Stream};

/// How long an answer is waited for before strikes leave early.
const ANSWER_IS_LATE: Duration = Duration::from_millis(100);
/// Waits before it is asked again about a commit that an answer did not show. As a rule its backend is about to make it
/// visible; otherwise it waits for a synchronous standby.
const AGAIN_FIRST: Duration = Duration::from_micros(500);
/// The longest of them.
const AGAIN_MOST: Duration = Duration::from_millis(50);

/// The way to those who ask the source and its replicas.
pub struct Sights {
    /// Answers.
    pub sighted: mpsc::Receiver<Sighted>,
    /// Questions to the source.
    pub questions: watch::Sender<Question>,
    /// The position that replicas have to replay.
    pub wanted: watch::Sender<Lsn>,
    /// Those that are listed.
    pub replicas: Replicas,
}

impl Sights {
    /// There is a stream, from that process at the server.
    pub(super) fn opened(&mut self, seen: &Seen, walsender: u32) {
        self.replicas.opened(seen.system_id, seen.timeline, &seen.forks);
        // Asked although nothing waits yet: whether the source takes writes tells replicas from the source itself.
        self.ask(walsender);
        // What they said of another history counts no more, so they are asked at once.
        self.wanted.send_modify(|_| {});
    }

    /// What do readers of the server see that has this walsender?
    fn ask(&self, walsender: u32) {
        self.questions.send_modify(|question| {
            *question = Question { walsender: Some(walsender), number: question.number.wrapping_add(1) };
        });
    }

    /// There is none.
    pub(super) fn closed(&mut self) {
        self.questions.send_modify(|question| question.walsender = None);
    }
}

/// When the source was asked, and when to ask again.
#[derive(Debug)]
pub(super) struct Asked {
    at: Instant,
    again: Instant,
    pause: Duration,
    /// The source was in recovery when it answered last.
    in_recovery: bool,
    /// When the replicas were looked at last.
    replicas: Instant,
}

impl Asked {
    pub(super) fn new() -> Asked {
        let now = Instant::now();
        Asked { at: now, again: now, pause: AGAIN_FIRST, in_recovery: false, replicas: now }
    }
}

impl<S: Source + 'static> Pipeline<S> {
    /// Lets pass what may, and asks about the rest.
    pub(super) fn pass(&mut self, now: Instant) {
        let Link::Streaming { stream, .. } = &self.link else { return };
        let walsender = stream.walsender();
        if self.core.pass(now >= self.asked.again) {
            self.asked.at = now;
            self.sights.ask(walsender);
        } else if self.core.visibility.is_probing() && now >= self.asked.at + ANSWER_IS_LATE {
            self.core.answer_is_late();
            // Once for each such time, not at every turn.
            self.asked.at = now;
        }
        let furthest = self.core.furthest();
        if !self.sights.replicas.is_empty() && self.sights.replicas.wanted() < furthest {
            self.sights.replicas.want(furthest, now.into_std());
        }
        if now >= self.asked.replicas + super::TICK {
            // One that is silent says nothing either of being late.
            self.asked.replicas = now;
            self.replicas_turned();
        }
        let modify = |wanted: &mut Lsn| std::mem::replace(wanted, furthest) != furthest;
        self.sights.wanted.send_if_modified(modify);
    }

    /// When the loop has to turn although nothing happens.
    pub(super) fn next_turn(&self, now: Instant) -> Instant {
        let visibility = &self.core.visibility;
        // Without a stream nobody is asked or told anything, however late it is.
        let is_streaming = matches!(self.link, Link::Streaming { .. });
        let question = is_streaming.then(|| {
            let late = visibility.is_probing().then(|| self.asked.at + ANSWER_IS_LATE);
            late.or_else(|| visibility.is_blocked().then_some(self.asked.again))
        });
        // Where it would have been time, a backlog is being read, which may have come to its end.
        let next = (self.acknowledged_at + super::ACKNOWLEDGE_EVERY).max(now + super::ACKNOWLEDGE_EVERY / 2);
        let acknowledgement = (is_streaming && self.core.can_acknowledge()).then_some(next);
        let core_due =
            self.core.next_repeat().into_iter().chain(self.core.record_due(now.into_std())).map(Instant::from_std);
        let due = question.flatten().into_iter().chain(core_due);
        let due = due.chain(acknowledgement);
        due.fold(now + super::TICK, Instant::min)
    }

    pub(super) fn sighted(&mut self, sighted: Sighted) -> Result<(), Stopped> {
        match sighted {
            Sighted::Source { walsender, sight } => return self.source_seen(walsender, sight),
            Sighted::SourceAway(error) => self.recorder.unsighted(&error),
            Sighted::Replica { index, seen } => {
                self.sights.replicas.answered(index, seen, Instant::now().into_std());
                self.replicas_turned();
                self.recorder.replica_seen(index, seen.replayed);
            }
            Sighted::ReplicaAway { index, error } => self.recorder.replica_away(index, &error),
        }
        Ok(())
    }

    fn source_seen(&mut self, walsender: u32, sight: Sight) -> Result<(), Stopped> {
        let Link::Streaming { stream, .. } = &self.link else { return Ok(()) };
        if stream.walsender() != walsender {
            return Ok(());
        }
        self.recorder.sighted();
        let in_recovery = matches!(sight, Sight::Standby(_));
        self.sights.replicas.source_takes_writes(!in_recovery);
        if std::mem::replace(&mut self.asked.in_recovery, in_recovery) && !in_recovery {
            return self.lost(SourceError::Lost("the standby that is followed was promoted".to_owned()));
        }
        self.core.answered(sight);
        let now = Instant::now();
        self.asked.pause =
            if self.core.visibility.is_blocked() { (self.asked.pause * 2).min(AGAIN_MOST) } else { AGAIN_FIRST / 2 };
        self.asked.again = now + self.asked.pause;
        Ok(())
    }

    /// Who is waited for, and how far they have come.
    pub(super) fn replicas_turned(&mut self) {
        if self.sights.replicas.is_empty() {
            return;
        }
        while let Some(turn) = self.sights.replicas.turn(Instant::now().into_std()) {
            match turn {
                Turn::Left { replica, why } => self.recorder.replica_left(replica, why),
                Turn::Returned { replica, since } => {
                    self.recorder.replica_returned(replica);
                    for lane in 0..self.core.target_count() {
                        if self.core.replica_returned(lane, since) {
                            self.recorder.flushing(
                                lane,
                                "replica_returned",
                                "a replica is back that was not waited for",
                            );
                        }
                    }
                }
            }
        }
        let left = self.sights.replicas.standings().filter_map(|standing| match standing {
            Standing::Held => None,
            Standing::Left(since) => Some(since),
        });
        self.core.replayed(self.sights.replicas.replayed(), left.min());
        let (reached, is_healing) = (self.core.settled_at_most(), self.core.is_repairing());
        for (index, is_relied_on) in self.sights.replicas.are_relied_on(reached).enumerate() {
            self.recorder.replica_held(index, is_relied_on && !is_healing);
        }
    }
}
