//! What watching the server shows beside its log: how much of it the slot holds back, and whether the rules' tables
//! are still what they were.

use crate::database::Database;
use crate::lsn::Lsn;
use crate::table::TableName;

/// One look, all of it in one snapshot.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The log that the slot holds back; `None` where there is no such slot.
    pub wal: Option<HeldWal>,
    /// Which transactions had ended.
    pub snapshot: Horizon,
    /// Every table that a rule names, each once.
    pub tables: Vec<TableSeen>,
    /// The whole catalogue, where anything in it that concerns the rules differs from the last look; always the first
    /// time.
    pub database: Option<Box<Database>>,
    /// Why writers wait for our stream, or will as soon as other standbys go, and what mends it.
    pub synchronous: Option<String>,
}

/// The log that a slot holds back; sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldWal {
    /// The end of the log.
    pub end: Lsn,
    /// From `restart_lsn` to the end of the log.
    pub retained: u64,
    /// `safe_wal_size`: what may still be written before the slot is lost; `None` without `max_slot_wal_keep_size`.
    pub safe: Option<u64>,
    /// `wal_segment_size`.
    pub segment: u64,
}

/// `pg_current_snapshot()`, in 64-bit transaction ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// Every transaction below had ended.
    pub xmin: u64,
    /// No transaction at or above had begun.
    pub xmax: u64,
}

/// One table and how the publication holds it, as marks that are compared and never read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSeen {
    /// Its name in the rules.
    pub name: TableName,
    /// Changes with everything after which changes may have been missed: the row versions of the publication, of the
    /// table's place in it and of its row type, the table's oid, file and replica identity. `None` where there is no
    /// such table.
    pub stamp: Option<String>,
    /// The partitions, where it has any, by oid.
    pub leaves: Vec<LeafSeen>,
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafSeen {
    /// `pg_class.oid`.
    pub oid: u32,
    /// `pg_class.relfilenode`: TRUNCATE of a partition alone is not sent, and gives it a new file.
    pub file: u32,
    /// It was created as a partition, and so empty; one that was attached may have brought rows. Told as far as it can
    /// be proved, and of one that is new: later it may become false.
    pub born_here: bool,
}
