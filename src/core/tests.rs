//! Watermarks and acknowledgements of a core that is driven by hand.

mod flushing;
mod standing_in;

use std::time::Duration;

use super::continuity::{Gap, SlotOrigin, Verdict};
use super::target::Pass;
use super::*;
use crate::invalidation::Action;
use crate::record::{Delivery, Record};
use crate::rules::config::{RawRule, resolve};
use crate::snapshot::{ReplicaSeen, Snapshot};
use crate::transaction::Gather;

const MAX_LAG: Duration = Duration::from_secs(10);

fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}

fn record_at(at: u64) -> Record {
    let (applied, confirmed, settled) = (lsn(at), lsn(at), lsn(at));
    Record { applied, confirmed, settled, system_id: 7, timeline: 1, sequence: 0, commit: None, rules: None }
}

fn opening() -> Opening {
    let (start, wal_end) = (lsn(100), Lsn::MAX);
    let slot = SlotOrigin::Found { confirmed: start };
    Opening { system_id: 7, timeline: 1, wal_end, forks: Vec::new(), slot, start, walsender: 4711 }
}

/// A core with one rule, `users`, that goes to every target.
pub(super) struct Desk {
    pub(super) core: Core,
    pub(super) now: Instant,
    xid: u32,
    /// Every event.
    told: Vec<Event>,
}

/// A flush has an unreadable record, because it has none.
pub(super) type Sent = (usize, Ticket, Delivery);

impl Desk {
    /// The log is followed from 100, and every target has said that it holds everything up to there.
    pub(super) fn new(targets: usize) -> Desk {
        let mut desk = Desk::unverified(targets);
        for target in 0..targets {
            desk.reconcile(target, 100);
        }
        desk
    }

    /// The same, with one target and a listed replica that has not answered yet.
    fn with_replica() -> Desk {
        let mut desk = Desk::new(1);
        desk.core.replicas = Replicas::new(1, MAX_LAG, desk.now);
        desk.core.replicas.opened(7, 1, &[]);
        desk
    }

    /// The replica has replayed everything before this position.
    fn replica_says(&mut self, replayed: u64) {
        let seen = ReplicaSeen { system_id: 7, timeline: 1, replayed: Some(lsn(replayed)), run: 1 };
        self.core.replica_reported(0, seen, self.now);
    }

    pub(super) fn unverified(targets: usize) -> Desk {
        let names: Vec<String> = (0..targets).map(|n| format!("cache-{n}")).collect();
        let rules = resolve(&[RawRule::of("users", &["user:{id}"])], &names).unwrap();
        let policy = Policy { pending_keys: 100, ..Policy::patient() };
        let now = Instant::now();
        let mut core = Core::new(targets, rules, "", policy, Replicas::new(0, Duration::ZERO, now), now);
        core.stream_opened(opening(), 0, now);
        core.take_outputs(&mut Vec::new());
        core.answered(Snapshot::Primary("1000000:1000000:".parse().unwrap()));
        (0..targets).for_each(|target| core.set_up(target, true));
        Desk { core, now, xid: 10, told: Vec::new() }
    }

    /// The target says that everything up to `at` was confirmed.
    pub(super) fn reconcile(&mut self, target: usize, at: u64) -> Verdict {
        self.reconcile_with(target, at, None)
    }

    /// The same, and `commit` was the last transaction.
    pub(super) fn reconcile_with(&mut self, target: usize, at: u64, commit: Option<Commit>) -> Verdict {
        let record = Record { commit, ..record_at(at) };
        self.reconcile_its(target, &StoredRecord { record: Some(record), empty: false, written: None })
    }

    fn reconcile_its(&mut self, target: usize, its: &StoredRecord) -> Verdict {
        let verdict = self.core.reconcile(target, its);
        self.core.verified(target);
        verdict
    }

    /// One more row of the transaction that commits at `at`.
    fn row(&mut self, at: u64) {
        self.core.begun(Commit { xid: self.xid, at: lsn(at) }, PgTime(0));
        self.core.key(RuleId(0), Action::Delete, format!("user:{}", self.xid).as_bytes());
        self.xid += 1;
    }

    /// A transaction with one row, whose Commit message ends at `end`.
    pub(super) fn commit(&mut self, end: u64) {
        self.row(end - 10);
        self.core.committed(lsn(end));
    }

