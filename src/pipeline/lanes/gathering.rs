//! Invalidations come in, and what has grown too large is coarsened.

use super::pile::Pile;
use super::{Lane, Lanes, Stance};
use crate::invalidation::{Action, BATCH_BYTES_MAX, Batch, Load, RuleId, Scope};
use crate::ledger::Place;
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::sight::Commit;
use crate::transaction::Gather;

/// Keys gathered for the least loaded target beyond which nothing more is read. What is not read stays in the log. Targets
/// share it, because each holds several times as much: what is gathered, and what is on its way.
const INTAKE_KEYS: usize = 32 << 10;
/// The same in bytes of key text.
const INTAKE_BYTES: usize = 512 << 10;
/// However many targets there are, each may have so much of it: a few commands.
const SHARES_MAX: usize = 8;

/// For each rule, in the order of its id, its lanes and scopes.
pub(super) type Routes = [(Vec<usize>, Vec<Scope>)];

impl Lanes {
    /// A transaction begins in the stream.
    pub(in crate::pipeline) fn begun(&mut self, commit: Commit, time: PgTime) {
        self.gate.begun(commit);
        self.commit = Some((commit, time));
    }

    /// Whether the transaction being read, or read last, has invalidated anything so far.
    pub(in crate::pipeline) fn commit_strikes(&self) -> bool {
        self.commit.is_some_and(|(commit, _)| commit.at <= self.furthest)
    }

    /// Whether there is room for more: as long as one target keeps up, the others do not hold it back. Keys named by
    /// hand do, because no scope can stand in for them: they may take half of what a target may be behind by.
    pub(in crate::pipeline) fn has_room(&self) -> bool {
        let shares = self.lanes.len().clamp(1, SHARES_MAX);
        let most = Load { keys: INTAKE_KEYS / shares, bytes: INTAKE_BYTES / shares };
        // What is given up takes nothing, and what is halted is only kept: neither says how fast to read, unless there is
        // no other. A flush that ends a halt comes through the log.
        let counts = |(index, lane): &(usize, &Lane)| lane.stance != Stance::Halted && !self.ledger.is_given_up(*index);
        let mut counting = self.lanes.iter().enumerate().filter(counts).peekable();
        !self.is_stuck && (counting.peek().is_none() || counting.any(|(_, lane)| lane.has_room(most)))
    }

    /// Puts something into every gathering batch that `rule` goes to, and coarsens those that have grown too large.
    fn gather(&mut self, rule: RuleId, put: impl Fn(&mut Batch)) {
        let Lanes { lanes, routes, ledger, gate, pending_keys_max, commit, touched, furthest, .. } = self;
        let Some((to, _)) = routes.get(usize::from(rule.0)) else {
            return;
        };
        gate.gathered(ledger.decoded());
        let at = commit.map_or(Lsn::ZERO, |(commit, _)| commit.at);
        *furthest = at.max(*furthest);
        if let Some(touched) = touched.get_mut(usize::from(rule.0)).filter(|before| **before < at) {
            self.marks_are_due |= self.replicas.has_left_between(*touched, at);
            *touched = at;
        }
        for &index in to {
            let Some(lane) = lanes.get_mut(index) else { continue };
            if ledger.is_given_up(index) {
                continue;
            }
            let pile = lane.pile(Place::Gathering);
            put(&mut pile.batch);
            pile.note(*commit);
            let coarsened = pile.limit(*pending_keys_max, routes);
            lane.overflow.note(coarsened);
            ledger.gathered(index, Place::Gathering);
        }
    }

    /// What waits for a target, wherever, is coarsened where it is more than may. Once a turn, as reading in between is
    /// bounded by [`INTAKE_KEYS`].
    pub(in crate::pipeline) fn bound(&mut self) {
        let Lanes { lanes, routes, pending_keys_max, .. } = self;
        for lane in &mut *lanes {
            let Load { keys, bytes } = lane.load();
            if keys > *pending_keys_max || bytes > BATCH_BYTES_MAX {
                let coarsened: Vec<RuleId> = lane.piles_mut().flat_map(|pile| pile.limit(0, routes)).collect();
                lane.overflow.note(coarsened);
            }
        }
        let most = *pending_keys_max / 2;
        let mut held_back = lanes.iter().enumerate().filter(|(index, _)| !self.ledger.is_given_up(*index));
        self.is_stuck = held_back.any(|(_, lane)| lane.is_stuck(most));
    }

    /// What is flushed has to be flushed again where a replica has left.
    pub(super) fn touch(&mut self, rules: &[RuleId]) {
        let decoded = self.ledger.decoded();
        for rule in rules {
            if let Some(touched) = self.touched.get_mut(usize::from(rule.0)) {
                *touched = decoded.max(*touched);
            }
        }
    }
}

