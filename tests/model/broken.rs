//! Removes each mechanism in turn. This proves that the model can fail, and shows what the mechanism is for.

use super::check::{is_safe, is_stale};
use super::setup::{Broken, Pointer, Protocol, Reads, Setup, Source, Strategy};

const LEASE: Setup = Setup::new(Protocol::Lease, Strategy::Twice);
const POINTER: Setup = Setup::new(Protocol::Pointer(Pointer::Advances), Strategy::Twice);

/// Faults of the cache and of the connection to it, instead of evictions.
const FAULTS: Setup = Setup { faults: 2, crashes: 1, evicts: false, strays: false, readers: 1, ..LEASE };

/// A cache that goes back in time; the daemon may crash before or after. One reader is enough: the next reader in its
/// place gets what it stores late.
const ROLLBACK: Setup = Setup { rolls_back: 1, crashes: 1, evicts: false, strays: false, readers: 1, ..LEASE };

/// A replica that the daemon does not always wait for.
const LAGGARD: Setup = Setup { lags: true, crashes: 1, evicts: false, strays: false, readers: 1, ..LEASE };

#[test]
fn without_the_gate_the_replica_pass_does_not_help_readers_of_the_primary() {
    is_stale(Setup { reads: Reads::Primary, ..LEASE.broken(Broken::NoGate) });
}

#[test]
fn without_the_replica_pass_readers_of_a_replica_store_what_is_old() {
    is_stale(LEASE.broken(Broken::NoReplicaPass));
}

#[test]
fn without_a_replica_one_invalidation_is_enough() {
    is_safe(Setup { is_listed: false, reads: Reads::Primary, ..LEASE.broken(Broken::NoReplicaPass) });
}

#[test]
fn a_commit_acknowledged_before_it_is_settled_is_lost_in_a_crash() {
    is_stale(LEASE.broken(Broken::AcknowledgesEarly));
}

#[test]
fn a_lease_that_goes_after_its_key_lets_a_slow_reader_store_what_is_old() {
    is_stale(LEASE.broken(Broken::LeaseAfterKey));
}

#[test]
fn a_lease_that_outlives_its_key_lets_a_slow_reader_store_what_is_old() {
    is_stale(LEASE.broken(Broken::LeaseStays));
}

#[test]
fn a_pointer_that_comes_back_lower_points_at_what_is_old() {
    is_stale(POINTER.broken(Broken::PointerReborn));
}

#[test]
fn a_pointer_set_to_the_commit_is_stale_where_one_commit_overtakes_another() {
    let setup = Setup::new(Protocol::Pointer(Pointer::ToCommit), Strategy::Once);
    is_stale(Setup { commits: 2, readers: 1, crashes: 0, ..setup });
}

#[test]
fn invalidations_refused_connections_lost_and_answers_that_are_late_change_nothing() {
    is_safe(FAULTS);
}

#[test]
fn a_record_that_is_ahead_of_itself_is_wrong_where_the_invalidation_is_refused() {
    is_stale(FAULTS.broken(Broken::RecordAheadOfItself));
}

#[test]
fn a_cache_that_goes_back_in_time_is_repaired_also_by_the_next_process() {
    is_safe(ROLLBACK);
}

#[test]
fn a_cache_that_goes_back_in_time_is_repaired_for_two_readers_at_once() {
    is_safe(Setup { readers: 2, crashes: 0, ..ROLLBACK });
}

#[test]
fn a_cache_of_pointers_that_goes_back_in_time_is_repaired() {
    is_safe(Setup { protocol: POINTER.protocol, crashes: 0, ..ROLLBACK });
}

#[test]
fn a_cache_that_goes_back_in_time_and_is_not_asked_stays_stale() {
    is_stale(ROLLBACK.broken(Broken::NoRepair));
}

#[test]
fn a_cache_reconciled_by_what_it_was_sent_may_lack_the_replica_pass() {
    is_stale(ROLLBACK.broken(Broken::ReconciledByApplied));
}

#[test]
fn a_cache_reconciled_by_what_it_was_sent_may_have_refused_it() {
    let setup = Setup { faults: 1, is_listed: false, reads: Reads::Primary, ..ROLLBACK };
    is_stale(setup.broken(Broken::ReconciledByApplied));
}

#[test]
fn a_replica_that_was_away_is_made_up_for_also_by_the_next_process() {
    is_safe(LAGGARD);
}

#[test]
fn a_replica_that_was_away_is_made_up_for_two_readers_at_once() {
    is_safe(Setup { readers: 2, crashes: 0, ..LAGGARD });
}

#[test]
fn without_a_flush_a_replica_that_was_away_leaves_what_is_old() {
    is_stale(LAGGARD.broken(Broken::NoFlushOnReturn));
}

#[test]
fn flushed_once_a_replica_that_is_still_behind_leaves_what_is_old() {
    is_stale(LAGGARD.broken(Broken::OneFlushOnReturn));
}

#[test]
fn a_daemon_that_begins_without_knowing_who_was_away_leaves_what_is_old() {
    is_stale(LAGGARD.broken(Broken::ForgetsWhoLeft));
}

#[test]
fn a_daemon_that_follows_a_standby_is_right_for_the_readers_of_that_standby() {
    is_safe(Setup { source: Source::Standby, is_listed: false, reads: Reads::Replica, ..LEASE });
}

#[test]
fn a_daemon_that_follows_a_standby_cannot_know_what_readers_of_the_primary_see() {
    is_stale(Setup { source: Source::Standby, is_listed: false, reads: Reads::Primary, ..LEASE });
}

#[test]
fn two_commits_of_one_key_one_of_which_waits_to_be_visible() {
    is_safe(Setup { commits: 2, crashes: 0, evicts: false, reads: Reads::Primary, ..LEASE });
}
