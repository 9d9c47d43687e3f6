//! What the core knows of one target: what waits for it, what is in flight, and what its stored record says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::continuity::{Recent, Stranger};
use super::history::History;
use super::overflow::Overflow;
use super::pending::{Pending, Stage, Stages};
use super::repeating::Repeat;
use super::uncounted::Uncounted;
use crate::invalidation::Batch;
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::record::Record;
use crate::snapshot::Commit;

/// One delivery on its way; comes back with its confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket of delivery `number` to a target.
    pub const fn new(number: u64) -> Ticket {
        Ticket(number)
    }
}

/// Whether a target may be sent anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    /// Its record has not been read since the stream was opened, and must not be written over.
    Unverified,
    /// It is up to date, as far as it was sent.
    Live,
    /// It has missed something, and waits for a person (`on_gap: halt`).
    Halted,
}

/// What a delivery is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pass {
    /// The first pass, and the only one: every held replica has replayed its commits.
    Only,
    /// The first pass; the replica pass follows when the replicas have replayed its commits.
    First,
    /// The replica pass.
    Replica,
    /// Once more after everything is confirmed (`repeat_after`). It holds no watermark.
    Repeat,
}

/// A delivery that is sent and not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is something that is so or not")]
pub(super) struct Sent {
    pub(super) ticket: Ticket,
    pub(super) pass: Pass,
    /// [`Pending::since`], `last`, `oldest` and `repairs` of what was sent.
    pub(super) since: Lsn,
    pub(super) last: Lsn,
    pub(super) oldest: Option<PgTime>,
    pub(super) repairs: bool,
    /// What was decoded when it left.
    pub(super) decoded: Lsn,
    /// How many scopes it flushes.
    pub(super) scopes: usize,
    /// It is a flush, beside the deliveries and without a record.
    pub(super) is_flush: bool,
    /// Its record belongs to a history that is not followed any more.
    pub(super) is_void: bool,
    /// A flush that may be done before the target is anchored: it leaves once more.
    pub(super) leaves_again: bool,
}

/// A flush that is done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Unproved {
    pub(super) sent: Sent,
    pub(super) batch: Batch,
    /// The sequence of the last delivery that was sent before it was done.
    pub(super) sequence: u64,
}

/// What a record said when it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Floor {
    pub(super) applied: Lsn,
    pub(super) confirmed: Lsn,
    pub(super) settled: Lsn,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is something that is so or not")]
pub(super) struct TargetState {
    /// It answers.
    pub(super) up: bool,
    pub(super) mode: Mode,
    pub(super) in_flight: VecDeque<Sent>,
    /// Flushes that are done. A failover could still take them back unnoticed, so they hold what they hold until a record
    /// proves them that was sent later.
    pub(super) unproved: Vec<Unproved>,
    /// Whether the flush that left last was a replica pass.
    pub(super) flushed_replica_pass: bool,
    /// What waits for its first pass.
    pub(super) stages: Stages,
    /// What was confirmed once and waits for the replicas, oldest first.
    pub(super) awaiting_replay: VecDeque<Pending>,
    /// What the replicas have replayed: it waits for its replica pass.
    pub(super) replayed: Pending,
    /// What waits to be repeated, soonest first, and what is due.
    pub(super) repeats: VecDeque<Repeat>,
    pub(super) repeat: Pending,
    /// Empty batches that keep their memory.
    pub(super) spare: Uncounted<Vec<Batch>>,
    /// Set while it is not known what the target holds: what was decoded when that began.
    pub(super) unverified: Option<Lsn>,
    /// Set while the slot goes on without the target: the furthest record that the target may hold.
    pub(super) suspended: Option<Lsn>,
    /// Set while a rule of the target is not covered: nothing after this settles, but the slot goes on.
    pub(super) uncovered: Option<Lsn>,
    /// What the record that the target is known to hold says is confirmed.
    pub(super) recorded: Lsn,
    /// The furthest `applied` of a record that was sent.
    pub(super) sent: Lsn,
    /// The last transaction with rows that was sent.
    pub(super) commit: Option<Commit>,
    /// Set until the stream has shown that the history which is followed has the target's last transaction.
    pub(super) history: Option<History>,
    /// The furthest `applied` of a record that was confirmed, or found to be another process's, since the slot is followed.
    pub(super) written: Lsn,
    /// The sequence of that record.
    pub(super) confirmed_sequence: u64,
    /// A record was written since one was read. Before that, whoever puts back old data together with the record that was
    /// read, or together with none where there was none, leaves no trace; so what is flushed before may come back unnoticed.
    pub(super) anchored: bool,
    /// This process has written a record to the target, whatever became of the slot since.
    pub(super) acquainted: bool,
    /// What the record said when it was read: it never moves back.
    pub(super) floor: Floor,
    /// The marks of the rules that have missed nothing, and whether the record still has to be written with them.
    pub(super) rules: (Arc<str>, bool),
    pub(super) recent: Recent,
    /// Who else writes the record.
    pub(super) stranger: Stranger,
    pub(super) overflow: Overflow,
    /// When the record has to say what is settled, after invalidations were confirmed.
    pub(super) settled_due: Option<Instant>,
    pub(super) last_sent: Instant,
    /// The moves of the record so far have used up the time until then; see [`super::sending`].
    pub(super) paced_until: Instant,
    /// Where it held the slot at the last look at the server, if anything waited for it then.
    pub(super) held_at: Option<Lsn>,
}

