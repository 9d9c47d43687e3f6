//! The daemon: coherd's own gate and its own verdict on a record, with as much around them as it takes to strike one key.
//! All of it is lost in a crash.
//!
//! What is owed moves through stages: gathering → asked or blocked → ready → on its way → waiting for replicas → on its
//! way again → settled. Everything before the oldest thing that is owed is settled.

use coherd::core::Visibility;
use coherd::core::continuity::{Known, Server, SlotOrigin, Verdict, judge};
use coherd::lsn::Lsn;
use coherd::record;
use coherd::sight::Sight;

use super::setup::{Broken, Setup, Strategy};
use super::world::{Cache, Position, Postgres, Record, commit, lsn};

/// Commits whose key is owed: those after `before`, up to `upto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owed {
    pub before: Position,
    pub upto: Position,
}

/// Puts `more` to what is owed already.
fn owe(owed: &mut Option<Owed>, more: Option<Owed>) {
    let Some(more) = more else { return };
    let both = owed.map_or(more, |owed| Owed { before: owed.before.min(more.before), upto: owed.upto.max(more.upto) });
    *owed = Some(both);
}

/// How far a delivery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    Sent,
    /// The key is gone, its lease still stands. Only where that is broken.
    Halfway,
    /// The cache has carried it out, and the answer is on its way.
    Done,
    /// The cache has written the record and refused the strike.
    Refused,
}

/// A delivery: perhaps a strike of the key, then the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// Struck for the first time, and to be struck again.
    first: Option<Owed>,
    /// Struck for the last time.
    last: Option<Owed>,
    /// Where it strikes: the last commit it strikes for.
    pub upto: Option<Position>,
    pub record: Record,
    pub stage: Stage,
}

/// What one process knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Daemon {
    /// The cache has been asked what it remembers; before, nothing is sent.
    pub is_judged: bool,
    decoded: Position,
    pub visibility: Visibility,
    gathering: Option<Owed>,
    asked: Option<Owed>,
    blocked: Option<Owed>,
    /// What is blocked is to be struck early, which does not count.
    is_early: bool,
    /// Visible, to be struck.
    ready: Option<Owed>,
    /// What waits until replicas have replayed it: struck once already, unless there is one strike only.
    waiting: Vec<Owed>,
    pub delivery: Option<Delivery>,
    /// The record that the cache is known to hold.
    record: Record,
    /// The furthest record that was confirmed to this process.
    written: Option<Position>,
    /// What was decoded when the last strike that was confirmed left.
    delivered: Option<Position>,
    /// Everything delivered for commits after this one is remembered.
    began: Position,
}

impl Daemon {
    /// A process that begins where the slot stands.
    pub fn begin(acknowledged: Position) -> Daemon {
        Daemon { decoded: acknowledged, began: acknowledged, ..Daemon::default() }
    }

    /// Everything up to here is settled.
    pub fn settled(&self) -> Position {
        let on_its_way = self.delivery.iter().flat_map(|delivery| [delivery.first, delivery.last]);
        let waiting = self.waiting.iter().copied().map(Some);
        self.unstruck()
            .into_iter()
            .chain(waiting)
            .chain(on_its_way)
            .flatten()
            .map(|owed| owed.before)
            .min()
            .unwrap_or(self.decoded)
    }

    fn unstruck(&self) -> [Option<Owed>; 4] {
        [self.gathering, self.asked, self.blocked, self.ready]
    }

    /// Everything up to here has been struck once, or is on its way to be.
    fn applied(&self) -> Position {
        self.unstruck().into_iter().flatten().map(|owed| owed.before).min().unwrap_or(self.decoded)
    }

    /// Whether there is more to decode in a log that goes up to `end`.
    pub fn can_decode(&self, end: Position) -> bool {
        self.is_judged && self.decoded < end
    }

    /// Reads the next commit from the slot.
    pub fn decode(&mut self, setup: &Setup) {
        let before = self.decoded;
        self.decoded += 1;
        let owed = Some(Owed { before, upto: self.decoded });
        if setup.is_ungated() {
            return owe(&mut self.ready, owed);
        }
        self.visibility.begun(commit(self.decoded));
        self.visibility.gathered(lsn(before));
        owe(&mut self.gathering, owed);
    }

    /// Asks the source what it shows. Whether there was a reason to.
    pub fn ask(&mut self) -> bool {
        let asks = self.visibility.probe(true);
        if asks {
            owe(&mut self.asked, self.gathering.take());
        }
        asks
    }

    /// The answer.
    pub fn answered(&mut self, setup: &Setup, sight: Sight) {
        let passed = self.visibility.answered(sight);
        if passed.blocked {
            let blocked = self.blocked.take();
            self.pass(setup, blocked);
            self.is_early = false;
        }
        let asked = self.asked.take();
        if passed.probed {
            self.pass(setup, asked);
        } else {
            self.block(setup, asked);
        }
    }

    /// Whether an answer may be late.
    pub fn can_be_late(&self) -> bool {
        self.asked.is_some()
    }

    /// There is no answer in time.
    pub fn is_late(&mut self, setup: &Setup) {
        self.visibility.block();
        let (asked, gathering) = (self.asked.take(), self.gathering.take());
        self.block(setup, asked);
        self.block(setup, gathering);
    }

    fn block(&mut self, setup: &Setup, asked: Option<Owed>) {
        self.is_early |= asked.is_some() && setup.strategy == Strategy::Twice;
        owe(&mut self.blocked, asked);
    }

