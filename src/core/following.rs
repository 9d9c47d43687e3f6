//! The stream as the core sees it: open, closed or parked, and whether it still shows the same history.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::continuity::{Failed, Resume, SlotOrigin, Stuck, resume};
use super::uncounted::Uncounted;
use super::{Core, Event, Opening, Output, Reopen, goes_to};
use crate::types::lsn::Lsn;

/// How long a stream stays open that cannot be read because no target has room. Postgres does not finish a fast
/// shutdown before a walsender has sent everything.
const FULL_MAX: Duration = Duration::from_secs(20);

/// A loop that has not turned for this long was stopped (SIGSTOP, a paused machine), and another instance may be
/// active.
const STOPPED_MIN: Duration = Duration::from_secs(2);

/// Looks after which the end of the log when following began is certain. The first look may have started before that.
const LOOKS_MIN: u8 = 2;

/// The state of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stream {
    Closed,
    Open {
        walsender: u32,
    },
    /// Closed until a target has room.
    Parked,
}

/// What is known of the source since it was first opened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Followed {
    pub(super) opening: Opening,
    /// The end of the log when following began. Beyond it, only records that this process wrote are credible.
    pub(super) reached: Lsn,
    /// Looks at the source since the stream was opened; from then on no other instance can be active.
    looks: u8,
}

impl Followed {
    /// Notes that a look at the source found the end of the log at `end`.
    pub(super) fn looked(&mut self, end: Lsn) {
        if self.looks < LOOKS_MIN {
            self.looks += 1;
            self.reached = self.reached.max(end);
        }
    }

    pub(super) fn is_reached_sure(&self) -> bool {
        self.looks >= LOOKS_MIN
    }
}

/// The state of the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Following {
    /// The slot, as records name it.
    pub(super) slot: Uncounted<Arc<str>>,
    pub(super) stream: Stream,
    pub(super) followed: Option<Followed>,
    /// Why the slot was lost, if a new one has to be created.
    pub(super) lost_because: Option<String>,
    /// Failures to decode the log.
    pub(super) stuck: Stuck,
    /// Since when no target has had room.
    full_since: Option<Instant>,
    /// When the loop last turned.
    turned: Instant,
}

impl Following {
    pub(super) fn new(slot: &str, decoding_timeout: Duration, now: Instant) -> Following {
        Following {
            slot: Uncounted(slot.into()),
            stream: Stream::Closed,
            followed: None,
            lost_because: None,
            stuck: Stuck::new(decoding_timeout),
            full_since: None,
            turned: now,
        }
    }

    /// The pid of the walsender that sends the stream, if it is open.
    pub(super) fn walsender(&self) -> Option<u32> {
        match self.stream {
            Stream::Open { walsender } => Some(walsender),
            Stream::Closed | Stream::Parked => None,
        }
    }

    /// What the server reported when the stream was opened.
    pub(super) fn opening(&self) -> Option<&Opening> {
        self.followed.as_ref().map(|followed| &followed.opening)
    }

    /// See [`Core::rest`].
    pub(super) fn rest(&mut self, now: Instant) {
        self.turned = now;
        self.full_since = self.full_since.map(|_| now);
    }
}

impl Core {
    /// Whether a history is followed, with or without an open stream.
    pub fn is_following(&self) -> bool {
        self.following.followed.is_some()
    }