impl TargetState {
    pub(super) fn new(recent_bytes: usize, now: Instant) -> TargetState {
        TargetState {
            up: false,
            mode: Mode::Unverified,
            in_flight: VecDeque::new(),
            unproved: Vec::new(),
            flushed_replica_pass: false,
            stages: Stages::default(),
            awaiting_replay: VecDeque::new(),
            replayed: Pending::default(),
            repeats: VecDeque::new(),
            repeat: Pending::default(),
            spare: Uncounted::default(),
            unverified: None,
            suspended: None,
            uncovered: None,
            recorded: Lsn::ZERO,
            sent: Lsn::ZERO,
            commit: None,
            history: None,
            written: Lsn::ZERO,
            confirmed_sequence: 0,
            anchored: false,
            acquainted: false,
            floor: Floor::default(),
            rules: ("".into(), false),
            recent: Recent::new(recent_bytes),
            stranger: Stranger::default(),
            overflow: Overflow::default(),
            settled_due: Some(now),
            last_sent: now,
            paced_until: now,
            held_at: None,
        }
    }

    pub(super) fn unverify(&mut self) {
        if self.mode == Mode::Live {
            self.mode = Mode::Unverified;
        }
    }

    /// The target holds a record that another process has written. It counts like one of this process from now on: where a
    /// later one says less, the target went back. What the other process has sent is not in this one's memory.
    pub(super) fn found(&mut self, record: &Record) {
        self.written = self.written.max(record.applied);
        self.confirmed_sequence = self.confirmed_sequence.max(record.sequence);
        if record.applied > self.recent.reaches_back_to() {
            self.recent.begin(record.applied);
        }
    }

    pub(super) fn stage(&mut self, stage: Stage) -> &mut Pending {
        self.stages.at_mut(stage)
    }

    /// Everything that waits.
    pub(super) fn pendings(&self) -> impl Iterator<Item = &Pending> {
        let repeats = self.repeats.iter().map(|repeat| &repeat.pending);
        self.stages.all().chain(&self.awaiting_replay).chain([&self.replayed, &self.repeat]).chain(repeats)
    }

    pub(super) fn pendings_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        let repeats = self.repeats.iter_mut().map(|repeat| &mut repeat.pending);
        let others = [&mut self.replayed, &mut self.repeat];
        self.stages.all_mut().chain(&mut self.awaiting_replay).chain(others).chain(repeats)
    }

    /// Whether it waits for a repair, or one is in flight.
    pub(super) fn is_repaired(&self) -> bool {
        self.pendings().any(|pending| pending.repairs) || self.sent().any(|sent| sent.repairs)
    }

    /// What is sent and not proved by a record.
    pub(super) fn sent(&self) -> impl Iterator<Item = &Sent> {
        self.in_flight.iter().chain(self.unproved.iter().map(|unproved| &unproved.sent))
    }

    pub(super) fn sent_mut(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.in_flight.iter_mut().chain(self.unproved.iter_mut().map(|unproved| &mut unproved.sent))
    }

    /// What is rendered now counts as rendered after this position: whatever the target may have missed comes before.
    pub(super) fn since(&self, decoded: Lsn) -> Lsn {
        self.unverified.unwrap_or(decoded)
    }

    /// What was decoded after `at` is not part of the history that is followed: whatever held a later position holds `at`,
    /// and records that are in flight do not count.
    pub(super) fn clamp(&mut self, at: Lsn) {
        for sent in self.sent_mut() {
            sent.since = sent.since.min(at);
            sent.is_void = true;
        }
        for pending in self.pendings_mut() {
            pending.clamp(at);
            pending.newest = pending.newest.filter(|commit| commit.at < at);
        }
        for mark in [&mut self.unverified, &mut self.uncovered, &mut self.suspended] {
            *mark = mark.map(|mark| mark.min(at));
        }
        self.commit = self.commit.filter(|commit| commit.at < at);
        self.history = self.history.filter(|history| history.commit.at < at);
        self.recorded = self.recorded.min(at);
        self.sent = self.sent.min(at);
    }
}
