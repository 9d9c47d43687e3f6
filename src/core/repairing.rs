//! Gathers repairs: what a target has to be sent in addition to new invalidations. That is what it has lost, or the
//! scopes of rules of which it may have missed changes.

use super::feed::Feed;
use super::just_before;
use super::pending::Stage;
use super::target::TargetState;
use crate::types::invalidation::RuleId;
use crate::types::lsn::Lsn;

/// A repair.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// The target gets again what it was sent for commits after this position.
    pub(super) sent_after: Option<Lsn>,
    /// The scopes of these rules are flushed.
    pub(super) rules: Vec<RuleId>,
    /// The end of what the scopes stand in for, if it is later than the decoded position: the end of the log when the
    /// fault was found.
    pub(super) missed_until: Lsn,
}

impl TargetState {
    /// Gathers a repair. It leaves after everything in flight, and its scopes once the target is anchored. Until it is
    /// confirmed, no record says that the target has what it missed.
    pub(super) fn repair(&mut self, feed: &mut Feed, repair: &Repair) {
        let since = self.since(feed.decoded);
        let ready = self.queue.stages.at_mut(Stage::Ready);
        if let Some(after) = repair.sent_after {
            self.recent.since(after, &mut ready.batch);
        }
        feed.push_scopes(&repair.rules, &mut ready.batch);
        ready.holds_since(since);
        if !repair.rules.is_empty() {
            let until = feed.decoded.max(repair.missed_until);
            let last = just_before(until);
            ready.repairs = true;
            ready.last = ready.last.max(last);
            feed.rules_are_due = true;
            feed.furthest = feed.furthest.max(last);
            for rule in &repair.rules {
                feed.touched.touch(*rule, until);
            }
        }
    }
}
