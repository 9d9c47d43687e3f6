//! What is known of a target's stored record, and when it moves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::history::History;
use crate::types::lsn::Lsn;
use crate::types::record::Record;
use crate::types::snapshot::Commit;

/// A record on a stream that brings no invalidations moves this often in the long run, unless somebody waits for it; and,
/// with nothing to say, about this often too: that is how a target that has gone away is noticed.
const RECORD_PACE: Duration = Duration::from_secs(1);
/// When deliveries have come to rest, the record says so after this time: under load the next delivery does, which brings
/// a record anyway.
const RECORD_AFTER: Duration = Duration::from_millis(2);
/// Moves that were not needed are saved up, as time, so that on a quiet database nobody waits for a timer.
const RECORD_SAVED: Duration = Duration::from_mins(5);

/// What a record said when it was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(super) struct Floor {
    pub(super) applied: Lsn,
    pub(super) confirmed: Lsn,
    pub(super) settled: Lsn,
}

impl Floor {
    pub(super) fn of(record: &Record) -> Floor {
        Floor { applied: record.applied, confirmed: record.confirmed, settled: record.settled }
    }
}

/// A target's stored record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct RecordState {
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
    pub(super) sequence: u64,
    /// A record was written since one was read. Before that, whoever puts back old data together with the record that was
    /// read, or together with none where there was none, leaves no trace; so what is flushed before may come back unnoticed.
    pub(super) anchored: bool,
    /// This process has written a record to the target, whatever became of the slot since.
    pub(super) acquainted: bool,
    /// What the record said when it was read: it never moves back.
    pub(super) floor: Floor,
    /// The marks of the rules that have missed nothing.
    pub(super) marks: Arc<str>,
    /// The record still has to be written with them.
    pub(super) marks_are_due: bool,
}

impl RecordState {
    /// A record was confirmed.
    pub(super) fn wrote(&mut self, record: &Record) {
        self.recorded = self.recorded.max(record.confirmed);
        self.found(record);
    }

    /// The target holds a record that another process has written. It counts like one of this process from now on: where a
    /// later one says less, the target went back.
    pub(super) fn found(&mut self, record: &Record) {
        self.written = self.written.max(record.applied);
        self.sequence = self.sequence.max(record.sequence);
    }

    /// Another history is followed.
    pub(super) fn begin(&mut self) {
        (self.written, self.sequence, self.floor) = (Lsn::ZERO, 0, Floor::default());
    }

    /// The history that is followed was left at `at`.
    pub(super) fn fork(&mut self, at: Lsn) {
        self.written = self.written.min(at);
        let Floor { applied, confirmed, settled } = self.floor;
        self.floor = Floor { applied: applied.min(at), confirmed: confirmed.min(at), settled: settled.min(at) };
    }

    pub(super) fn clamp(&mut self, at: Lsn) {
        self.commit = self.commit.filter(|commit| commit.at < at);
        self.history = self.history.filter(|history| history.commit.at < at);
        self.recorded = self.recorded.min(at);
        self.sent = self.sent.min(at);
    }

    /// What it says is of another history.
    pub(super) fn disown(&mut self) {
        (self.commit, self.floor) = (None, Floor::default());
    }
}

/// When a target's record moves by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    /// When it has to say what is settled, after invalidations were confirmed.
    pub(super) settled_due: Option<Instant>,
    last_sent: Instant,
    /// The moves so far have used up the time until then.
    used_until: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Pace {
        Pace { settled_due: Some(now), last_sent: now, used_until: now }
    }

    /// See [`Core::rest`](super::Core::rest).
    pub(super) fn rest(&mut self, now: Instant) {
        *self = Pace { settled_due: self.settled_due.map(|_| now), ..Pace::new(now) };
    }

    /// Something was confirmed.
    pub(super) fn comes_to_rest(&mut self, now: Instant) {
        self.settled_due.get_or_insert_with(|| now + RECORD_AFTER);
    }

    /// Whether the record has to move; `is_behind`: the slot waits for it, `is_awaited`: and somebody else does.
    pub(super) fn is_due(&self, is_behind: bool, is_awaited: bool, now: Instant) -> bool {
        let moves = is_behind && (is_awaited || (self.settled_due.is_none() && self.used_until <= now + RECORD_SAVED));
        let heartbeat = now.duration_since(self.last_sent) >= RECORD_PACE;
        self.settled_due.is_some_and(|due| due <= now) || moves || heartbeat
    }

    /// A record leaves; `is_bare`: because the slot waits for it, and for nothing else.
    pub(super) fn leaves(&mut self, is_bare: bool, now: Instant) {
        if is_bare && self.settled_due.is_none() {
            // However many had to move for somebody who waits, the next one comes in time.
            self.used_until = self.used_until.clamp(now, now + RECORD_SAVED) + RECORD_PACE;
        }
        (self.settled_due, self.last_sent) = (None, now);
    }
}
