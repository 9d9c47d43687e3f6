//! Takes in invalidations, as long as there is room.

use super::Core;
use super::feed::Feed;
use super::pending::Stage;
use super::target::{Mode, TargetState};
use crate::transaction::Gather;
use crate::types::invalidation::{Action, Batch, Load, RuleId, Scope};

/// The keys gathered for the least loaded target at which reading stops. What is not read stays in the log. Targets
/// share this limit, because each holds several times as much: what is gathered, and what is in flight.
const INTAKE_KEYS: usize = 32 << 10;
/// The same limit in bytes of key text.
const INTAKE_BYTES: usize = 512 << 10;
/// The most shares, so that with many targets each may still gather a few commands.
const SHARES_MAX: usize = 8;

impl Core {
    /// Whether the transaction that is being read, or was read last, has invalidated anything so far.
    pub fn commit_invalidates(&self) -> bool {
        self.feed.commit.is_some_and(|(commit, _)| commit.at <= self.feed.furthest)
    }

    /// Whether there is room to read more. One target that keeps up is enough: the others do not hold reading back.
    /// Manual keys do, because no scope can replace them: they may take half of what may wait for a target.
    pub fn has_room(&self) -> bool {
        let shares = self.targets.len().clamp(1, SHARES_MAX);
        let most = Load { keys: INTAKE_KEYS / shares, bytes: INTAKE_BYTES / shares };
        // A suspended target takes nothing, and a halted one only gathers, so neither limits reading unless there is
        // no other target. The flush that ends a halt comes through the log, so reading must go on.
        let counts = |target: &&TargetState| target.mode != Mode::Halted && target.suspended.is_none();
        let mut counting = self.targets.iter().filter(counts).peekable();
        !self.manual.is_full && (counting.peek().is_none() || counting.any(|target| target.queue.has_room(most)))
    }

    /// Puts something into the fresh batch of every target of `rule`.
    fn gather(&mut self, rule: RuleId, put: impl Fn(&mut Batch)) {
        let Core { targets, feed, .. } = self;
        feed.gathered_for(rule);
        let feed = &*feed;
        for &index in feed.routes.get(usize::from(rule.0)).into_iter().flat_map(|route| &route.targets) {
            if let Some(target) = targets.get_mut(index) {
                target.gather(feed, &put);
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
        self.feed.gathered();
        let Core { targets: all, feed, manual, .. } = self;
        for target in all.iter_mut().filter(|target| targets.is_none_or(|targets| targets.contains(&target.index))) {
            // No scope replaces a manual key, and reading cannot wait for a target that the slot does not wait for.
            match (target.is_full_of_manual(feed), target.suspended.is_some()) {
                (true, true) => {
                    manual.lost += 1;
                    continue;
                }
                (true, false) => manual.is_full = true,
                (false, _) => {}
            }
            let since = target.since(feed.decoded);
            let pending = target.queue.at(Stage::Fresh);
            pending.batch.push_manual(Action::Delete, key);
            pending.holds_since(since);
            pending.stands_in_for(feed.commit);
        }
    }
}

impl TargetState {
    /// Adds something from the transaction that is being read, and coarsens what has grown too large.
    fn gather(&mut self, feed: &Feed, put: impl Fn(&mut Batch)) {
        if self.suspended.is_some() {
            // Its scopes stand in for this commit too, which replicas must replay before they count.
            let ready = self.queue.at(Stage::Ready);
            ready.last = ready.last.max(feed.commit.map_or(ready.last, |(commit, _)| commit.at));
            return ready.has_rows_of(feed.commit);
        }
        let since = self.since(feed.decoded);
        let fresh = self.queue.stages.at_mut(Stage::Fresh);
        put(&mut fresh.batch);
        fresh.holds_since(since);
        fresh.stands_in_for(feed.commit);
        fresh.has_rows_of(feed.commit);
        self.queue.memory.bound(fresh, feed);
    }
}
