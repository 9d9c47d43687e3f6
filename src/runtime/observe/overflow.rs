//! Keys that became flushes, because there were too many of them.

use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::Observer;
use crate::types::invalidation::RuleId;

/// Limits that are reached again and again have one line in the log in this time, whichever target's they are.
pub(super) const OVERFLOW_PACE: Duration = Duration::from_secs(10);

/// What was reached, and how much it allows.
#[derive(Debug, Clone, Copy)]
pub(in crate::runtime) enum Limit {
    /// `limits.max_keys_per_transaction`
    Transaction(u64),
    /// `limits.max_pending_keys`, or what their text takes.
    Pending(usize),
}

impl Limit {
    /// The `limit` label of the metric, and the field of the configuration below `limits:`.
    const fn name(self) -> &'static str {
        match self {
            Limit::Transaction(_) => "max_keys_per_transaction",
            Limit::Pending(_) => "max_pending_keys",
        }
    }
}

impl Observer {
    /// Scopes of these rules stand in for their keys at the target.
    pub(in crate::runtime) fn overflowed(&mut self, target: usize, limit: Limit, rules: &[RuleId]) {
        if rules.is_empty() {
            return;
        }
        let mut subjects: Vec<&str> = rules.iter().map(|rule| self.subject(*rule)).collect();
        subjects.dedup();
        let subjects = subjects.join(", ");
        let text = match limit {
            Limit::Transaction(most) => format!("{subjects}: a transaction made more than {most} keys"),
            Limit::Pending(most) => format!("{subjects}: more keys waited than {most}, or than fit in memory"),
        };
        let name = limit.name();
        let text = format!("{text} (limits.{name}); their scopes are flushed in place of the keys");
        if self.overflow.is_due(Instant::now()) {
            warn!(to = self.name(target), limit = name, "{text}");
        } else {
            debug!(to = self.name(target), limit = name, "{text}");
        }
        let target = self.name(target).to_owned();
        self.metrics.overflowed(&target, name);
        self.metrics.flushed("overflow");
        self.board.flushed("overflow", format!("{target}: {text}"));
    }
}
