//! Reconciles a target: compares its stored record with the slot, and continues, sends again, flushes or halts.

use std::time::Instant;

use super::continuity::{Gap, Known, Shared, Verdict, compare};
use super::feed::Feed;
use super::following::{Followed, Stream};
use super::history::Shown;
use super::record_state::Floor;
use super::repairing::Repair;
use super::target::{Mode, TargetState};
use super::{Core, Event, OnFirstStart, OnGap, Output, Reopen, Why, goes_to};
use crate::types::invalidation::RuleId;
use crate::types::lsn::Lsn;
use crate::types::record::{Answer, NEW, StoredRecord};

impl TargetState {
    /// Whether no other coherd writes the target's record, as far as can be seen. If one does, nothing is sent.
    /// `system_id` and `slot` are those of the database that is followed.
    fn has_record_alone(
        &mut self,
        feed: &mut Feed,
        stored: &StoredRecord,
        (system_id, slot): (u64, &str),
        now: Instant,
    ) -> bool {
        match self.stranger.read(stored, system_id, slot, now) {
            Shared::Free => feed.tell(Event::RecordFree(*self.index)),
            Shared::Watch => return false,
            Shared::Taken(writer) => {
                feed.tell(Event::RecordTaken(*self.index, writer, system_id));
                return false;
            }
        }
        true
    }

    /// Whether another instance that follows the same slot has started to write the record since this one did. True
    /// only once per instance: if the stream turns out to be still open, the other instance's clock was ahead, and
    /// sequences continue after its own.
    pub(super) fn is_overtaken(&self, feed: &mut Feed, stored: &StoredRecord, system_id: u64) -> bool {
        let Some(record) = stored.record.as_ref().filter(|record| record.system_id == system_id) else { return false };
        let is_overtaken = record.sequence > feed.sequences.last && self.record.written > Lsn::ZERO;
        if is_overtaken {
            feed.sequences.last = record.sequence;
        }
        is_overtaken
    }

    /// Compares the target's stored record with what is known. Unless the target is halted, it may receive deliveries
    /// from now on, first what the verdict requires.
    pub(super) fn reconcile(
        &mut self,
        feed: &mut Feed,
        followed: &Followed,
        shown: &Shown,
        its: &StoredRecord,
    ) -> Verdict {
        let sequence = its.record.as_ref().map_or(0, |record| record.sequence);
        let is_ours = self.record.sent > Lsn::ZERO && feed.sequences.are_ours(sequence);
        // The next sequence is later than any that another instance has written.
        feed.sequences.last = feed.sequences.last.max(sequence);
        let known = Known {
            opening: &followed.opening,
            reached: followed.reached.max(self.record.sent),
            written: self.record.written,
            sequence: self.record.sequence,
            acquainted: self.record.acquainted,
            is_ours,
            remembered: self.recent.reaches_back_to(),
        };
        let verdict = compare(&known, its);
        if self.mode == Mode::Unverified {
            self.mode = Mode::Live;
        }
        self.record.floor = match (&verdict, &its.record) {
            (Verdict::Continue, Some(record)) => Floor::of(record),
            _ => Floor::default(),
        };
        // The target may have lost its marks too.
        self.record.marks_are_due = true;
        self.flush_again();
        if let (Verdict::Continue | Verdict::Resend { .. }, Some(record), false) = (&verdict, &its.record, is_ours) {
            self.record.history = None;
            if let Some(commit) = self.record.expect_history(shown, record.commit) {
                return Verdict::Gap(Gap::OtherHistory { commit });
            }
            if verdict == Verdict::Continue {
                self.record.found(record);
                // What the other process sent is not in this one's memory.
                if record.applied > self.recent.reaches_back_to() {
                    self.recent.begin(record.applied);
                }
            }
        }
        verdict
    }
}

impl Core {
    /// A target's stored record was read.
    pub(super) fn record_loaded(&mut self, index: usize, stored: StoredRecord, now: Instant) {
        if self.following.walsender().is_none() {
            // Another instance may be active by now and may have written the record. It is loaded again once the
            // stream is open.
            if self.following.stream == Stream::Parked {
                self.unpark();
            }
            return self.early.push((index, stored));
        }
        let Core { feed, targets, following, shown, .. } = self;
        let (Some(followed), true) = (&following.followed, self.catalogue.coverage.is_known()) else {
            return self.early.push((index, stored));
        };
        let Some(target) = targets.get_mut(index) else { return };
        let system_id = followed.opening.system.id;
        if !target.has_record_alone(feed, &stored, (system_id, &following.slot), now) {
            return feed.outputs.push(Output::LoadAgain(index));
        }
        if target.is_overtaken(feed, &stored, system_id) {
            // Usually the server has not reported yet that the stream is lost.
            feed.outputs.push(Output::LoadAgain(index));
            return self.reopen(Reopen::Overtaken(index));
        }
        let verdict = target.reconcile(feed, followed, shown, &stored);
        if let (Verdict::Gap(Gap::DatabaseWentBack { .. }), false) = (&verdict, followed.is_reached_sure()) {
            // The previous instance may have written the record while this one was waiting.
            target.unverify();
            return self.early.push((index, stored));
        }
        let confirmed_at_most = verdict.has_up_to(&stored);
        target.missed_since(confirmed_at_most, feed.decoded);
        match self.follows(index, verdict, &stored) {
            Some(repair) => self.reconciled(index, &repair, confirmed_at_most),
            None => self.with(index, |target, _| target.halt.stored = Some(stored)),
        }
    }

