//! Reports on targets: whether each answers, what it has missed, and what coherd does about it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};

use crate::admin::metrics::{Metrics, TargetMetrics};
use crate::admin::status::{Board, HALT_ADVICE, TargetStatus, record_advice};
use crate::backoff::{Throttle, is_worth_a_line};
use crate::core::Core;
use crate::core::continuity::Writer;
use crate::targets::Fault;
use crate::types::invalidation::{Action, Batch};

/// The shortest time between two log lines about reached limits, for all targets together.
const OVERFLOW_PACE: Duration = Duration::from_secs(10);

/// A limit that was reached, with its value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// `limits.max_keys_per_transaction`
    Transaction(u64),
    /// `limits.max_pending_keys`, or the limit for the keys' text.
    Pending(usize),
}

impl Limit {
    /// The `limit` label of the metric, which is the name of the field under `limits:`.
    const fn name(self) -> &'static str {
        match self {
            Limit::Transaction(_) => "max_keys_per_transaction",
            Limit::Pending(_) => "max_pending_keys",
        }
    }
}

pub(crate) struct Targets {
    board: Board,
    metrics: Metrics,
    targets: Vec<(Arc<str>, TargetMetrics)>,
    overflow: Throttle,
    /// The targets and rules (or scopes) for which replaced values were logged. At most one entry for each pair.
    replaced: HashSet<(usize, String)>,
    /// The targets whose record another daemon writes, with the text that was logged.
    taken: HashMap<usize, String>,
}

impl Targets {
    pub(crate) fn new(board: &Board, metrics: &Metrics, names: &[Arc<str>]) -> Targets {
        Targets {
            targets: names.iter().map(|name| (Arc::clone(name), metrics.target(name))).collect(),
            board: board.clone(),
            metrics: metrics.clone(),
            overflow: Throttle::new(OVERFLOW_PACE),
            replaced: HashSet::new(),
            taken: HashMap::new(),
        }
    }

    fn name(&self, target: usize) -> &str {
        self.targets.get(target).map_or("?", |(name, _)| name)
    }

    /// Reports the state of the target after a turn.
    pub(crate) fn stands(&self, target: usize, core: &Core) {
        let (pending, in_flight) = core.waiting(target);
        self.board.target(target, |its| {
            its.applied = core.applied(target);
            its.pending_keys = pending;
            its.in_flight = in_flight;
            its.is_flushing(core.flushing(target));
        });
    }

    /// The target confirmed a batch; `hit` of its keys existed.
    pub(crate) fn delivered(&self, target: usize, batch: &Batch, hit: u64) {
        let Some((_, metrics)) = self.targets.get(target) else { return };
        let counters =
            [(Action::Delete, &metrics.delete), (Action::Bump, &metrics.bump), (Action::Publish, &metrics.publish)];
        for ((_, counter), n) in counters.iter().zip(batch.counts(counters.map(|(action, _)| action))) {
            counter.inc_by(n);
        }
        metrics.hit.inc_by(hit);
    }

    /// So many keys were sent early.
    pub(crate) fn sent_early(&self, target: usize, keys: usize) {
        if let Some((_, metrics)) = self.targets.get(target) {
            metrics.early.inc_by(keys as u64);
        }
    }

    /// Version pointers of `what` have replaced other values. Logged once, whatever the number of keys.
    pub(crate) fn replaced(&mut self, target: usize, what: &str) {
        if self.replaced.insert((target, what.to_owned())) {
            warn!(
                to = self.name(target),
                "{what}: replaced values at KEY:version that were not version pointers; something else writes these keys. \
                 Logged once"
            );
        }
    }

    pub(crate) fn down(&self, target: usize, fault: &Fault, attempts: u32) {
        if let Some((_, metrics)) = self.targets.get(target) {
            metrics.retries(fault.kind.reason()).inc();
        }
        self.board.target(target, |target| {
            target.is_down(&fault.message);
            target.retries += 1;
        });
        if is_worth_a_line(attempts) {
            warn!(to = self.name(target), attempts, "delivery failed, retrying; nothing is lost: {fault}");
        } else {
            debug!(to = self.name(target), attempts, "delivery failed, retrying: {fault}");
        }
    }

