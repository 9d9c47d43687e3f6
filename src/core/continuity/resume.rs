//! Whether a database that coherd lost sight of is still the one that it followed.

use std::fmt;

use super::{Fork, SlotOrigin};
use crate::lsn::Lsn;

/// What was followed before, and how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct History {
    /// `IDENTIFY_SYSTEM`'s `systemid`.
    pub system_id: u64,
    /// `IDENTIFY_SYSTEM`'s `timeline`.
    pub timeline: u32,
    /// Where the timeline before that was left, if that is known: of two standbys promoted from one primary both may be
    /// on the same timeline.
    pub fork: Option<Lsn>,
    /// The end of the log: how far it was read before, how far it goes now.
    pub end: Lsn,
}

/// How to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Where it was left.
    GoOn,
    /// On another timeline: what was read after the position is not part of its history.
    Forked(Lsn),
    /// As if this process had just been started: every target is asked what it remembers.
    Anew(Anew),
}

/// Why nothing that this process knows counts any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anew {
    /// The slot had to be created.
    SlotWasGone,
    /// Another system identifier.
    OtherDatabase,
    /// A timeline whose history is not known to hold the one that was followed.
    OtherTimeline,
    /// The log ends before what was read.
    DatabaseWentBack,
    /// Another instance has been at work.
    SlotWasMoved,
}

impl fmt::Display for Anew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Anew::SlotWasGone => "the slot was lost and coherd created a new one",
            Anew::OtherDatabase => "the server is another database cluster now (other system identifier)",
            Anew::OtherTimeline => "the server is on a timeline that does not come from the one that was followed",
            Anew::DatabaseWentBack => {
                "the server's log ends before the position that coherd has read: the database went back in time"
            }
            Anew::SlotWasMoved => "another instance has moved the slot",
        })
    }
}

/// Compares what was followed with what is there now. `acknowledged` is what this process has told the server; `forks`
/// are those of the server now.
pub fn resume(before: &History, now: &History, slot: SlotOrigin, acknowledged: Lsn, forks: &[Fork]) -> Resume {
    let SlotOrigin::Found { confirmed } = slot else { return Resume::Anew(Anew::SlotWasGone) };
    if before.system_id != now.system_id {
        return Resume::Anew(Anew::OtherDatabase);
    }
    if confirmed > acknowledged {
        return Resume::Anew(Anew::SlotWasMoved);
    }
    if before.timeline != now.timeline {
        let fork = forks.iter().find(|fork| fork.timeline == before.timeline);
        return fork.map_or(Resume::Anew(Anew::OtherTimeline), |fork| Resume::Forked(fork.at));
    }
    if before.fork.zip(now.fork).is_some_and(|(before, now)| before != now) {
        return Resume::Anew(Anew::OtherTimeline);
    }
    if now.end < before.end {
        return Resume::Anew(Anew::DatabaseWentBack);
    }
    Resume::GoOn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_has_its_answer() {
        let lsn = Lsn::new;
        let before = History { system_id: 7, timeline: 1, fork: None, end: lsn(500) };
        let now = History { end: lsn(600), ..before };
        let found = |n| SlotOrigin::Found { confirmed: lsn(n) };
        let forks = [Fork { timeline: 1, at: lsn(450) }];
        let promoted = History { timeline: 2, ..now };
        for (now, slot, forks, answer) in [
            (now, found(400), &[][..], Resume::GoOn),
            (History { end: lsn(500), ..now }, found(300), &[], Resume::GoOn),
            (now, SlotOrigin::CreatedHere, &[], Resume::Anew(Anew::SlotWasGone)),
            (now, found(401), &[], Resume::Anew(Anew::SlotWasMoved)),
            (History { system_id: 8, ..now }, found(400), &[], Resume::Anew(Anew::OtherDatabase)),
            (History { end: lsn(499), ..now }, found(400), &[], Resume::Anew(Anew::DatabaseWentBack)),
            (promoted, found(400), &forks, Resume::Forked(lsn(450))),
            (History { end: lsn(460), ..promoted }, found(400), &forks, Resume::Forked(lsn(450))),
            (promoted, found(400), &[], Resume::Anew(Anew::OtherTimeline)),
            (promoted, found(401), &forks, Resume::Anew(Anew::SlotWasMoved)),
        ] {
            assert_eq!(resume(&before, &now, slot, lsn(400), forks), answer, "{now:?} {slot:?}");
        }
    }

    #[test]
    fn two_standbys_of_one_primary_are_told_apart_by_where_they_left_it() {
        let lsn = Lsn::new;
        let before = History { system_id: 7, timeline: 2, fork: Some(lsn(300)), end: lsn(500) };
        let found = SlotOrigin::Found { confirmed: lsn(400) };
        for (fork, answer) in
            [(Some(lsn(300)), Resume::GoOn), (None, Resume::GoOn), (Some(lsn(310)), Resume::Anew(Anew::OtherTimeline))]
        {
            assert_eq!(resume(&before, &History { fork, ..before }, found, lsn(400), &[]), answer);
        }
    }
}
