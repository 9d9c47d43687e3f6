//! What a target remembers of how far it has been brought.

use crate::lsn::Lsn;

/// How far a target has been brought, as it is stored there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Everything committed at or before this position has been sent here.
    pub applied: Lsn,
    /// Everything committed at or before this position is confirmed here; readers rely on it.
    pub settled: Lsn,
    /// The database it came from.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: u32,
}

/// What a target remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recollection {
    /// Its record, if it has one.
    pub record: Option<Record>,
    /// Whether it holds no key at all, so that nothing in it can be stale.
    pub empty: bool,
}