    fn pass(&mut self, setup: &Setup, owed: Option<Owed>) {
        match setup.strategy {
            Strategy::Once => self.wait(owed),
            Strategy::AtDecode | Strategy::Twice => owe(&mut self.ready, owed),
        }
    }

    fn wait(&mut self, owed: Option<Owed>) {
        let Some(owed) = owed else { return };
        match self.waiting.iter_mut().find(|waiting| waiting.upto == owed.upto) {
            Some(waiting) => waiting.before = waiting.before.min(owed.before),
            None => self.waiting.push(owed),
        }
    }

    /// Sends what can be sent, or the record where there is news for it. `replayed` is what all those replicas have
    /// replayed that are waited for. Whether there was anything.
    pub fn send(&mut self, setup: &Setup, replayed: Position) -> bool {
        if !self.is_judged || self.delivery.is_some() {
            return false;
        }
        let settled = self.settled();
        if self.visibility.is_clear() {
            let gathering = self.gathering.take();
            self.pass(setup, gathering);
        }
        let (mut first, mut last) = (self.ready.take(), None);
        if first.is_some_and(|owed| setup.strikes_once() || owed.upto <= replayed) {
            owe(&mut last, first.take());
        }
        self.waiting.retain(|owed| {
            let is_due = owed.upto <= replayed;
            owe(&mut last, is_due.then_some(*owed));
            !is_due
        });
        let early = self.blocked.filter(|_| std::mem::take(&mut self.is_early));
        let struck = [first, last, early];
        let upto = struck.into_iter().flatten().map(|owed| owed.upto).max();
        // A record is never moved back.
        let confirmed = settled.max(self.record.settled);
        let applied = if setup.by_applied() { self.applied().max(self.record.applied) } else { confirmed };
        let vouched = if setup.is(Broken::RecordVouchesForItself) { self.settled().max(confirmed) } else { confirmed };
        let record = Record { applied, settled: vouched, is_older: false };
        if upto.is_none() && record == (Record { is_older: false, ..self.record }) {
            return false;
        }
        self.delivery = Some(Delivery { first, last, upto, record, stage: Stage::Sent });
        true
    }

    /// The cache has answered, or the connection is lost and it is not known what became of it.
    pub fn hears(&mut self, is_lost: bool) -> Option<Stage> {
        let delivery = self.delivery.take()?;
        if is_lost || delivery.stage == Stage::Refused {
            // A strike that did not count is not repeated.
            owe(&mut self.ready, delivery.first);
            owe(&mut self.ready, delivery.last);
        } else {
            self.wait(delivery.first);
            self.record = delivery.record;
            self.written = self.written.max(Some(delivery.record.applied));
            if delivery.upto.is_some() {
                self.delivered = Some(self.decoded);
            }
        }
        self.is_judged &= !is_lost;
        Some(delivery.stage)
    }

    /// Whether a record was confirmed to this process.
    pub fn is_acquainted(&self) -> bool {
        self.written.is_some()
    }

    /// Reads the record and sees to what the cache has missed.
    pub fn judge(&mut self, setup: &Setup, postgres: Postgres, cache: &Cache) {
        self.is_judged = true;
        let found = cache.record;
        self.record = found;
        let said = if setup.by_applied() { found.applied } else { found.settled };
        let server = Server {
            system_id: 7,
            timeline: 1,
            forks: &[],
            slot: SlotOrigin::Found { confirmed: lsn(postgres.acknowledged) },
            reached: lsn(postgres.written),
        };
        let known = Known {
            server,
            written: self.written.map_or(Lsn::ZERO, lsn),
            sequence: u64::from(self.is_acquainted()),
            acquainted: self.is_acquainted(),
            is_ours: self.is_acquainted(),
            remembered: lsn(self.began),
        };
        let record = record::Record {
            applied: lsn(found.applied),
            confirmed: lsn(said),
            settled: lsn(found.settled),
            system_id: 7,
            timeline: 1,
            sequence: u64::from(!found.is_older),
            commit: None,
            rules: None,
        };
        let verdict = judge(&known, &record::Recollection { record: Some(record), empty: false, written: None });
        let before = found.settled.min(said);
        let missed = match verdict {
            _ if setup.is(Broken::NoHealing) => false,
            Verdict::Continue | Verdict::FirstStart => false,
            Verdict::Resend { .. } => self.delivered.is_some_and(|at| at >= before),
            // No other instance is modelled.
            Verdict::Gap(_) | Verdict::Overtaken => true,
        };
        if missed {
            owe(&mut self.ready, Some(Owed { before, upto: self.decoded }));
        }
    }

    /// What may be acknowledged: what is settled, and not more than the cache's record says.
    pub fn acknowledgeable(&self, setup: &Setup) -> Position {
        if setup.is(Broken::AcknowledgesEarly) {
            let on_its_way = self.delivery.iter().flat_map(|delivery| [delivery.first, delivery.last]).flatten();
            return on_its_way.map(|owed| owed.before).min().unwrap_or(self.applied()).min(self.record.applied);
        }
        self.settled().min(if setup.by_applied() { self.record.applied } else { self.record.settled })
    }

    /// A replica is waited for again that had replayed everything up to `since` when it left: what has settled since is
    /// struck.
    pub fn make_up(&mut self, setup: &Setup, since: Position) {
        let upto = if setup.is(Broken::OneFlushOnReturn) { 0 } else { self.decoded };
        owe(&mut self.ready, Some(Owed { before: since.min(self.decoded), upto }));
    }
}
