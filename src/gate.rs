//! No strike counts before readers of the source see what it is for: a reader who asks in between would fill the old
//! row in again.
//!
//! What is gathered stands in one of three groups. *Fresh*: nobody has asked about it. *Asked*: the question was put
//! after all of it was gathered, so its answer will let it pass, as a rule. *Blocked*: an answer came, or none did in
//! time, and some of it was still invisible: a commit that waits for a synchronous standby. Blocked keys are struck
//! early, once, for readers without a protocol, and again when all of them are visible; that second time counts.

mod replicas;

pub use replicas::{Replicas, Standing, Turn, Why};

use crate::lsn::Lsn;
use crate::sight::{Commit, Sight};

/// Commits that wait to be seen, beyond which no more is read.
const COMMITS_MAX: usize = 64 << 10;

/// Commits whose keys wait together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Group {
    commits: Vec<Commit>,
    /// What had been decoded before the first of them.
    before: Option<Lsn>,
}

impl Group {
    fn push(&mut self, commit: Commit, decoded: Lsn) {
        self.commits.push(commit);
        self.before.get_or_insert(decoded);
    }

    /// Drops those that are seen. Whether any was dropped last.
    fn look(&mut self, sight: &Sight) -> bool {
        if self.commits.is_empty() {
            return false;
        }
        self.commits.retain(|commit| !sight.shows(*commit));
        if self.commits.is_empty() {
            self.before = None;
        }
        self.commits.is_empty()
    }

    fn append(&mut self, other: &mut Group) {
        self.commits.append(&mut other.commits);
        let before = other.before.take();
        self.before = [self.before, before].into_iter().flatten().min();
    }
}

/// Which commits are still to be seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Gate {
    /// The last answer. What it shows stays visible.
    seen: Option<Sight>,
    /// The transaction being read, where that answer does not show it.
    open: Option<Commit>,
    fresh: Group,
    asked: Group,
    blocked: Group,
    is_asking: bool,
}

/// What an answer lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// What was asked about: all of it. Otherwise it is blocked from now on, and is to be struck early.
    pub asked: bool,
    /// What was blocked before: all of it.
    pub blocked: bool,
}

impl Gate {
    /// A transaction begins in the stream.
    pub fn begun(&mut self, commit: Commit) {
        let is_seen = self.seen.as_ref().is_some_and(|seen| seen.shows(commit));
        self.open = (!is_seen).then_some(commit);
    }

    /// A key of the transaction being read was gathered; everything up to `decoded` is older.
    pub fn gathered(&mut self, decoded: Lsn) {
        if let Some(commit) = self.open
            && self.fresh.commits.last() != Some(&commit)
        {
            self.fresh.push(commit, decoded);
        }
    }

    /// Whether all that is gathered and nobody has asked about may be struck.
    pub fn is_clear(&self) -> bool {
        self.fresh.commits.is_empty()
    }

    /// Whether anything waits for an answer.
    pub fn is_waiting(&self) -> bool {
        !(self.is_clear() && self.asked.commits.is_empty() && self.blocked.commits.is_empty())
    }

    /// Whether a question is to be put now; if so, what was fresh is asked about from here on.
    pub fn ask(&mut self) -> bool {
        if self.is_asking || !self.is_waiting() {
            return false;
        }
        self.is_asking = true;
        self.asked.append(&mut self.fresh);
        true
    }

    /// Whether a question is open.
    pub fn is_asking(&self) -> bool {
        self.is_asking
    }

    /// Whether something is known to wait for longer than it should.
    pub fn is_blocked(&self) -> bool {
        !self.blocked.commits.is_empty()
    }

    /// An answer came.
    pub fn answered(&mut self, sight: Sight) -> Passed {
        self.is_asking = false;
        let blocked = self.blocked.look(&sight);
        let asked = self.asked.look(&sight);
        self.blocked.append(&mut self.asked);
        if self.open.is_some_and(|commit| sight.shows(commit)) {
            self.open = None;
        }
        self.fresh.look(&sight);
        self.seen = Some(sight);
        Passed { asked, blocked }
    }

    /// No answer came in time: what is asked about is blocked from now on.
    pub fn is_late(&mut self) {
        self.blocked.append(&mut self.asked);
    }

    /// The stream is a new one, perhaps of another server: answers of before count no more.
    pub fn start_over(&mut self) {
        self.seen = None;
        self.open = None;
        self.is_asking = false;
        self.blocked.append(&mut self.asked);
    }

