//! What follows from a target's stored record: go on, send again, flush, halt.

use std::time::Instant;

use super::continuity::{Gap, Known, Server, Shared, Verdict, compare};
use super::following::Stream;
use super::target::{Floor, Mode};
use super::{Core, Event, OnFirstStart, OnGap, Output, Reopen, Repair, Why, goes_to};
use crate::invalidation::RuleId;
use crate::lsn::Lsn;
use crate::record::{Answer, NEW, StoredRecord};

impl Core {
    /// A target's stored record was read.
    pub(super) fn record_loaded(&mut self, index: usize, stored: StoredRecord, now: Instant) {
        if self.walsender().is_none() {
            // Another instance may be at work by now, and the record be its own. It is loaded again when the stream is open.
            if self.following.stream == Stream::Parked {
                self.unpark();
            }
            return self.early.push((index, stored));
        }
        let (Some(followed), true) = (&self.following.followed, self.catalogue.coverage.is_known()) else {
            return self.early.push((index, stored));
        };
        let (system_id, is_reached_sure) = (followed.opening.system_id, followed.is_reached_sure());
        if !self.has_record_alone(index, &stored, system_id, now) {
            return self.outputs.push(Output::LoadAgain(index));
        }
        if self.is_overtaken(index, &stored, system_id) {
            // As a rule the server has not told yet that the stream is lost.
            self.outputs.push(Output::LoadAgain(index));
            return self.reopen(Reopen::Overtaken(index));
        }
        let verdict = self.reconcile(index, &stored);
        if let (Verdict::Gap(Gap::DatabaseWentBack { .. }), false) = (&verdict, is_reached_sure) {
            // Perhaps the instance before this one wrote the record while this one was waiting.
            if let Some(target) = self.targets.get_mut(index) {
                target.unverify();
            }
            return self.early.push((index, stored));
        }
        let confirmed_at_most = verdict.has_up_to(&stored);
        self.missed_since(index, confirmed_at_most);
        let Some(repair) = self.follows(index, verdict, &stored) else {
            return self.halts.wait(index, stored);
        };
        let lists_no_rules = !repair.rules.is_empty();
        let sequence = self.sequence;
        let answer = Answer { batch: self.repair(index, &repair), sequence, confirmed_at_most, lists_no_rules };
        self.verified(index);
        self.halts.resolved(index);
        self.outputs.push(Output::Reconciled(index, answer));
    }

    /// Whether nobody else writes the target's record, as far as can be seen. Where somebody does, nothing is sent.
    fn has_record_alone(&mut self, index: usize, stored: &StoredRecord, system_id: u64, now: Instant) -> bool {
        let Some(target) = self.targets.get_mut(index) else { return true };
        match target.stranger.read(stored, system_id, &self.slot, now) {
            Shared::Free => {
                self.tell(Event::RecordFree(index));
                true
            }
            Shared::Watch => false,
            Shared::Taken(writer) => {
                self.tell(Event::RecordTaken(index, writer, system_id));
                false
            }
        }
    }

    /// Whether another instance that follows the same slot has begun to write the record since this one did. Said once: where
    /// the stream turns out to be open still, its clock was ahead of this one's, and sequences go on after its own.
    pub(super) fn is_overtaken(&mut self, index: usize, stored: &StoredRecord, system_id: u64) -> bool {
        let (Some(target), Some(record)) = (self.targets.get(index), &stored.record) else { return false };
        let is_overtaken =
            record.system_id == system_id && record.sequence > self.sequence && target.written > Lsn::ZERO;
        if is_overtaken {
            self.sequence = record.sequence;
        }
        is_overtaken
    }

