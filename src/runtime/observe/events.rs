//! Every event of the core, as log lines, on the status board and in metrics.

use tracing::{error, info, warn};

use super::{Limit, Observer, since};
use crate::admin::status::{HALT_ADVICE, State, Unsettled, record_advice};
use crate::core::continuity::Writer;
use crate::core::{Event, Opening, Why};
use crate::types::invalidation::RuleId;

impl Observer {
    /// Tells people what has happened.
    pub(in crate::runtime) fn tell(&mut self, event: Event) {
        match event {
            Event::FirstStart(target) => {
                info!(to = self.name(target), "first start: trusting what is in the target (on_first_start: keep)");
            }
            Event::Gap(target, why) => self.gap(target, why.reason(), &self.text(&why)),
            Event::Flushing(target, why) => self.flushing(target, why.reason(), &self.text(&why)),
            Event::Resent(target, gap) => self.resent(target, gap.reason(), &gap.to_string()),
            Event::Halted(target, why) => self.halted(target, &self.text(&why)),
            Event::Released(target) => {
                warn!(
                    to = self.name(target),
                    "every rule of the halted target was flushed manually; deliveries resumed"
                );
                self.board.target(target, |target| target.halted = None);
            }
            Event::Suspended(target, why) => self.suspended(target, why.reason(), &self.text(&why)),
            Event::Resumed(target) => {
                info!(to = self.name(target), "target recovered; deliveries resumed");
                self.board.target(target, |target| target.suspended = None);
            }
            Event::RecordTaken(target, writer, system_id) => self.record_is_taken(target, &writer, system_id),
            Event::RecordFree(target) => self.board.target(target, |target| target.taken = None),
            Event::Overflowed(target, rules) => {
                self.overflowed(target, Limit::Pending(self.pending_keys_max), &rules);
            }
            Event::ManualLost(keys) => self.manual_lost(keys),
            Event::Uncovered(rule, text) => self.uncovered(rule, &text),
            Event::Covered(rule) => {
                if self.board.cover(usize::from(rule.0)) {
                    info!("{} is covered again", self.subject(rule));
                }
            }
            // Every delivery counts once, by the oldest commit in it.
            Event::Applied(oldest_commit) => {
                if let Some(took) = oldest_commit.and_then(since) {
                    self.commit_to_applied.observe(took.as_secs_f64());
                }
            }
            Event::Anew(why) => {
                self.board.turned();
                self.unsettled = Unsettled::new();
                warn!("{why}; reconciling every target");
            }
            Event::Streaming(opening, has_failed) => self.streaming(&opening, has_failed),
            Event::StreamsOn => {
                info!("following the log again, past the position that could not be decoded");
                self.board.enter(State::Streaming);
            }
            Event::ReplicaLeft(replica, why) => self.replica_left(replica, why),
            Event::ReplicaReturned(replica) => self.replica_returned(replica),
            Event::ReplicaHeld(replica, is_held) => self.replica_held(replica, is_held),
        }
    }

    fn text(&self, why: &Why) -> String {
        match why {
            Why::FirstStart => "first start (on_first_start: flush)".to_owned(),
            Why::Gap(gap, None) => gap.to_string(),
            Why::Gap(gap, Some(why)) => format!("{gap}: {why}"),
            Why::NotListed(rules) => {
                let names: Vec<&str> = rules.iter().map(|rule| self.subject(*rule)).collect();
                format!(
                    "{}: the rule, its table, or how the publication contains it has changed since the target's record was \
                     written, or a replica had missed changes",
                    names.join(", ")
                )
            }
            Why::Uncovered(rule) => {
                format!("{}: changes of its table may be missing from the stream", self.subject(*rule))
            }
            Why::Republished(rule) => {
                format!("{}: its table, or how the publication contains it, has changed", self.subject(*rule))
            }
            Why::Reinherited(rule) => format!("{}: other tables inherit from its table now", self.subject(*rule)),
            Why::ReplicaReturned => "a replica is back".to_owned(),
            Why::Overspent(end, spent) => format!("suspended at {end}: {spent}"),
        }
    }

    fn gap(&mut self, target: usize, reason: &'static str, text: &str) {
        let text = format!("{}: {text}", self.name(target));
        self.metrics.gap(reason);
        self.board.gap(reason, text);
    }

    fn flushing(&mut self, target: usize, reason: &'static str, text: &str) {
        warn!(to = self.name(target), reason, "{text}; flushing the affected scopes");
        self.metrics.flushed(reason);
        self.board.flushed(reason, format!("{}: {text}", self.name(target)));
    }

    fn resent(&mut self, target: usize, reason: &'static str, text: &str) {
        warn!(to = self.name(target), reason, "{text}; sending again from memory what it lost");
        self.metrics.resent(reason);
        self.board.resent(reason, format!("{}: {text}; what it lost was sent again", self.name(target)));
    }

    fn halted(&mut self, target: usize, text: &str) {
        error!(to = self.name(target), "halted (on_gap: halt): {text}; {HALT_ADVICE}");
        self.board.target(target, |target| target.halted = Some(text.to_owned()));
    }

    /// `text` reads on after "the target was ".
    fn suspended(&mut self, target: usize, reason: &'static str, text: &str) {
        error!(to = self.name(target), "{text}; coherd flushes the target when it is back");
        self.gap(target, reason, text);
        self.board.target(target, |target| target.suspended = Some(text.to_owned()));
    }

    fn record_is_taken(&mut self, target: usize, writer: &Writer, system_id: u64) {
        let slot = self.slot();
        let text = format!(
            "another coherd writes the record of this target, for {writer}; this coherd follows system identifier {system_id}, slot {slot}"
        );
        let mut is_new = false;
        self.board.target(target, |target| {
            is_new = target.taken.as_ref() != Some(&text);
            target.taken = Some(text.clone());
        });
        if is_new {
            let name = self.name(target);
            error!(to = name, "sending nothing: {text}. {}", record_advice(name));
        }
    }

    fn manual_lost(&self, keys: u64) {
        self.board.turned();
        error!(
            keys,
            "lost manual keys of a suspended target, because they do not fit in memory; when the target is back, run coherd \
             invalidate for those that no rule covers (coherd has not kept their names)"
        );
    }

    /// `text` reads on after "the rule is not covered: ", and may end in SQL, after which nothing must stand.
    fn uncovered(&self, rule: RuleId, text: &str) {
        if self.board.uncover(usize::from(rule.0), text) {
            error!("{} is not covered: {text}", self.subject(rule));
        }
    }

    /// One that has failed before is not called a stream until it has got past that position.
    fn streaming(&self, opening: &Opening, has_failed: bool) {
        let Opening { system_id, timeline, wal_end, start, .. } = *opening;
        self.board.seen(system_id, timeline, wal_end);
        if !has_failed {
            info!(%start, %wal_end, timeline, "following the log");
            self.board.enter(State::Streaming);
        }
    }
}