    /// Another history is followed. What waits is not part of it, or has been visible in it from its beginning.
    pub fn begin_anew(&mut self) {
        *self = Gate::default();
    }

    /// Everything committed at or before this position is visible, where everything up to `decoded` is decoded.
    pub fn visible(&self, decoded: Lsn) -> Lsn {
        [&self.fresh, &self.asked, &self.blocked].into_iter().filter_map(|group| group.before).min().unwrap_or(decoded)
    }

    /// Whether more may be read.
    pub fn has_room(&self) -> bool {
        self.fresh.commits.len() + self.asked.commits.len() + self.blocked.commits.len() < COMMITS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(xid: u32) -> Commit {
        Commit { xid, at: Lsn::new(u64::from(xid) * 10) }
    }

    /// Reads transaction `xid`, which has keys.
    fn read(gate: &mut Gate, xid: u32) {
        gate.begun(commit(xid));
        gate.gathered(Lsn::new(u64::from(xid) * 10 - 5));
        gate.gathered(Lsn::new(u64::from(xid) * 10 - 5));
    }

    fn sight(text: &str) -> Sight {
        Sight::Primary(text.parse().unwrap())
    }

    const PASSED: Passed = Passed { asked: true, blocked: false };

    #[test]
    fn a_commit_passes_when_an_answer_shows_it_and_those_after_the_question_wait_for_the_next() {
        let mut gate = Gate::default();
        assert!(!gate.ask(), "about nothing");
        read(&mut gate, 7);
        assert!(gate.ask() && !gate.ask());
        read(&mut gate, 8);
        assert_eq!(gate.visible(Lsn::new(999)), Lsn::new(65));
        assert_eq!(gate.answered(sight("8:8:")), PASSED);
        assert_eq!(gate.visible(Lsn::new(999)), Lsn::new(75));
        assert!(!gate.is_clear() && gate.ask());
        assert_eq!(gate.answered(sight("9:9:")), PASSED);
        assert_eq!(gate.visible(Lsn::new(999)), Lsn::new(999));
    }

    #[test]
    fn what_the_last_answer_shows_is_not_asked_about() {
        let mut gate = Gate::default();
        read(&mut gate, 7);
        gate.ask();
        gate.answered(sight("100:100:"));
        read(&mut gate, 99);
        assert!(gate.is_clear() && !gate.is_waiting());
        read(&mut gate, 100);
        assert!(!gate.is_clear());
    }

    #[test]
    fn a_commit_that_waits_for_its_standby_blocks_those_asked_about_with_it_and_no_others() {
        let mut gate = Gate::default();
        for xid in [7, 8] {
            read(&mut gate, xid);
        }
        gate.ask();
        assert_eq!(gate.answered(sight("7:9:7")), Passed { asked: false, blocked: false });
        assert!(gate.is_blocked());
        read(&mut gate, 9);
        gate.ask();
        assert_eq!(gate.answered(sight("7:10:7")), PASSED);
        assert_eq!(gate.visible(Lsn::new(999)), Lsn::new(65));
        assert!(gate.ask(), "about the blocked one alone");
        assert_eq!(gate.answered(sight("10:10:")), Passed { asked: false, blocked: true });
        assert!(!gate.is_waiting());
    }

    #[test]
    fn without_an_answer_in_time_it_is_blocked_and_passes_later() {
        let mut gate = Gate::default();
        read(&mut gate, 7);
        gate.ask();
        gate.is_late();
        assert!(gate.is_blocked() && gate.is_asking());
        read(&mut gate, 8);
        assert_eq!(gate.answered(sight("8:8:")), Passed { asked: false, blocked: true });
        assert!(!gate.is_clear(), "8 was not shown");
    }

    #[test]
    fn a_transaction_in_pieces_is_waited_for_with_each_of_them() {
        let mut gate = Gate::default();
        read(&mut gate, 7);
        gate.ask();
        gate.gathered(Lsn::new(65));
        assert!(!gate.is_clear(), "this piece came after the question");
        gate.answered(sight("8:8:"));
        assert!(gate.is_clear(), "the answer shows the transaction, whatever is still to be read of it");
        gate.gathered(Lsn::new(65));
        assert!(gate.is_clear());
    }

    #[test]
    fn on_a_new_stream_old_answers_count_no_more() {
        let mut gate = Gate::default();
        read(&mut gate, 7);
        gate.ask();
        gate.answered(sight("100:100:"));
        gate.start_over();
        read(&mut gate, 99);
        assert!(!gate.is_clear(), "the new server may be behind the old one");
        gate.begin_anew();
        assert!(!gate.is_waiting());
    }
}
