//! What new snapshots on a server can see. A commit is in the log, and so known to coherd, before it is visible. While
//! a synchronous standby is away, that can be minutes before: `RecordTransactionCommit` in Postgres's xact.c waits for
//! the standby between the two. On a standby, a commit is visible once its record is replayed.

use std::str::FromStr;

use crate::types::lsn::Lsn;

/// A committed transaction, as a Begin message names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Commit {
    /// Its top-level transaction id, the lower 32 bits.
    pub xid: u32,
    /// The position of its commit record, which ends later.
    pub at: Lsn,
}

impl Commit {
    /// No commit: no transaction has the id zero.
    pub const NONE: Commit = Commit { xid: 0, at: Lsn::ZERO };

    /// The commit that is further in the log.
    #[must_use]
    pub fn latest(one: Option<Commit>, other: Option<Commit>) -> Option<Commit> {
        one.into_iter().chain(other).max_by_key(|commit| commit.at)
    }

    /// The later id and the later position of the two, each taken on its own.
    #[must_use]
    pub fn later(self, other: Commit) -> Commit {
        let is_later = other.xid.wrapping_sub(self.xid).cast_signed() > 0;
        Commit { xid: if is_later { other.xid } else { self.xid }, at: self.at.max(other.at) }
    }
}

/// `pg_current_snapshot()`, with 64-bit transaction ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct XidSnapshot {
    xmin: u64,
    xmax: u64,
    /// Transactions between `xmin` and `xmax` that are still running, ascending.
    running: Vec<u64>,
}

impl XidSnapshot {
    /// Whether the snapshot sees the changes of transaction `xid`, which has committed or is about to.
    pub fn sees(&self, xid: u32) -> bool {
        let xid = self.widen(xid);
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// Whether every transaction up to `xid` has ended.
    fn is_past(&self, xid: u32) -> bool {
        self.widen(xid) < self.xmin
    }

    /// The log holds only the lower 32 bits. No two transactions that matter are 2^31 or more apart: Postgres stops
    /// assigning ids before that.
    fn widen(&self, xid: u32) -> u64 {
        #[expect(clippy::cast_possible_truncation, reason = "the lower 32 bits are what is compared")]
        let distance = xid.wrapping_sub(self.xmax as u32).cast_signed();
        self.xmax.saturating_add_signed(i64::from(distance))
    }
}

/// A text that is not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is no snapshot as pg_current_snapshot() gives it (xmin:xmax:running,…)")]
pub struct ParseSnapshotError {
    got: String,
}

impl FromStr for XidSnapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseSnapshotError { got: text.chars().take(60).collect() })
    }
}

fn parse(text: &str) -> Option<XidSnapshot> {
    let mut parts = text.split(':');
    let (xmin, xmax, list) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    let running =
        list.split(',').filter(|xid| !xid.is_empty()).map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
    let is_sound = xmin <= xmax && running.is_sorted() && parts.next().is_none();
    is_sound.then_some(XidSnapshot { xmin, xmax, running })
}

/// What readers of one server see.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Snapshot {
    /// The server accepts writes.
    Primary(XidSnapshot),
    /// The server is in recovery, and everything before this position is replayed (`pg_last_wal_replay_lsn()`).
    Standby(Lsn),
}

impl Snapshot {
    /// Whether readers that query from now on see the changes of `commit`.
    pub fn shows(&self, commit: Commit) -> bool {
        match self {
            Snapshot::Primary(snapshot) => snapshot.sees(commit.xid),
            Snapshot::Standby(replayed) => *replayed > commit.at,
        }
    }

    /// Whether they see `commit` and every commit before it.
    pub fn shows_all_up_to(&self, commit: Commit) -> bool {
        match self {
            Snapshot::Primary(snapshot) => snapshot.is_past(commit.xid),
            Snapshot::Standby(_) => self.shows(commit),
        }
    }
}

/// What a replica reports about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplicaSeen {
    /// `IDENTIFY_SYSTEM`'s `systemid`.
    pub system_id: u64,
    /// The timeline that it replays or, after a promotion, writes (`IDENTIFY_SYSTEM`'s `timeline`). It is read after
    /// `replayed`: what a server has replayed belongs to the history of every timeline that it moves to later, but not
    /// the other way round.
    pub timeline: u32,
    /// `pg_last_wal_replay_lsn()`; `None` if it is not in recovery.
    pub replayed: Option<Lsn>,
    /// A number that changes with each start and each crash. A server that restarts recovery admits readers as soon as
    /// its data is consistent, which may be before the state that they saw last.
    pub run: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> XidSnapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_transaction_is_seen_below_xmin_or_below_xmax_and_not_listed() {
        let snapshot = snapshot("728:732:728,730");
        let seen: Vec<u32> = (726..735).filter(|xid| snapshot.sees(*xid)).collect();
        assert_eq!(seen, [726, 727, 729, 731]);
        // The snapshot that Postgres reports while the commit waits for its standby.
        assert!(!"728:728:".parse::<XidSnapshot>().unwrap().sees(728));
    }

    #[test]
    fn ids_wrap_around() {
        let epoch = 1_u64 << 32;
        let wrapped = snapshot(&format!("{}:{}:{}", epoch - 2, epoch + 3, epoch - 2));
        let seen: Vec<u32> =
            [u32::MAX - 2, u32::MAX - 1, u32::MAX, 0, 2, 3, 4].into_iter().filter(|xid| wrapped.sees(*xid)).collect();
        assert_eq!(seen, [u32::MAX - 2, u32::MAX, 0, 2]);
        let far = snapshot(&format!("{0}:{0}:", 5 * epoch + 1));
        assert!(far.sees(0) && far.sees(u32::MAX) && !far.sees(1) && !far.sees(1 << 30));
        assert!(!snapshot("3:3:").sees(3) && snapshot("3:4:").sees(3));
    }

    #[test]
    fn the_later_of_two_is_beyond_both_also_where_ids_wrap_around() {
        let commit = |xid, at| Commit { xid, at: Lsn::new(at) };
        assert_eq!(commit(7, 200).later(commit(9, 100)), commit(9, 200));
        assert_eq!(commit(u32::MAX, 1).later(commit(3, 2)), commit(3, 2));
        let snapshot = Snapshot::Primary(snapshot("8:12:8"));
        assert!(snapshot.shows_all_up_to(commit(7, 0)) && !snapshot.shows_all_up_to(commit(9, 0)));
    }

    #[test]
    fn a_standby_shows_what_it_has_replayed_to_the_end() {
        let commit = Commit { xid: 9, at: Lsn::new(100) };
        assert!(!Snapshot::Standby(Lsn::new(100)).shows(commit) && Snapshot::Standby(Lsn::new(148)).shows(commit));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "1", "1:2", "2:1:", "1:2:x", "1:9:5,3", "1:2::", "-1:2:", "1:2:3:4"] {
            assert!(text.parse::<XidSnapshot>().is_err(), "{text:?}");
        }
        assert!("10:20:10,14,15".parse::<XidSnapshot>().is_ok());
    }
}
