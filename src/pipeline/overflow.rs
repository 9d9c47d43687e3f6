//! Tells of keys that became flushes.

use super::Pipeline;
use super::recorder::Limit;
use crate::invalidation::RuleId;
use crate::source::Source;

impl<S: Source + 'static> Pipeline<S> {
    /// Keys became flushes, because there were too many of them.
    pub(super) fn tell_overflows(&mut self) {
        let of_transactions = self.reader.take_overflowed();
        if !of_transactions.is_empty() {
            let most = self.settings.transaction_keys_max;
            for lane in 0..self.core.target_count() {
                let goes_here = |rule: &&RuleId| self.core.targets_of(**rule).contains(&lane);
                let rules: Vec<RuleId> = of_transactions.iter().filter(goes_here).copied().collect();
                self.recorder.overflowed(lane, Limit::Transaction(most), &rules);
            }
        }
        for (lane, rules) in self.core.take_overflows() {
            self.recorder.overflowed(lane, Limit::Pending(self.settings.pending_keys_max), &rules);
        }
    }
}
