//! Where invalidations go. A target does one thing: send this batch. Retry, timeouts, receipts and metrics are the
//! delivery's, and so shared.

use std::future::Future;
use std::pin::Pin;

use crate::invalidation::Batch;
pub use crate::record::{Recollection, Record};

/// A future that a target gives out; boxed once a delivery, never once a key.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A cache.
pub trait Target: Send + Sync {
    /// Carries out every invalidation of the batch and then writes the record. `Ok` means that the cache confirmed all
    /// of it; after an `Err` any part may have happened, and the same delivery is sent again.
    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>>;

    /// What the target remembers of how far it has been brought.
    fn recall(&self) -> Pending<'_, Result<Recollection, Fault>>;
}

/// One batch and the record that vouches for it.
#[derive(Debug)]
pub struct Delivery {
    /// What to invalidate; may be empty where only the record moves.
    pub batch: Batch,
    /// Written after the invalidations.
    pub record: Record,
}

/// What a delivery did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Keys that were really there.
    pub hit: u64,
}

/// Why a delivery was not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What to do about it.
    pub kind: FaultKind,
    /// What was tried, what was got, what to do. Never holds a key or a credential.
    pub message: String,
}

/// The kinds of fault, which are also the `reason` label of the retry metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// No connection, or it ended.
    Connection,
    /// No reply in time.
    Timeout,
    /// `READONLY`: a replica, or a primary that has just been demoted.
    ReadOnly,
    /// `LOADING`, `MASTERDOWN`, `CLUSTERDOWN`, `TRYAGAIN`, `BUSY`: not at the moment.
    NotReady,
    /// `OOM`: no memory for the record or the pointer.
    OutOfMemory,
    /// `NOAUTH`, `WRONGPASS`, `NOPERM`: somebody has to mend the credentials or the ACL.
    Denied,
    /// `WRONGTYPE` and every other error reply: somebody has to look.
    Rejected,
}

impl FaultKind {
    /// The metric label.
    pub const fn reason(self) -> &'static str {
        match self {
            FaultKind::Connection => "connection",
            FaultKind::Timeout => "timeout",
            FaultKind::ReadOnly => "readonly",
            FaultKind::NotReady => "not_ready",
            FaultKind::OutOfMemory => "oom",
            FaultKind::Denied => "denied",
            FaultKind::Rejected => "rejected",
        }
    }

    /// Whether trying again soon can help. All kinds are retried for ever; these others slowly.
    pub const fn passes_by_itself(self) -> bool {
        match self {
            FaultKind::Connection
            | FaultKind::Timeout
            | FaultKind::ReadOnly
            | FaultKind::NotReady
            | FaultKind::OutOfMemory => true,
            FaultKind::Denied | FaultKind::Rejected => false,
        }
    }
}
