//! The daemon's surroundings: what Postgres has committed and shows, and what the cache holds.

use coherd::types::lsn::Lsn;
use coherd::types::observation::Horizon;
use coherd::types::record::Record;
use coherd::types::snapshot::{Commit, Snapshot};

/// A number of commits in the order of the log: all up to that one are decoded, replayed, settled and so on.
pub type Position = u8;

/// The name of a lease or the value of a version pointer. Only equality matters.
pub type Token = u8;

/// Everything that a key is made from, as the set of commits that show in it: one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub u8);

impl Row {
    /// The row with every commit up to `position`.
    pub fn at(position: Position) -> Row {
        Row((1 << position) - 1)
    }

    /// Whether `commit`, counted from 1, does not show in it.
    pub fn lacks(self, commit: Position) -> bool {
        self.0 & (1 << (commit - 1)) == 0
    }

    /// Whether any commit up to `position` does not show in it.
    pub fn is_older_than(self, position: Position) -> bool {
        self.0 | Row::at(position).0 != self.0
    }
}

/// Where the log begins.
const BEGIN: u64 = 1000;

/// The position in the log just after commit `n`.
pub fn lsn(n: Position) -> Lsn {
    Lsn::new(BEGIN + u64::from(n) * 10)
}

/// The number of commits up to a position in the log.
pub fn position(lsn: Lsn) -> Position {
    Position::try_from(lsn.as_u64().saturating_sub(BEGIN) / 10).unwrap_or(Position::MAX)
}

/// Commit `n`, counted from 1, as the stream names it.
pub fn commit(n: Position) -> Commit {
    Commit { xid: 100 + u32::from(n), at: Lsn::new(lsn(n).as_u64() - 5) }
}

/// The primary, its one replica, and the slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Postgres {
    /// Commit records in the log.
    pub written: Position,
    /// The commits that new snapshots on the primary show.
    pub visible: Row,
    /// How far the replica has replayed.
    pub replayed: Position,
    /// The commit that is not in the stream.
    pub unpublished: Option<Position>,
    /// The slot's `confirmed_flush_lsn`: a new process gets everything after it again.
    pub acknowledged: Position,
}

impl Postgres {
    /// Which transactions have ended.
    pub fn horizon(self) -> Horizon {
        let xid = |n: Position| u64::from(commit(n).xid);
        let next = self.written + 1;
        let running = (1..next).find(|n| self.visible.lacks(*n)).unwrap_or(next);
        Horizon { xmin: xid(running), xmax: xid(next) }
    }

    /// `pg_current_snapshot()` of a server that shows these commits.
    pub fn snapshot(self, shown: Row) -> Snapshot {
        let xid = |n: Position| u64::from(commit(n).xid);
        let highest = (1..=self.written).rev().find(|n| !shown.lacks(*n)).unwrap_or(0);
        let xmax = xid(highest + 1);
        let running: Vec<u64> = (1..highest).filter(|n| shown.lacks(*n)).map(xid).collect();
        let xmin = running.first().copied().unwrap_or(xmax);
        let list = running.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        Snapshot::Primary(format!("{xmin}:{xmax}:{list}").parse().unwrap())
    }
}

/// Who may write the record: the connection that read it last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Writer {
    /// The connection of the present process.
    Present,
    /// An earlier one.
    Earlier,
}

/// What the cache holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cache {
    /// Rows in ascending order: under the key itself, here 0, or under each pointer's value.
    pub entries: Vec<(Token, Row)>,
    /// The lease of the key, or its version pointer.
    pub token: Option<Token>,
    pub record: Record,
    pub writer: Writer,
}

impl Cache {
    pub fn get(&self, under: Token) -> Option<Row> {
        self.entries.iter().find(|(name, _)| *name == under).map(|(_, row)| *row)
    }

    pub fn put(&mut self, under: Token, row: Row) {
        self.remove(under);
        self.entries.push((under, row));
        self.entries.sort_unstable();
    }

    pub fn remove(&mut self, under: Token) {
        self.entries.retain(|(name, _)| *name != under);
    }
}
