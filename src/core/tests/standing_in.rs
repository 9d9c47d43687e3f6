//! What stands in for commits waits until replicas have replayed all of those commits.

use super::*;

/// A held replica has replayed everything before 100 and no more.
fn with_a_lagging_replica() -> Desk {
    let mut desk = Desk::with_replica();
    desk.replica_says(100);
    desk.drain();
    desk
}

#[test]
fn the_scopes_of_a_suspended_target_stand_in_for_later_commits_too_and_wait_for_their_replay() {
    let mut desk = with_a_lagging_replica();
    desk.set_up(0, false);
    desk.suspend(0);
    desk.commit(300);
    desk.replica_says(200);
    desk.set_up(0, true);
    desk.drain();
    assert!(desk.settled() < 300, "a reader of the replica may still fill the old row in");
    desk.replica_says(301);
    desk.drain();
    assert_eq!(desk.settled(), 300);
}

#[test]
fn the_flush_for_a_change_that_only_the_catalogue_shows_waits_for_the_replay_of_the_logs_end() {
    let mut desk = with_a_lagging_replica();
    desk.withhold(0);
    desk.flush(0, 400);
    desk.repaired(0);
    desk.replica_says(200);
    desk.drain();
    desk.core.idle(lsn(400));
    assert!(desk.settled() < 400, "what was missed lies between what was decoded and the end of the log");
    desk.replica_says(400);
    desk.drain();
    assert_eq!(desk.settled(), 400);
}

#[test]
fn scopes_that_leave_again_when_their_commits_are_visible_keep_what_they_stand_in_for() {
    let mut desk = with_a_lagging_replica();
    desk.set_up(0, false);
    desk.suspend(0);
    desk.core.begun(Commit { xid: 2_000_000, at: lsn(290) }, PgTime(0));
    desk.core.key(RuleId(0), Action::Delete, b"user:1");
    desk.core.committed(lsn(300));
    desk.set_up(0, true);
    desk.drain();
    assert!(desk.settled() < 300, "it is not visible");
    desk.core.pass(true, false);
    desk.core.answered(Snapshot::Primary("3000000:3000000:".parse().unwrap()));
    desk.drain();
    assert!(desk.settled() < 300, "it is not replayed");
    desk.replica_says(301);
    desk.drain();
    assert_eq!(desk.settled(), 300);
}

#[test]
fn what_waits_and_what_no_record_proves_yet_waits_for_no_replay_of_another_history() {
    let mut desk = with_a_lagging_replica();
    desk.flush(0, 5000);
    let flush = desk.send();
    desk.confirm_all(flush);
    desk.core.fork(lsn(150));
    desk.drain();
    desk.reconcile(0, 100);
    desk.replica_says(151);
    desk.drain();
    desk.core.idle(lsn(160));
    assert_eq!(desk.settled(), 160, "5000 is never replayed there");
}

#[test]
fn what_is_flushed_for_a_replica_that_is_back_waits_until_it_has_replayed_everything() {
    let mut desk = Desk::with_replica();
    desk.replica_says(150);
    desk.drain();
    desk.now += MAX_LAG * 2;
    desk.core.replicas_turned(desk.now);
    desk.commit(300);
    desk.drain();
    assert_eq!(desk.settled(), 300, "it is not waited for");
    desk.replica_says(150);
    let flushes = |sent: Vec<Sent>| sent.iter().any(|(.., delivery)| !delivery.batch.scopes().is_empty());
    assert!(!flushes(desk.send()), "its readers may still fill the old row in");
    desk.replica_says(300);
    assert!(flushes(desk.send()));
}
