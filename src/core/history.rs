//! Whether a target's record belongs to the history that is followed.
//!
//! A position alone does not show that: a database that was restored to an earlier state writes other transactions at
//! the same positions. So a record also names the last transaction with rows that was sent, by position and id. The
//! slot sends that transaction again unless it was acknowledged, and then nothing of another history can have been
//! sent after it. Until the stream shows the transaction, nothing more settles for the target, and its record keeps
//! naming it. If the stream passes the position and shows another transaction there, or none, everything that the
//! target holds belongs to another history.

use super::Core;
use super::record_state::RecordState;
use crate::types::lsn::Lsn;
use crate::types::snapshot::Commit;

/// How many transactions are kept to compare with records that are read later; 1 MiB. The last transaction of a record
/// is usually one of the first that the stream shows.
const SHOWN_MAX: usize = 1 << 16;

/// A transaction that the stream has yet to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct History {
    pub(super) commit: Commit,
    /// What was settled when the wait began.
    pub(super) since: Lsn,
}

/// The transactions that the stream has shown since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Shown {
    /// Everything up to here was acknowledged when the stream was opened.
    start: Lsn,
    /// The first ones, oldest first.
    commits: Vec<Commit>,
    /// The stream has shown everything before this position.
    pub(super) up_to: Lsn,
    /// Targets that turned out to belong to another history, and the last transaction of each.
    others: Vec<(usize, Commit)>,
}

impl Shown {
    pub(super) fn shows_up_to(&mut self, at: Lsn) {
        self.up_to = self.up_to.max(at);
    }

    fn opened(&mut self, start: Lsn) {
        self.commits.clear();
        // Reserved once, so that reading never allocates.
        self.commits.reserve(SHOWN_MAX);
        (self.start, self.up_to) = (start, start);
    }
}

impl Core {
    /// The stream is open, and sends again what was committed after `start`.
    pub(super) fn opened(&mut self, start: Lsn) {
        self.shown.opened(start);
        for target in &mut self.targets {
            let since = target.settled(self.feed.decoded);
            let its = &mut target.record;
            let of_before = its.history.map(|history| history.commit).or(its.commit);
            its.history = of_before.filter(|commit| commit.at >= start).map(|commit| History { commit, since });
        }
    }

    /// The stream shows a transaction.
    pub(super) fn shows(&mut self, commit: Commit) {
        if self.shown.commits.len() < SHOWN_MAX {
            self.shown.commits.push(commit);
        }
        self.passes(commit.at, Some(commit));
    }

    /// The stream has shown everything before `at`, and then `commit`.
    pub(super) fn passes(&mut self, at: Lsn, commit: Option<Commit>) {
        self.shown.shows_up_to(at);
        for target in &mut self.targets {
            if let Some(last) = target.record.passes(at, commit) {
                self.shown.others.push((*target.index, last));
            }
        }
    }

    /// The targets found since the last call to belong to another history, and the last transaction of each.
    pub(super) fn take_other_histories(&mut self) -> Vec<(usize, Commit)> {
        let others = std::mem::take(&mut self.shown.others);
        for (index, _) in &others {
            if let Some(target) = self.targets.get_mut(*index) {
                target.record.disown();
                target.record.begin();
            }
        }
        others
    }
}

impl RecordState {
    /// A record that another process wrote names `commit` as its last transaction. Returns it if the stream has shown
    /// that it belongs to another history.
    pub(super) fn expect_history(&mut self, shown: &Shown, commit: Option<Commit>) -> Option<Commit> {
        let commit = commit.filter(|commit| commit.at >= shown.start && *commit != Commit::NONE)?;
        if shown.commits.contains(&commit) {
            self.commit = Commit::latest(self.commit, Some(commit));
        } else if commit.at >= shown.up_to {
            self.history = Some(History { commit, since: shown.start });
        } else {
            self.disown();
            return Some(commit);
        }
        None
    }

