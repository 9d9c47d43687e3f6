//! What the watcher of the server reports: how much log the slot holds back, and what has changed in the catalogue of
//! the rules' tables. [`TableSeen::is_broken_by`] decides whether changes of a table may have been missed.

use std::time::Instant;

use crate::types::database::Database;
use crate::types::lsn::Lsn;
use crate::types::table::TableName;

/// One look at the server. Everything about the catalogue comes from one snapshot. It may be older than the rest: with
/// many tables, the watcher looks at the catalogue less often.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The log that the slot holds back; `None` if there is no such slot.
    pub wal: Option<HeldWal>,
    /// The end of the log, read last: everything that the look shows was written before it.
    pub log_end: Lsn,
    /// The time as of which the catalogue is known. It lies before the query.
    pub catalogue_at: Instant,
    /// Which transactions had ended at the look at the catalogue.
    pub snapshot: Horizon,
    /// The rules' tables that differ from the last look, each once; at the first look, all of them.
    pub tables: Vec<TableSeen>,
    /// The catalogue, if anything in it that concerns the rules differs from the last look. At the first look it has
    /// all tables, later only those that differ.
    pub database: Option<Box<Database>>,
    /// Who has long been running the oldest transaction of this database, if there is such a transaction.
    pub holder: Option<String>,
    /// Why writers wait for coherd's stream, or will when other standbys leave, and what fixes it.
    pub synchronous: Option<String>,
}

/// The log that a slot holds back; sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HeldWal {
    /// The end of the log.
    pub end: Lsn,
    /// From `restart_lsn` to the end of the log.
    pub retained: u64,
    /// `safe_wal_size`: how much can be written before the slot is lost; `None` without `max_slot_wal_keep_size`.
    pub safe: Option<u64>,
    /// `wal_segment_size`.
    pub segment: u64,
}

/// `pg_current_snapshot()`, in 64-bit transaction ids. Transactions that are known to be of other databases do not
/// count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Horizon {
    /// Every transaction below it had ended.
    pub xmin: u64,
    /// No transaction at or above it had begun.
    pub xmax: u64,
}

/// One table and its place in the publication, as values that are only compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct TableSeen {
    /// Its name in the rules.
    pub name: TableName,
    /// Differs after everything that may make coherd miss changes. It has the row versions of the publication and of
    /// the table's place in it, and the table's oid, persistence and replica identity. `None` if there is no such
    /// table.
    pub stamp: Option<String>,
    /// What shows that it was renamed.
    pub named: NameSeen,
    /// Its file; `node` and `columns` are 0 if it has none of its own.
    pub file: FileSeen,
    /// Its columns, and the parts of their types.
    pub parts: Vec<PartSeen>,
    /// Its partitions or inheritance children, ordered by oid, without temporary children.
    pub leaves: Vec<LeafSeen>,
}

/// Shows a rename even if the table has its old name again: a rename writes the row of the table's row type. A change
/// of owner writes that row too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct NameSeen {
    /// `xmin` of the row type.
    pub version: u32,
    /// `pg_class.relowner`.
    pub owner: u32,
}

/// A table's file, and what shows why it was replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FileSeen {
    /// `pg_class.relfilenode`; 0 if the table has no file that matters.
    pub node: u32,
    /// A hash of the row versions of the columns. A rewrite that changes values also writes a column's row.
    pub columns: i64,
    /// `pg_class.reltablespace`.
    pub tablespace: u32,
    /// `reltuples > 0`: TRUNCATE sets it to -1.
    pub has_rows: bool,
}

/// A part of what determines a row's values: a column, a label of an enum, or an attribute of a composite type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartSeen {
    /// Identifies the part, and is never reused for another one.
    pub id: i64,
    /// Changes when the part changes in a way that makes readers see other values.
    pub version: i64,
    /// If the part is new, older rows may have a value for it that was never in the stream.
    pub fills_rows: bool,
}

