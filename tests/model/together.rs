//! Several events at once, each of which is safe alone.

use super::check::{is_safe, is_stale};
use super::setup::{Broken, Pointer, Protocol, Reads, Setup, Strategy};

/// One reader is enough: the next reader in its place gets what it stores late.
const LEASE: Setup =
    Setup { crashes: 0, evicts: false, strays: false, readers: 1, ..Setup::new(Protocol::Lease, Strategy::Twice) };

/// Early invalidations are carried out at any time, or never, and count for nothing.
#[test]
fn an_early_invalidation_comes_at_any_time() {
    is_safe(Setup { early: true, ..LEASE });
}

#[test]
fn an_early_invalidation_comes_at_any_time_while_two_commits_of_one_key_become_visible() {
    is_safe(Setup { early: true, commits: 2, is_listed: false, reads: Reads::Primary, ..LEASE });
}

#[test]
fn an_early_invalidation_comes_after_a_restart_or_a_broken_connection() {
    is_safe(Setup { early: true, crashes: 1, faults: 1, strays: true, ..LEASE });
}

#[test]
fn an_early_invalidation_comes_while_the_cache_goes_back() {
    is_safe(Setup { early: true, rolls_back: 1, silently: true, is_listed: false, reads: Reads::Primary, ..LEASE });
}

#[test]
fn an_early_move_of_a_pointer_comes_at_any_time() {
    is_safe(Setup { early: true, protocol: Protocol::Pointer(Pointer::Advances), ..LEASE });
}

#[test]
fn an_early_invalidation_does_not_stand_in_for_the_one_that_counts() {
    is_stale(Setup { early: true, ..LEASE.broken(Broken::NoGate) });
    is_stale(Setup { early: true, ..LEASE.broken(Broken::NoReplicaPass) });
}

#[test]
fn several_deliveries_are_in_flight() {
    is_safe(Setup { pipelines: true, commits: 2, is_listed: false, reads: Reads::Primary, ..LEASE });
}

#[test]
fn several_deliveries_are_in_flight_when_the_connection_breaks() {
    is_safe(Setup { pipelines: true, faults: 1, ..LEASE });
}

#[test]
fn a_cache_goes_back_behind_an_open_connection() {
    is_safe(Setup { rolls_back: 1, silently: true, ..LEASE });
}

#[test]
fn a_cache_goes_back_behind_an_open_connection_while_several_deliveries_are_in_flight() {
    is_safe(Setup { rolls_back: 1, silently: true, pipelines: true, is_listed: false, reads: Reads::Primary, ..LEASE });
}

/// The first flush is lost if the cache goes back once more, to the record that was read.
#[test]
fn a_cache_goes_back_behind_an_open_connection_to_the_same_state_twice() {
    let forgets = true;
    is_safe(Setup { rolls_back: 2, silently: true, forgets, is_listed: false, reads: Reads::Primary, ..LEASE });
}

/// The deliveries that were sent again are lost a second time.
#[test]
fn a_cache_goes_back_twice_and_is_sent_again_what_it_lost_while_several_deliveries_are_in_flight() {
    is_safe(Setup { rolls_back: 2, silently: true, pipelines: true, is_listed: false, reads: Reads::Primary, ..LEASE });
}

#[test]
fn the_stream_breaks_while_the_replica_is_not_held() {
    is_safe(Setup { reopens: true, faults: 1, lags: true, reads: Reads::Replica, ..LEASE });
}

#[test]
fn the_replica_is_not_held_while_the_connection_to_the_cache_breaks() {
    is_safe(Setup { lags: true, faults: 1, reads: Reads::Replica, ..LEASE });
}

/// The flush of a suspended target covers what it misses, on the replica too.
#[test]
fn the_slot_goes_on_without_a_target_while_the_replica_lags() {
    is_safe(Setup { overspends: true, faults: 1, ..LEASE });
}

#[test]
fn the_slot_goes_on_without_a_target_and_the_daemon_is_killed() {
    is_safe(Setup { overspends: true, crashes: 1, is_listed: false, reads: Reads::Primary, ..LEASE });
}

/// The change that only the catalogue shows lies beyond the decoded position.
#[test]
fn a_change_that_is_not_in_the_stream_settles_only_when_it_is_replayed() {
    is_safe(Setup { drifts: true, ..LEASE });
}

#[test]
fn a_change_that_is_not_in_the_stream_is_found_by_the_next_process() {
    is_safe(Setup { drifts: true, crashes: 1, is_listed: false, reads: Reads::Primary, ..LEASE });
}

#[test]
fn a_target_that_halts_is_flushed_when_somebody_has_flushed_its_table() {
    is_safe(Setup { halts: true, rolls_back: 1, silently: true, ..LEASE });
}

/// Readers of the target that is up rely on its record.
#[test]
fn one_of_two_targets_is_down() {
    is_safe(Setup { other_is_down: true, crashes: 1, ..LEASE });
}

#[test]
fn one_of_two_targets_is_down_and_the_slot_goes_on_without_it() {
    is_safe(Setup {
        other_is_down: true,
        overspends: true,
        crashes: 1,
        is_listed: false,
        reads: Reads::Primary,
        ..LEASE
    });
}

/// A standby instance takes over. What the old one had sent may be executed at any time.
#[test]
fn a_daemon_is_replaced_while_its_deliveries_are_in_flight() {
    is_safe(Setup { pipelines: true, strays: true, crashes: 1, ..LEASE });
}
