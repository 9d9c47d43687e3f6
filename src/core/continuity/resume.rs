//! Decides, when a stream is opened again, whether the database is still the one that coherd followed.

use std::fmt;

use super::SlotOrigin;
use crate::core::Opening;
use crate::types::lsn::Lsn;

/// How to continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Continue at the same position.
    GoOn,
    /// Continue on another timeline: what was read after the position is not part of its history.
    Forked(Lsn),
    /// Start as a new process does: read every target's record.
    Anew(Anew),
}

/// Why nothing that this process knows is valid any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anew {
    /// The slot was lost and created again.
    SlotWasGone,
    /// The system identifier is another one.
    OtherDatabase,
    /// The followed timeline is not known to be part of the new timeline's history.
    OtherTimeline,
    /// The log ends before the position that was read.
    DatabaseWentBack,
    /// Another instance has acknowledged more.
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

/// Compares what was followed, up to `decoded`, with what the server reports now. `acknowledged` is the last position
/// that this process acknowledged.
pub fn resume(before: &Opening, decoded: Lsn, now: &Opening, acknowledged: Lsn) -> Resume {
    let SlotOrigin::Found { confirmed } = now.slot else { return Resume::Anew(Anew::SlotWasGone) };
    if before.system.id != now.system.id {
        return Resume::Anew(Anew::OtherDatabase);
    }
    if confirmed > acknowledged {
        return Resume::Anew(Anew::SlotWasMoved);
    }
    if before.system.timeline != now.system.timeline {
        let fork = now.system.forks.iter().find(|fork| fork.timeline == before.system.timeline);
        return fork.map_or(Resume::Anew(Anew::OtherTimeline), |fork| Resume::Forked(fork.at));
    }
    // Compare the fork from the previous timeline, if it is known: two standbys promoted from one primary can both be
    // on the same timeline.
    if before.system.forks.last().zip(now.system.forks.last()).is_some_and(|(before, now)| before.at != now.at) {
        return Resume::Anew(Anew::OtherTimeline);
    }
    if now.system.wal_end < decoded {
        return Resume::Anew(Anew::DatabaseWentBack);
    }
    Resume::GoOn
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::server::{Fork, System};

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    fn opening(timeline: u32, forks: &[u64], end: u64, slot: SlotOrigin) -> Opening {
        let (wal_end, start) = (lsn(end), lsn(0));
        let forks = forks.iter().map(|at| Fork { timeline: 1, at: lsn(*at) }).collect();
        let system = System { id: 7, timeline, wal_end, forks };
        Opening { system, slot, start, walsender: 1 }
    }

    fn found(n: u64) -> SlotOrigin {
        SlotOrigin::Found { confirmed: lsn(n) }
    }

    #[test]
    fn each_difference_has_its_answer() {
        let before = opening(1, &[], 0, found(0));
        let mut other = opening(1, &[], 600, found(400));
        other.system.id = 8;
        for (now, answer) in [
            (opening(1, &[], 600, found(400)), Resume::GoOn),
            (opening(1, &[], 500, found(300)), Resume::GoOn),
            (opening(1, &[], 600, SlotOrigin::CreatedHere), Resume::Anew(Anew::SlotWasGone)),
            (opening(1, &[], 600, found(401)), Resume::Anew(Anew::SlotWasMoved)),
            (other, Resume::Anew(Anew::OtherDatabase)),
            (opening(1, &[], 499, found(400)), Resume::Anew(Anew::DatabaseWentBack)),
            (opening(2, &[450], 600, found(400)), Resume::Forked(lsn(450))),
            (opening(2, &[450], 460, found(400)), Resume::Forked(lsn(450))),
            (opening(2, &[], 600, found(400)), Resume::Anew(Anew::OtherTimeline)),
            (opening(2, &[450], 600, found(401)), Resume::Anew(Anew::SlotWasMoved)),
        ] {
            assert_eq!(resume(&before, lsn(500), &now, lsn(400)), answer, "{now:?}");
        }
    }

    #[test]
    fn two_standbys_of_one_primary_are_told_apart_by_where_they_left_it() {
        let before = opening(2, &[300], 500, found(400));
        for (forks, answer) in
            [(&[300][..], Resume::GoOn), (&[], Resume::GoOn), (&[310], Resume::Anew(Anew::OtherTimeline))]
        {
            assert_eq!(resume(&before, lsn(500), &opening(2, forks, 500, found(400)), lsn(400)), answer);
        }
    }
}
