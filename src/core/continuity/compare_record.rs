//! Compares a target's stored record with what is known: the target has missed nothing, is sent something again, or
//! has a gap.

use std::fmt;

use super::SlotOrigin;
use crate::core::Opening;
use crate::types::lsn::Lsn;
use crate::types::record::{Record, StoredRecord};
use crate::types::snapshot::Commit;

/// What this process knows when it compares a target's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::core) struct Known<'a> {
    /// The server's history.
    pub opening: &'a Opening,
    /// The furthest position that the server is known to have reached.
    pub reached: Lsn,
    /// The furthest `applied` of a record that this target has confirmed, or that another process wrote, since the
    /// slot is followed; zero before the first.
    pub written: Lsn,
    /// The greatest sequence of those records; zero before the first.
    pub sequence: u64,
    /// This process has written a record to the target, whatever has become of the slot since.
    pub acquainted: bool,
    /// This process wrote the target's present record since the slot is followed.
    pub is_ours: bool,
    /// Every invalidation of commits after this position is still in memory; [`Lsn::MAX`] if there is none.
    pub remembered: Lsn,
}

/// What to do about a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::core) enum Verdict {
    /// It has missed nothing.
    Continue,
    /// coherd has never written to this target.
    FirstStart,
    /// It has missed what it was sent for commits after a position, and all of that is still in memory.
    Resend {
        /// The position.
        after: Lsn,
        /// Why it was missed.
        because: Gap,
    },
    /// It has missed something, or may have.
    Gap(Gap),
}

impl Verdict {
    /// Up to where the target has everything that was confirmed, as far as its record shows; [`Lsn::MAX`] if it has
    /// missed nothing. A record of another history shows nothing.
    pub(in crate::core) fn has_up_to(&self, stored: &StoredRecord) -> Lsn {
        match self {
            Verdict::Continue | Verdict::FirstStart => Lsn::MAX,
            Verdict::Resend { after, .. } => *after,
            Verdict::Gap(Gap::OtherDatabase | Gap::DatabaseWentBack { .. } | Gap::OtherHistory { .. }) => Lsn::ZERO,
            Verdict::Gap(_) => stored.record.as_ref().map_or(Lsn::ZERO, |record| record.settled),
        }
    }
}

/// Why a target may have missed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gap {
    /// The target has a record, but the slot is new.
    SlotWasGone {
        /// The position in the record.
        record: Lsn,
    },
    /// The target holds keys but no record: it has lost its data, or somebody deleted the record.
    RecordIsGone,
    /// The value at the record's key is not a record: something else writes there.
    RecordIsUnreadable,
    /// The record is older than what the target had confirmed: the target was restored, or failed over to a lagging
    /// replica.
    TargetWentBack {
        /// The position in the record.
        record: Lsn,
        /// The position that it must not be behind.
        needed: Lsn,
    },
    /// The record was written for another database cluster.
    OtherDatabase,
    /// The record is ahead of the server's log: the database was restored to an earlier state.
    DatabaseWentBack {
        /// The position in the record.
        record: Lsn,
        /// The end of the server's log.
        reached: Lsn,
    },
    /// The record's last transaction is not in the server's log, or another one is at its position: the database was
    /// restored.
    OtherHistory {
        /// The record's last transaction.
        commit: Commit,
    },
    /// The server was promoted since the record was written.
    NewTimeline {
        /// The record's timeline.
        was: u32,
        /// The server's.
        is: u32,
    },
}

impl Gap {
    /// The metric label.
    pub const fn reason(self) -> &'static str {
        match self {
            Gap::SlotWasGone { .. } => "slot_gone",
            Gap::RecordIsGone => "record_gone",
            Gap::RecordIsUnreadable => "record_unreadable",
            Gap::TargetWentBack { .. } => "target_went_back",
            Gap::OtherDatabase => "other_database",
            Gap::DatabaseWentBack { .. } | Gap::OtherHistory { .. } => "database_went_back",
            Gap::NewTimeline { .. } => "new_timeline",
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::SlotWasGone { record } => {
                write!(
                    f,
                    "the replication slot was lost and coherd created a new one, but the target had been brought to {record}"
                )
            }
            Gap::RecordIsGone => f.write_str("the target holds keys but no record"),
            Gap::RecordIsUnreadable => {
                f.write_str("the value at the key of the target's record is not a record: something else writes there")
            }
            Gap::TargetWentBack { record, needed } => {
                write!(
                    f,
                    "the target's record says {record}, but the target had confirmed {needed}: the target went back in time"
                )
            }
            Gap::OtherDatabase => f.write_str("the target's record was written for another database cluster"),
            Gap::DatabaseWentBack { record, reached } => {
                write!(
                    f,
                    "the target has changes up to {record}, but the server's log ends at {reached}: the database went back in time"
                )
            }
            Gap::OtherHistory { commit: Commit { xid, at } } => {
                write!(
                    f,
                    "the target was sent transaction {xid}, committed at {at}, and the server's log has no such transaction: \
                     the database was put back to an earlier state"
                )
            }
            Gap::NewTimeline { was, is } => {
                write!(f, "the server is on timeline {is}, the target's record on {was}: a standby was promoted")
            }
        }
    }
}

