//! What has grown too large is coarsened: the scopes of a rule stand in for its keys.

use super::Core;
use super::target::TargetState;
use crate::invalidation::{BATCH_BYTES_MAX, Load, RuleId};

impl Core {
    /// Coarsens what waits for a target, wherever, if it is more than may. Once a turn, because reading in between is
    /// bounded by `gathering::INTAKE_KEYS`.
    pub(super) fn bound(&mut self) {
        let Core { targets, routes, policy, .. } = self;
        for target in &mut *targets {
            let Load { keys, bytes } = target.load();
            if keys > policy.pending_keys || bytes > BATCH_BYTES_MAX {
                let coarsened: Vec<RuleId> =
                    target.pendings_mut().flat_map(|pending| pending.limit(0, routes)).collect();
                target.overflow.note(coarsened);
            }
        }
        let most = policy.pending_keys / 2;
        let mut waited_for = targets.iter().filter(|target| target.suspended.is_none());
        self.manual_is_full = waited_for.any(|target| target.is_full_of_manual(most));
    }

    /// The targets whose overflow has begun since the last call, with the rules concerned.
    pub(super) fn take_overflows(&mut self) -> Vec<(usize, Vec<RuleId>)> {
        let new = |(index, target): (usize, &mut TargetState)| {
            std::mem::take(&mut target.overflow.is_new).then(|| (index, target.overflow.rules.clone()))
        };
        self.targets.iter_mut().enumerate().filter_map(new).collect()
    }
}

/// A time in which more waited for a target than may: the rules whose scopes replaced their keys, and whether that still
/// has to be reported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Overflow {
    rules: Vec<RuleId>,
    is_new: bool,
}

impl Overflow {
    pub(super) fn note(&mut self, rules: Vec<RuleId>) {
        self.is_new |= self.rules.is_empty() && !rules.is_empty();
        for rule in rules {
            if !self.rules.contains(&rule) {
                self.rules.push(rule);
            }
        }
    }

    /// Everything that waited is confirmed.
    pub(super) fn is_over(&mut self) {
        self.rules.clear();
    }
}
