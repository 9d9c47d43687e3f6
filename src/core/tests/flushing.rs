//! When a flush leaves, and when it counts.

use super::*;
use crate::types::observation::{Horizon, Observation};

fn is_flush(sent: &Sent) -> bool {
    !sent.2.batch.scopes().is_empty()
}

/// After the target is reconciled, no flush leaves before its record is written. A restore of old data together with
/// the record that was read would leave no trace, and the flush would have been in vain.
#[test]
fn a_flush_leaves_only_when_a_record_is_written_that_was_not_there_before() {
    let mut desk = Desk::new(1);
    desk.flush(0, 0);
    desk.core.idle(lsn(300));
    let record = desk.send();
    assert!(record.len() == 1 && !is_flush(&record[0]), "{record:?}");
    assert_eq!(desk.send().len(), 0);
    desk.confirm_all(record);
    let flush = desk.send();
    assert!(flush.iter().any(is_flush));
    desk.confirm_all(flush);
    assert_eq!(desk.settled(), 100, "until a later record proves it");
    desk.drain();
    assert_eq!(desk.settled(), 300);
}

#[test]
fn a_flush_that_no_record_proves_leaves_again_when_the_record_is_read_again() {
    let mut desk = Desk::new(1);
    desk.drain();
    desk.flush(0, 0);
    let first = desk.send();
    assert!(first.iter().any(is_flush));
    desk.confirm_all(first);
    desk.reconcile(0, 100);
    let record = desk.send();
    assert!(!record.iter().any(is_flush), "the target is not anchored yet");
    desk.confirm_all(record);
    assert!(desk.send().iter().any(is_flush), "the target may have lost it in a failover");
}

/// The worker may carry out the flush as soon as it is connected again, before any record is written.
#[test]
fn a_flush_that_is_in_flight_when_the_record_is_read_again_leaves_once_more() {
    let mut desk = Desk::new(1);
    desk.drain();
    desk.flush(0, 0);
    desk.core.idle(lsn(300));
    let in_flight = desk.send();
    assert!(in_flight.iter().any(is_flush));
    desk.reconcile(0, 100);
    desk.confirm_all(in_flight);
    assert_eq!(desk.settled(), 100);
    let record = desk.send_later(Duration::from_millis(5));
    assert!(!record.is_empty() && !record.iter().any(is_flush), "{record:?}");
    desk.confirm_all(record);
    assert_eq!(desk.settled(), 100, "the record proves nothing of what was flushed before it");
    let again = desk.send();
    assert!(again.iter().any(is_flush));
    desk.confirm_all(again);
    desk.drain();
    assert_eq!(desk.settled(), 300);
}

#[test]
fn a_record_that_left_before_a_flush_was_done_does_not_prove_it() {
    let mut desk = Desk::new(1);
    desk.drain();
    desk.flush(0, 0);
    desk.commit(200);
    let (flush, others): (Vec<Sent>, Vec<Sent>) =
        desk.send().into_iter().partition(|sent| sent.2.record.is_unreadable());
    assert_eq!((flush.len(), others.len()), (1, 1));
    desk.confirm_all(flush);
    desk.confirm_all(others);
    assert_eq!(desk.settled(), 100);
    desk.drain();
    assert_eq!(desk.settled(), 200);
}

/// Another target answers on the same connection: what its record calls settled has not settled here.
#[test]
fn a_record_of_another_history_says_nothing_of_what_the_target_has() {
    for (applied, system_id, confirmed_at_most) in [(50, 7, 50), (900, 8, 0), (900, 7, 0)] {
        let mut desk = Desk::new(1);
        let catalogue = &mut desk.core.catalogue.coverage;
        catalogue.looked(&look(), &[]);
        let followed = desk.core.following.followed.as_mut().unwrap();
        followed.reached = lsn(500);
        (0..2).for_each(|_| followed.looked(lsn(500)));
        desk.commit(300);
        let in_flight = desk.send();
        desk.doubt(0);
        let record = Some(Record { system_id, ..record_at(applied) });
        desk.core.record_loaded(0, StoredRecord { record, empty: false, written: None }, desk.now);
        assert_eq!(desk.settled(), confirmed_at_most, "{applied} of {system_id}");
        let mut outputs = Vec::new();
        desk.core.take_outputs(&mut outputs);
        let answers = outputs.iter().filter_map(|output| match output {
            Output::Reconciled(0, answer) => Some(answer.confirmed_at_most),
            _ => None,
        });
        assert_eq!(answers.collect::<Vec<_>>(), [lsn(confirmed_at_most)], "{applied} of {system_id}");
        desk.confirm_all(in_flight);
        desk.drain();
        assert_eq!(desk.settled(), 300, "when it is flushed");
    }
}

fn look() -> Observation {
    Observation {
        wal: None,
        log_end: Lsn::ZERO,
        catalogue_at: Instant::now(),
        snapshot: Horizon { xmin: 1, xmax: 1 },
        tables: Vec::new(),
        database: None,
        holder: None,
        synchronous: None,
    }
}