/// Compares a target's stored record with what is known.
pub(in crate::core) fn compare(known: &Known, stored: &StoredRecord) -> Verdict {
    match &stored.record {
        // An empty target holds nothing stale.
        None if stored.empty => Verdict::Continue,
        None if known.opening.slot == SlotOrigin::CreatedHere && !known.acquainted => Verdict::FirstStart,
        None => Verdict::Gap(Gap::RecordIsGone),
        Some(record) if record.is_unreadable() => Verdict::Gap(Gap::RecordIsUnreadable),
        Some(record) => compare_record(known, record),
    }
}

fn compare_record(known: &Known, record: &Record) -> Verdict {
    let applied = record.applied;
    if record.system_id != known.opening.system.id {
        return Verdict::Gap(Gap::OtherDatabase);
    }
    if known.opening.slot == SlotOrigin::CreatedHere && known.written == Lsn::ZERO {
        return Verdict::Gap(Gap::SlotWasGone { record: applied });
    }
    if record.timeline != known.opening.system.timeline {
        let gap = Gap::NewTimeline { was: record.timeline, is: known.opening.system.timeline };
        match known.opening.system.forks.iter().find(|fork| fork.timeline == record.timeline) {
            // The target was sent nothing beyond the fork, so all of it is part of the server's history.
            Some(fork) if applied <= fork.at => {}
            // The record may have been written although an earlier delivery still had to be sent again.
            Some(fork) if known.is_ours => return known.resend(fork.at.min(record.confirmed), gap),
            // What another process sent is not in this one's memory, and without a fork it is unknown where the
            // timelines part.
            _ => return Verdict::Gap(gap),
        }
    }
    // Everything up to the slot's position was invalidated for good, by this process or another. This one knows what
    // it has written since.
    let confirmed = match known.opening.slot {
        SlotOrigin::CreatedHere => Lsn::ZERO,
        SlotOrigin::Found { confirmed } => confirmed,
    };
    let of_another = (record.confirmed < confirmed).then_some((record.confirmed, confirmed));
    // Many deliveries of a large transaction have the same position.
    let its_own = (applied < known.written || record.sequence < known.sequence).then_some((applied, known.written));
    if let Some((said, needed)) = its_own.or(of_another) {
        // `applied` may include a delivery that was sent and refused.
        known.resend(record.confirmed.min(applied), Gap::TargetWentBack { record: said, needed })
    } else if applied > known.reached {
        Verdict::Gap(Gap::DatabaseWentBack { record: applied, reached: known.reached })
    } else {
        Verdict::Continue
    }
}

