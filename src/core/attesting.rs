//! Decides what to acknowledge to the slot, and whether SQL may take that for settled.
//!
//! `coherd.wait()` takes the slot's position for settled while this process attests it: a watcher's connection to the
//! source holds a lock that names the walsender. So before the slot advances past what has settled, the attestation is
//! withdrawn.

use std::time::{Duration, Instant};

use super::{Core, Output, Reopen};
use crate::types::lsn::Lsn;

/// How often to acknowledge, unless a client waits for it. Each acknowledgement wakes the walsender, which answers it,
/// takes a lock, and sometimes writes the slot to disk.
pub const ACKNOWLEDGE_EVERY: Duration = Duration::from_millis(10);
/// The same during a backlog. With BBR on loopback each one may lead to half the speed for the rest of the connection
/// (`docs/architecture/speed.md`).
pub const ACKNOWLEDGE_BEHIND_EVERY: Duration = Duration::from_secs(1);

/// Whether SQL may see an attestation for the current stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Seen {
    ForNone,
    Perhaps,
    /// Perhaps, and the connection that holds it is lost.
    OutOfReach,
}

/// The attestation, and when the source was last sent an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Attesting {
    /// The attestation that was last requested.
    wanted: Option<u32>,
    seen: Seen,
    /// The furthest position that was acknowledged, and when.
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
            // SQL may see it as soon as it is requested.
            self.attesting.seen = Seen::Perhaps;
        }
        if std::mem::replace(&mut self.attesting.wanted, walsender) != walsender {
            self.feed.outputs.push(Output::Attest(walsender));
        }
    }

    /// SQL sees from now on that this process attests the stream of `walsender`, or no stream.
    pub(super) fn attested(&mut self, walsender: Option<u32>) {
        if walsender.is_none() && self.attesting.seen == Seen::Perhaps && self.attesting.wanted.is_none() {
            self.attesting.seen = Seen::ForNone;
        }
    }

    /// The stream is a new one: any attestation still held is for another walsender.
    pub(super) fn attestation_is_for_none(&mut self) {
        self.attesting.seen = Seen::ForNone;
    }

    /// The connection that holds the attestation is lost.
    pub(super) fn attestation_is_out_of_reach(&mut self) {
        if self.attesting.seen == Seen::Perhaps {
            self.attesting.seen = Seen::OutOfReach;
        }
    }

    /// The server may take long to notice that the connection which holds the attestation is gone. If the attestation
    /// must no longer be believed, the stream needs another walsender.
    pub(super) fn take_back_attestation(&mut self) {
        if self.attesting.seen == Seen::OutOfReach && self.is_ahead_of_settled() {
            self.reopen(Reopen::CannotTakeBack);
        }
    }

    /// Acknowledges what may be acknowledged. `is_behind`: a backlog is being read.
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

    /// When the next acknowledgement is due. If that time has passed, a backlog is being read, which may end at any
    /// time.
    pub(super) fn acknowledgement_due(&self, now: Instant) -> Option<Instant> {
        let next = (self.attesting.acknowledged_at + ACKNOWLEDGE_EVERY).max(now + ACKNOWLEDGE_EVERY / 2);
        (self.following.walsender().is_some() && self.acknowledgeable().is_some()).then_some(next)
    }
}
