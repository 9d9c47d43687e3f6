//! What is known of a target's stored record, and when to write it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::history::History;
use crate::types::lsn::Lsn;
use crate::types::record::Record;
use crate::types::snapshot::Commit;

/// How often, in the long run, a record moves while the stream brings no invalidations, unless a client waits for it.
/// A record with nothing new is written at about the same rate, to notice that a target has gone away.
const RECORD_PACE: Duration = Duration::from_secs(1);
/// How soon after a confirmation the record is written, if no delivery leaves before. Under load the next delivery
/// writes it anyway.
const RECORD_AFTER: Duration = Duration::from_millis(2);
/// Unused moves are saved up, as time, up to this much, so that on a quiet database no client waits for a timer.
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

/// The state of a target's stored record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct RecordState {
    /// `confirmed` in the record that the target is known to hold.
    pub(super) recorded: Lsn,
    /// The furthest `applied` of a record that was sent.
    pub(super) sent: Lsn,
    /// The last transaction with rows that was sent.
    pub(super) commit: Option<Commit>,
    /// Set until the stream has shown the target's last transaction, which proves that the target belongs to this
    /// history.
    pub(super) history: Option<History>,
    /// The furthest `applied` of a record that was confirmed, or that another process wrote, since the slot is
    /// followed.
    pub(super) written: Lsn,
    /// The greatest sequence of those records.
    pub(super) sequence: u64,
    /// A record was written since the last one was read. Before that, a restore of old data together with the record
    /// that was read, or without one if there was none, leaves no trace. So what is flushed earlier could come back
    /// unnoticed.
    pub(super) anchored: bool,
    /// This process has written a record to the target, whatever has become of the slot since.
    pub(super) acquainted: bool,
    /// What the record said when it was read: later records never say less.
    pub(super) floor: Floor,
    /// The marks of the rules that have missed nothing.
    pub(super) marks: Arc<str>,
    /// The next record still has to include the marks.
    pub(super) marks_are_due: bool,
}

impl RecordState {
    /// A record was confirmed.
    pub(super) fn wrote(&mut self, record: &Record) {
        self.recorded = self.recorded.max(record.confirmed);
        self.found(record);
    }

    /// The target holds a record that another process wrote. It counts like one of this process from now on: if a
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

    /// What the record says belongs to another history.
    pub(super) fn disown(&mut self) {
        (self.commit, self.floor) = (None, Floor::default());
    }
}

/// When a target's record is written without a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Pace {
    /// When the record has to say what is settled, after invalidations were confirmed.
    pub(super) settled_due: Option<Instant>,
    last_sent: Instant,
    /// The moves so far have used up the allowance until then.
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

    /// Whether the record has to move. `is_behind`: the slot waits for it. `is_awaited`: a client waits for it too.
    pub(super) fn is_due(&self, is_behind: bool, is_awaited: bool, now: Instant) -> bool {
        let moves = is_behind && (is_awaited || (self.settled_due.is_none() && self.used_until <= now + RECORD_SAVED));
        let heartbeat = now.duration_since(self.last_sent) >= RECORD_PACE;
        self.settled_due.is_some_and(|due| due <= now) || moves || heartbeat
    }

    /// A record leaves. `is_bare`: only because the slot waits for it.
    pub(super) fn leaves(&mut self, is_bare: bool, now: Instant) {
        if is_bare && self.settled_due.is_none() {
            // However often the record moved for clients that wait, the next move is in time.
            self.used_until = self.used_until.clamp(now, now + RECORD_SAVED) + RECORD_PACE;
        }
        (self.settled_due, self.last_sent) = (None, now);
    }
}
