//! The state of one target: what waits for it, what its stored record says, and whether it may be sent anything.

use super::continuity::Stranger;
use super::feed::Feed;
use super::halting::Halt;
use super::queue::Queue;
use super::record_state::{Pace, RecordState};
use super::uncounted::Uncounted;
use super::{Event, just_before};
use crate::types::invalidation::Recent;
use crate::types::lsn::Lsn;

/// Whether a target may be sent anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Mode {
    /// Its record has not been read since the stream was opened, and must not be overwritten.
    Unverified,
    /// It has everything that it was sent.
    Live,
    /// It has missed something, and waits for a person (`on_gap: halt`).
    Halted,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TargetState {
    /// Its number, as rules use it.
    pub(super) index: Uncounted<usize>,
    /// It answers.
    pub(super) up: bool,
    pub(super) takes_early: bool,
    pub(super) mode: Mode,
    pub(super) queue: Queue,
    /// What it was sent recently.
    pub(super) recent: Recent,
    pub(super) halt: Halt,
    /// Its stored record.
    pub(super) record: RecordState,
    /// When the record is written.
    pub(super) pace: Pace,
    /// Whether another coherd writes the record.
    pub(super) stranger: Stranger,
    /// Set while the target's contents are in doubt: the decoded position when that began.
    pub(super) unverified: Option<Lsn>,
    /// Set while the slot goes on without the target: the furthest record that the target may hold.
    pub(super) suspended: Option<Lsn>,
    /// Set while a rule of the target is not covered: nothing after this position settles, but the slot goes on.
    pub(super) uncovered: Option<Lsn>,
    /// The position at which it held the slot at the last look at the source, if anything waited for it then.
    pub(super) held_at: Option<Lsn>,
}

impl TargetState {
    pub(super) fn new(index: usize, recent_bytes: usize, now: std::time::Instant) -> TargetState {
        TargetState {
            index: Uncounted(index),
            up: false,
            takes_early: false,
            mode: Mode::Unverified,
            halt: Halt::default(),
            queue: Queue::default(),
            recent: Recent::new(recent_bytes),
            record: RecordState::default(),
            pace: Pace::new(now),
            stranger: Stranger::default(),
            unverified: None,
            suspended: None,
            uncovered: None,
            held_at: None,
        }
    }

    /// Sends nothing to it until its record is loaded again.
    pub(super) fn unverify(&mut self) {
        if self.mode == Mode::Live {
            self.mode = Mode::Unverified;
        }
    }

    /// The connection is lost, so the target's contents are in doubt. Nothing more counts as applied until
    /// [`TargetState::verified`].
    pub(super) fn doubt(&mut self, decoded: Lsn) {
        self.unverified.get_or_insert(decoded);
    }

    /// The target has missed what it was sent after `at`: nothing later counts as applied until the repair is
    /// confirmed.
    pub(super) fn missed_since(&mut self, at: Lsn, decoded: Lsn) {
        let at = at.min(decoded);
        self.queue.sent_mut().for_each(|sent| sent.since = sent.since.min(at));
        self.queue.stages.all_mut().for_each(|pending| pending.clamp(at));
        self.unverified = Some(self.unverified.map_or(at, |since| since.min(at)));
    }

    /// The target's record was reconciled, and what it may have missed is gathered.
    pub(super) fn verified(&mut self) {
        if self.mode != Mode::Halted {
            self.unverified = None;
        }
    }

    /// The `since` of what is rendered now. While the contents of the target are in doubt, it reaches back to where
    /// the doubt began.
    pub(super) fn since(&self, decoded: Lsn) -> Lsn {
        self.unverified.unwrap_or(decoded)
    }

    /// Whether it may be sent deliveries.
    pub(super) fn is_served(&self) -> bool {
        self.mode == Mode::Live && self.suspended.is_none()
    }

    /// Another history is followed from `start`, and the target may have missed any of it.
    pub(super) fn begin(&mut self, start: Lsn, feed: &mut Feed) {
        self.clamp(Lsn::ZERO);
        self.unverified = Some(Lsn::ZERO);
        if self.suspended.take().is_some() {
            feed.tell(Event::Resumed(*self.index));
        }
        self.uncovered = None;
        self.unverify();
        self.record.begin();
        self.recent.begin(start);
    }

    /// What was decoded after `at`, up to `decoded`, is no longer part of the server's history.
    pub(super) fn fork(&mut self, at: Lsn, decoded: Lsn) {
        self.clamp(at);
        self.unverified.get_or_insert(at);
        if self.record.floor.applied > decoded {
            // An earlier process has sent more than this one has decoded.
            self.recent.begin(self.record.floor.applied);
        }
        self.record.fork(at);
    }

    /// What was decoded after `at` is not part of the history that is followed: later positions become `at`, and
    /// records in flight do not count.
    fn clamp(&mut self, at: Lsn) {
        self.queue.clamp(at);
        self.queue.sent_mut().for_each(|sent| sent.is_void = true);
        for pending in self.queue.pendings_mut() {
            pending.newest = pending.newest.filter(|commit| commit.at < at);
        }
        for mark in [&mut self.unverified, &mut self.uncovered, &mut self.suspended] {
            *mark = mark.map(|mark| mark.min(at));
        }
        self.record.clamp(at);
    }

    /// Nothing waits for the replay of a history that is abandoned at `shared`.
    pub(super) fn waits_for_no_replay_after(&mut self, shared: Lsn) {
        let last = just_before(shared);
        self.queue.sent_mut().for_each(|sent| sent.last = sent.last.min(last));
        self.queue.pendings_mut().for_each(|pending| pending.last = pending.last.min(last));
    }

    /// Changes for the target may be missing from the stream from here on. Nothing more settles until
    /// [`TargetState::repaired`]; the slot goes on.
    pub(super) fn withhold(&mut self, decoded: Lsn) {
        let applied = self.applied(decoded);
        self.uncovered.get_or_insert(applied);
    }

    /// The repair of everything missed since [`TargetState::withhold`] is gathered and ready. Once it is confirmed,
    /// everything settles again.
    pub(super) fn repaired(&mut self, decoded: Lsn) {
        let since = self.since(decoded);
        let since = self.uncovered.take().map_or(since, |uncovered| uncovered.min(since));
        self.queue.at(super::pending::Stage::Ready).holds_since(since);
    }
}
