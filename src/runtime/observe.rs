//! Turns events into log lines, status and metrics. It decides nothing. [`Observer::tell`] is the one match that maps
//! each event of the core to its report; the runtime passes what connections report to the part of that name. The parts
//! are in `admin::telling`.

use std::sync::Arc;

use tracing::warn;

use super::Settings;
use crate::admin::metrics::Metrics;
use crate::admin::status::Board;
use crate::admin::telling::commits::Commits;
use crate::admin::telling::manual::Manual;
use crate::admin::telling::replicas::Replicas;
use crate::admin::telling::rules::Rules;
use crate::admin::telling::source::Source;
use crate::admin::telling::targets::{Limit, Targets};
use crate::core::{Core, Event};
use crate::rules::config::Rule;
use crate::targets::Delivered;
use crate::transaction::Reader;
use crate::types::invalidation::{Batch, RuleId};

/// Reports events to operators.
pub struct Observer {
    board: Board,
    pub(super) source: Source,
    pub(super) targets: Targets,
    pub(super) replicas: Replicas,
    pub(super) manual: Manual,
    pub(super) commits: Commits,
    rules: Rules,
    /// `limits.max_keys_per_transaction` and `limits.max_pending_keys`.
    transaction_keys_max: u64,
    pending_keys_max: usize,
}

impl Observer {
    /// An observer for `rules` and for `targets`, which are in the order of their numbers.
    pub fn new(board: Board, metrics: Metrics, targets: &[Arc<str>], rules: &[Rule]) -> Self {
        Observer {
            source: Source::new(&board, &metrics),
            targets: Targets::new(&board, &metrics, targets),
            replicas: Replicas::new(&board),
            manual: Manual::new(&board, &metrics),
            commits: Commits::new(&board, &metrics, rules),
            rules: Rules::new(&board, rules),
            board,
            transaction_keys_max: u64::MAX,
            pending_keys_max: usize::MAX,
        }
    }

    /// Sets the limits that log lines name when they are reached.
    pub(super) fn with_limits(self, settings: &Settings) -> Self {
        let Settings { transaction_keys_max, policy, .. } = *settings;
        Observer { transaction_keys_max, pending_keys_max: policy.pending_keys, ..self }
    }

    pub(super) fn slot(&self) -> String {
        self.board.slot()
    }

    /// Reports an event of the core.
    pub(super) fn tell(&mut self, event: Event) {
        match event {
            Event::FirstStart(target) => self.targets.first_start(target),
            Event::Gap(target, why) => self.targets.gap(target, why.reason(), &self.rules.text(&why)),
            Event::Flushing(target, why) => self.targets.flushing(target, why.reason(), &self.rules.text(&why)),
            Event::Resent(target, gap) => self.targets.resent(target, gap.reason(), &gap.to_string()),
            Event::Halted(target, why) => self.targets.halted(target, &self.rules.text(&why)),
            Event::Released(target) => self.targets.released(target),
            Event::Suspended(target, why) => self.targets.suspended(target, why.reason(), &self.rules.text(&why)),
            Event::Resumed(target) => self.targets.resumed(target),
            Event::RecordTaken(target, writer, system_id) => self.targets.record_is_taken(target, &writer, system_id),
            Event::RecordFree(target) => self.targets.record_is_free(target),
            Event::Overflowed(target, rules) => self.overflowed(target, Limit::Pending(self.pending_keys_max), &rules),
            Event::ManualLost(keys) => self.manual.lost(keys),
            Event::Uncovered(rule, text) => self.rules.uncovered(rule, &text),
            Event::Covered(rule) => self.rules.covered(rule),
            Event::Applied(oldest_commit) => self.commits.applied(oldest_commit),
            Event::Anew(why) => {
                self.commits.start_over();
                warn!("{why}; reconciling every target");
            }
            Event::Streaming(opening, has_failed) => self.source.streaming(&opening, has_failed),
            Event::StreamsOn => self.source.streams_on(),
            Event::ReplicaLeft(replica, why) => self.replicas.left(replica, &why.to_string()),
            Event::ReplicaReturned(replica) => self.replicas.returned(replica),
            Event::ReplicaHeld(replica, is_held) => self.replicas.held(replica, is_held),
        }
    }

    /// Reports one turn of the loop: rows, coarsened transactions and watermarks.
    pub(super) fn turned(&mut self, reader: &mut Reader, core: &Core) {
        let has_rows = self.commits.count(reader);
        self.manual.ignored(reader.take_ignored());
        let overflowed = reader.take_overflowed();
        for target in (0..core.target_count()).take_while(|_| !overflowed.is_empty()) {
            let goes_here = |rule: &&RuleId| core.targets_of(**rule).contains(&target);
            let rules: Vec<RuleId> = overflowed.iter().filter(goes_here).copied().collect();
            self.overflowed(target, Limit::Transaction(self.transaction_keys_max), &rules);
        }
        if self.commits.moved(core.watermarks(), has_rows) {
            (0..core.target_count()).for_each(|target| self.targets.stands(target, core));
        }
    }

    /// Scopes of these rules replace their keys in what goes to the target.
    fn overflowed(&mut self, target: usize, limit: Limit, rules: &[RuleId]) {
        if !rules.is_empty() {
            self.targets.overflowed(target, limit, &self.rules.names(rules));
        }
    }

    /// The target confirmed a batch.
    pub(super) fn delivered(&mut self, target: usize, batch: &Batch, delivered: &Delivered) {
        self.targets.delivered(target, batch, delivered.hit);
        self.replaced(target, batch, delivered);
    }

    /// Something else may have stood where version pointers should.
    pub(super) fn replaced(&mut self, target: usize, batch: &Batch, delivered: &Delivered) {
        for what in self.rules.replaced(batch, &delivered.replaced) {
            self.targets.replaced(target, &what);
        }
    }
}

#[cfg(test)]
mod tests;