impl Gather for Lanes {
    fn key(&mut self, rule: RuleId, action: Action, key: &[u8]) {
        self.gather(rule, |batch| batch.push(action, rule, key));
    }

    fn scope(&mut self, rule: RuleId, scope: &Scope) {
        self.gather(rule, |batch| batch.push_scope(scope));
    }

    fn by_hand(&mut self, key: &[u8], lanes: Option<&[usize]>) {
        let most = self.pending_keys_max / 2;
        self.gate.gathered(self.ledger.decoded());
        self.furthest = self.commit.map_or(self.furthest, |(commit, _)| commit.at.max(self.furthest));
        let is_meant = |index: &usize| lanes.is_none_or(|lanes| lanes.contains(index));
        for (index, lane) in self.lanes.iter_mut().enumerate().filter(|(index, _)| is_meant(index)) {
            // No scope stands in for it, and reading cannot wait for a target that the slot does not wait for.
            match (lane.is_stuck(most), self.ledger.is_given_up(index)) {
                (true, true) => {
                    self.lost_by_hand += 1;
                    continue;
                }
                (true, false) => self.is_stuck = true,
                (false, _) => {}
            }
            let pile = lane.pile(Place::Gathering);
            pile.batch.push_by_hand(Action::Delete, key);
            pile.note(self.commit);
            self.ledger.gathered(index, Place::Gathering);
        }
    }
}

/// A spell in which more waited for a lane than may: the rules whose scopes stand in for their keys, and whether that has
/// still to be told.
#[derive(Debug, Default)]
pub(super) struct Overflow {
    rules: Vec<RuleId>,
    is_new: bool,
}

impl Overflow {
    pub(super) fn note(&mut self, rules: Vec<RuleId>) {
        if !rules.is_empty() {
            self.is_new |= self.rules.is_empty();
            for rule in rules {
                if !self.rules.contains(&rule) {
                    self.rules.push(rule);
                }
            }
        }
    }

    /// Everything that waited is confirmed.
    pub(super) fn is_over(&mut self) {
        self.rules.clear();
    }
}

impl Lanes {
    /// The lanes whose overflow has begun since the last call, with the rules concerned.
    pub(in crate::pipeline) fn take_overflows(&mut self) -> Vec<(usize, Vec<RuleId>)> {
        let told = |(index, lane): (usize, &mut Lane)| {
            std::mem::take(&mut lane.overflow.is_new).then(|| (index, lane.overflow.rules.clone()))
        };
        self.lanes.iter_mut().enumerate().filter_map(told).collect()
    }
}

impl Lane {
    /// All that waits, wherever.
    pub(super) fn load(&self) -> Load {
        sum(self.piles().map(Pile::load))
    }

    /// What is blocked, or waits for replicas, is not what the target is behind by.
    fn has_room(&self, most: Load) -> bool {
        let places = [Place::Gathering, Place::Asked, Place::Ready].map(|place| self.waiting.at(place).load());
        let Load { keys, bytes } = sum(places.into_iter());
        keys < most.keys && bytes < most.bytes
    }

    /// Whether it holds more keys named by hand than `most`.
    fn is_stuck(&self, most: usize) -> bool {
        let Load { keys, bytes } = sum(self.piles().map(|pile| pile.batch.by_hand()));
        keys > most || bytes > BATCH_BYTES_MAX / 2
    }
}

impl Pile {
    fn load(&self) -> Load {
        Load { keys: self.batch.len(), bytes: self.batch.bytes() }
    }

    fn note(&mut self, commit: Option<(Commit, PgTime)>) {
        if let Some((commit, time)) = commit {
            self.about.last = self.about.last.max(commit.at);
            self.about.oldest.get_or_insert(time);
        }
    }

    /// Coarsens it where it has more than `keys_max` keys, or more text than a batch may have. Gives the rules whose scopes
    /// stand in for their keys now.
    pub(super) fn limit(&mut self, keys_max: usize, routes: &Routes) -> Vec<RuleId> {
        if self.batch.len() <= keys_max && self.batch.bytes() <= BATCH_BYTES_MAX {
            return Vec::new();
        }
        self.batch.coarsen(|rule| routes.get(usize::from(rule.0)).map_or(&[][..], |(_, scopes)| scopes))
    }
}

fn sum(loads: impl Iterator<Item = Load>) -> Load {
    loads.fold(Load::default(), |sum, load| Load { keys: sum.keys + load.keys, bytes: sum.bytes + load.bytes })
}