impl Known<'_> {
    fn resend(&self, after: Lsn, because: Gap) -> Verdict {
        if after >= self.remembered { Verdict::Resend { after, because } } else { Verdict::Gap(because) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::types::server::{Fork, System};

    fn of(system: System) -> Opening {
        Opening { system, ..FOUND.clone() }
    }

    fn opening(timeline: u32, slot: SlotOrigin) -> Opening {
        let system = System { id: 7, timeline, wal_end: Lsn::ZERO, forks: Vec::new() };
        Opening { system, slot, start: Lsn::ZERO, walsender: 1 }
    }

    static FOUND: LazyLock<Opening> = LazyLock::new(|| opening(1, SlotOrigin::Found { confirmed: Lsn::new(100) }));
    static CREATED: LazyLock<Opening> = LazyLock::new(|| opening(1, SlotOrigin::CreatedHere));
    static OTHER: LazyLock<Opening> = LazyLock::new(|| of(System { id: 8, ..FOUND.system.clone() }));
    static PROMOTED: LazyLock<Opening> = LazyLock::new(|| of(System { timeline: 2, ..FOUND.system.clone() }));
    static FORKED: LazyLock<Opening> = LazyLock::new(|| {
        of(System { forks: vec![Fork { timeline: 1, at: Lsn::new(250) }], ..PROMOTED.system.clone() })
    });

    fn known() -> Known<'static> {
        Known {
            opening: &FOUND,
            reached: Lsn::new(500),
            written: Lsn::ZERO,
            sequence: 0,
            acquainted: false,
            is_ours: false,
            remembered: Lsn::MAX,
        }
    }

    fn wrote() -> Known<'static> {
        Known { written: Lsn::new(300), acquainted: true, ..known() }
    }

    fn created() -> Known<'static> {
        Known { opening: &CREATED, ..known() }
    }

    fn at(applied: u64) -> StoredRecord {
        let applied = Lsn::new(applied);
        let confirmed = applied;
        let record = Record {
            applied,
            confirmed,
            settled: confirmed,
            system_id: 7,
            timeline: 1,
            sequence: 0,
            commit: None,
            rules: None,
        };
        StoredRecord { record: Some(record), empty: false, written: None }
    }

    fn confirmed_only(confirmed: u64, applied: u64) -> StoredRecord {
        let mut stored = at(applied);
        stored.record.as_mut().unwrap().confirmed = Lsn::new(confirmed);
        stored
    }

    const NOTHING: StoredRecord = StoredRecord { record: None, empty: false, written: None };

    #[test]
    fn a_record_that_cannot_be_read_is_a_gap_whatever_became_of_the_slot() {
        for known in [known(), created()] {
            for empty in [false, true] {
                let its = StoredRecord { record: Some(Record::UNREADABLE), empty, written: None };
                assert_eq!(compare(&known, &its), Verdict::Gap(Gap::RecordIsUnreadable));
            }
        }
    }

    #[test]
    fn a_record_between_the_confirmed_position_and_the_end_of_the_log_goes_on() {
        for applied in [100, 300, 500] {
            assert_eq!(compare(&known(), &at(applied)), Verdict::Continue, "{applied}");
        }
    }

    #[test]
    fn no_slot_and_no_record_is_a_first_start() {
        assert_eq!(compare(&created(), &NOTHING), Verdict::FirstStart);
    }

    #[test]
    fn every_other_case_is_a_gap_with_its_reason() {
        let other = Known { opening: &OTHER, ..known() };
        let promoted = Known { opening: &PROMOTED, ..known() };
        let forked = Known { opening: &FORKED, ..known() };
        for (known, stored, reason) in [
            (known(), NOTHING, "record_gone"),
            (Known { acquainted: true, ..created() }, NOTHING, "record_gone"),
            (created(), at(300), "slot_gone"),
            (Known { acquainted: true, ..created() }, at(300), "slot_gone"),
            (known(), at(99), "target_went_back"),
            (wrote(), at(299), "target_went_back"),
            (Known { sequence: 1, ..wrote() }, at(300), "target_went_back"),
            (known(), at(501), "database_went_back"),
            (other, at(300), "other_database"),
            (promoted, at(200), "new_timeline"),
            (forked, at(251), "new_timeline"),
            (Known { remembered: Lsn::ZERO, acquainted: true, ..forked }, at(251), "new_timeline"),
            (forked, at(99), "target_went_back"),
        ] {
            let Verdict::Gap(gap) = compare(&known, &stored) else { panic!("{reason}: no gap") };
            assert_eq!(gap.reason(), reason);
        }
    }

    #[test]
    fn a_record_of_a_timeline_that_was_left_later_goes_on() {
        let forked = Known { opening: &FORKED, ..known() };
        for applied in [100, 250] {
            assert_eq!(compare(&forked, &at(applied)), Verdict::Continue, "{applied}");
        }
    }

    #[test]
    fn what_is_still_in_memory_is_sent_again_and_nothing_is_flushed() {
        let after = |n| Lsn::new(n);
        let remembers = |n, known: Known<'static>| Known { remembered: after(n), ..known };
        let went_back = Gap::TargetWentBack { record: after(200), needed: after(300) };
        let resend = Verdict::Resend { after: after(200), because: went_back };
        assert_eq!(compare(&remembers(200, wrote()), &at(200)), resend);
        assert_eq!(compare(&remembers(201, wrote()), &at(200)), Verdict::Gap(went_back));
        let forked = Known { opening: &FORKED, is_ours: true, ..known() };
        let beyond = Gap::NewTimeline { was: 1, is: 2 };
        let resend = Verdict::Resend { after: after(250), because: beyond };
        assert_eq!(compare(&remembers(250, forked), &at(400)), resend);
        assert_eq!(compare(&remembers(251, forked), &at(400)), Verdict::Gap(beyond));
        let resend = Verdict::Resend { after: after(200), because: beyond };
        assert_eq!(compare(&remembers(200, forked), &confirmed_only(200, 400)), resend);
    }

    #[test]
    fn only_what_was_invalidated_for_good_counts_for_sending_again() {
        let known = Known { remembered: Lsn::new(160), ..wrote() };
        assert!(matches!(compare(&known, &confirmed_only(150, 200)), Verdict::Gap(Gap::TargetWentBack { .. })));
    }

    #[test]
    fn a_record_from_before_the_last_invalidation_of_what_the_slot_has_left_behind_is_a_gap() {
        let went_back = Gap::TargetWentBack { record: Lsn::new(99), needed: Lsn::new(100) };
        assert_eq!(compare(&known(), &confirmed_only(99, 300)), Verdict::Gap(went_back));
        assert_eq!(compare(&known(), &confirmed_only(100, 300)), Verdict::Continue);
    }

    #[test]
    fn an_empty_target_has_nothing_stale_in_it() {
        let empty = StoredRecord { record: None, empty: true, written: None };
        for known in [known(), created(), wrote()] {
            assert_eq!(compare(&known, &empty), Verdict::Continue);
        }
    }

    #[test]
    fn a_slot_created_here_goes_on_once_its_target_has_a_record_of_this_process() {
        let wrote = Known { opening: &CREATED, ..wrote() };
        assert_eq!(compare(&wrote, &at(300)), Verdict::Continue);
    }
}