/// One partition or inheritance child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeafSeen {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its file. TRUNCATE of a single partition is not in the stream, and replaces the file.
    pub file: FileSeen,
    /// It was created as a partition, so it was empty; an attached one may have brought rows. True only if this can be
    /// proved. Meaningful only while the leaf is new: later it may become false.
    pub born_here: bool,
    /// A hash of the `pg_inherits` rows that lead to it. A leaf that was detached for a time, and got changes under its
    /// own name, has others. For an inheritance child, the hash also covers what [`TableSeen::stamp`] has of a table.
    pub joined: i64,
    /// What shows that it was renamed, if it is an inheritance child: its changes come under its own name.
    pub child: Option<NameSeen>,
}

impl TableSeen {
    /// Whether a difference to the later look `now` means that changes may have been missed. If so, coherd flushes the
    /// rules of the table.
    pub fn is_broken_by(&self, now: &TableSeen) -> bool {
        self.stamp != now.stamp
            || was_away(self.named, now.named)
            || has_other_values(self, now)
            || is_rewritten(self.file, now.file)
            || lost_rows(self, now)
    }
}

/// Whether the table may have had another name for a time, under which its changes came. A new owner leaves the same
/// trace, and counts as the reason if there is one. So coherd misses a table that is renamed, renamed back and given to
/// a new owner between two looks.
fn was_away(before: NameSeen, now: NameSeen) -> bool {
    before.version != now.version && before.owner == now.owner
}

/// Whether rows may have other values than those in the stream: a column, a label or an attribute was removed or
/// changed, or was added with values for existing rows.
fn has_other_values(before: &TableSeen, now: &TableSeen) -> bool {
    let gone = |old: &&PartSeen| !now.parts.iter().any(|new| (new.id, new.version) == (old.id, old.version));
    let fills = |new: &&PartSeen| new.fills_rows && !before.parts.iter().any(|old| old.id == new.id);
    before.parts.iter().any(|part| gone(&part)) || now.parts.iter().any(|part| fills(&part))
}

/// Whether the new file may have other values. A rewrite that changes values also writes the columns' rows in the
/// catalogue. VACUUM FULL, CLUSTER and a move to another tablespace do not, except for the first one after ADD COLUMN
/// with a default: it moves the default's value from the catalogue into the rows. TRUNCATE of a table is in the stream.
fn is_rewritten(before: FileSeen, now: FileSeen) -> bool {
    before.node != now.node && before.columns != now.columns
}

/// Whether partitions or children may have lost or gained rows that were never in the stream.
fn lost_rows(before: &TableSeen, now: &TableSeen) -> bool {
    let (before, now) = (&before.leaves, &now.leaves);
    let is_same = |old: &LeafSeen, new: &LeafSeen| (old.oid, old.joined) == (new.oid, new.joined);
    let is_other = |old: &LeafSeen, new: &LeafSeen| match (old.child, new.child) {
        // TRUNCATE of a child is in the stream, like that of any table.
        (Some(before), Some(now)) => was_away(before, now) || is_rewritten(old.file, new.file),
        _ => is_emptied(old.file, new.file),
    };
    let gone = |old: &LeafSeen| !now.iter().any(|new| is_same(old, new) && !is_other(old, new));
    // The number of a table's first file is the table's oid.
    let is_first = |leaf: &LeafSeen| leaf.file.node == leaf.oid || leaf.file.node == 0;
    // A new child never counts as empty: its changes before its first look came under a name that no rule knew.
    let is_empty = |leaf: &LeafSeen| leaf.child.is_none() && leaf.born_here && is_first(leaf);
    let brought = |new: &LeafSeen| !(before.iter().any(|old| old.oid == new.oid) || is_empty(new));
    before.iter().any(gone) || now.iter().any(brought)
}

/// Whether a partition's new file may hold other rows. TRUNCATE of a single partition is not in the stream, and cannot
/// be told from VACUUM FULL: the first sets `reltuples` to -1 and the second to the number of rows, but an ANALYZE or a
/// new index can hide that before the next look. A new tablespace explains the new file.
fn is_emptied(before: FileSeen, now: FileSeen) -> bool {
    let is_moved = before.tablespace != now.tablespace && now.has_rows && before.columns == now.columns;
    before.node != now.node && !is_moved
}
