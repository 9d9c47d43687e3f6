//! What follows from what targets remember and from what watching the server shows: go on, send again, flush, give up.

use tokio::sync::oneshot;

use super::link::Link;
use super::{Followed, OnFirstStart, OnGap, Pipeline, Stopped};
use crate::continuity::{Drift, Gap, Overspent, Server, Verdict};
use crate::core::Repair;
use crate::invalidation::{Batch, RuleId};
use crate::lsn::Lsn;
use crate::observation::Observation;
use crate::record::{NEW, Recollection};
use crate::rules::config::Rule;
use crate::source::{Source, SourceError};

/// The `reason` of a gap that the catalogue shows.
const PUBLICATION_CHANGED: &str = "publication_changed";

/// Looks after which it is sure where the log ended when following began. The first may have been under way before.
const LOOKS_MIN: u8 = 2;

/// A target that waits to be told whether it has missed something.
pub(super) struct Asking {
    pub(super) lane: usize,
    pub(super) recollection: Recollection,
    pub(super) answer: oneshot::Sender<Batch>,
}

impl Followed {
    /// The server was looked at, and its log ended there.
    fn looked(&mut self, end: Lsn) {
        if self.looks < LOOKS_MIN {
            self.looks += 1;
            self.reached = self.reached.max(end);
        }
    }
}

