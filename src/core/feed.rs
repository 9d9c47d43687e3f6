//! What all targets share: how far the log was read, what its commits still wait for, and the outputs.

use std::sync::Arc;

use super::pending::Route;
use super::uncounted::Uncounted;
use super::visibility::Visibility;
use super::{Event, Output, Policy, Replicas};
use crate::pgoutput::PgTime;
use crate::rules::config::Rule;
use crate::types::invalidation::{Batch, RuleId};
use crate::types::lsn::Lsn;
use crate::types::snapshot::Commit;

/// The log, as every target receives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Feed {
    pub(super) policy: Uncounted<Policy>,
    /// In the order of rule ids.
    pub(super) routes: Uncounted<Arc<[Route]>>,
    /// Everything up to here is read, and its keys are gathered.
    pub(super) decoded: Lsn,
    /// The transaction that is being read, and when it was committed.
    pub(super) commit: Option<(Commit, PgTime)>,
    pub(super) visibility: Visibility,
    pub(super) replicas: Replicas,
    /// The last commit record that replicas have to replay.
    pub(super) furthest: Lsn,
    pub(super) touched: Touched,
    /// The rules that stored records may list have changed.
    pub(super) rules_are_due: bool,
    /// A client waits for this position: records behind it move at once.
    pub(super) awaited: Lsn,
    pub(super) sequences: Sequences,
    pub(super) outputs: Uncounted<Vec<Output>>,
}

impl Feed {
    pub(super) fn new(rules: &[Rule], policy: Policy, replicas: Replicas) -> Feed {
        let route = |rule: &Rule| Route { targets: rule.targets.clone(), scopes: rule.scopes.as_slice().into() };
        Feed {
            policy: Uncounted(policy),
            routes: Uncounted(rules.iter().map(route).collect()),
            decoded: Lsn::ZERO,
            commit: None,
            visibility: Visibility::default(),
            replicas,
            furthest: Lsn::ZERO,
            touched: Touched(vec![Lsn::ZERO; rules.len()]),
            rules_are_due: false,
            awaited: Lsn::ZERO,
            sequences: Sequences { last: 0, before: u64::MAX },
            outputs: Uncounted::default(),
        }
    }

    /// Follows another history from `start`.
    pub(super) fn begin(&mut self, start: Lsn, clock_us: u64) {
        self.decoded = start;
        self.touched.forget();
        self.sequences.begin(clock_us);
        (self.awaited, self.commit) = (Lsn::ZERO, None);
    }

    /// The followed history ends at `at`.
    pub(super) fn fork(&mut self, at: Lsn) {
        self.decoded = self.decoded.min(at);
        self.awaited = self.awaited.min(at);
        self.commit = self.commit.filter(|(commit, _)| commit.at < at);
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.outputs.push(Output::Event(event));
    }

    /// Something of the transaction that is being read was gathered. Returns the position of its commit record.
    pub(super) fn gathered(&mut self) -> Lsn {
        self.visibility.gathered(self.decoded);
        let at = self.commit.map_or(Lsn::ZERO, |(commit, _)| commit.at);
        self.furthest = self.furthest.max(at);
        at
    }

    /// Like `gathered`, for a row that the rule matches.
    pub(super) fn gathered_for(&mut self, rule: RuleId) {
        let at = self.gathered();
        if let Some(before) = self.touched.touch(rule, at) {
            self.rules_are_due |= self.replicas.has_left_between(before, at);
        }
    }

    /// The rules of a target that `of` selects.
    pub(super) fn rules_of(&self, target: usize, of: impl Fn(RuleId) -> bool) -> Vec<RuleId> {
        let ids = (0..=u16::MAX).map(RuleId).zip(self.routes.iter());
        let picked = ids.filter(|(rule, route)| route.targets.contains(&target) && of(*rule));
        picked.map(|(rule, _)| rule).collect()
    }

    /// Puts the scopes of these rules into a batch.
    pub(super) fn push_scopes(&self, rules: &[RuleId], into: &mut Batch) {
        let scopes = rules.iter().flat_map(|rule| super::pending::scopes_of(&self.routes, *rule));
        scopes.for_each(|scope| into.push_scope(scope));
    }
}

/// For each rule, the commit record of the latest transaction that made a key of it in this history. Flushes count
/// too: they have to be repeated if a replica has left.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Touched(Vec<Lsn>);

impl Touched {
    /// Returns the previous position, if this one is later.
    pub(super) fn touch(&mut self, rule: RuleId, at: Lsn) -> Option<Lsn> {
        let touched = self.0.get_mut(usize::from(rule.0)).filter(|before| **before < at)?;
        Some(std::mem::replace(touched, at))
    }

    pub(super) fn at(&self, rule: RuleId) -> Lsn {
        self.0.get(usize::from(rule.0)).copied().unwrap_or(Lsn::ZERO)
    }

    /// Whether a replica that had replayed everything before `since` when it left may lack changes of the rule.
    pub(super) fn since(&self, rule: RuleId, since: Lsn) -> bool {
        // It is unknown how far a replica was that was restarted or has never answered: it may lack what is older than
        // this history, and `since` is zero.
        self.at(rule) >= since
    }

    pub(super) fn forget(&mut self) {
        self.0.fill(Lsn::ZERO);
    }
}

/// The sequence numbers of deliveries to all targets. A later process assigns greater ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Sequences {
    /// The last one assigned.
    pub(super) last: u64,
    /// The last one before this history was followed.
    pub(super) before: u64,
}

impl Sequences {
    /// Another history is followed. Later numbers are also greater than `clock_us`.
    pub(super) fn begin(&mut self, clock_us: u64) {
        self.last = self.last.max(clock_us);
        self.before = self.last;
    }

    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether this process has assigned it since this history is followed.
    pub(super) fn are_ours(&self, sequence: u64) -> bool {
        self.before < sequence && sequence <= self.last
    }
}
