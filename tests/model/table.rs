//! The table: each read protocol with each invalidation strategy.

use super::check::{is_safe, is_stale};
use super::setup::{Pointer, Protocol, Setup, Strategy};

const POINTER: Protocol = Protocol::Pointer(Pointer::Advances);
const TO_COMMIT: Protocol = Protocol::Pointer(Pointer::ToCommit);

#[test]
fn plain_invalidated_at_decode_is_stale() {
    is_stale(Setup::new(Protocol::Plain, Strategy::AtDecode));
}

#[test]
fn plain_invalidated_once_is_stale() {
    is_stale(Setup::new(Protocol::Plain, Strategy::Once));
}

#[test]
fn plain_invalidated_twice_is_stale() {
    is_stale(Setup::new(Protocol::Plain, Strategy::Twice));
}

#[test]
fn a_lease_invalidated_at_decode_is_stale() {
    is_stale(Setup::new(Protocol::Lease, Strategy::AtDecode));
}

#[test]
fn a_lease_invalidated_once_is_safe() {
    is_safe(Setup::new(Protocol::Lease, Strategy::Once));
}

#[test]
fn a_lease_invalidated_twice_is_safe() {
    is_safe(Setup::new(Protocol::Lease, Strategy::Twice));
}

#[test]
fn a_pointer_moved_at_decode_is_stale() {
    is_stale(Setup::new(POINTER, Strategy::AtDecode));
}

#[test]
fn a_pointer_moved_once_is_safe() {
    is_safe(Setup::new(POINTER, Strategy::Once));
}

#[test]
fn a_pointer_moved_twice_is_safe() {
    is_safe(Setup::new(POINTER, Strategy::Twice));
}

#[test]
fn a_pointer_set_to_the_commit_at_decode_is_stale() {
    is_stale(Setup::new(TO_COMMIT, Strategy::AtDecode));
}

#[test]
fn a_pointer_set_to_the_commit_once_is_safe() {
    is_safe(Setup { overlap: false, ..Setup::new(TO_COMMIT, Strategy::Once) });
}

#[test]
fn a_pointer_set_to_the_commit_twice_is_stale() {
    is_stale(Setup::new(TO_COMMIT, Strategy::Twice));
}
