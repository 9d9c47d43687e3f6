//! Decides which replicas are held, that is, which must replay a commit before the replica pass, and which are too far
//! behind to be waited for. Answers and times go in; replayed positions and turns come out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::types::lsn::Lsn;
use crate::types::server::Fork;
use crate::types::snapshot::ReplicaSeen;

/// The number of parts of the longest lag: the resolution at which the age of a position is known.
const MARKS: u32 = 256;

/// Why a replica is not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Absent {
    /// For this long, it has not replayed something that it should have.
    #[error("it has not replayed what was committed {} s ago", .0.as_secs())]
    Behind(Duration),
    /// It has not answered for this long.
    #[error("it has not answered for {} s", .0.as_secs())]
    Silent(Duration),
    /// It was restored, or lost in a crash what it had not yet written to disk.
    #[error("it has gone back to {to}")]
    Back {
        /// It has replayed everything before this position.
        to: Lsn,
    },
    /// It was restarted, and may have gone back for a moment.
    #[error("it was restarted, and its readers may have seen older values than before")]
    Restarted,
    /// It was promoted, or never was a replica.
    #[error("it is no replica: it takes writes, on timeline {timeline}")]
    Primary {
        /// Its timeline.
        timeline: u32,
    },
    /// It belongs to another database cluster.
    #[error("it is a replica of another database: its system identifier is {system_id}")]
    OtherDatabase {
        /// Its system identifier.
        system_id: u64,
    },
    /// It follows a timeline that is not part of the source's history.
    #[error("it is on timeline {timeline}, which is not part of the source's history")]
    OtherTimeline {
        /// Its timeline.
        timeline: u32,
    },
}

/// A replica is no longer waited for, or is waited for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// What it has not replayed settles without it.
    Left {
        /// Which one.
        replica: usize,
        /// Why.
        why: Absent,
    },
    /// It is waited for again. Its readers may have filled caches with values older than what had settled.
    Returned {
        /// Which one.
        replica: usize,
        /// It had replayed everything before this position when it left.
        since: Lsn,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Replica {
    /// Set while it is not waited for: it had replayed everything before this position when it left.
    left: Option<Lsn>,
    /// It has replayed everything before this position of the source's history.
    replayed: Lsn,
    /// When it last answered as a replica of the source; initially, the start of this process.
    answered: Instant,
    /// Why its last answer was not that of a replica of the source.
    strange: Option<Absent>,
    /// What it must have replayed before readers may rely on it; unknown until it is waited for.
    needs: Option<Lsn>,
    /// It has replayed less than before, and no turn has reported that yet: its readers see older values than what has
    /// settled. Zero if it is unknown how much less.
    back_to: Option<Lsn>,
    /// [`ReplicaSeen::run`] when it last answered as a replica of the source.
    run: Option<i64>,
}

/// The source, with which replicas are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Origin {
    system_id: u64,
    timeline: u32,
    forks: Vec<Fork>,
    takes_writes: bool,
}

/// All listed replicas.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Replicas {
    each: Vec<Replica>,
    max_lag: Duration,
    origin: Option<Origin>,
    /// Positions that must be replayed, and since when, oldest first.
    marks: VecDeque<(Lsn, Instant)>,
    /// The furthest position that must be replayed, and since when there is anything beyond the last mark.
    furthest: Option<(Lsn, Instant)>,
}

impl Replicas {
    /// `count` replicas, none of which has answered yet. A replica that is behind or silent for longer than `max_lag`
    /// is not waited for.
    pub fn new(count: usize, max_lag: Duration, now: Instant) -> Replicas {
        let replayed = Lsn::ZERO;
        let replica =
            || Replica { left: None, replayed, answered: now, strange: None, needs: None, back_to: None, run: None };
        Replicas {
            each: std::iter::repeat_with(replica).take(count).collect(),
            max_lag,
            origin: None,
            marks: VecDeque::new(),
            furthest: None,
        }
    }

    /// See [`Core::rest`](super::Core::rest). A replica that has left stays so until it answers.
    pub(super) fn rest(&mut self, now: Instant) {
        let long_ago = now.checked_sub(2 * self.max_lag).unwrap_or(now);
        for replica in &mut self.each {
            replica.answered = if replica.left.is_none() { now } else { long_ago };
        }
        self.marks.iter_mut().chain(&mut self.furthest).for_each(|(_, since)| *since = now);
    }