    pub(crate) fn up(&self, target: usize) {
        info!(to = self.name(target), "the target is up");
        self.board.target(target, TargetStatus::is_up);
    }

    pub(crate) fn first_start(&self, target: usize) {
        info!(to = self.name(target), "first start: trusting what is in the target (on_first_start: keep)");
    }

    /// The target may have missed something.
    pub(crate) fn gap(&self, target: usize, reason: &'static str, text: &str) {
        self.metrics.gap(reason);
        self.board.gap(reason, format!("{}: {text}", self.name(target)));
    }

    pub(crate) fn flushing(&self, target: usize, reason: &'static str, text: &str) {
        warn!(to = self.name(target), reason, "{text}; flushing the affected scopes");
        self.metrics.flushed(reason);
        self.board.flushed(reason, format!("{}: {text}", self.name(target)));
    }

    pub(crate) fn resent(&self, target: usize, reason: &'static str, text: &str) {
        warn!(to = self.name(target), reason, "{text}; sending again from memory what it lost");
        self.metrics.resent(reason);
        self.board.resent(reason, format!("{}: {text}; what it lost was sent again", self.name(target)));
    }

    pub(crate) fn halted(&self, target: usize, text: &str) {
        error!(to = self.name(target), "halted (on_gap: halt): {text}; {HALT_ADVICE}");
        self.board.target(target, |target| target.halted = Some(text.to_owned()));
    }

    pub(crate) fn released(&self, target: usize) {
        warn!(to = self.name(target), "every rule of the halted target was flushed manually; deliveries resumed");
        self.board.target(target, |target| target.halted = None);
    }

    /// `text` continues the sentence "the target was ".
    pub(crate) fn suspended(&self, target: usize, reason: &'static str, text: &str) {
        error!(to = self.name(target), "{text}; coherd flushes the target when it is back");
        self.gap(target, reason, text);
        self.board.target(target, |target| target.suspended = Some(text.to_owned()));
    }

    pub(crate) fn resumed(&self, target: usize) {
        info!(to = self.name(target), "target recovered; deliveries resumed");
        self.board.target(target, |target| target.suspended = None);
    }

    pub(crate) fn record_is_taken(&mut self, target: usize, writer: &Writer, system_id: u64) {
        let slot = self.board.slot();
        let text = format!(
            "another coherd writes the record of this target, for {writer}; this coherd follows system identifier \
             {system_id}, slot {slot}"
        );
        self.board.target(target, |target| target.taken = Some(text.clone()));
        if self.taken.get(&target) != Some(&text) {
            let name = self.name(target);
            error!(to = name, "sending nothing: {text}. {}", record_advice(name));
            self.taken.insert(target, text);
        }
    }

    pub(crate) fn record_is_free(&mut self, target: usize) {
        self.taken.remove(&target);
        self.board.target(target, |target| target.taken = None);
    }

    /// Scopes of `rules` replace their keys.
    pub(crate) fn overflowed(&mut self, target: usize, limit: Limit, rules: &str) {
        let text = match limit {
            Limit::Transaction(most) => format!("{rules}: a transaction made more than {most} keys"),
            Limit::Pending(most) => format!("{rules}: more keys waited than {most}, or than fit in memory"),
        };
        let name = limit.name();
        let text = format!("{text} (limits.{name}); their scopes are flushed in place of the keys");
        if self.overflow.is_due(Instant::now()) {
            warn!(to = self.name(target), limit = name, "{text}");
        } else {
            debug!(to = self.name(target), limit = name, "{text}");
        }
        let target = self.name(target);
        self.metrics.overflowed(target, name);
        self.metrics.flushed("overflow");
        self.board.flushed("overflow", format!("{target}: {text}"));
    }

    /// Why the daemon ends after a delivery worker has ended.
    pub(crate) fn worker_ended(&self, target: usize) -> String {
        format!(
            "the delivery worker of target {} has ended, which is a bug in coherd. Restart coherd: nothing is lost, it sends \
             again what is not confirmed",
            self.name(target)
        )
    }

    /// Why coherd reopens the stream when another instance has written the target's record.
    pub(crate) fn overtaken(&self, target: usize) -> String {
        format!(
            "another instance has written the record of target {}, so that instance may hold the slot now",
            self.name(target)
        )
    }
}
