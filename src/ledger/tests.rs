use super::*;

fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}

fn commit(n: u64) -> CommitLsn {
    CommitLsn::from_end(lsn(n))
}

fn one_lane() -> Ledger {
    Ledger::new(lsn(100), [lsn(100)])
}

#[test]
fn a_commit_that_matches_nothing_settles_at_once_but_is_acknowledged_only_after_the_record() {
    let mut ledger = one_lane();
    ledger.committed(commit(200));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(200));
    assert!(ledger.record_is_behind(0));
    assert_eq!(ledger.acknowledge(), None);
    let ticket = ledger.sent(0, lsn(0), Strike::Only);
    ledger.confirmed(0, ticket, lsn(200));
    assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(200)));
    assert_eq!(ledger.acknowledge(), None, "once is enough");
}

#[test]
fn a_commit_whose_keys_are_not_confirmed_holds_every_watermark_after_decoded() {
    let mut ledger = one_lane();
    ledger.gathered(0, Place::Ready);
    ledger.committed(commit(200));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(100));
    let ticket = ledger.sent(0, lsn(0), Strike::Only);
    ledger.committed(commit(300));
    ledger.idle(lsn(400));
    assert_eq!(ledger.watermarks(Lsn::MAX).decoded, lsn(400));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(100));
    ledger.confirmed(0, ticket, lsn(200));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(400));
    assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(200)), "as far as the record goes");
}

#[test]
fn a_transaction_sent_in_pieces_settles_with_its_commit() {
    let mut ledger = one_lane();
    ledger.gathered(0, Place::Ready);
    let first = ledger.sent(0, lsn(0), Strike::Only);
    ledger.confirmed(0, first, lsn(100));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(100), "its commit is still to come");
    ledger.gathered(0, Place::Ready);
    let second = ledger.sent(0, lsn(0), Strike::Only);
    ledger.committed(commit(200));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(100));
    ledger.confirmed(0, second, lsn(100));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(200));
}

#[test]
fn deliveries_confirmed_out_of_order_move_nothing_past_the_oldest_one_owed() {
    let mut ledger = one_lane();
    let tickets: Vec<Ticket> = [200, 300, 400]
        .into_iter()
        .map(|end| {
            ledger.gathered(0, Place::Ready);
            ledger.committed(commit(end));
            ledger.sent(0, lsn(0), Strike::Only)
        })
        .collect();
    ledger.confirmed(0, tickets[2], lsn(400));
    ledger.confirmed(0, tickets[1], lsn(300));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(100));
    assert_eq!(ledger.acknowledge(), None);
    ledger.confirmed(0, tickets[0], lsn(200));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(400));
    assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(400)));
}

#[test]
fn the_slowest_target_holds_the_acknowledgement_but_not_the_others_watermark() {
    let mut ledger = Ledger::new(lsn(100), [lsn(100), lsn(100)]);
    ledger.gathered(0, Place::Ready);
    ledger.gathered(1, Place::Ready);
    ledger.committed(commit(200));
    let (fast, slow) = (ledger.sent(0, lsn(0), Strike::Only), ledger.sent(1, lsn(0), Strike::Only));
    ledger.confirmed(0, fast, lsn(200));
    assert_eq!((ledger.applied(0), ledger.applied(1)), (lsn(200), lsn(100)));
    assert_eq!(ledger.acknowledge(), None);
    ledger.confirmed(1, slow, lsn(200));
    assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(200)));
}

#[test]
fn nothing_counts_as_applied_while_the_target_is_in_doubt() {
    let mut ledger = one_lane();
    ledger.doubt(0);
    ledger.committed(commit(200));
    ledger.doubt(0);
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(100));
    ledger.gathered(0, Place::Ready);
    ledger.trust(0);
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(100), "what it missed is owed");
    let ticket = ledger.sent(0, lsn(0), Strike::Only);
    ledger.confirmed(0, ticket, lsn(200));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(200));
}

#[test]
fn a_lane_that_may_have_missed_anything_has_settled_nothing_until_that_is_mended() {
    let mut ledger = one_lane();
    ledger.missed_since(0, Lsn::ZERO);
    ledger.doubt(0);
    ledger.idle(lsn(200));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, Lsn::ZERO);
    ledger.gathered(0, Place::Ready);
    ledger.trust(0);
    let ticket = ledger.sent(0, lsn(0), Strike::Only);
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, Lsn::ZERO, "the mending is not confirmed");
    ledger.confirmed(0, ticket, lsn(200));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(200));
    assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(200)));
}

#[test]
fn a_position_seen_again_after_a_reconnect_moves_nothing_back() {
    let mut ledger = one_lane();
    ledger.committed(commit(300));
    ledger.committed(commit(200));
    ledger.idle(lsn(150));
    assert_eq!(ledger.watermarks(Lsn::MAX).decoded, lsn(300));
}

