//! Whether a target can be carried on from where it stands, or has missed something.

use std::fmt;

use crate::lsn::Lsn;
use crate::record::{Recollection, Record};

/// How this process came by its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotOrigin {
    /// There was none: what happened before is not in it.
    CreatedHere,
    /// It was there, and everything up to the position has been acknowledged.
    Found {
        /// `confirmed_flush_lsn`.
        confirmed: Lsn,
    },
}

/// Where the log left a timeline for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: u32,
    /// What was written to it after this position is not part of the server's history.
    pub at: Lsn,
}

/// What this process knows when it judges a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// `IDENTIFY_SYSTEM`'s `systemid`.
    pub system_id: u64,
    /// `IDENTIFY_SYSTEM`'s `timeline`.
    pub timeline: u32,
    /// How it came by its slot.
    pub slot: SlotOrigin,
    /// The furthest position that the server is known to have.
    pub reached: Lsn,
    /// The furthest record that this target has confirmed to this process; zero before the first.
    pub written: Lsn,
}

/// What to do with a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has missed nothing.
    Continue,
    /// coherd has never been here before.
    FirstStart,
    /// It has missed something, or may have.
    Gap(Gap),
}

/// Why something may have been missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// The target has a record, but the slot is new.
    SlotWasGone {
        /// The record.
        record: Lsn,
    },
    /// The target holds keys but no record: it has lost its memory, or somebody deleted the record.
    RecordIsGone,
    /// The record is older than what the target had confirmed: it was restored or failed over to a lagging replica.
    TargetWentBack {
        /// The record.
        record: Lsn,
        /// What it must not be behind.
        needed: Lsn,
    },
    /// The record was written for another database cluster.
    OtherDatabase,
    /// The record is ahead of the server's log: the database was restored to an earlier state.
    DatabaseWentBack {
        /// The record.
        record: Lsn,
        /// The end of the server's log.
        reached: Lsn,
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
            Gap::TargetWentBack { .. } => "target_went_back",
            Gap::OtherDatabase => "other_database",
            Gap::DatabaseWentBack { .. } => "database_went_back",
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
                    "the replication slot was gone and had to be created anew, but the target was brought to {record}"
                )
            }
            Gap::RecordIsGone => f.write_str("the target holds keys but no record of how far it was brought"),
            Gap::TargetWentBack { record, needed } => {
                write!(
                    f,
                    "the target's record says {record}, but it had been brought to {needed}: it went back in time"
                )
            }
            Gap::OtherDatabase => f.write_str("the target's record was written for another database cluster"),
            Gap::DatabaseWentBack { record, reached } => {
                write!(
                    f,
                    "the target was brought to {record}, but the server's log ends at {reached}: it went back in time"
                )
            }
            Gap::NewTimeline { was, is } => {
                write!(f, "the server is on timeline {is}, the target's record on {was}: a standby was promoted")
            }
        }
    }
}

/// Compares what a target remembers with what is known.
pub fn judge(known: &Known, recollection: &Recollection) -> Verdict {
    match &recollection.record {
        // Nothing in it, so nothing stale in it.
        None if recollection.empty => Verdict::Continue,
        None if known.slot == SlotOrigin::CreatedHere && known.written == Lsn::ZERO => Verdict::FirstStart,
        None => Verdict::Gap(Gap::RecordIsGone),
        Some(record) => judge_record(known, record),
    }
}

fn judge_record(known: &Known, record: &Record) -> Verdict {
    let applied = record.applied;
    let needed = match known.slot {
        SlotOrigin::CreatedHere => known.written,
        SlotOrigin::Found { confirmed } => known.written.max(confirmed),
    };
    if record.system_id != known.system_id {
        Verdict::Gap(Gap::OtherDatabase)
    } else if known.slot == SlotOrigin::CreatedHere && known.written == Lsn::ZERO {
        Verdict::Gap(Gap::SlotWasGone { record: applied })
    } else if record.timeline != known.timeline {
        Verdict::Gap(Gap::NewTimeline { was: record.timeline, is: known.timeline })
    } else if applied < needed {
        Verdict::Gap(Gap::TargetWentBack { record: applied, needed })
    } else if applied > known.reached {
        Verdict::Gap(Gap::DatabaseWentBack { record: applied, reached: known.reached })
    } else {
        Verdict::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let slot = SlotOrigin::Found { confirmed: Lsn::new(100) };
        Known { system_id: 7, timeline: 1, slot, reached: Lsn::new(500), written: Lsn::ZERO }
    }

    fn at(applied: u64) -> Recollection {
        let applied = Lsn::new(applied);
        let record = Record { applied, settled: applied, system_id: 7, timeline: 1 };
        Recollection { record: Some(record), empty: false }
    }

    fn created() -> Known {
        Known { slot: SlotOrigin::CreatedHere, ..known() }
    }

    #[test]
    fn a_record_between_the_confirmed_position_and_the_end_of_the_log_goes_on() {
        for applied in [100, 300, 500] {
            assert_eq!(judge(&known(), &at(applied)), Verdict::Continue, "{applied}");
        }
    }

    #[test]
    fn no_slot_and_no_record_is_a_first_start() {
        let nothing = Recollection { record: None, empty: false };
        assert_eq!(judge(&created(), &nothing), Verdict::FirstStart);
    }

    #[test]
    fn every_other_case_is_a_gap_with_its_reason() {
        let nothing = Recollection { record: None, empty: false };
        let other = Known { system_id: 8, ..known() };
        let promoted = Known { timeline: 2, ..known() };
        let wrote = Known { written: Lsn::new(300), ..known() };
        for (known, recollection, reason) in [
            (known(), nothing.clone(), "record_gone"),
            (Known { written: Lsn::new(1), ..created() }, nothing, "record_gone"),
            (created(), at(300), "slot_gone"),
            (known(), at(99), "target_went_back"),
            (wrote, at(299), "target_went_back"),
            (known(), at(501), "database_went_back"),
            (other, at(300), "other_database"),
            (promoted, at(300), "new_timeline"),
        ] {
            let Verdict::Gap(gap) = judge(&known, &recollection) else { panic!("{reason}: no gap") };
            assert_eq!(gap.reason(), reason);
        }
    }

    #[test]
    fn an_empty_target_has_nothing_stale_in_it() {
        let empty = Recollection { record: None, empty: true };
        for known in [known(), created(), Known { written: Lsn::new(300), ..known() }] {
            assert_eq!(judge(&known, &empty), Verdict::Continue);
        }
    }

    #[test]
    fn a_slot_created_here_goes_on_once_its_target_has_a_record_of_this_process() {
        let wrote = Known { written: Lsn::new(300), ..created() };
        assert_eq!(judge(&wrote, &at(300)), Verdict::Continue);
    }
}