    /// Whether no replica is listed.
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    /// The stream of the source was opened. `forks`: where its log left earlier timelines, oldest first.
    pub fn opened(&mut self, system_id: u64, timeline: u32, forks: &[Fork]) {
        let takes_writes = self.origin.as_ref().is_some_and(|origin| origin.takes_writes);
        let origin = Origin { system_id, timeline, forks: forks.to_vec(), takes_writes };
        let before = self.origin.replace(origin.clone());
        let shared = before.map_or(Lsn::MAX, |before| origin.shares_with(&before));
        // What is not part of this history will never be replayed.
        self.marks.retain(|(at, _)| *at < shared);
        self.furthest = self.furthest.filter(|(at, _)| *at < shared);
        for replica in &mut self.each {
            // What was compared with another history must be reported again, and the former source may not be the
            // source any more.
            replica.replayed = if replica.replayed == Lsn::MAX { Lsn::ZERO } else { shared.min(replica.replayed) };
            replica.left = replica.left.map(|since| shared.min(since));
        }
    }

    /// Sets whether the source takes writes. If it does, a listed server on the same timeline that takes writes is the
    /// source.
    pub fn source_takes_writes(&mut self, takes_writes: bool) {
        if let Some(origin) = &mut self.origin {
            origin.takes_writes = takes_writes;
        }
    }

    /// The commit at `at` has to be replayed.
    pub fn want(&mut self, at: Lsn, now: Instant) {
        if self.each.is_empty() {
            return;
        }
        match &mut self.furthest {
            Some((furthest, since)) if now.duration_since(*since) < self.max_lag / MARKS => {
                *furthest = at.max(*furthest);
            }
            furthest => {
                let before = furthest.take();
                *furthest = Some((before.map_or(at, |(before, _)| at.max(before)), now));
                self.marks.extend(before);
                let too_many = self.marks.len().saturating_sub(2 * MARKS as usize);
                self.marks.drain(..too_many);
            }
        }
    }

    /// The furthest position that has to be replayed.
    pub fn wanted(&self) -> Lsn {
        self.furthest.map_or(Lsn::ZERO, |(at, _)| at)
    }

    /// Takes in a replica's answer.
    pub fn answered(&mut self, index: usize, seen: ReplicaSeen, now: Instant) {
        let (Some(replica), Some(origin)) = (self.each.get_mut(index), &self.origin) else { return };
        match origin.compare(seen) {
            Ok(replayed) => {
                let before = std::mem::replace(&mut replica.replayed, replayed);
                (replica.answered, replica.strange) = (now, None);
                // Only the history counts for a server that was promoted or demoted.
                let is_standby = before < Lsn::MAX && replayed < Lsn::MAX;
                let is_new = replica.run.replace(seen.run).is_some_and(|run| run != seen.run);
                let back_to = match (is_standby && is_new, is_standby && replayed < before) {
                    (true, _) => Some(Lsn::ZERO),
                    (false, is_back) => is_back.then_some(replayed),
                };
                replica.back_to = replica.back_to.into_iter().chain(back_to).min();
            }
            Err(why) => replica.strange = Some(why),
        }
        self.trim();
    }

    /// Forgets what all replicas have replayed, including those that are not waited for.
    fn trim(&mut self) {
        let slowest = self.each.iter().map(|replica| replica.replayed).min().unwrap_or(Lsn::MAX);
        while self.marks.front().is_some_and(|(at, _)| *at < slowest) {
            self.marks.pop_front();
        }
        self.furthest = self.furthest.filter(|(at, _)| *at >= slowest);
    }