    /// Compares a target's stored record with what is known. Unless the target is halted, it may be sent something from
    /// now on: what the verdict asks for first.
    pub(super) fn reconcile(&mut self, index: usize, its: &StoredRecord) -> Verdict {
        let (before, last) = (self.sequence_before, self.sequence);
        let (Some(target), Some(followed)) = (self.targets.get_mut(index), &self.following.followed) else {
            return Verdict::Continue;
        };
        let opening = &followed.opening;
        let sequence = its.record.as_ref().map_or(0, |record| record.sequence);
        // What is given out next is later than whatever another instance has written.
        self.sequence = last.max(sequence);
        let server = Server {
            system_id: opening.system_id,
            timeline: opening.timeline,
            forks: &opening.forks,
            slot: opening.slot,
            reached: followed.reached.max(target.sent),
        };
        let known = Known {
            server,
            written: target.written,
            sequence: target.confirmed_sequence,
            acquainted: target.acquainted,
            is_ours: target.sent > Lsn::ZERO && before < sequence && sequence <= last,
            remembered: target.recent.reaches_back_to(),
        };
        let (verdict, is_ours) = (compare(&known, its), known.is_ours);
        if target.mode == Mode::Unverified {
            target.mode = Mode::Live;
        }
        target.floor = match (&verdict, &its.record) {
            (Verdict::Continue, Some(record)) => {
                Floor { applied: record.applied, confirmed: record.confirmed, settled: record.settled }
            }
            _ => Floor::default(),
        };
        // It may have lost those too.
        target.rules.1 = true;
        self.flush_again(index);
        if let (Verdict::Continue | Verdict::Resend { .. }, Some(record), false) = (&verdict, &its.record, is_ours) {
            if let Some(target) = self.targets.get_mut(index) {
                target.history = None;
            }
            if let Some(commit) = self.expect_history(index, record.commit) {
                return Verdict::Gap(Gap::OtherHistory { commit });
            }
            if let (Verdict::Continue, Some(target)) = (&verdict, self.targets.get_mut(index)) {
                target.found(record);
            }
        }
        verdict
    }

    /// What follows from a verdict; `None` where a person has to decide.
    fn follows(&mut self, index: usize, verdict: Verdict, stored: &StoredRecord) -> Option<Repair> {
        let all = self.flush_of(self.rules_of(index, |_| true));
        match verdict {
            Verdict::FirstStart if self.policy.on_first_start == OnFirstStart::Keep => {
                self.tell(Event::FirstStart(index));
                Some(Repair::default())
            }
            Verdict::FirstStart => {
                self.tell(Event::Flushing(index, Why::FirstStart));
                Some(all)
            }
            Verdict::Continue => {
                let not_listed = self.not_listed(index, stored);
                // Without a record it is empty.
                if not_listed.is_empty() || stored.record.is_none() {
                    return Some(Repair::default());
                }
                let repair = self.flush_of(not_listed.clone());
                self.gap(index, Why::NotListed(not_listed)).then_some(repair)
            }
            Verdict::Resend { after, because } => {
                self.tell(Event::Resent(index, because));
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

    /// What targets hold turned out to be of another history.
    pub(super) fn other_histories(&mut self) {
        for (index, commit) in self.take_other_histories() {
            let all = self.flush_of(self.rules_of(index, |_| true));
            self.missed_since(index, Lsn::ZERO);
            if self.gap(index, Why::Gap(Gap::OtherHistory { commit }, None)) {
                self.repair_later(index, &all);
                self.verified(index);
            }
        }
    }

    /// Tells of a gap. Gives whether it is repaired with a flush, or waits for a person.
    pub(super) fn gap(&mut self, index: usize, why: Why) -> bool {
        if self.halts.is_pardoned(index) {
            // It was told when it halted.
            self.tell(Event::Flushing(index, why));
            return true;
        }
        self.tell(Event::Gap(index, why.clone()));
        if self.policy.on_gap == OnGap::Halt {
            self.halt(index, why);
            return false;
        }
        self.tell(Event::Flushing(index, why));
        true
    }

    /// The rules that the target's record does not list: it may have missed what was not in the stream. Where transactions
    /// run that may still hide something, nothing counts as settled before they have ended.
    fn not_listed(&mut self, index: usize, stored: &StoredRecord) -> Vec<RuleId> {
        let marks = stored.record.as_ref().and_then(|record| record.rules.clone());
        let marks = marks.as_deref().unwrap_or_default();
        if marks == NEW {
            return Vec::new();
        }
        let not_listed = self.catalogue.coverage.missing(marks, goes_to(index));
        for &rule in &not_listed {
            if !self.catalogue.coverage.doubt(rule) {
                self.targets_of(rule).into_iter().for_each(|target| self.withhold(target));
            }
        }
        self.list_rules();
        not_listed
    }
}