#[test]
fn a_target_that_is_given_up_holds_settled_but_not_the_slot_and_its_record_proves_it() {
    let mut ledger = Ledger::new(lsn(100), [lsn(100), lsn(100)]);
    ledger.gathered(0, Place::Ready);
    let sent = ledger.sent(0, lsn(250), Strike::Only);
    ledger.gathered(0, Place::Ready);
    ledger.give_up(0, lsn(0));
    assert_eq!((ledger.holds_at(0), ledger.holds_at(1)), (None, Some(lsn(100))));
    for (position, acknowledged) in [(200, None), (250, None), (300, Some(lsn(300)))] {
        ledger.idle(lsn(position));
        let record = ledger.sent(1, lsn(position), Strike::Only);
        ledger.confirmed(1, record, lsn(position));
        assert_eq!(ledger.acknowledge().map(AckLsn::lsn), acknowledged, "{position}");
    }
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(100));
    assert!(!ledger.record_is_behind(0) && !ledger.record_is_behind(1));
    ledger.confirmed(0, sent, lsn(250));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(100), "what it missed is gathered and not confirmed");
    ledger.take_back(0);
    let mended = ledger.sent(0, lsn(300), Strike::Only);
    ledger.idle(lsn(400));
    assert_eq!(ledger.acknowledge(), None, "the slot waits for it again");
    ledger.confirmed(0, mended, lsn(400));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(400));
}

#[test]
fn what_is_withheld_holds_settled_until_the_mending_is_confirmed_and_never_the_slot() {
    let mut ledger = one_lane();
    ledger.idle(lsn(200));
    ledger.withhold(0);
    ledger.gathered(0, Place::Ready);
    ledger.committed(commit(300));
    let flush = ledger.sent(0, lsn(300), Strike::Only);
    ledger.confirmed(0, flush, lsn(300));
    assert_eq!((ledger.watermarks(Lsn::MAX).applied, ledger.watermarks(Lsn::MAX).settled), (lsn(300), lsn(200)));
    assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(300)));
    ledger.mending(0);
    assert_eq!(ledger.settled(0), lsn(200));
    let flush = ledger.sent(0, lsn(300), Strike::Only);
    ledger.committed(commit(400));
    assert_eq!(ledger.settled(0), lsn(200));
    ledger.confirmed(0, flush, lsn(300));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(400));
}

#[test]
fn a_fork_takes_back_what_was_decoded_after_it_and_keeps_what_is_owed() {
    let mut ledger = one_lane();
    ledger.gathered(0, Place::Ready);
    ledger.committed(commit(300));
    let before = ledger.sent(0, lsn(300), Strike::Only);
    ledger.fork(lsn(250));
    assert_eq!((ledger.decoded(), ledger.watermarks(Lsn::MAX).settled), (lsn(250), lsn(100)));
    ledger.confirmed(0, before, lsn(300));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(250));
    assert_eq!(ledger.acknowledge(), None, "the record that was confirmed is one of the other history");
    let record = ledger.sent(0, lsn(250), Strike::Only);
    ledger.confirmed(0, record, lsn(250));
    assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(250)));
}

#[test]
fn beginning_anew_trusts_nothing_that_was_known() {
    let mut ledger = one_lane();
    ledger.gathered(0, Place::Ready);
    let before = ledger.sent(0, lsn(300), Strike::Only);
    ledger.give_up(0, lsn(0));
    ledger.begin_anew(lsn(50));
    assert_eq!((ledger.decoded(), ledger.watermarks(Lsn::MAX).settled), (lsn(50), Lsn::ZERO));
    ledger.confirmed(0, before, lsn(300));
    ledger.gathered(0, Place::Ready);
    ledger.trust(0);
    let flush = ledger.sent(0, lsn(60), Strike::Only);
    ledger.idle(lsn(70));
    assert_eq!(ledger.acknowledge(), None);
    ledger.confirmed(0, flush, lsn(60));
    assert_eq!(ledger.acknowledge().map(AckLsn::lsn), Some(lsn(60)));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(70));
}

#[test]
fn what_mends_something_counts_from_where_it_was_missed_although_it_leaves_later() {
    let mut ledger = one_lane();
    ledger.idle(lsn(200));
    ledger.withhold(0);
    ledger.gathered(0, Place::Ready);
    ledger.committed(commit(300));
    let key = ledger.sent(0, lsn(300), Strike::Only);
    ledger.mending(0);
    let flush = ledger.sent(0, lsn(300), Strike::Only);
    assert_eq!(ledger.settled(0), lsn(200));
    ledger.confirmed(0, key, lsn(300));
    assert_eq!(ledger.settled(0), lsn(200));
    ledger.confirmed(0, flush, lsn(300));
    assert_eq!(ledger.settled(0), lsn(300));
}

#[test]
fn what_a_target_turns_out_to_have_missed_is_not_settled_any_more() {
    let mut ledger = one_lane();
    ledger.idle(lsn(500));
    ledger.doubt(0);
    ledger.missed_since(0, lsn(300));
    ledger.gathered(0, Place::Ready);
    ledger.trust(0);
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(300));
    let again = ledger.sent(0, lsn(500), Strike::Only);
    ledger.confirmed(0, again, lsn(500));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(500));
}

#[test]
fn nothing_stays_withheld_when_another_history_begins() {
    let mut ledger = one_lane();
    ledger.withhold(0);
    ledger.begin_anew(lsn(400));
    ledger.gathered(0, Place::Ready);
    ledger.trust(0);
    let flush = ledger.sent(0, lsn(400), Strike::Only);
    ledger.confirmed(0, flush, lsn(400));
    assert_eq!(ledger.watermarks(Lsn::MAX).settled, lsn(400));
}
