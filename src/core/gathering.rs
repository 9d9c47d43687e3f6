//! Invalidations come in, as long as there is room.

use super::pending::{Pending, Stage};
use super::target::{Mode, TargetState};
use super::{Core, pending};
use crate::invalidation::{Action, BATCH_BYTES_MAX, Batch, Load, RuleId, Scope};
use crate::lsn::Lsn;
use crate::transaction::Gather;

/// Keys gathered for the least loaded target beyond which nothing more is read. What is not read stays in the log. Targets
/// share it, because each holds several times as much: what is gathered, and what is on its way.
const INTAKE_KEYS: usize = 32 << 10;
/// The same in bytes of key text.
const INTAKE_BYTES: usize = 512 << 10;
/// However many targets there are, each may have so much of it: a few commands.
const SHARES_MAX: usize = 8;

impl Core {
    /// Whether the transaction that is being read, or was read last, has invalidated anything so far.
    pub fn commit_invalidates(&self) -> bool {
        self.commit.is_some_and(|(commit, _)| commit.at <= self.furthest)
    }

    /// Whether there is room for more: as long as one target keeps up, the others do not hold it back. Manual keys do,
    /// because no scope can replace them: they may take half of what a target may be behind by.
    pub fn has_room(&self) -> bool {
        let shares = self.targets.len().clamp(1, SHARES_MAX);
        let most = Load { keys: INTAKE_KEYS / shares, bytes: INTAKE_BYTES / shares };
        // A suspended target takes nothing, and a halted one is only gathered for: neither says how fast to read, unless
        // there is no other. A flush that ends a halt comes through the log.
        let counts = |target: &&TargetState| target.mode != Mode::Halted && target.suspended.is_none();
        let mut counting = self.targets.iter().filter(counts).peekable();
        !self.manual_is_full && (counting.peek().is_none() || counting.any(|target| target.has_room(most)))
    }

    /// Puts something into the fresh batch of every target that `rule` goes to, and coarsens those that have grown too
    /// large.
    fn gather(&mut self, rule: RuleId, put: impl Fn(&mut Batch)) {
        let Core { targets, routes, decoded, visibility, policy, commit, touched, furthest, .. } = self;
        let Some(route) = routes.get(usize::from(rule.0)) else { return };
        visibility.gathered(*decoded);
        let at = commit.map_or(Lsn::ZERO, |(commit, _)| commit.at);
        *furthest = at.max(*furthest);
        if let Some(touched) = touched.get_mut(usize::from(rule.0)).filter(|before| **before < at) {
            self.rules_are_due |= self.replicas.has_left_between(*touched, at);
            *touched = at;
        }
        for &index in &route.targets {
            let Some(target) = targets.get_mut(index) else { continue };
            if target.suspended.is_some() {
                // Its scopes stand in for this commit too, and replicas have to replay it before they count.
                let ready = target.stage(Stage::Ready);
                ready.last = ready.last.max(at);
                ready.has_rows_of(*commit);
                continue;
            }
            let since = target.since(*decoded);
            let pending = target.stage(Stage::Fresh);
            put(&mut pending.batch);
            pending.holds_since(since);
            pending.stands_in_for(*commit);
            pending.has_rows_of(*commit);
            let coarsened = pending.limit(policy.pending_keys, routes);
            target.overflow.note(coarsened);
        }
    }

    /// What is flushed has to be flushed again where a replica has left.
    pub(super) fn touch(&mut self, rules: &[RuleId], at: Lsn) {
        for rule in rules {
            if let Some(touched) = self.touched.get_mut(usize::from(rule.0)) {
                *touched = at.max(*touched);
            }
        }
    }
}

impl Gather for Core {
    fn key(&mut self, rule: RuleId, action: Action, key: &[u8]) {
        self.gather(rule, |batch| batch.push(action, rule, key));
    }

    fn scope(&mut self, rule: RuleId, scope: &Scope) {
        self.gather(rule, |batch| batch.push_scope(scope));
    }

    fn manual(&mut self, key: &[u8], targets: Option<&[usize]>) {
        let most = self.policy.pending_keys / 2;
        self.visibility.gathered(self.decoded);
        self.furthest = self.commit.map_or(self.furthest, |(commit, _)| commit.at.max(self.furthest));
        let is_meant = |index: &usize| targets.is_none_or(|targets| targets.contains(index));
        for (_, target) in self.targets.iter_mut().enumerate().filter(|(index, _)| is_meant(index)) {
            // No scope replaces it, and reading cannot wait for a target that the slot does not wait for.
            match (target.is_full_of_manual(most), target.suspended.is_some()) {
                (true, true) => {
                    self.manual_lost += 1;
                    continue;
                }
                (true, false) => self.manual_is_full = true,
                (false, _) => {}
            }
            let since = target.since(self.decoded);
            let pending = target.stage(Stage::Fresh);
            pending.batch.push_manual(Action::Delete, key);
            pending.holds_since(since);
            pending.stands_in_for(self.commit);
        }
    }
}

impl TargetState {
    /// Everything that waits, wherever.
    pub(super) fn load(&self) -> Load {
        sum(self.pendings().map(Pending::load))
    }

    /// What is blocked, or waits for replicas, is not what the target is behind by.
    fn has_room(&self, most: Load) -> bool {
        let Load { keys, bytes } =
            sum([Stage::Fresh, Stage::Probed, Stage::Ready].map(|stage| self.stages.at(stage).load()).into_iter());
        keys < most.keys && bytes < most.bytes
    }

    /// Whether it holds more manual keys than `most`.
    pub(super) fn is_full_of_manual(&self, most: usize) -> bool {
        let Load { keys, bytes } = sum(self.pendings().map(|pending| pending.batch.manual()));
        keys > most || bytes > BATCH_BYTES_MAX / 2
    }
}

fn sum(loads: impl Iterator<Item = Load>) -> Load {
    loads.fold(Load::default(), |sum, load| Load { keys: sum.keys + load.keys, bytes: sum.bytes + load.bytes })
}

/// Puts the scopes of these rules into a batch.
pub(super) fn push_scopes(rules: &[RuleId], routes: &[pending::Route], into: &mut Batch) {
    rules.iter().flat_map(|rule| pending::scopes_of(routes, *rule)).for_each(|scope| into.push_scope(scope));
}
