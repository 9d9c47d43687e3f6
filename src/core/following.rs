//! The stream as the core sees it: opened, closed, parked, and whether the history that it shows is the one of before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::continuity::{Failed, Resume, SlotOrigin, Stuck, resume};
use super::uncounted::Uncounted;
use super::{Core, Event, Opening, Output, Reopen, goes_to};
use crate::types::lsn::Lsn;

/// How long a stream is held that cannot be read, because no target has room. Postgres does not finish a fast shutdown before
/// a walsender has sent everything.
const FULL_MAX: Duration = Duration::from_secs(20);

/// A loop that has not turned for so long was stopped (SIGSTOP, a paused machine), and another instance may be at work.
const STOPPED_MIN: Duration = Duration::from_secs(2);

/// Looks after which it is sure where the log ended when following began. The first may have been under way before.
const LOOKS_MIN: u8 = 2;

/// The stream.
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
    /// The end of the log when following began. Beyond it only records of this process are to be believed.
    pub(super) reached: Lsn,
    /// Looks at the server since the stream was open, when no other instance could be at work any more.
    looks: u8,
}

impl Followed {
    /// The server was looked at, and its log ended there.
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

/// How the source stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Following {
    /// The slot that is followed, as records name it.
    pub(super) slot: Uncounted<Arc<str>>,
    pub(super) stream: Stream,
    pub(super) followed: Option<Followed>,
    /// Why the slot was lost that is made anew.
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

    /// The process at the server that sends the stream, where it is open.
    pub(super) fn walsender(&self) -> Option<u32> {
        match self.stream {
            Stream::Open { walsender } => Some(walsender),
            Stream::Closed | Stream::Parked => None,
        }
    }

    /// What the server said of itself.
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
    /// Whether a history is followed, be its stream open or not.
    pub fn is_following(&self) -> bool {
        self.following.followed.is_some()
    }

    pub(super) fn stream_opened(&mut self, mut opening: Opening, clock_us: u64, now: Instant) {
        if let SlotOrigin::Found { .. } = opening.slot {
            self.following.lost_because = None;
        }
        let (start, walsender) = (opening.start, opening.walsender);
        let (mut reached, mut looks) = (opening.wal_end, 0);
        let (decoded, acknowledged) = (self.feed.decoded, self.attesting.acknowledged);
        let before = self.following.followed.take();
        match before.map(|before| (resume(&before.opening, decoded, &opening, acknowledged), before)) {
            None => self.begin_with(&opening, clock_us),
            Some((Resume::Anew(why), _)) => {
                self.feed.tell(Event::Anew(why));
                self.begin_with(&opening, clock_us);
            }
            Some((how, before)) => {
                // A slot that this process created stays one: targets that have not been asked yet must still be told.
                if before.opening.slot == SlotOrigin::CreatedHere {
                    opening.slot = before.opening.slot;
                }
                (reached, looks) = (before.reached, before.looks);
                if let Resume::Forked(at) = how {
                    // Targets that were sent anything of what is gone say so themselves: their records are beyond.
                    self.fork(at);
                    self.catalogue.end = opening.wal_end;
                    self.unverify();
                }
            }
        }
        self.opened(start);
        // What they remembered may be hours old, as for a standby that takes over.
        for (target, _) in self.early.drain(..) {
            self.feed.outputs.push(Output::LoadAgain(target));
        }
        self.load_records();
        self.feed.replicas.opened(opening.system_id, opening.timeline, &opening.forks);
        // Although nothing waits yet: whether the source takes writes tells replicas from the source itself.
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

    /// Follows another history than before, or the first one.
    fn begin_with(&mut self, opening: &Opening, clock_us: u64) {
        self.catalogue.end = opening.wal_end;
        self.begin(opening.start, clock_us);
        for target in &mut self.targets {
            if !self.catalogue.coverage.is_whole(goes_to(*target.index)) {
                target.withhold(self.feed.decoded);
            }
        }
    }

    /// The stream is closed: no answer counts that was asked for over it.
    pub(super) fn stream_closed(&mut self) {
        self.following.stream = Stream::Closed;
        self.feed.visibility.start_over();
        self.answer_is_late();
    }

    /// Another instance writes the records now, and what this one knows is soon out of date.
    pub(super) fn slot_busy(&mut self) {
        self.unverify();
        self.following.followed = None;
    }

    /// Closes the stream, if there is one, to open it anew.
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

    /// A parked stream is opened again.
    pub(super) fn unpark(&mut self) {
        self.following.stream = Stream::Closed;
        self.feed.outputs.push(Output::Unpark);
    }

    /// The stream has failed where everything up to `at`, or what is decoded, was fine.
    pub fn decoding_failed(&mut self, at: Option<Lsn>, now: Instant) -> (Lsn, Failed) {
        let at = at.unwrap_or(self.feed.decoded);
        (at, self.following.stuck.failed(at, now))
    }

    /// Looks whether the stream has got past the position where it failed.
    pub(super) fn got_past_failure(&mut self) {
        if self.following.stuck.passed(self.feed.decoded) {
            self.feed.tell(Event::StreamsOn);
        }
    }
}
