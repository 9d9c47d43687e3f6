//! What a target remembers of how far it has been brought.

use std::sync::Arc;

use crate::types::invalidation::Batch;
use crate::types::lsn::Lsn;
use crate::types::snapshot::Commit;

/// The marks of a record that was written with a new slot, before any change was followed: what is in the target then is
/// trusted.
pub const NEW: &str = "new";

/// No sequence is greater: they begin with the microseconds since 1970, which come this far in the year 2255, and scripts in
/// the cache compare them as doubles, which are exact up to here. Whatever says more was not written by coherd, and the next
/// one could not be greater.
pub const SEQUENCE_MAX: u64 = 1 << 53;

/// How far a target has been brought, as it is stored there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Everything committed at or before this position has been sent here, once at least, up to and with what came with
    /// this record.
    pub applied: Lsn,
    /// Everything committed at or before this position was invalidated here for good, and confirmed, before this record was
    /// written. Whoever holds the record has all of it, so the slot is acknowledged up to here and no further.
    pub confirmed: Lsn,
    /// The same, where every rule was covered all the time; readers rely on it.
    pub settled: Lsn,
    /// The database it came from.
    pub system_id: u64,
    /// Its timeline.
    pub timeline: u32,
    /// Grows with each delivery: of two records with the same positions, which is the later one. Zero in the first.
    pub sequence: u64,
    /// The last transaction with rows that was sent here, [`Commit::NONE`] before the first; a history that has another one
    /// there, or none, is another history. `None` where the record has none; and, in a record to be written, where the one
    /// that is stored stays.
    pub commit: Option<Commit>,
    /// The marks of the rules that were kept without a break up to here, between spaces, or [`NEW`]. `None` where the
    /// record has none, because a target that was emptied was sent only the rest of it; and, in a record to be written,
    /// where those that are stored stay.
    pub rules: Option<Arc<str>>,
}

impl Record {
    /// Stands for a record that cannot be read. It is as old as can be and of no database: whatever it was, it proves
    /// nothing, and somebody was here before.
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

    /// Whether it stands for one that cannot be read. No database system has the identifier zero.
    pub const fn is_unreadable(&self) -> bool {
        self.system_id == Record::UNREADABLE.system_id
    }
}

/// What a target remembers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoredRecord {
    /// Its record, if it has one.
    pub record: Option<Record>,
    /// Whether it holds no key at all, so that nothing in it can be stale.
    pub empty: bool,
    /// Who wrote the record last, and when; `None` where there is none.
    pub written: Option<Written>,
}

/// What a target adds to a record by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Written {
    /// When, in milliseconds since 1970 by the writer's clock: to see that it moves, and for nothing else.
    pub updated_ms: u64,
    /// The slot that the writer follows; records of earlier versions have none.
    pub slot: Option<Arc<str>>,
}

/// What follows from a record that was read, for the deliveries that were sent before and are not confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The sequence of the last of them: what has a greater one was made later.
    pub sequence: u64,
    /// Their records were made when more was thought to be confirmed: they may say no more than this.
    pub confirmed_at_most: Lsn,
    /// They may not list their rules: changes of some were missed.
    pub lists_no_rules: bool,
}

impl Default for Answer {
    fn default() -> Self {
        Answer { sequence: 0, confirmed_at_most: Lsn::MAX, lists_no_rules: false }
    }
}

impl Answer {
    /// Takes out of the record of a delivery what is not so any more.
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

/// One batch, and the record that is written after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// What to invalidate; may be empty where only the record moves.
    pub batch: Batch,
    /// Written after the invalidations.
    pub record: Record,
}
