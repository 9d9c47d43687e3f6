//! Visibility: an invalidation counts only after new snapshots on the source show its commit. A reader that queries
//! earlier would fill the cache with the old row again.
//!
//! What is gathered is in one of three groups. *Fresh*: no visibility probe was sent after it. *Probed*: a probe that
//! was sent after it is in flight, so its answer usually lets it pass. *Blocked*: an answer came, or none came in
//! time, and some of the group was still invisible, because a commit waits for a synchronous standby. What is blocked
//! is invalidated early, once, for readers without a protocol, and again when all of it is visible. Only the second
//! time counts.

use crate::types::lsn::Lsn;
use crate::types::snapshot::{Commit, Snapshot};

/// The most commits of a group that are tracked one by one. More of them are replaced by the latest one, and the
/// group waits until every transaction up to that one has ended.
const COMMITS_MAX: usize = 4096;

/// Commits whose keys wait together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Group {
    commits: Vec<Commit>,
    /// The latest of the commits that are not tracked one by one.
    fence: Option<Commit>,
    /// Everything up to here was decoded before the first commit of the group.
    before: Option<Lsn>,
}

impl Group {
    fn is_empty(&self) -> bool {
        self.commits.is_empty() && self.fence.is_none()
    }

    fn push(&mut self, commit: Commit, decoded: Lsn) {
        self.commits.push(commit);
        self.before.get_or_insert(decoded);
        self.fence_in();
    }

    /// Drops the commits that the snapshot shows. Returns whether this emptied the group.
    fn look(&mut self, snapshot: &Snapshot) -> bool {
        if self.is_empty() {
            return false;
        }
        self.commits.retain(|commit| !snapshot.shows(*commit));
        self.fence = self.fence.filter(|fence| !snapshot.shows_all_up_to(*fence));
        if self.is_empty() {
            self.before = None;
        }
        self.is_empty()
    }

    fn append(&mut self, other: &mut Group) {
        self.commits.append(&mut other.commits);
        self.fence = self.fence.into_iter().chain(other.fence.take()).reduce(Commit::later);
        self.before = self.before.into_iter().chain(other.before.take()).min();
        self.fence_in();
    }

    fn fence_in(&mut self) {
        if self.commits.len() > COMMITS_MAX {
            self.fence = self.fence.into_iter().chain(self.commits.drain(..)).reduce(Commit::later);
        }
    }
}

/// Which commits are not known to be visible.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Visibility {
    /// The last answer. What it shows stays visible.
    seen: Option<Snapshot>,
    /// The transaction being read, unless the last answer shows it.
    open: Option<Commit>,
    fresh: Group,
    probed: Group,
    blocked: Group,
    is_probing: bool,
}

/// Which groups an answer lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Everything that was probed. If false, it is blocked from now on and is invalidated early.
    pub probed: bool,
    /// Everything that was blocked before.
    pub blocked: bool,
}

impl Visibility {
    /// A transaction begins in the stream.
    pub fn begun(&mut self, commit: Commit) {
        let is_seen = self.seen.as_ref().is_some_and(|seen| seen.shows(commit));
        self.open = (!is_seen).then_some(commit);
    }

    /// A key of the transaction being read was gathered, when everything up to `decoded` was decoded.
    pub fn gathered(&mut self, decoded: Lsn) {
        if let Some(commit) = self.open
            && self.fresh.commits.last() != Some(&commit)
        {
            self.fresh.push(commit, decoded);
        }
    }

    /// Whether everything fresh may be invalidated.
    pub fn is_clear(&self) -> bool {
        self.fresh.is_empty()
    }

    /// Whether anything waits for an answer.
    pub fn is_waiting(&self) -> bool {
        !(self.is_clear() && self.probed.is_empty() && self.blocked.is_empty())
    }

    /// Whether to send a probe now. If so, everything fresh becomes probed. `again`: also probe if there is nothing
    /// fresh, for what is blocked.
    pub fn probe(&mut self, again: bool) -> bool {
        if self.is_probing || (self.is_clear() && !(again && self.is_waiting())) {
            return false;
        }
        self.is_probing = true;
        self.probed.append(&mut self.fresh);
        true
    }

    /// Whether a probe is in flight.
    pub fn is_probing(&self) -> bool {
        self.is_probing
    }

