//! What the slot is told, and whether SQL may take it for settled.
//!
//! `coherd.wait()` takes the slot's position for settled as long as this process attests that: a watcher's connection to the
//! server holds a lock that names the walsender. So where the slot goes on before something has settled, the attestation is
//! taken back first.

use std::time::{Duration, Instant};

use super::{Core, Output, Reopen};
use crate::types::lsn::Lsn;

/// How often the source is told what is acknowledged, unless somebody waits for it. It takes a lock for each, and now and
/// then writes the slot to its disk.
pub const ACKNOWLEDGE_EVERY: Duration = Duration::from_millis(2);
/// The same while there is a backlog, which comes at half the speed where this is done a hundred times a second (seen with
/// BBR on loopback).
pub const ACKNOWLEDGE_BEHIND_EVERY: Duration = Duration::from_millis(50);

/// Whether SQL may see that this process attests the present stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Seen {
    ForNone,
    Perhaps,
    /// Perhaps, and the connection that holds it is lost.
    OutOfReach,
}

/// The attestation, and when the source was told last what is acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Attesting {
    /// What was asked for last.
    wanted: Option<u32>,
    seen: Seen,
    /// The furthest position that the slot was told, and when.
    pub(super) acknowledged: Lsn,
    acknowledged_at: Instant,
}

impl Attesting {
    pub(super) fn new(now: Instant) -> Attesting {
        Attesting { wanted: None, seen: Seen::ForNone, acknowledged: Lsn::ZERO, acknowledged_at: now }
    }

    /// See [`Core::rest`].
    pub(super) fn rest(&mut self, now: Instant) {
        self.acknowledged_at = now;
    }
}

impl Core {
    fn attest(&mut self, walsender: Option<u32>) {
        if walsender.is_some() && self.attesting.seen == Seen::ForNone {
            // As soon as it is asked for, it may be seen.
            self.attesting.seen = Seen::Perhaps;
        }
        if std::mem::replace(&mut self.attesting.wanted, walsender) != walsender {
            self.feed.outputs.push(Output::Attest(walsender));
        }
    }

    /// SQL can see it from now on.
    pub(super) fn attested(&mut self, walsender: Option<u32>) {
        if walsender.is_none() && self.attesting.seen == Seen::Perhaps && self.attesting.wanted.is_none() {
            self.attesting.seen = Seen::ForNone;
        }
    }

    /// The stream is a new one: whatever is held is for another walsender.
    pub(super) fn attestation_is_for_none(&mut self) {
        self.attesting.seen = Seen::ForNone;
    }

    /// The connection that holds it is lost.
    pub(super) fn attestation_is_out_of_reach(&mut self) {
        if self.attesting.seen == Seen::Perhaps {
            self.attesting.seen = Seen::OutOfReach;
        }
    }

    /// The server may take long to notice that the connection which holds it is gone. Where it must not be believed any
    /// more, the stream has to get another walsender.
    pub(super) fn take_back_attestation(&mut self) {
        if self.attesting.seen == Seen::OutOfReach && self.is_ahead_of_settled() {
            self.reopen(Reopen::CannotTakeBack);
        }
    }

    /// Acknowledges what may be; `is_behind`: a backlog is being read.
    pub(super) fn tell_source(&mut self, is_behind: bool, now: Instant) {
        let is_ahead = self.is_ahead_of_settled();
        let Some(walsender) = self.following.walsender() else { return self.attest(None) };
        self.attest((!is_ahead).then_some(walsender));
        let pace = if is_behind { ACKNOWLEDGE_BEHIND_EVERY } else { ACKNOWLEDGE_EVERY };
        let elapsed = now.saturating_duration_since(self.attesting.acknowledged_at);
        let is_due = self.is_draining || self.attesting.acknowledged < self.feed.awaited || elapsed >= pace;
        if (!is_ahead || self.attesting.seen == Seen::ForNone)
            && is_due
            && let Some(position) = self.acknowledge()
        {
            self.feed.outputs.push(Output::Acknowledge(position));
            self.attesting.acknowledged_at = now;
        }
    }

    /// When the next acknowledgement is due. Where it would have been time, a backlog is being read, which may have come to
    /// its end.
    pub(super) fn acknowledgement_due(&self, now: Instant) -> Option<Instant> {
        let next = (self.attesting.acknowledged_at + ACKNOWLEDGE_EVERY).max(now + ACKNOWLEDGE_EVERY / 2);
        (self.following.walsender().is_some() && self.acknowledgeable().is_some()).then_some(next)
    }
}