    /// The target continues, with a repair. Its record proves that everything up to `confirmed_at_most` is confirmed.
    fn reconciled(&mut self, index: usize, repair: &Repair, confirmed_at_most: Lsn) {
        let sequence = self.feed.sequences.last;
        let answer = Answer { sequence, confirmed_at_most, lists_no_rules: !repair.rules.is_empty() };
        self.with(index, |target, feed| {
            target.halt.is_pardoned = false;
            if repair.sent_after.is_some() || !repair.rules.is_empty() {
                target.repair(feed, repair);
            }
            target.verified();
            feed.outputs.push(Output::Reconciled(index, answer));
        });
    }

    /// The repair that a verdict requires; `None` if a person has to decide.
    fn follows(&mut self, index: usize, verdict: Verdict, stored: &StoredRecord) -> Option<Repair> {
        let all = self.flush_of(self.feed.rules_of(index, |_| true));
        match verdict {
            Verdict::FirstStart if self.feed.policy.on_first_start == OnFirstStart::Keep => {
                self.feed.tell(Event::FirstStart(index));
                Some(Repair::default())
            }
            Verdict::FirstStart => {
                self.feed.tell(Event::Flushing(index, Why::FirstStart));
                Some(all)
            }
            Verdict::Continue => {
                let not_listed = self.not_listed(index, stored);
                // A target without a record is empty.
                if not_listed.is_empty() || stored.record.is_none() {
                    return Some(Repair::default());
                }
                let repair = self.flush_of(not_listed.clone());
                self.gap(index, Why::NotListed(not_listed)).then_some(repair)
            }
            Verdict::Resend { after, because } => {
                self.feed.tell(Event::Resent(index, because));
                let not_listed = self.not_listed(index, stored);
                Some(Repair { sent_after: Some(after), ..self.flush_of(not_listed) })
            }
            Verdict::Gap(gap) => {
                self.not_listed(index, stored);
                let lost_because = self.following.lost_because.clone();
                let lost_because = lost_because.filter(|_| matches!(gap, Gap::SlotWasGone { .. }));
                self.gap(index, Why::Gap(gap, lost_because)).then_some(all)
            }
        }
    }

    /// Handles targets whose contents turned out to belong to another history.
    pub(super) fn other_histories(&mut self) {
        for (index, commit) in self.take_other_histories() {
            let all = self.flush_of(self.feed.rules_of(index, |_| true));
            self.with(index, |target, feed| target.missed_since(Lsn::ZERO, feed.decoded));
            if self.gap(index, Why::Gap(Gap::OtherHistory { commit }, None)) {
                self.with(index, |target, feed| {
                    target.repair(feed, &all);
                    target.verified();
                });
            }
        }
    }

    /// Reports a gap. Returns true if a flush repairs it, and false if it waits for a person.
    pub(super) fn gap(&mut self, index: usize, why: Why) -> bool {
        if self.targets.get(index).is_some_and(|target| target.halt.is_pardoned) {
            // The gap was reported when the target halted.
            self.feed.tell(Event::Flushing(index, why));
            return true;
        }
        self.feed.tell(Event::Gap(index, why.clone()));
        if self.feed.policy.on_gap == OnGap::Halt {
            self.halt(index, why);
            return false;
        }
        self.feed.tell(Event::Flushing(index, why));
        true
    }

    /// The rules that the target's record does not list: the target may have missed changes that were not in the
    /// stream. If running transactions may still hide changes, nothing settles until they have ended.
    fn not_listed(&mut self, index: usize, stored: &StoredRecord) -> Vec<RuleId> {
        let marks = stored.record.as_ref().and_then(|record| record.rules.clone());
        let marks = marks.as_deref().unwrap_or_default();
        if marks == NEW {
            return Vec::new();
        }
        let not_listed = self.catalogue.coverage.missing(marks, goes_to(index));
        for &rule in &not_listed {
            if !self.catalogue.coverage.doubt(rule) {
                for target in self.targets_of(rule) {
                    self.with(target, |target, feed| target.withhold(feed.decoded));
                }
            }
        }
        self.list_rules();
        not_listed
    }
}
