//! The stored record: what a target remembers about how far coherd has brought it.

use std::sync::Arc;

use crate::types::invalidation::Batch;
use crate::types::lsn::Lsn;
use crate::types::snapshot::Commit;

/// The marks in a record that was written when a new slot was created, before any change was followed. coherd trusts
/// what the target holds at that moment.
pub const NEW: &str = "new";

/// The largest sequence. Sequences begin with the microseconds since 1970, which reach this number in the year 2255.
/// Scripts in the cache compare them as doubles, which are exact up to here. coherd did not write a larger one, and
/// could not write a greater one after it.
pub const SEQUENCE_MAX: u64 = 1 << 53;

/// How far coherd has brought a target, as stored in that target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Every commit at or before this position has been sent to the target at least once, including the batch that came
    /// with this record.
    pub applied: Lsn,
    /// Every commit at or before this position was invalidated for good, and confirmed, before this record was written.
    /// A target that holds the record has all of it, so coherd acknowledges the slot up to here and no further.
    pub confirmed: Lsn,
    /// The same, but only while every rule was covered; readers rely on it.
    pub settled: Lsn,
    /// The system identifier of the source database.
    pub system_id: u64,
    /// The timeline of the source database.
    pub timeline: u32,
    /// Increases with each delivery, and so tells which of two records with the same positions is later. Zero in the
    /// first.
    pub sequence: u64,
    /// The last transaction with rows that was sent to the target; [`Commit::NONE`] before the first. If the log has
    /// another transaction at that position, or none, it is another history. `None` if the stored record has no such
    /// field; in a record to be written, `None` keeps the stored value.
    pub commit: Option<Commit>,
    /// The marks of the rules that have missed nothing up to here, separated by spaces, or [`NEW`]. `None` if the
    /// stored record has no marks, because the target was emptied and received only the other fields since; in a record
    /// to be written, `None` keeps the stored marks.
    pub rules: Option<Arc<str>>,
}

impl Record {
    /// Stands for a record that cannot be read. It has the lowest positions and no database: it proves nothing, except
    /// that something was written here before.
    pub const UNREADABLE: Record = Record {
        applied: Lsn::ZERO,
        confirmed: Lsn::ZERO,
        settled: Lsn::ZERO,
        system_id: 0,
        timeline: 0,
        sequence: 0,
        commit: None,
        rules: None,
    };

    /// Whether this stands for a record that cannot be read. No database system has the identifier zero.
    pub const fn is_unreadable(&self) -> bool {
        self.system_id == Record::UNREADABLE.system_id
    }
}

/// What was read from a target: its record and whether it holds keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoredRecord {
    /// The record, or `None` if the target has none.
    pub record: Option<Record>,
    /// Whether the target holds no key at all, so that nothing in it can be stale.
    pub empty: bool,
    /// Who wrote the record last, and when; `None` if there is no record.
    pub written: Option<Written>,
}

/// The fields that the target's adapter adds to a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Written {
    /// The time of the write, in milliseconds since 1970 by the writer's clock. Use it only to see whether it changes.
    pub updated_ms: u64,
    /// The slot that the writer follows; records of earlier versions do not name one.
    pub slot: Option<Arc<str>>,
}

/// The core's answer to a record that was read: how to correct the deliveries that were sent before and are not
/// confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The sequence of the last of those deliveries; one with a greater sequence was made later.
    pub sequence: u64,
    /// The highest position that their records may call confirmed or settled; they were made when more was believed to
    /// be confirmed.
    pub confirmed_at_most: Lsn,
    /// Whether their records must list no rules, because changes of some rules were missed.
    pub lists_no_rules: bool,
}

impl Default for Answer {
    fn default() -> Self {
        Answer { sequence: 0, confirmed_at_most: Lsn::MAX, lists_no_rules: false }
    }
}

impl Answer {
    /// Removes from a delivery's record the claims that no longer hold.
    pub fn correct(&self, record: &mut Record) {
        if record.sequence > self.sequence {
            return;
        }
        record.confirmed = record.confirmed.min(self.confirmed_at_most);
        record.settled = record.settled.min(self.confirmed_at_most);
        if self.lists_no_rules {
            record.rules = None;
        }
    }
}

/// One batch of invalidations, and the record that is written after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// The invalidations; may be empty if only the record changes.
    pub batch: Batch,
    /// Written after the invalidations.
    pub record: Record,
}