    /// The next change by `now`; `None` if there are no more.
    pub fn turn(&mut self, now: Instant) -> Option<Turn> {
        let lags: Vec<(Duration, Absent)> = self.each.iter().map(|replica| self.lag(replica, now)).collect();
        for (index, (replica, (lag, why))) in self.each.iter_mut().zip(lags).enumerate() {
            let back_to = replica.back_to.take();
            match (replica.left, back_to) {
                (None, Some(to)) => {
                    replica.left = Some(to);
                    let why = if to == Lsn::ZERO { Absent::Restarted } else { Absent::Back { to } };
                    return Some(Turn::Left { replica: index, why });
                }
                (None, None) if lag > self.max_lag => {
                    replica.left = Some(replica.replayed);
                    return Some(Turn::Left { replica: index, why });
                }
                (None, None) => {}
                (Some(since), _) => {
                    let since = back_to.map_or(since, |to| to.min(since));
                    replica.left = Some(since);
                    // The limit is well below `max_lag`: otherwise a replica near it would leave and return all the
                    // time.
                    if lag <= self.max_lag / 2 && replica.replayed > Lsn::ZERO {
                        replica.left = None;
                        return Some(Turn::Returned { replica: index, since });
                    }
                }
            }
        }
        None
    }

    /// Every replica that is waited for has replayed everything before this position.
    pub fn replayed(&self) -> Lsn {
        let held = self.each.iter().filter(|replica| replica.left.is_none());
        held.map(|replica| replica.replayed).min().unwrap_or(Lsn::MAX)
    }

    /// Whether a replica that is waited for still has to replay the commit at `at`.
    pub fn lacks(&self, at: Lsn) -> bool {
        self.replayed() <= at
    }

    /// What the replicas that are not waited for had replayed when they left; the least of them.
    pub fn left(&self) -> Option<Lsn> {
        self.each.iter().filter_map(|replica| replica.left).min()
    }

    /// Whether the replica that left furthest behind has replayed what is at `before` and not what is at `after`.
    pub fn has_left_between(&self, before: Lsn, after: Lsn) -> bool {
        self.left().is_some_and(|since| before < since && since <= after)
    }

    /// For each replica, whether it has replayed everything that has settled, and continues to. A replica that is
    /// waited for again, or for the first time, may still lack what settled without it. `reached`: nothing later has
    /// settled; `None` if that is unknown.
    pub fn are_relied_on(&mut self, reached: Option<Lsn>) -> impl Iterator<Item = bool> {
        self.each.iter_mut().map(move |replica| {
            let reached = reached.filter(|_| replica.left.is_none());
            replica.needs = reached.map(|reached| replica.needs.unwrap_or(reached));
            replica.strange.is_none() && replica.needs.is_some_and(|needs| needs <= replica.replayed)
        })
    }

    /// How long a replica has owed something, and the reason.
    fn lag(&self, replica: &Replica, now: Instant) -> (Duration, Absent) {
        let silent = now.saturating_duration_since(replica.answered);
        let owed = self.marks.iter().chain(&self.furthest).find(|(at, _)| *at >= replica.replayed);
        let behind = owed.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(*since));
        match replica.strange {
            Some(why) => (silent, why),
            None if behind > silent => (behind, Absent::Behind(behind)),
            // It is silent between two polls too.
            None => (silent, Absent::Silent(silent)),
        }
    }
}

impl Origin {
    /// The position up to which this history includes that of `before`.
    fn shares_with(&self, before: &Origin) -> Lsn {
        if self.system_id != before.system_id {
            return Lsn::ZERO;
        }
        if self.timeline == before.timeline {
            return Lsn::MAX;
        }
        self.left(before.timeline).unwrap_or(Lsn::ZERO)
    }

    /// Where the log left an earlier timeline.
    fn left(&self, timeline: u32) -> Option<Lsn> {
        self.forks.iter().find(|fork| fork.timeline == timeline).map(|fork| fork.at)
    }

    /// How far the replica has replayed the source's history.
    fn compare(&self, seen: ReplicaSeen) -> Result<Lsn, Absent> {
        let ReplicaSeen { system_id, timeline, replayed, .. } = seen;
        if system_id != self.system_id {
            return Err(Absent::OtherDatabase { system_id });
        }
        let Some(replayed) = replayed else {
            let is_source = timeline == self.timeline && self.takes_writes;
            return if is_source { Ok(Lsn::MAX) } else { Err(Absent::Primary { timeline }) };
        };
        if timeline == self.timeline {
            return Ok(replayed);
        }
        // What it has replayed beyond the fork is not, or no longer, part of the source's history.
        self.left(timeline).map(|at| replayed.min(at)).ok_or(Absent::OtherTimeline { timeline })
    }
}

#[cfg(test)]
mod tests;