impl<S: Source + 'static> Pipeline<S> {
    /// A target says what it remembers.
    pub(super) fn recalled(&mut self, asking: Asking) -> Result<(), Stopped> {
        let lane = asking.lane;
        if !matches!(self.link, Link::Streaming { .. }) {
            // Another instance may be at work by now, and the record be its own. It is asked for again when the stream is
            // open.
            if let Link::Parked { .. } = self.link {
                self.full_since = None;
                self.link.reopen();
            }
            self.early.push(asking);
            return Ok(());
        }
        let (Some(followed), true) = (&self.known, self.coverage.is_known()) else {
            self.early.push(asking);
            return Ok(());
        };
        let system_id = followed.seen.system_id;
        if !self.has_record_alone(&asking, system_id) {
            return Ok(());
        }
        let Some(followed) = &self.known else { return Ok(()) };
        let server = Server {
            system_id: followed.seen.system_id,
            timeline: followed.seen.timeline,
            forks: &followed.seen.forks,
            slot: followed.origin,
            reached: followed.reached.max(self.core.furthest_record(lane)),
        };
        let reached_is_sure = followed.looks >= LOOKS_MIN;
        let verdict = self.core.reconcile(lane, &asking.recollection, server);
        if verdict == Verdict::Overtaken {
            // As a rule the server has not told yet that the stream is lost. The answer is dropped: it is asked for again.
            let text = self.recorder.overtaken(lane);
            return self.lost(SourceError::Lost(text));
        }
        if let (Verdict::Gap(Gap::DatabaseWentBack { .. }), false) = (&verdict, reached_is_sure) {
            // Perhaps the instance before this one wrote the record while this one was waiting.
            self.core.verify_later(lane);
            self.early.push(asking);
            return Ok(());
        }
        let Some(mending) = self.mending(lane, verdict, &asking.recollection) else {
            self.halts.wait(asking);
            return Ok(());
        };
        let answer = match mending {
            mending if mending.is_nothing() => Batch::default(),
            mending => self.core.repair(lane, &mending),
        };
        self.core.verified(lane);
        self.halts.resolved(lane);
        // A worker that is gone has nothing to send either.
        let _ = asking.answer.send(answer);
        Ok(())
    }

    /// What follows from a verdict; `None` where a person has to decide.
    fn mending(&mut self, lane: usize, verdict: Verdict, recollection: &Recollection) -> Option<Repair> {
        let all = self.flush_of(self.core.rules_of(lane, |_| true));
        let settled = recollection.record.as_ref().map_or(Lsn::ZERO, |record| record.settled);
        match verdict {
            Verdict::Overtaken => None,
            Verdict::FirstStart if self.settings.on_first_start == OnFirstStart::Keep => {
                self.recorder.first_start(lane);
                Some(Repair::default())
            }
            Verdict::FirstStart => {
                self.recorder.flushing(lane, "first_start", "first start (on_first_start: flush)");
                Some(all)
            }
            Verdict::Continue => {
                let broken = self.doubted(lane, recollection);
                // Without a record it is empty.
                if broken.is_empty() || recollection.record.is_none() {
                    return Some(Repair::default());
                }
                let names: Vec<&str> = broken.iter().map(|rule| self.recorder.subject(*rule)).collect();
                let text = format!(
                    "{}: what the rule says, or the way in which the publication holds its table, has changed since the \
                     target was last brought on, or a replica had missed changes of it",
                    names.join(", ")
                );
                self.gap(lane, PUBLICATION_CHANGED, &text).then(|| self.flush_of(broken))
            }
            Verdict::Resend { after, because } => {
                self.recorder.resent(lane, because.reason(), &because.to_string());
                self.core.missed_since(lane, after);
                let broken = self.doubted(lane, recollection);
                Some(Repair { sent_after: Some(after), ..self.flush_of(broken) })
            }
            Verdict::Gap(gap) => {
                self.core.missed_since(lane, settled);
                self.doubted(lane, recollection);
                let text = match (gap, &self.renewed_because) {
                    (Gap::SlotWasGone { .. }, Some(why)) => format!("{gap}: {why}"),
                    _ => gap.to_string(),
                };
                self.gap(lane, gap.reason(), &text).then_some(all)
            }
        }
    }

    /// What targets hold turned out to be of another history.
    pub(super) fn other_histories(&mut self) {
        for (target, commit) in self.core.take_other_histories() {
            let gap = Gap::OtherHistory { commit };
            let all = self.flush_of(self.core.rules_of(target, |_| true));
            self.core.missed_since(target, Lsn::ZERO);
            if self.gap(target, gap.reason(), &gap.to_string()) {
                self.core.repair_later(target, &all);
                self.core.verified(target);
            }
        }
    }

    /// Tells of a gap. Gives whether it is to be mended with a flush, or waits for a person.
    fn gap(&mut self, lane: usize, reason: &'static str, text: &str) -> bool {
        if self.halts.is_pardoned(lane) {
            // It was told when it halted.
            self.recorder.flushing(lane, reason, text);
            return true;
        }
        self.recorder.gap(lane, reason, text);
        if self.settings.on_gap == OnGap::Halt {
            self.halts.halted(lane);
            self.core.halt(lane);
            self.recorder.halted_target(lane, text);
            return false;
        }
        self.recorder.flushing(lane, reason, text);
        true
    }

    /// The rules for which the target's record does not vouch: it may have missed what was not in the stream. Where
    /// transactions run that may still hide something, nothing counts as settled before they have ended.
    fn doubted(&mut self, lane: usize, recollection: &Recollection) -> Vec<RuleId> {
        let marks = recollection.record.as_ref().and_then(|record| record.rules.clone());
        let marks = marks.as_deref().unwrap_or_default();
        if marks == NEW {
            return Vec::new();
        }
        let broken = self.coverage.missing(marks, goes_to(lane));
        for &rule in &broken {
            if !self.coverage.doubt(rule) {
                self.core.targets_of(rule).into_iter().for_each(|lane| self.core.withhold(lane));
            }
        }
        self.vouch();
        broken
    }

    /// The server was looked at.
    pub(super) fn observed(&mut self, look: &Observation) -> Result<(), Stopped> {
        self.recorder.observed(look);
        self.log_end = look.log_end;
        if let (Some(held), Some(followed)) = (look.wal, &mut self.known) {
            followed.looked(held.end);
        }
        let is_first = !self.coverage.is_known();
        let reinherited = look.database.as_ref().map(|database| self.reader.looked(database)).unwrap_or_default();
        let drifts = self.coverage.looked(look, &reinherited);
        if is_first {
            // Later looks are compared with the one before, which shows that too.
            for rule in reinherited {
                self.reinherited(rule);
            }
        }
        for (index, drift) in drifts.iter().enumerate() {
            self.drifted(drift, drifts.get(index.wrapping_sub(1)));
        }
        if is_first || !drifts.is_empty() || !look.tables.is_empty() {
            self.vouch();
        }
        for asking in std::mem::take(&mut self.early) {
            self.recalled(asking)?;
        }
        if let (Some(held), Some(_)) = (look.wal, &self.known) {
            let laggards = self.core.laggards(&held);
            if let Some(spent) = self.budget.looked(held) {
                self.stuck.hurry();
                self.give_up(&laggards, held.end, spent);
            }
        }
        Ok(())
    }

    fn drifted(&mut self, drift: &Drift, before: Option<&Drift>) {
        // While nothing is followed nothing can be sent either: records that do not vouch for the rule prove it later.
        let follows = self.known.is_some();
        match drift {
            Drift::Uncovered(rule, text) => {
                self.recorder.uncovered(*rule, text);
                if follows {
                    self.broken(*rule, "changes of its table are not, or not all, in the stream");
                }
            }
            Drift::Faulty(rule, text) => self.recorder.uncovered(*rule, text),
            Drift::Covered(rule) => self.recorder.covered(*rule),
            Drift::Broken(rule) if follows => {
                self.broken(*rule, "the way in which the publication holds its table has changed");
            }
            Drift::Mended(rule) if follows => {
                for lane in self.core.targets_of(*rule) {
                    // Where it was broken at the same look, it has just been flushed.
                    if before != Some(&Drift::Broken(*rule)) {
                        self.flush(lane, *rule);
                    }
                    if self.coverage.is_whole(goes_to(lane)) {
                        self.core.repaired(lane);
                    }
                }
            }
            Drift::Broken(_) | Drift::Mended(_) => {}
        }
    }

    /// Between what the rules were read with and the first look, other tables came to inherit from the rule's.
    fn reinherited(&mut self, rule: RuleId) {
        if self.known.is_none() {
            return;
        }
        self.coverage.reinherited(rule);
        let text = format!("{}: other tables inherit from its table", self.recorder.subject(rule));
        for lane in self.core.targets_of(rule) {
            self.core.withhold(lane);
            if self.gap(lane, PUBLICATION_CHANGED, &text) {
                self.flush(lane, rule);
            }
        }
    }

    fn broken(&mut self, rule: RuleId, why: &str) {
        let text = format!("{}: {why}", self.recorder.subject(rule));
        for lane in self.core.targets_of(rule) {
            self.core.withhold(lane);
            if self.gap(lane, PUBLICATION_CHANGED, &text) {
                self.flush(lane, rule);
            }
        }
    }

    fn flush(&mut self, lane: usize, rule: RuleId) {
        self.core.repair_later(lane, &self.flush_of(vec![rule]));
    }

    /// The flush of these rules, whose changes may have been missed up to the end of the log as it was last seen: the
    /// catalogue shows what lies beyond what has been read.
    fn flush_of(&self, rules: Vec<RuleId>) -> Repair {
        Repair { sent_after: None, rules, missed_until: self.log_end }
    }

    /// Has the records say which rules are whole.
    pub(super) fn vouch(&mut self) {
        for lane in 0..self.core.target_count() {
            let marks = self.coverage.marks(|rule| goes_to(lane)(rule) && self.core.may_list(lane, rule.id));
            self.core.mark_rules(lane, &marks);
        }
    }

    /// Where nobody lags, a long transaction holds the log back, or this process has only just begun to read it.
    fn give_up(&mut self, laggards: &[usize], end: Lsn, spent: Overspent) {
        let text = format!("given up at {end}: {spent}");
        let found = self.known.as_ref().map_or(Lsn::ZERO, |followed| followed.reached);
        for &lane in laggards {
            self.core.suspend(lane, found);
            self.recorder.given_up(lane, &text);
            if self.settings.on_gap == OnGap::Halt {
                self.halts.halted(lane);
                self.core.halt(lane);
                self.recorder.halted_target(lane, &text);
            }
        }
    }
}

fn goes_to(lane: usize) -> impl Fn(&Rule) -> bool {
    move |rule| rule.lanes.contains(&lane)
}
