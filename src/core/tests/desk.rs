//! A core that the tests drive step by step.

use super::*;

/// A core with one rule, `users`, that goes to every target.
pub(in crate::core) struct Desk {
    pub(in crate::core) core: Core,
    pub(in crate::core) now: Instant,
    xid: u32,
    /// Every event so far.
    pub(super) told: Vec<Event>,
}

/// A flush gets an unreadable record, because it has none of its own.
pub(in crate::core) type Sent = (usize, Ticket, Delivery);

impl Desk {
    /// Follows the log from 100. Every target's record says that it holds everything up to there.
    pub(in crate::core) fn new(targets: usize) -> Desk {
        let mut desk = Desk::unverified(targets);
        for target in 0..targets {
            desk.reconcile(target, 100);
        }
        desk
    }

    /// Like `new`, with one target and a listed replica that has not answered yet.
    pub(super) fn with_replica() -> Desk {
        let mut desk = Desk::new(1);
        desk.core.feed.replicas = Replicas::new(1, MAX_LAG, desk.now);
        desk.core.feed.replicas.opened(7, 1, &[]);
        desk
    }

    /// From now on the source has not shown that commits are visible.
    pub(super) fn commits_are_not_shown(&mut self) {
        self.xid = 2_000_000;
    }

    /// The replica has replayed everything before this position.
    pub(super) fn replica_says(&mut self, replayed: u64) {
        let seen = ReplicaSeen { system_id: 7, timeline: 1, replayed: Some(lsn(replayed)), run: 1 };
        self.core.replica_reported(0, seen, self.now);
    }

    pub(in crate::core) fn unverified(targets: usize) -> Desk {
        let names: Vec<String> = (0..targets).map(|n| format!("cache-{n}")).collect();
        let rules = resolve(&[RawRule::of("users", &["user:{id}"])], &names).unwrap();
        let policy = Policy { pending_keys: 100, ..Policy::patient() };
        let now = Instant::now();
        let mut core = Core::new(targets, rules, "", policy, Replicas::new(0, Duration::ZERO, now), now);
        core.stream_opened(opening(), 0, now);
        core.take_outputs(&mut Vec::new());
        core.answered(Snapshot::Primary("1000000:1000000:".parse().unwrap()));
        core.targets.iter_mut().for_each(|target| target.up = true);
        Desk { core, now, xid: 10, told: Vec::new() }
    }

    /// The target's record says that everything up to `at` is confirmed.
    pub(in crate::core) fn reconcile(&mut self, target: usize, at: u64) -> Verdict {
        self.reconcile_with(target, at, None)
    }

    /// Like `reconcile`, with `commit` as the last transaction.
    pub(in crate::core) fn reconcile_with(&mut self, target: usize, at: u64, commit: Option<Commit>) -> Verdict {
        let record = Record { commit, ..record_at(at) };
        self.reconcile_its(target, &StoredRecord { record: Some(record), empty: false, written: None })
    }

    pub(super) fn reconcile_its(&mut self, target: usize, its: &StoredRecord) -> Verdict {
        let Core { targets, feed, following, shown, .. } = &mut self.core;
        let verdict = targets[target].reconcile(feed, following.followed.as_ref().unwrap(), shown, its);
        targets[target].verified();
        verdict
    }

    /// One more row of the transaction that commits at `at`.
    pub(super) fn row(&mut self, at: u64) {
        self.core.begun(Commit { xid: self.xid, at: lsn(at) }, PgTime(0));
        self.core.key(RuleId(0), Action::Delete, format!("user:{}", self.xid).as_bytes());
        self.xid += 1;
    }

    /// A transaction with one row, whose Commit message ends at `end`.
    pub(in crate::core) fn commit(&mut self, end: u64) {
        self.row(end - 10);
        self.core.committed(lsn(end));
    }

    /// Sends what is due after `later`, and keeps it in flight.
    pub(in crate::core) fn send_later(&mut self, later: Duration) -> Vec<Sent> {
        self.now += later;
        self.core.pass(false, false);
        self.core.send(self.now);
        let mut outputs = Vec::new();
        self.core.take_outputs(&mut outputs);
        let told = &mut self.told;
        let sends = outputs.into_iter().filter_map(|output| match output {
            Output::Event(event) => {
                told.push(event);
                None
            }
            Output::Send { target, ticket, delivery } => Some((target, ticket, delivery)),
            Output::Flush { target, ticket, batch } => {
                Some((target, ticket, Delivery { batch, record: Record::UNREADABLE }))
            }
            _ => None,
        });
        sends.collect()
    }

    pub(super) fn send(&mut self) -> Vec<Sent> {
        self.send_later(Duration::ZERO)
    }

    pub(super) fn confirm(&mut self, (target, ticket, delivery): Sent) {
        if delivery.record.is_unreadable() {
            self.core.step(self.now, Input::Flushed(target, ticket, delivery.batch));
        } else {
            self.core.step(self.now, Input::Confirmed(target, ticket, delivery));
        }
    }

    pub(in crate::core) fn confirm_all(&mut self, sent: Vec<Sent>) {
        for sent in sent {
            self.confirm(sent);
        }
    }

    /// Sends and confirms until nothing is left, including records.
    pub(in crate::core) fn drain(&mut self) {
        loop {
            let sent = self.send_later(Duration::from_millis(5));
            if sent.is_empty() {
                return;
            }
            self.confirm_all(sent);
        }
    }

    pub(in crate::core) fn settled(&self) -> u64 {
        self.core.watermarks().settled.as_u64()
    }

    pub(super) fn acknowledge(&mut self) -> Option<u64> {
        self.core.acknowledge().map(|position| position.lsn().as_u64())
    }

    /// Flushes the scopes of the rule, for changes that were missed up to `until`.
    pub(super) fn flush(&mut self, target: usize, until: u64) {
        let repair = Repair { rules: vec![RuleId(0)], missed_until: lsn(until), ..Repair::default() };
        self.with(target, |target, feed| target.repair(feed, &repair));
    }

    pub(super) fn with(&mut self, target: usize, act: impl FnOnce(&mut TargetState, &mut Feed)) {
        self.core.with(target, act);
    }

    pub(super) fn set_up(&mut self, target: usize, up: bool) {
        self.with(target, |target, _| target.up = up);
    }

    pub(super) fn doubt(&mut self, target: usize) {
        self.with(target, |target, feed| target.doubt(feed.decoded));
    }

    pub(super) fn missed_since(&mut self, target: usize, at: Lsn) {
        self.with(target, |target, feed| target.missed_since(at, feed.decoded));
    }

    pub(super) fn verified(&mut self, target: usize) {
        self.with(target, |target, _| target.verified());
    }

    pub(super) fn suspend(&mut self, target: usize) {
        self.with(target, |target, feed| target.suspend(feed, Lsn::ZERO));
    }

    pub(super) fn withhold(&mut self, target: usize) {
        self.with(target, |target, feed| target.withhold(feed.decoded));
    }

    pub(super) fn repaired(&mut self, target: usize) {
        self.with(target, |target, feed| target.repaired(feed.decoded));
    }

    pub(super) fn is_overtaken(&mut self, target: usize, its: &StoredRecord) -> bool {
        self.core.targets[target].is_overtaken(&mut self.core.feed, its, 7)
    }
}