    /// Sends whatever is due `later`, and keeps it in flight.
    pub(super) fn send_later(&mut self, later: Duration) -> Vec<Sent> {
        self.now += later;
        self.core.pass(false);
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

    fn send(&mut self) -> Vec<Sent> {
        self.send_later(Duration::ZERO)
    }

    fn confirm(&mut self, (target, ticket, delivery): Sent) {
        if delivery.record.is_unreadable() {
            self.core.flushed(target, ticket, delivery.batch, self.now);
        } else {
            self.core.confirmed(target, ticket, delivery, self.now);
        }
    }

    pub(super) fn confirm_all(&mut self, sent: Vec<Sent>) {
        for sent in sent {
            self.confirm(sent);
        }
    }

    /// Sends and confirms until nothing is left, records included.
    pub(super) fn drain(&mut self) {
        loop {
            let sent = self.send_later(Duration::from_millis(5));
            if sent.is_empty() {
                return;
            }
            self.confirm_all(sent);
        }
    }

    pub(super) fn settled(&self) -> u64 {
        self.core.watermarks().settled.as_u64()
    }

    fn acknowledge(&mut self) -> Option<u64> {
        self.core.acknowledge().map(|position| position.lsn().as_u64())
    }

    /// The scopes of the rule, for changes that were missed up to `until`.
    fn flush(&mut self, target: usize, until: u64) {
        let repair = Repair { rules: vec![RuleId(0)], missed_until: lsn(until), ..Repair::default() };
        self.core.repair_later(target, &repair);
    }
}

#[test]
fn a_commit_that_matches_nothing_settles_at_once_but_is_acknowledged_only_after_the_record() {
    let mut desk = Desk::new(1);
    desk.core.committed(lsn(200));
    assert_eq!((desk.settled(), desk.acknowledge()), (200, None));
    desk.drain();
    assert_eq!((desk.acknowledge(), desk.acknowledge()), (Some(200), None), "once is enough");
}

#[test]
fn a_commit_whose_keys_are_not_confirmed_holds_every_watermark_after_decoded() {
    let mut desk = Desk::new(1);
    desk.drain();
    desk.commit(200);
    assert_eq!(desk.settled(), 100);
    let sent = desk.send();
    desk.core.committed(lsn(300));
    desk.core.idle(lsn(400));
    assert_eq!((desk.core.watermarks().decoded, desk.settled()), (lsn(400), 100));
    desk.confirm_all(sent);
    assert_eq!((desk.settled(), desk.acknowledge()), (400, None), "as far as the record goes");
    desk.drain();
    assert_eq!(desk.acknowledge(), Some(400));
}

#[test]
fn a_transaction_sent_in_pieces_settles_with_its_commit() {
    let mut desk = Desk::new(1);
    desk.drain();
    desk.row(190);
    desk.drain();
    assert_eq!(desk.settled(), 100, "its commit is still to come");
    desk.row(190);
    let second = desk.send();
    desk.core.committed(lsn(200));
    assert_eq!(desk.settled(), 100);
    desk.confirm_all(second);
    assert_eq!(desk.settled(), 200);
}

#[test]
fn deliveries_confirmed_out_of_order_move_nothing_past_the_oldest_one_in_flight() {
    let mut desk = Desk::new(1);
    desk.drain();
    let sent: Vec<Sent> = [200, 300, 400]
        .into_iter()
        .flat_map(|end| {
            desk.commit(end);
            desk.send()
        })
        .collect();
    assert_eq!(sent.len(), 3);
    let mut reversed = sent.into_iter().rev();
    desk.confirm(reversed.next().unwrap());
    desk.confirm(reversed.next().unwrap());
    assert_eq!((desk.settled(), desk.acknowledge()), (100, None));
    desk.confirm(reversed.next().unwrap());
    assert_eq!(desk.settled(), 400);
    desk.drain();
    assert_eq!(desk.acknowledge(), Some(400));
}

#[test]
fn the_slowest_target_holds_the_acknowledgement_but_not_the_others_watermark() {
    let mut desk = Desk::new(2);
    desk.drain();
    desk.commit(200);
    let (fast, slow): (Vec<Sent>, Vec<Sent>) = desk.send().into_iter().partition(|(target, ..)| *target == 0);
    desk.confirm_all(fast);
    assert_eq!((desk.core.applied(0), desk.core.applied(1)), (lsn(200), lsn(100)));
    assert_eq!(desk.acknowledge(), None);
    desk.confirm_all(slow);
    desk.drain();
    assert_eq!(desk.acknowledge(), Some(200));
}

#[test]
fn nothing_counts_as_applied_while_it_is_not_known_what_the_target_holds() {
    let mut desk = Desk::new(1);
    desk.core.doubt(0);
    desk.core.committed(lsn(200));
    desk.core.doubt(0);
    assert_eq!(desk.settled(), 100);
    desk.flush(0, 0);
    desk.core.verified(0);
    assert_eq!(desk.settled(), 100, "the repair waits");
    desk.drain();
    assert_eq!(desk.settled(), 200);
}

#[test]
fn a_target_that_may_have_missed_anything_has_settled_nothing_until_the_repair_is_confirmed() {
    let mut desk = Desk::new(1);
    desk.core.missed_since(0, Lsn::ZERO);
    desk.core.doubt(0);
    desk.core.idle(lsn(200));
    assert_eq!(desk.settled(), 0);
    desk.flush(0, 0);
    desk.core.verified(0);
    let repair = desk.send();
    assert_eq!(desk.settled(), 0, "the repair is in flight");
    desk.confirm_all(repair);
    assert_eq!(desk.settled(), 0, "no record proves it yet: a failover could still take it back unnoticed");
    desk.drain();
    assert_eq!((desk.settled(), desk.acknowledge()), (200, Some(200)));
}

#[test]
fn a_position_seen_again_after_a_reconnect_moves_nothing_back() {
    let mut desk = Desk::new(1);
    desk.core.committed(lsn(300));
    desk.core.committed(lsn(200));
    desk.core.idle(lsn(150));
    assert_eq!(desk.core.decoded(), lsn(300));
}

#[test]
fn a_suspended_target_holds_settled_but_not_the_slot_and_its_record_proves_the_gap() {
    let mut desk = Desk::new(2);
    desk.drain();
    desk.core.set_up(0, false);
    desk.core.idle(lsn(250));
    let sent = desk.send_later(Duration::from_secs(2));
    let (away, others): (Vec<Sent>, Vec<Sent>) = sent.into_iter().partition(|(target, ..)| *target == 0);
    assert_eq!(away[0].2.record.applied, lsn(250));
    desk.confirm_all(others);
    desk.core.suspend(0, Lsn::ZERO);
    assert_eq!(desk.acknowledge(), None, "its record may say 250");
    for (end, acknowledged) in [(300, Some(300)), (400, Some(400))] {
        desk.commit(end);
        let sent = desk.send_later(Duration::from_millis(5));
        desk.confirm_all(sent);
        desk.drain();
        assert_eq!(desk.acknowledge(), acknowledged);
    }
    assert_eq!(desk.settled(), 250);
    desk.confirm_all(away);
    assert_eq!(desk.settled(), 250, "what it missed waits");
    desk.core.set_up(0, true);
    let back = desk.send();
    assert_eq!(back[0].2.batch.scopes().len(), 1);
    assert!(desk.told.contains(&Event::Resumed(0)));
    desk.core.idle(lsn(500));
    assert_eq!(desk.acknowledge(), None, "the slot waits for it again");
    desk.confirm_all(back);
    desk.drain();
    assert_eq!((desk.settled(), desk.acknowledge()), (500, Some(500)));
}

#[test]
fn an_uncovered_rule_holds_settled_until_its_repair_is_confirmed_and_never_the_slot() {
    let mut desk = Desk::new(1);
    desk.core.idle(lsn(200));
    desk.drain();
    desk.core.withhold(0);
    desk.commit(300);
    desk.drain();
    assert_eq!((desk.core.watermarks().applied, desk.settled()), (lsn(300), 200));
    assert_eq!(desk.acknowledge(), Some(300));
    desk.flush(0, 0);
    desk.core.repaired(0);
    assert_eq!(desk.settled(), 200);
    let flush = desk.send();
    desk.core.committed(lsn(400));
    assert_eq!(desk.settled(), 200, "it counts from where it was missed, although it leaves later");
    desk.confirm_all(flush);
    desk.drain();
    assert_eq!(desk.settled(), 400);
}

#[test]
fn a_fork_takes_back_what_was_decoded_after_it_and_keeps_what_waits() {
    let mut desk = Desk::new(1);
    desk.drain();
    desk.commit(300);
    let before = desk.send();
    desk.core.fork(lsn(250));
    assert_eq!((desk.core.decoded(), desk.settled()), (lsn(250), 100));
    desk.confirm_all(before);
    assert_eq!(desk.settled(), 250);
    assert_eq!(desk.acknowledge(), None, "the record that was confirmed is one of the other history");
    desk.drain();
    assert_eq!(desk.acknowledge(), Some(250));
}

#[test]
fn beginning_anew_trusts_nothing_that_was_known() {
    let mut desk = Desk::new(1);
    desk.commit(300);
    let before = desk.send();
    desk.core.withhold(0);
    desk.core.suspend(0, Lsn::ZERO);
    desk.core.begin(lsn(50), 0);
    assert_eq!((desk.core.decoded(), desk.settled()), (lsn(50), 0));
    desk.confirm_all(before);
    assert!(desk.send_later(Duration::from_secs(2)).is_empty(), "its record has not been read");
    assert_ne!(desk.reconcile(0, 60), Verdict::Continue);
    desk.flush(0, 0);
    desk.core.idle(lsn(70));
    assert_eq!((desk.settled(), desk.acknowledge()), (0, None));
    desk.drain();
    assert_eq!((desk.settled(), desk.acknowledge()), (70, Some(70)));
}

#[test]
fn what_a_target_turns_out_to_have_missed_is_not_settled_any_more() {
    let mut desk = Desk::new(1);
    desk.core.idle(lsn(500));
    desk.core.doubt(0);
    desk.core.missed_since(0, lsn(300));
    desk.flush(0, 0);
    desk.core.verified(0);
    assert_eq!(desk.settled(), 300);
    desk.drain();
    assert_eq!(desk.settled(), 500);
}

#[test]
fn a_fork_trusts_no_target_before_its_record_is_reconciled() {
    let mut desk = Desk::new(1);
    desk.drain();
    desk.core.fork(lsn(100));
    desk.core.idle(lsn(200));
    assert_eq!(desk.settled(), 100);
    desk.reconcile(0, 100);
    assert_eq!(desk.settled(), 200);
}

#[test]
fn first_passes_and_replica_passes_of_flushes_take_turns() {
    let mut desk = Desk::with_replica();
    desk.replica_says(1000);
    desk.drain();
    for replayed in [false, true] {
        desk.flush(0, if replayed { 0 } else { 1500 });
        if !replayed {
            let first = desk.send();
            desk.confirm_all(first);
            desk.drain();
            desk.replica_says(1600);
        }
    }
    // One of each waits now.
    let mut passes = Vec::new();
    for _ in 0..2 {
        let sent = desk.send();
        passes.push(desk.core.targets[0].in_flight.iter().find(|sent| sent.is_flush).map(|sent| sent.pass));
        desk.confirm_all(sent);
        desk.flush(0, 0);
    }
    assert_eq!(passes, [Some(Pass::Replica), Some(Pass::Only)]);
}

#[test]
fn nothing_is_acknowledged_that_the_stream_has_not_shown() {
    let mut desk = Desk::unverified(1);
    desk.core.opened(lsn(100));
    desk.reconcile(0, 500);
    desk.core.decoded = lsn(500);
    desk.drain();
    assert_eq!(desk.acknowledge(), None, "a target that is read later may hold another history up to there");
    desk.core.idle(lsn(300));
    desk.drain();
    assert_eq!(desk.acknowledge(), Some(300));
}

#[test]
fn a_record_that_says_less_than_one_that_was_read_before_is_of_a_target_that_went_back() {
    let mut desk = Desk::unverified(1);
    assert_eq!(desk.reconcile(0, 300), Verdict::Continue);
    let sent = desk.send_later(Duration::from_secs(2));
    assert_eq!(sent[0].2.record.settled, lsn(300), "what the one before had settled");
    let (record, needed) = (lsn(200), lsn(300));
    assert_eq!(desk.reconcile(0, 200), Verdict::Gap(Gap::TargetWentBack { record, needed }));
}

#[test]
fn a_record_with_a_later_sequence_is_another_instances_and_counts_as_such_once() {
    let mut desk = Desk::new(1);
    desk.commit(200);
    desk.drain();
    let mut its =
        StoredRecord { record: Some(Record { sequence: 9_000, ..record_at(300) }), empty: false, written: None };
    assert!(desk.core.is_overtaken(0, &its, 7));
    assert!(!desk.core.is_overtaken(0, &its, 7), "its clock was ahead");
    desk.reconcile_its(0, &its);
    desk.commit(400);
    let sent = desk.send_later(Duration::from_secs(2));
    assert!(sent.iter().all(|(.., delivery)| delivery.record.sequence > 9_000));
    desk.confirm_all(sent);
    its.record = Some(Record { sequence: 99_000, system_id: 8, ..record_at(300) });
    assert!(!desk.core.is_overtaken(0, &its, 7));
    assert_eq!(desk.reconcile_its(0, &its), Verdict::Gap(Gap::OtherDatabase));
}
