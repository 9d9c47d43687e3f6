//! What watching the server shows beside its log: how much of it the slot holds back, and whether the rules' tables
//! are still what they were.

use std::time::Instant;

use crate::types::database::Database;
use crate::types::lsn::Lsn;
use crate::types::table::TableName;

/// One look at the server. The catalogue in it is of one snapshot, that of its last look, which may be older: with many
/// tables it is looked at less often.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The log that the slot holds back; `None` where there is no such slot.
    pub wal: Option<HeldWal>,
    /// The end of the log, read after everything else: whatever the look shows was written before it.
    pub log_end: Lsn,
    /// The catalogue is known as it was at this time, before it was asked for.
    pub catalogue_at: Instant,
    /// Which transactions had ended when the catalogue was looked at.
    pub snapshot: Horizon,
    /// The tables that rules name and that differ from the last look, each once; all of them the first time.
    pub tables: Vec<TableSeen>,
    /// The catalogue, where anything in it that concerns the rules differs from the last look: the whole of it the first
    /// time, and later with the tables that differ.
    pub database: Option<Box<Database>>,
    /// Who has been running a transaction of this database for long, where somebody has: the oldest one.
    pub holder: Option<String>,
    /// Why writers wait for our stream, or will as soon as other standbys go, and what fixes it.
    pub synchronous: Option<String>,
}

/// The log that a slot holds back; sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// `pg_current_snapshot()`, in 64-bit transaction ids. Transactions of other databases count only where it is not known
/// that they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Horizon {
    /// Every transaction below had ended.
    pub xmin: u64,
    /// No transaction at or above had begun.
    pub xmax: u64,
}

/// One table and how the publication holds it, as marks that are compared and never read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TableSeen {
    /// Its name in the rules.
    pub name: TableName,
    /// Changes with everything after which changes may have been missed: the row versions of the publication and of the
    /// table's place in it, the table's oid and replica identity. `None` where there is no such table.
    pub stamp: Option<String>,
    /// Its name, and whatever moves with it.
    pub named: NameSeen,
    /// Its file; all zero where it has none of its own.
    pub file: FileSeen,
    /// Its columns, and what the types of its columns are made of.
    pub parts: Vec<PartSeen>,
    /// The partitions or inheritance children, where it has any, by oid; temporary children left out.
    pub leaves: Vec<LeafSeen>,
}

/// A name that was given up and taken back leaves a trace in the row version of the table's row type, and so does a new
/// owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NameSeen {
    /// `xmin` of the row type.
    pub version: u32,
    /// `pg_class.relowner`.
    pub owner: u32,
}

/// A table's file, and what tells why it is another one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FileSeen {
    /// `pg_class.relfilenode`; 0 where the file counts for nothing.
    pub node: u32,
    /// Stands for the row versions of the columns: what rewrites values writes a column's row anew.
    pub columns: i64,
    /// `pg_class.reltablespace`.
    pub tablespace: u32,
    /// `reltuples > 0`: TRUNCATE sets it to -1.
    pub has_rows: bool,
}

/// Something of which a row's values are made: a column, an enum's label, an attribute of a composite type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartSeen {
    /// Stands for what it is; never used again for another one.
    pub id: i64,
    /// Changes when readers see other values because of it.
    pub version: i64,
    /// Where it is new, rows that were there before may have a value for it that was never in the stream.
    pub fills_rows: bool,
}

/// One partition, or inheritance child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeafSeen {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its file. TRUNCATE of a partition alone is not sent, and gives it a new one.
    pub file: FileSeen,
    /// It was created as a partition, and so empty; one that was attached may have brought rows. Told as far as it can
    /// be proved, and of one that is new: later it may become false.
    pub born_here: bool,
    /// Stands for the rows of `pg_inherits` that lead to it. One that was away, and took changes under its own name
    /// meanwhile, has others. For a child also for what [`TableSeen::stamp`] has of a table.
    pub joined: i64,
    /// Where it is an inheritance child, whose changes come under its own name.
    pub child: Option<NameSeen>,
}

impl TableSeen {
    /// Whether what has changed until a later look breaks the rules of the table, which are flushed then.
    pub fn is_broken_by(&self, now: &TableSeen) -> bool {
        self.stamp != now.stamp
            || was_away(self.named, now.named)
            || has_other_values(self, now)
            || is_rewritten(self.file, now.file)
            || lost_rows(self, now)
    }
}

/// Whether the table may have had another name, under which its changes came meanwhile. A new owner leaves the same trace;
/// where there is one, it counts as the reason. So a table that is renamed and renamed back and given to another owner, all
/// between two looks, is not noticed.
fn was_away(before: NameSeen, now: NameSeen) -> bool {
    before.version != now.version && before.owner == now.owner
}

/// Whether rows may have other values than what was in the stream: a column, a label or an attribute has gone, or is
/// another one, or has come with values for the rows that were there.
fn has_other_values(before: &TableSeen, now: &TableSeen) -> bool {
    let gone = |old: &&PartSeen| !now.parts.iter().any(|new| (new.id, new.version) == (old.id, old.version));
    let fills = |new: &&PartSeen| new.fills_rows && !before.parts.iter().any(|old| old.id == new.id);
    before.parts.iter().any(|part| gone(&part)) || now.parts.iter().any(|part| fills(&part))
}

/// Whether the values in the file may be others. A rewrite with other values writes the columns' rows in the catalogue too,
/// and VACUUM FULL, CLUSTER or another tablespace does not; but for the first one after ADD COLUMN with a default, which
/// moves the default's value from the catalogue into the rows. TRUNCATE of a table comes in the stream.
fn is_rewritten(before: FileSeen, now: FileSeen) -> bool {
    before.node != now.node && before.columns != now.columns
}

/// Whether rows may have gone or come that were never in the stream.
fn lost_rows(before: &TableSeen, now: &TableSeen) -> bool {
    let (before, now) = (&before.leaves, &now.leaves);
    let is_same = |old: &LeafSeen, new: &LeafSeen| (old.oid, old.joined) == (new.oid, new.joined);
    let is_other = |old: &LeafSeen, new: &LeafSeen| match (old.child, new.child) {
        // TRUNCATE of a child comes in the stream, as of any table.
        (Some(before), Some(now)) => was_away(before, now) || is_rewritten(old.file, new.file),
        _ => is_emptied(old.file, new.file),
    };
    let gone = |old: &LeafSeen| !now.iter().any(|new| is_same(old, new) && !is_other(old, new));
    // A table's first file is called like the table.
    let is_first = |leaf: &LeafSeen| leaf.file.node == leaf.oid || leaf.file.node == 0;
    // What came to a new child before its first look came under a name of which nobody knew.
    let is_empty = |leaf: &LeafSeen| leaf.child.is_none() && leaf.born_here && is_first(leaf);
    let brought = |new: &LeafSeen| !(before.iter().any(|old| old.oid == new.oid) || is_empty(new));
    before.iter().any(gone) || now.iter().any(brought)
}

/// Whether a partition's new file may hold other rows. TRUNCATE of a partition alone is not in the stream, and leaves no
/// trace that VACUUM FULL does not leave too: one may set `reltuples` to -1 and the other to the number of rows, but an
/// ANALYZE or a new index hides that before anybody looks. Another tablespace tells why there is another file.
fn is_emptied(before: FileSeen, now: FileSeen) -> bool {
    let is_moved = before.tablespace != now.tablespace && now.has_rows && before.columns == now.columns;
    before.node != now.node && !is_moved
}
