//! Invalidations that wait together, and the stages in which they wait.

use std::sync::Arc;

use crate::pgoutput::PgTime;
use crate::types::invalidation::{BATCH_BYTES_MAX, Batch, Load, RuleId, Scope};
use crate::types::lsn::Lsn;
use crate::types::snapshot::Commit;

/// A rule's scopes and the targets that it goes to.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) targets: Vec<usize>,
    pub(super) scopes: Arc<[Scope]>,
}

/// The scopes of a rule; none for a rule that is not configured.
pub(super) fn scopes_of(routes: &[Route], rule: RuleId) -> &[Scope] {
    routes.get(usize::from(rule.0)).map_or(&[][..], |route| &route.scopes)
}

/// A batch that waits for one target, with everything that is known about its commits. The positions move with the
/// batch, so there is no second list of positions to keep in step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Pending {
    pub(super) batch: Batch,
    /// The position up to which everything was decoded before the first entry of the batch was rendered. It holds back
    /// watermarks: a target has passed a stage up to the smallest `since` that has not passed it. `None` if nothing in
    /// the batch counts.
    pub(super) since: Option<Lsn>,
    /// The last commit record that the batch stands in for, with its keys or with a scope. It decides what replicas
    /// must have replayed.
    pub(super) last: Lsn,
    /// The last transaction that has rows in the batch.
    pub(super) newest: Option<Commit>,
    /// When the oldest commit in the batch was made.
    pub(super) oldest: Option<PgTime>,
    /// The batch repairs changes that are not in the log, so the stored record must not list its rules before it is
    /// confirmed.
    pub(super) repairs: bool,
    /// How many of its keys, from the first on, have left early.
    pub(super) early: usize,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Notes that something rendered after `decoded` was added to the batch.
    pub(super) fn holds_since(&mut self, decoded: Lsn) {
        self.since = Some(self.since.map_or(decoded, |since| since.min(decoded)));
    }

    /// Notes that the batch stands in for this commit.
    pub(super) fn stands_in_for(&mut self, commit: Option<(Commit, PgTime)>) {
        if let Some((commit, time)) = commit {
            self.last = self.last.max(commit.at);
            self.oldest.get_or_insert(time);
        }
    }

    /// Notes that the batch stands in for rows of this commit.
    pub(super) fn has_rows_of(&mut self, commit: Option<(Commit, PgTime)>) {
        self.newest = Commit::latest(self.newest, commit.map(|(commit, _)| commit));
    }

    /// Moves everything out of `other`, which keeps its memory.
    pub(super) fn absorb(&mut self, other: &mut Pending) {
        if self.batch.is_empty() && !other.batch.is_empty() {
            std::mem::swap(&mut self.batch, &mut other.batch);
            std::mem::swap(&mut self.early, &mut other.early);
        }
        self.join(other);
        other.batch.clear();
        *other = Pending { batch: std::mem::take(&mut other.batch), ..Pending::default() };
    }

    /// Adds the contents of `other`, which is unchanged.
    pub(super) fn join(&mut self, other: &Pending) {
        // A key that is in both stays where it is.
        let all_have_left = self.early == self.batch.len() && other.early == other.batch.len();
        self.batch.append(&other.batch);
        self.early = if all_have_left { self.batch.len() } else { self.early };
        self.since = self.since.into_iter().chain(other.since).min();
        self.last = self.last.max(other.last);
        self.newest = Commit::latest(self.newest, other.newest);
        self.oldest = self.oldest.into_iter().chain(other.oldest).min();
        self.repairs |= other.repairs;
    }

    /// Takes the scopes out. Both parts hold back the watermarks.
    pub(super) fn take_scopes(&mut self) -> Pending {
        let batch = self.batch.take_scopes();
        Pending {
            batch,
            since: self.since,
            last: self.last,
            repairs: std::mem::take(&mut self.repairs),
            ..Pending::default()
        }
    }

    /// Makes the batch count as rendered no later than `at`.
    pub(super) fn clamp(&mut self, at: Lsn) {
        self.since = self.since.map(|since| since.min(at));
    }

    pub(super) fn load(&self) -> Load {
        Load { keys: self.batch.len(), bytes: self.batch.bytes() }
    }

    /// Coarsens the batch if it has more than `keys_max` keys or more text than allowed. Returns the rules whose
    /// scopes replaced their keys.
    pub(super) fn limit(&mut self, keys_max: usize, routes: &[Route]) -> Vec<RuleId> {
        if self.batch.len() <= keys_max && self.batch.bytes() <= BATCH_BYTES_MAX {
            return Vec::new();
        }
        self.early = 0;
        self.batch.coarsen(|rule| scopes_of(routes, rule))
    }
}

/// Where invalidations wait before their first counting delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No visibility probe was sent after they were rendered.
    Fresh,
    /// A probe that was sent after they were rendered is in flight.
    Probed,
    /// A probe showed that one of their commits is not visible yet, or its answer is late.
    Blocked,
    /// All of their commits are visible: they leave as soon as the target has room.
    Ready,
}

/// One `Pending` for each [`Stage`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Stages([Pending; 4]);

impl Stages {
    pub(super) fn at(&self, stage: Stage) -> &Pending {
        let Stages([fresh, probed, blocked, ready]) = self;
        match stage {
            Stage::Fresh => fresh,
            Stage::Probed => probed,
            Stage::Blocked => blocked,
            Stage::Ready => ready,
        }
    }

    pub(super) fn at_mut(&mut self, stage: Stage) -> &mut Pending {
        let Stages([fresh, probed, blocked, ready]) = self;
        match stage {
            Stage::Fresh => fresh,
            Stage::Probed => probed,
            Stage::Blocked => blocked,
            Stage::Ready => ready,
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Pending> {
        self.0.iter()
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        self.0.iter_mut()
    }
}