    /// See [`Core::passes`]. Returns the record's last transaction if the history does not contain it.
    fn passes(&mut self, at: Lsn, commit: Option<Commit>) -> Option<Commit> {
        let last = self.history?.commit;
        if commit == Some(last) {
            self.history = None;
            self.commit = Commit::latest(self.commit, Some(last));
        } else if last.at < at || commit.is_some_and(|commit| commit.at == last.at) {
            self.history = None;
            return Some(last);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Desk;
    use super::*;
    use crate::core::continuity::Verdict;
    use crate::pgoutput::PgTime;

    const LAST: Commit = Commit { xid: 7, at: Lsn::new(290) };

    /// A target whose record names [`LAST`], which the slot sends again.
    fn desk() -> Desk {
        let mut desk = Desk::unverified(1);
        desk.core.opened(Lsn::new(100));
        desk.reconcile_with(0, 300, Some(LAST));
        desk
    }

    fn begun(desk: &mut Desk, xid: u32, at: u64) {
        desk.core.begun(Commit { xid, at: Lsn::new(at) }, PgTime(0));
        desk.core.committed(Lsn::new(at + 10));
    }

    #[test]
    fn nothing_more_settles_and_the_record_keeps_its_proof_until_the_stream_shows_the_last_transaction() {
        let mut desk = desk();
        begun(&mut desk, 5, 190);
        let sent = desk.send_later(std::time::Duration::ZERO);
        assert_eq!((desk.settled(), sent[0].2.record.commit), (100, None));
        desk.confirm_all(sent);
        begun(&mut desk, 7, 290);
        desk.drain();
        assert_eq!((desk.settled(), desk.core.take_other_histories()), (300, vec![]));
        desk.core.opened(Lsn::new(100));
        begun(&mut desk, 7, 290);
        assert_eq!(desk.core.take_other_histories(), [], "the same again, after a reconnection");
    }

    #[test]
    fn another_transaction_there_or_none_is_another_history() {
        let others: [fn(&mut Desk); 4] = [
            |desk| begun(desk, 8, 290),
            |desk| begun(desk, 7, 291),
            |desk| begun(desk, 8, 400),
            |desk| desk.core.idle(Lsn::new(291)),
        ];
        for other in others {
            let mut desk = desk();
            begun(&mut desk, 5, 190);
            desk.core.idle(Lsn::new(290));
            assert_eq!(desk.core.take_other_histories(), []);
            other(&mut desk);
            assert_eq!(desk.core.take_other_histories(), [(0, LAST)]);
        }
    }

    #[test]
    fn what_was_acknowledged_is_of_this_history() {
        let mut desk = Desk::unverified(1);
        desk.core.opened(Lsn::new(300));
        desk.reconcile_with(0, 300, Some(LAST));
        desk.core.idle(Lsn::new(500));
        assert_eq!(desk.core.take_other_histories(), []);
    }

    #[test]
    fn a_record_that_is_read_late_is_compared_with_what_the_stream_has_shown() {
        for (xid, is_other) in [(7, false), (8, true)] {
            let mut desk = Desk::unverified(1);
            desk.core.opened(Lsn::new(100));
            begun(&mut desk, xid, 290);
            begun(&mut desk, 9, 390);
            let verdict = desk.reconcile_with(0, 300, Some(LAST));
            assert_eq!(matches!(verdict, Verdict::Gap(_)), is_other, "{xid}");
        }
    }

    #[test]
    fn what_this_process_has_sent_is_expected_again_of_a_stream_that_begins_before_it() {
        let mut desk = Desk::new(1);
        desk.commit(300);
        desk.drain();
        desk.core.opened(Lsn::new(100));
        desk.core.idle(Lsn::new(400));
        let others = desk.core.take_other_histories();
        assert_eq!(others.len(), 1, "{others:?}");
        assert_eq!(desk.core.take_other_histories(), [], "once");
    }
}
