//! Watermarks and acknowledgements of a core that the tests drive step by step.

mod desk;
mod flushing;
mod standing_in;

use std::time::Duration;

use super::continuity::{Gap, SlotOrigin, Verdict};
use super::queue::Pass;
use super::repairing::Repair;
use super::*;
use crate::rules::config::{RawRule, resolve};
use crate::transaction::Gather;
use crate::types::invalidation::Action;
use crate::types::record::{Delivery, Record};
use crate::types::server::System;
use crate::types::snapshot::{ReplicaSeen, Snapshot};
pub(super) use desk::{Desk, Sent};

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
    let system = System { id: 7, timeline: 1, wal_end, forks: Vec::new() };
    Opening { system, slot, start, walsender: 4711 }
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
    desk.doubt(0);
    desk.core.committed(lsn(200));
    desk.doubt(0);
    assert_eq!(desk.settled(), 100);
    desk.flush(0, 0);
    desk.verified(0);
    assert_eq!(desk.settled(), 100, "the repair waits");
    desk.drain();
    assert_eq!(desk.settled(), 200);
}

#[test]
fn a_target_that_may_have_missed_anything_has_settled_nothing_until_the_repair_is_confirmed() {
    let mut desk = Desk::new(1);
    desk.missed_since(0, Lsn::ZERO);
    desk.doubt(0);
    desk.core.idle(lsn(200));
    assert_eq!(desk.settled(), 0);
    desk.flush(0, 0);
    desk.verified(0);
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
    desk.set_up(0, false);
    desk.core.idle(lsn(250));
    let sent = desk.send_later(Duration::from_secs(2));
    let (away, others): (Vec<Sent>, Vec<Sent>) = sent.into_iter().partition(|(target, ..)| *target == 0);
    assert_eq!(away[0].2.record.applied, lsn(250));
    desk.confirm_all(others);
    desk.suspend(0);
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
    desk.set_up(0, true);
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
    desk.withhold(0);
    desk.commit(300);
    desk.drain();
    assert_eq!((desk.core.watermarks().applied, desk.settled()), (lsn(300), 200));
    assert_eq!(desk.acknowledge(), Some(300));
    desk.flush(0, 0);
    desk.repaired(0);
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
    desk.withhold(0);
    desk.suspend(0);
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
    desk.doubt(0);
    desk.missed_since(0, lsn(300));
    desk.flush(0, 0);
    desk.verified(0);
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
    // One of each waits at this point.
    let mut passes = Vec::new();
    for _ in 0..2 {
        let sent = desk.send();
        passes.push(desk.core.targets[0].queue.in_flight.iter().find(|sent| sent.is_flush).map(|sent| sent.pass));
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
    desk.core.feed.decoded = lsn(500);
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
    assert!(desk.is_overtaken(0, &its));
    assert!(!desk.is_overtaken(0, &its), "its clock was ahead");
    desk.reconcile_its(0, &its);
    desk.commit(400);
    let sent = desk.send_later(Duration::from_secs(2));
    assert!(sent.iter().all(|(.., delivery)| delivery.record.sequence > 9_000));
    desk.confirm_all(sent);
    its.record = Some(Record { sequence: 99_000, system_id: 8, ..record_at(300) });
    assert!(!desk.is_overtaken(0, &its));
    assert_eq!(desk.reconcile_its(0, &its), Verdict::Gap(Gap::OtherDatabase));
}

#[test]
fn a_repetition_that_is_due_while_no_stream_is_open_does_not_keep_the_loop_awake() {
    let mut desk = Desk::new(1);
    desk.core.feed.policy.0.repeat_after = Duration::from_secs(1);
    desk.commit(200);
    desk.drain();
    desk.core.step(desk.now, Input::StreamClosed);
    desk.core.step(desk.now, Input::SlotBusy);
    let later = desk.now + Duration::from_secs(2);
    assert!(desk.core.turn_due(later) <= later);
    desk.core.step(later, Input::Read(false));
    assert!(desk.core.turn_due(later) > later);
}

/// Reads a commit whose visibility is not known, on an open stream to a target that takes early invalidations.
fn early_desk() -> Desk {
    let mut desk = Desk::new(1);
    desk.core = desk.core.with_early([true]);
    desk.drain();
    desk.commits_are_not_shown();
    desk
}

fn early_keys(desk: &mut Desk) -> Vec<usize> {
    let mut outputs = Vec::new();
    desk.core.take_outputs(&mut outputs);
    let early = |output| if let Output::Early { batch, .. } = output { Some(batch.len()) } else { None };
    outputs.into_iter().filter_map(early).collect()
}

#[test]
fn what_is_decoded_leaves_early_once_and_leaves_again_when_it_counts() {
    let mut desk = early_desk();
    desk.row(190);
    desk.core.step(desk.now, Input::Decoded(false));
    desk.core.step(desk.now, Input::Decoded(false));
    assert_eq!(early_keys(&mut desk), [1]);
    desk.row(190);
    desk.core.committed(lsn(200));
    desk.core.step(desk.now, Input::Decoded(false));
    assert_eq!((early_keys(&mut desk), desk.settled()), (vec![1], 100), "it counts for nothing");
    assert_eq!(desk.core.waiting(0).0, 2, "both keys still wait");
}

#[test]
fn under_backlog_or_in_large_numbers_nothing_leaves_early() {
    let mut desk = early_desk();
    desk.row(190);
    desk.core.step(desk.now, Input::Decoded(true));
    assert_eq!(early_keys(&mut desk), [0; 0]);
    (0..64).for_each(|_| desk.row(190));
    desk.core.step(desk.now, Input::Decoded(false));
    assert_eq!(early_keys(&mut desk), [0; 0]);
}

#[test]
fn a_target_that_is_away_or_takes_nothing_early_is_sent_nothing_early() {
    for (takes_early, may_have_changed) in [(false, false), (true, true)] {
        let mut desk = early_desk();
        desk.core = desk.core.with_early([takes_early]);
        if may_have_changed {
            desk.core.step(desk.now, Input::Trouble(0, false));
        }
        desk.row(190);
        desk.core.step(desk.now, Input::Decoded(false));
        assert_eq!(early_keys(&mut desk), [0; 0]);
    }
}

#[test]
fn what_an_answer_does_not_show_leaves_early_however_much_it_is() {
    let mut desk = early_desk();
    (0..100).for_each(|_| desk.row(190));
    desk.core.committed(lsn(200));
    desk.core.step(desk.now, Input::Decoded(true));
    desk.core.step(desk.now, Input::Read(true));
    assert_eq!(early_keys(&mut desk), [0; 0], "it is probed for");
    desk.core.step(desk.now, Input::Snapshot(4711, Snapshot::Primary("2000000:2000200:2000000".parse().unwrap())));
    assert_eq!((early_keys(&mut desk), desk.settled()), (vec![100], 100));
}