    /// Whether anything is blocked.
    pub fn is_blocked(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// Handles an answer.
    pub fn answered(&mut self, snapshot: Snapshot) -> Passed {
        self.is_probing = false;
        let blocked = self.blocked.look(&snapshot);
        let probed = self.probed.look(&snapshot);
        self.blocked.append(&mut self.probed);
        if self.open.is_some_and(|commit| snapshot.shows(commit)) {
            self.open = None;
        }
        self.fresh.look(&snapshot);
        self.seen = Some(snapshot);
        Passed { probed, blocked }
    }

    /// Blocks everything: no answer came in time, or something leaves that may stand in for commits that still wait.
    pub fn block(&mut self) {
        self.blocked.append(&mut self.probed);
        self.blocked.append(&mut self.fresh);
    }

    /// Starts over for a new stream, perhaps from another server: earlier answers do not count.
    pub fn start_over(&mut self) {
        self.seen = None;
        self.open = None;
        self.is_probing = false;
        self.block();
    }

    /// Another history is followed. What waits is not part of it, or has been visible in it from its start.
    pub fn begin_anew(&mut self) {
        *self = Visibility::default();
    }

    /// Everything committed at or before the returned position is visible, given that everything up to `decoded` is
    /// decoded.
    pub fn visible(&self, decoded: Lsn) -> Lsn {
        [&self.fresh, &self.probed, &self.blocked].into_iter().filter_map(|group| group.before).min().unwrap_or(decoded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(xid: u32) -> Commit {
        Commit { xid, at: Lsn::new(u64::from(xid) * 10) }
    }

    /// Reads transaction `xid`, which has keys.
    fn read(visibility: &mut Visibility, xid: u32) {
        visibility.begun(commit(xid));
        visibility.gathered(Lsn::new(u64::from(xid) * 10 - 5));
        visibility.gathered(Lsn::new(u64::from(xid) * 10 - 5));
    }

    fn snapshot(text: &str) -> Snapshot {
        Snapshot::Primary(text.parse().unwrap())
    }

    const PASSED: Passed = Passed { probed: true, blocked: false };

    #[test]
    fn a_commit_passes_when_an_answer_shows_it_and_those_after_the_question_wait_for_the_next() {
        let mut visibility = Visibility::default();
        assert!(!visibility.probe(false), "about nothing");
        read(&mut visibility, 7);
        assert!(visibility.probe(false) && !visibility.probe(false));
        read(&mut visibility, 8);
        assert_eq!(visibility.visible(Lsn::new(999)), Lsn::new(65));
        assert_eq!(visibility.answered(snapshot("8:8:")), PASSED);
        assert_eq!(visibility.visible(Lsn::new(999)), Lsn::new(75));
        assert!(!visibility.is_clear() && visibility.probe(false));
        assert_eq!(visibility.answered(snapshot("9:9:")), PASSED);
        assert_eq!(visibility.visible(Lsn::new(999)), Lsn::new(999));
    }

    #[test]
    fn what_the_last_answer_shows_is_not_asked_about() {
        let mut visibility = Visibility::default();
        read(&mut visibility, 7);
        visibility.probe(false);
        visibility.answered(snapshot("100:100:"));
        read(&mut visibility, 99);
        assert!(visibility.is_clear() && !visibility.is_waiting());
        read(&mut visibility, 100);
        assert!(!visibility.is_clear());
    }

    #[test]
    fn a_commit_that_waits_for_its_standby_blocks_those_asked_about_with_it_and_no_others() {
        let mut visibility = Visibility::default();
        read(&mut visibility, 7);
        read(&mut visibility, 8);
        visibility.probe(false);
        assert_eq!(visibility.answered(snapshot("7:9:7")), Passed { probed: false, blocked: false });
        assert!(visibility.is_blocked());
        read(&mut visibility, 9);
        visibility.probe(false);
        assert_eq!(visibility.answered(snapshot("7:10:7")), PASSED);
        assert_eq!(visibility.visible(Lsn::new(999)), Lsn::new(65));
        assert!(!visibility.probe(false) && visibility.probe(true), "about the blocked one alone");
        assert_eq!(visibility.answered(snapshot("10:10:")), Passed { probed: false, blocked: true });
        assert!(!visibility.is_waiting());
    }

    #[test]
    fn without_an_answer_in_time_it_is_blocked_and_passes_later() {
        let mut visibility = Visibility::default();
        read(&mut visibility, 7);
        visibility.probe(false);
        read(&mut visibility, 8);
        visibility.block();
        assert!(visibility.is_blocked() && visibility.is_probing() && visibility.is_clear());
        assert_eq!(visibility.answered(snapshot("8:8:")), Passed { probed: false, blocked: false });
        read(&mut visibility, 9);
        visibility.probe(false);
        assert_eq!(visibility.answered(snapshot("9:9:")), Passed { probed: false, blocked: true });
        assert!(visibility.is_blocked(), "9 was not shown");
    }

    #[test]
    fn a_transaction_in_pieces_is_waited_for_with_each_of_them() {
        let mut visibility = Visibility::default();
        read(&mut visibility, 7);
        visibility.probe(false);
        visibility.gathered(Lsn::new(65));
        assert!(!visibility.is_clear(), "this piece came after the question");
        visibility.answered(snapshot("8:8:"));
        assert!(visibility.is_clear(), "the answer shows the transaction, whatever is still to be read of it");
        visibility.gathered(Lsn::new(65));
        assert!(visibility.is_clear());
    }

    #[test]
    fn however_many_wait_few_are_remembered_and_all_are_waited_for() {
        let mut visibility = Visibility::default();
        for xid in 7..10_000 {
            read(&mut visibility, xid);
            assert!(visibility.fresh.commits.len() <= COMMITS_MAX);
        }
        visibility.probe(false);
        assert_eq!(
            visibility.answered(snapshot("8:10000:8")),
            Passed { probed: false, blocked: false },
            "8 may be among them"
        );
        assert_eq!(visibility.answered(snapshot("10000:10000:")), Passed { probed: false, blocked: true });
        assert_eq!(visibility.visible(Lsn::new(1)), Lsn::new(1));
    }

    #[test]
    fn on_a_new_stream_old_answers_count_no_more() {
        let mut visibility = Visibility::default();
        read(&mut visibility, 7);
        visibility.probe(false);
        visibility.answered(snapshot("100:100:"));
        visibility.start_over();
        read(&mut visibility, 99);
        assert!(!visibility.is_clear(), "the new server may be behind the old one");
        visibility.begin_anew();
        assert!(!visibility.is_waiting());
    }
}
