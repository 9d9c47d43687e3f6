//! What replicas had not replayed when it was struck is struck a second time, and rules that one of them missed are
//! flushed when it is back.

use super::gathering::Routes;
use super::pile::{About, Pile};
use super::{Lane, Lanes, Stance, just_before, push_scopes};
use crate::invalidation::RuleId;
use crate::lsn::Lsn;

/// What waits for replicas in one lane, in parts. More are joined to the last one, so that the first ones are never put
/// off.
const ECHOES_MAX: usize = 8;

/// What is known of the replicas.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Everything before is replayed by all that are waited for; `None` where none is listed.
    replayed: Option<Lsn>,
    /// Where one has left, what it had replayed; the least of several.
    left: Option<Lsn>,
}

impl Seen {
    pub(super) fn are_listed(&self) -> bool {
        self.replayed.is_some()
    }

    /// Whether what is committed at `at` has still to be replayed by one that is waited for.
    pub(super) fn lack(&self, at: Lsn) -> bool {
        self.replayed.is_some_and(|replayed| replayed <= at)
    }

    /// Whether one has left that has replayed what is at `before` and not what is at `after`.
    pub(super) fn has_left_between(&self, before: Lsn, after: Lsn) -> bool {
        self.left.is_some_and(|since| before < since && since <= after)
    }
}

impl Lanes {
    /// Every replica that is waited for has replayed everything before `replayed`; of those that are not, one had come
    /// to `left`.
    pub(in crate::pipeline) fn replayed(&mut self, replayed: Lsn, left: Option<Lsn>) {
        self.marks_are_due |= self.replicas.left != left;
        self.replicas = Seen { replayed: Some(replayed), left };
        for index in 0..self.lanes.len() {
            self.echo(index);
        }
    }

    /// What is replayed by now may be struck a second time.
    pub(super) fn echo(&mut self, index: usize) {
        let Lanes { lanes, routes, pending_keys_max, ledger, replicas, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return };
        while let Some(pile) = lane.echoes.pop_front_if(|pile| !replicas.lack(pile.about.last)) {
            lane.strike_again(pile, *pending_keys_max, routes);
            ledger.echo_is_due(index);
        }
    }

    /// A first strike was confirmed: what it was for waits for the replicas.
    pub(super) fn wait_for_replicas(&mut self, index: usize, pile: Pile) {
        let Lanes { lanes, routes, pending_keys_max, ledger, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return };
        lane.echoes.push_back(pile);
        let keys: usize = lane.echoes.iter().map(|pile| pile.batch.len()).sum();
        let is_too_much = keys > *pending_keys_max;
        while lane.echoes.len() > ECHOES_MAX || (is_too_much && lane.echoes.len() > 1) {
            let (Some(mut last), Some(before)) = (lane.echoes.pop_back(), lane.echoes.back_mut()) else { break };
            before.absorb(&mut last);
            lane.overflow.note(before.limit(*pending_keys_max, routes));
            lane.spare.push(last.batch);
            ledger.echoes_joined(index);
        }
        self.echo(index);
    }

    /// A replica is waited for again that had replayed everything before `since` when it left: its readers may have
    /// filled in what was older than what had settled meanwhile. Once it has replayed all that is decoded, the rules
    /// touched meanwhile are flushed. Gives whether there are any in this lane.
    pub(in crate::pipeline) fn heal(&mut self, index: usize, since: Lsn) -> bool {
        let was_touched = |rule: RuleId| self.was_touched(rule, since);
        let rules = self.rules(index, was_touched);
        if rules.is_empty() {
            return false;
        }
        let about = About { last: just_before(self.ledger.decoded()), heals: true, ..About::default() };
        let mut pile = Pile { about, ..Pile::default() };
        push_scopes(&rules, &self.routes, &mut pile.batch);
        self.marks_are_due = true;
        self.furthest = self.furthest.max(about.last);
        self.ledger.echo_later(index);
        self.wait_for_replicas(index, pile);
        true
    }

    /// Whether the lane's record may vouch for the rule: nothing is under way that is not in the log, and no replica has
    /// left before it replayed what concerns the rule.
    pub(in crate::pipeline) fn vouches_for(&self, index: usize, rule: RuleId) -> bool {
        let is_healing = self.lanes.get(index).is_some_and(Lane::is_healing);
        !is_healing && !self.replicas.left.is_some_and(|since| self.was_touched(rule, since))
    }

    /// Whether anything is flushed that readers of a replica may have spoiled, or still may.
    pub(in crate::pipeline) fn is_healing(&self) -> bool {
        self.lanes.iter().any(Lane::is_healing)
    }

    /// Nothing later counts as settled in any record; `None` while one of them is not known.
    pub(in crate::pipeline) fn settled_at_most(&self) -> Option<Lsn> {
        let are_known = self.lanes.iter().all(|lane| lane.stance == Stance::Judged);
        are_known.then(|| self.lanes.iter().map(|lane| lane.floor.settled).fold(self.ledger.decoded(), Lsn::max))
    }

    /// Whether records may vouch for other rules than when this was asked last.
    pub(in crate::pipeline) fn marks_are_due(&mut self) -> bool {
        std::mem::take(&mut self.marks_are_due)
    }

    /// The furthest position that replicas have to replay.
    pub(in crate::pipeline) fn furthest(&self) -> Lsn {
        self.furthest
    }

    fn was_touched(&self, rule: RuleId, since: Lsn) -> bool {
        let touched = self.touched.get(usize::from(rule.0)).copied().unwrap_or(Lsn::ZERO);
        // How far one had come that was restarted, or has never answered, is not known: it may lack what is older than
        // this history.
        touched >= since && (touched > Lsn::ZERO || since == Lsn::ZERO)
    }

    /// What waits for replicas waits no more.
    pub(super) fn collapse_echoes(&mut self, index: usize) {
        let Lanes { lanes, routes, pending_keys_max, ledger, .. } = self;
        let Some(lane) = lanes.get_mut(index) else { return };
        while let Some(pile) = lane.echoes.pop_front() {
            lane.strike_again(pile, *pending_keys_max, routes);
            ledger.echo_is_due(index);
        }
    }
}

impl Lane {
    fn strike_again(&mut self, mut pile: Pile, keys_max: usize, routes: &Routes) {
        self.again.absorb(&mut pile);
        self.overflow.note(self.again.limit(keys_max, routes));
        self.spare.push(pile.batch);
    }

    fn is_healing(&self) -> bool {
        self.piles().any(|pile| pile.about.heals) || self.in_flight.iter().any(|sent| sent.about.heals)
    }
}
