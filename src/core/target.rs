//! What the core knows of one target: what waits for it, what its stored record says, and whether it may be sent anything.

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
    /// Its record has not been read since the stream was opened, and must not be written over.
    Unverified,
    /// It is up to date, as far as it was sent.
    Live,
    /// It has missed something, and waits for a person (`on_gap: halt`).
    Halted,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TargetState {
    /// Its number, in the order that rules name.
    pub(super) index: Uncounted<usize>,
    /// It answers.
    pub(super) up: bool,
    pub(super) mode: Mode,
    pub(super) queue: Queue,
    /// What was sent to it lately.
    pub(super) recent: Recent,
    pub(super) halt: Halt,
    /// Its stored record.
    pub(super) record: RecordState,
    /// When it is written.
    pub(super) pace: Pace,
    /// Who else writes it.
    pub(super) stranger: Stranger,
    /// Set while it is not known what the target holds: what was decoded when that began.
    pub(super) unverified: Option<Lsn>,
    /// Set while the slot goes on without the target: the furthest record that the target may hold.
    pub(super) suspended: Option<Lsn>,
    /// Set while a rule of the target is not covered: nothing after this settles, but the slot goes on.
    pub(super) uncovered: Option<Lsn>,
    /// Where it held the slot at the last look at the server, if anything waited for it then.
    pub(super) held_at: Option<Lsn>,
}

impl TargetState {
    pub(super) fn new(index: usize, recent_bytes: usize, now: std::time::Instant) -> TargetState {
        TargetState {
            index: Uncounted(index),
            up: false,
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

    /// Nothing is sent to it before its record was loaded again.
    pub(super) fn unverify(&mut self) {
        if self.mode == Mode::Live {
            self.mode = Mode::Unverified;
        }
    }

    /// It is not known what the target holds: its connection is lost. Nothing more of it counts as applied until
    /// [`TargetState::verified`].
    pub(super) fn doubt(&mut self, decoded: Lsn) {
        self.unverified.get_or_insert(decoded);
    }

    /// The target has missed what was sent to it after `at`: no more than that counts as applied until the repair is
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

    /// What is rendered now counts as rendered after this position: whatever the target may have missed comes before.
    pub(super) fn since(&self, decoded: Lsn) -> Lsn {
        self.unverified.unwrap_or(decoded)
    }

    /// It may be sent deliveries.
    pub(super) fn is_served(&self) -> bool {
        self.mode == Mode::Live && self.suspended.is_none()
    }

    /// Another history is followed from `start` on, and the target may have missed any of it.
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

    /// What was decoded after `at`, of all up to `decoded`, is not part of the server's history any more.
    pub(super) fn fork(&mut self, at: Lsn, decoded: Lsn) {
        self.clamp(at);
        self.unverified.get_or_insert(at);
        if self.record.floor.applied > decoded {
            // A process before this one has sent more than this one has come to.
            self.recent.begin(self.record.floor.applied);
        }
        self.record.fork(at);
    }

    /// What was decoded after `at` is not part of the history that is followed: whatever held a later position holds `at`,
    /// and records that are in flight do not count.
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

    /// Nothing waits for the replay of what is not part of a history any more that ends before `shared`.
    pub(super) fn waits_for_no_replay_after(&mut self, shared: Lsn) {
        let last = just_before(shared);
        self.queue.sent_mut().for_each(|sent| sent.last = sent.last.min(last));
        self.queue.pendings_mut().for_each(|pending| pending.last = pending.last.min(last));
    }

    /// Changes for the target may be missing from the stream from here on. Nothing more of it settles until
    /// [`TargetState::repaired`]; the slot goes on.
    pub(super) fn withhold(&mut self, decoded: Lsn) {
        let applied = self.applied(decoded);
        self.uncovered.get_or_insert(applied);
    }

    /// The repair of everything that was missed since [`TargetState::withhold`] is gathered and ready: once it is confirmed,
    /// everything settles again.
    pub(super) fn repaired(&mut self, decoded: Lsn) {
        let since = self.since(decoded);
        let since = self.uncovered.take().map_or(since, |uncovered| uncovered.min(since));
        self.queue.at(super::pending::Stage::Ready).holds_since(since);
    }
}
