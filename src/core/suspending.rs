//! Suspends targets that hold the slot back: when the budget ([`continuity::budget`](super::continuity)) is nearly
//! used up, the slot goes on without those that lag.

use super::feed::Feed;
use super::pending::{Pending, Stage};
use super::target::{Mode, TargetState};
use super::{Core, Event, OnGap, Why, just_before};
use crate::types::lsn::Lsn;
use crate::types::observation::HeldWal;

impl Core {
    /// Handles a look at the log that the slot holds back. If no target lags, a long transaction holds the slot back,
    /// or this process has only just begun to read.
    pub(super) fn held_back(&mut self, held: HeldWal) {
        let grown = self.catalogue.budget.grown(&held);
        let laggards = self.laggards(&held, grown);
        let Some(spent) = self.catalogue.budget.looked(held) else { return };
        self.following.stuck.hurry();
        let found = self.following.followed.as_ref().map_or(Lsn::ZERO, |followed| followed.reached);
        let why = Why::Overspent(held.end, spent);
        for index in laggards {
            self.with(index, |target, feed| target.suspend(feed, found));
            self.feed.tell(Event::Suspended(index, why.clone()));
            if self.feed.policy.on_gap == OnGap::Halt {
                self.halt(index, why.clone());
            }
        }
    }

    /// The targets for which something waits, that advanced less than the log since the last look, and that account
    /// for at least half of what the slot holds back. A long transaction may hold back the rest. `grown`: by how many
    /// bytes the log has grown; `None` at the first look.
    fn laggards(&mut self, held: &HeldWal, grown: Option<u64>) -> Vec<usize> {
        let decoded = self.feed.decoded;
        let mut laggards = Vec::new();
        for target in &mut self.targets {
            let held_at = target.held_by(decoded);
            let before = std::mem::replace(&mut target.held_at, held_at);
            if let (Some(grown), Some(before), Some(now)) = (grown, before, held_at)
                && now.bytes_since(before) < grown
                && held.end.bytes_since(now) >= held.retained / 2
            {
                laggards.push(*target.index);
            }
        }
        laggards
    }
}

impl TargetState {
    /// The slot goes on without the target, which therefore misses changes. Its scopes stand in for everything that it
    /// still had to be sent, and for everything to come. Its watermarks stay where they are, and its record will prove
    /// the gap: whatever is acknowledged is past every record that the target may hold. `found` is the furthest record
    /// that it may have had before this process started.
    pub(super) fn suspend(&mut self, feed: &mut Feed, found: Lsn) {
        let rules = feed.rules_of(*self.index, |_| true);
        let since = Some(self.since(feed.decoded));
        let mut all = Pending { since, last: just_before(feed.decoded), repairs: true, ..Pending::default() };
        for pending in self.queue.pendings_mut() {
            // The scopes stand in for everything except manual keys.
            let _replaced = pending.batch.coarsen(|_| &[]);
            all.join(&std::mem::take(pending));
        }
        self.queue.awaiting_replay.clear();
        self.queue.repeats.clear();
        feed.push_scopes(&rules, &mut all.batch);
        // How long they waited says nothing about how fast a commit is invalidated.
        all.oldest = None;
        *self.queue.at(Stage::Ready) = all;
        self.suspended.get_or_insert(self.record.sent.max(found));
        for rule in rules {
            feed.touched.touch(rule, feed.decoded);
        }
    }

    /// Serves a suspended target again once it answers. Until then its scopes wait, and take nothing up. Returns
    /// whether the target resumes now.
    pub(super) fn resume(&mut self, feed: &mut Feed) -> bool {
        let resumes = self.mode == Mode::Live && self.up && self.suspended.take().is_some();
        if resumes {
            feed.tell(Event::Resumed(*self.index));
        }
        resumes
    }
}
