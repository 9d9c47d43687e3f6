//! What a cache holds now of what a batch names. People ask, before a fix; the daemon never does.

use std::time::Duration;

use super::{Fault, Pending};
use crate::types::invalidation::Batch;

/// A cache that can be asked, and is not changed by it.
pub trait Peek: Send + Sync {
    /// Looks for every key of the batch, and counts the keys of each scope for at most `patience`.
    fn peek<'a>(&'a self, batch: &'a Batch, patience: Duration) -> Pending<'a, Result<Peeked, Fault>>;
}

/// What was there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peeked {
    /// The keys, in the order of [`Batch::items`].
    pub keys: Vec<KeySeen>,
    /// The scopes, in the order of [`Batch::scopes`].
    pub scopes: Vec<ScopeSeen>,
}

/// One key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySeen {
    /// What the invalidation would invalidate: the key, or with `bump` its version pointer.
    pub held: Held,
    /// The number in the version pointer, with `bump`.
    pub version: Option<String>,
    /// Its lease, where readers hold leases.
    pub lease: Held,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Held {
    /// It cannot be told: an invalidation that is published, to caches inside of processes.
    #[default]
    Untold,
    /// It is not there.
    Absent,
    /// It is there, for so long if nothing else happens; `None` means for ever.
    Here(Option<Duration>),
}

/// How many keys a flush would find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScopeSeen {
    /// Keys that were counted; `None` where there is nothing to count (`publish`).
    pub keys: Option<u64>,
    /// Whether all of the cache was looked through; without, there may be more.
    pub whole: bool,
}