    pub(super) fn stream_opened(&mut self, mut opening: Opening, clock_us: u64, now: Instant) {
        if let SlotOrigin::Found { .. } = opening.slot {
            self.following.lost_because = None;
        }
        let (start, walsender) = (opening.start, opening.walsender);
        let (mut reached, mut looks) = (opening.system.wal_end, 0);
        let (decoded, acknowledged) = (self.feed.decoded, self.attesting.acknowledged);
        let before = self.following.followed.take();
        match before.map(|before| (resume(&before.opening, decoded, &opening, acknowledged), before)) {
            None => self.begin_with(&opening, clock_us),
            Some((Resume::Anew(why), _)) => {
                self.feed.tell(Event::Anew(why));
                self.begin_with(&opening, clock_us);
            }
            Some((how, before)) => {
                // A slot that this process created keeps that origin: targets whose records are not read yet must
                // still be compared with it.
                if before.opening.slot == SlotOrigin::CreatedHere {
                    opening.slot = before.opening.slot;
                }
                (reached, looks) = (before.reached, before.looks);
                if let Resume::Forked(at) = how {
                    // Targets that were sent anything of the lost part show it themselves: their records are beyond
                    // the fork.
                    self.fork(at);
                    self.catalogue.end = opening.system.wal_end;
                    self.unverify();
                }
            }
        }
        self.opened(start);
        // These records may be hours old, for example when a standby instance takes over.
        for (target, _) in self.early.drain(..) {
            self.feed.outputs.push(Output::LoadAgain(target));
        }
        self.load_records();
        self.feed.replicas.opened(opening.system.id, opening.system.timeline, &opening.system.forks);
        // Probe although nothing waits yet: whether the source takes writes distinguishes a replica from the source
        // itself.
        self.feed.outputs.push(Output::Probe);
        self.feed.outputs.push(Output::PollReplicas(self.feed.furthest));
        self.probing.opened(now);
        self.following.stream = Stream::Open { walsender };
        self.following.full_since = None;
        self.replicas_turned(now);
        self.attestation_is_for_none();
        let acknowledged = self.acknowledged_at(start);
        self.feed.outputs.push(Output::Acknowledge(acknowledged));
        self.feed.tell(Event::Streaming(opening.clone(), self.following.stuck.is_failing()));
        self.following.followed = Some(Followed { opening, reached, looks });
    }

    /// Follows a new history, or the first one.
    fn begin_with(&mut self, opening: &Opening, clock_us: u64) {
        self.catalogue.end = opening.system.wal_end;
        self.begin(opening.start, clock_us);
        for target in &mut self.targets {
            if !self.catalogue.coverage.is_whole(goes_to(*target.index)) {
                target.withhold(self.feed.decoded);
            }
        }
    }

    /// The stream is closed: answers to probes that were sent for it do not count.
    pub(super) fn stream_closed(&mut self) {
        self.following.stream = Stream::Closed;
        self.feed.visibility.start_over();
        self.answer_is_late();
    }

    /// Another instance writes the records, so what this one knows soon becomes outdated.
    pub(super) fn slot_busy(&mut self) {
        self.unverify();
        self.following.followed = None;
    }

    /// Closes the stream, if it is open, so that it is opened again.
    pub(super) fn reopen(&mut self, why: Reopen) {
        if self.following.walsender().is_some() {
            self.stream_closed();
            self.feed.outputs.push(Output::Reopen(why));
        }
    }

    /// The loop turns.
    pub(super) fn turned(&mut self, now: Instant) {
        let stood_still = now.saturating_duration_since(std::mem::replace(&mut self.following.turned, now));
        if stood_still >= STOPPED_MIN && self.following.walsender().is_some() {
            self.reopen(Reopen::StoodStill(stood_still));
            self.unverify();
        }
        self.take_back_attestation();
        if self.has_room() {
            self.following.full_since = None;
        }
        match (self.following.stream, self.following.full_since) {
            (Stream::Parked, None) if self.has_room() => self.unpark(),
            (Stream::Open { .. }, Some(since)) if now.saturating_duration_since(since) >= FULL_MAX => {
                self.stream_closed();
                self.following.stream = Stream::Parked;
                self.feed.outputs.push(Output::Park);
            }
            _ if !self.has_room() => {
                self.following.full_since.get_or_insert(now);
            }
            _ => {}
        }
    }

    /// Reopens a parked stream.
    pub(super) fn unpark(&mut self) {
        self.following.stream = Stream::Closed;
        self.feed.outputs.push(Output::Unpark);
    }

    /// The stream failed after everything up to `at` was decoded; `None` means the decoded position. Returns the
    /// position, and whether to try again.
    pub fn decoding_failed(&mut self, at: Option<Lsn>, now: Instant) -> (Lsn, Failed) {
        let at = at.unwrap_or(self.feed.decoded);
        (at, self.following.stuck.failed(at, now))
    }

    /// Checks whether the stream has passed the position where it failed.
    pub(super) fn got_past_failure(&mut self) {
        if self.following.stuck.passed(self.feed.decoded) {
            self.feed.tell(Event::StreamsOn);
        }
    }
}
