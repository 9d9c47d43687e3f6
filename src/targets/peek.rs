//! Asks a cache what it holds of the keys and scopes of a batch. People ask before they fix something; the daemon never
//! asks.

use std::time::Duration;

use super::{Fault, Pending};
use crate::types::invalidation::Batch;

/// A cache that can be asked without being changed.
pub trait Peek: Send + Sync {
    /// Looks up every key of the batch, and counts the keys of its scopes for at most `patience` in all.
    fn peek<'a>(&'a self, batch: &'a Batch, patience: Duration) -> Pending<'a, Result<Peeked, Fault>>;
}

/// What the cache holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peeked {
    /// The keys, in the order of [`Batch::items`].
    pub keys: Vec<KeySeen>,
    /// The scopes, in the order of [`Batch::scopes`].
    pub scopes: Vec<ScopeSeen>,
}

/// What the cache holds of one key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySeen {
    /// What the invalidation would invalidate: the key, or with `bump` its version pointer.
    pub held: Held,
    /// The number in the version pointer, with `bump`.
    pub version: Option<String>,
    /// The key's lease, if readers of this target use leases.
    pub lease: Held,
}

/// Whether the cache holds a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Held {
    /// Unknown: a published invalidation goes to caches inside other processes.
    #[default]
    Untold,
    /// The cache does not hold it.
    Absent,
    /// The cache holds it, for this long if nothing else happens; `None` means that it does not expire.
    Here(Option<Duration>),
}

/// The number of keys that a flush would find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScopeSeen {
    /// Keys that were counted; `None` if there is nothing to count (`publish`).
    pub keys: Option<u64>,
    /// Whether the count covers the whole cache. If not, there may be more keys.
    pub whole: bool,
}
