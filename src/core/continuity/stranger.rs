//! Decides whether another coherd, which follows another database, writes a target's record.
//!
//! A record of another database may also be left over from a database that was replaced. An active coherd updates its
//! record about once a second, so a record that does not change has no writer any more.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::types::record::{Record, StoredRecord, Written};

/// How long a record of another database is watched: several times the interval at which an active coherd updates it.
const WATCHED_FOR: Duration = Duration::from_secs(5);

/// How long a record without a writer may still change: deliveries of this process that were in flight when it
/// switched to another database write it once more.
const LEFT_FOR: Duration = Duration::from_secs(30);

/// Who wrote a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Writer {
    /// The database's system identifier.
    pub system_id: u64,
    /// The slot, if the record names it.
    pub slot: Option<Arc<str>>,
}

impl Writer {
    /// The writer of this record.
    pub fn of(record: &Record, written: Option<&Written>) -> Writer {
        Writer { system_id: record.system_id, slot: written.and_then(|written| written.slot.clone()) }
    }

    /// Whether it is not the coherd that follows this database through this slot. A writer that does not name its slot
    /// may be the same.
    pub fn is_other(&self, system_id: u64, slot: &str) -> bool {
        self.system_id != system_id || self.slot.as_deref().is_some_and(|its| its != slot)
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database with system identifier {}", self.system_id)?;
        self.slot.as_ref().map_or(Ok(()), |slot| write!(f, ", slot {slot}"))
    }
}

/// What a record shows about its writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shared {
    /// The record is this coherd's, or has no active writer.
    Free,
    /// The record is another coherd's, and it is not known yet whether it changes.
    Watch,
    /// Another coherd writes the record.
    Taken(Writer),
}

/// What is known about the writer of one target's record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Stranger(Option<Seen>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Seen {
    writer: Writer,
    updated_ms: u64,
    since: Instant,
    /// Once the record has changed, it stays taken: its writer may be down only for a while.
    moves: bool,
    /// When it was found to have no active writer.
    left: Option<Instant>,
}

impl Stranger {
    /// Takes in a record. `system_id` and `slot` are those of the database that is followed.
    pub fn read(&mut self, stored: &StoredRecord, system_id: u64, slot: &str, now: Instant) -> Shared {
        let writer = stored.record.as_ref().map(|record| Writer::of(record, stored.written.as_ref()));
        let other = writer.filter(|writer| writer.is_other(system_id, slot));
        let (Some(writer), Some(written)) = (other, &stored.written) else {
            self.0 = None;
            return Shared::Free;
        };
        let updated_ms = written.updated_ms;
        let seen = self.0.take_if(|seen| seen.writer == writer);
        let seen = self.0.insert(seen.unwrap_or(Seen { writer, updated_ms, since: now, moves: false, left: None }));
        match seen.left {
            Some(left) if now.saturating_duration_since(left) < LEFT_FOR => return Shared::Free,
            Some(_) => (seen.left, seen.since, seen.updated_ms) = (None, now, updated_ms),
            None => {}
        }
        seen.moves |= seen.updated_ms != updated_ms;
        if seen.moves {
            return Shared::Taken(seen.writer.clone());
        }
        if now.saturating_duration_since(seen.since) < WATCHED_FOR {
            return Shared::Watch;
        }
        seen.left = Some(now);
        Shared::Free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::lsn::Lsn;
    use crate::types::record::{Record, Written};

    fn record(system_id: u64, slot: Option<&str>, updated_ms: u64) -> StoredRecord {
        let at = Lsn::new(100);
        let record = Record {
            applied: at,
            confirmed: at,
            settled: at,
            system_id,
            timeline: 1,
            sequence: 0,
            commit: None,
            rules: None,
        };
        let written = Some(Written { updated_ms, slot: slot.map(Into::into) });
        StoredRecord { record: Some(record), empty: false, written }
    }

    #[test]
    fn a_record_of_ours_is_free_also_where_it_does_not_name_its_slot() {
        let (mut stranger, now) = (Stranger::default(), Instant::now());
        for (slot, updated) in [(None, 1), (Some("ours"), 2), (None, 3)] {
            assert_eq!(stranger.read(&record(7, slot, updated), 7, "ours", now), Shared::Free);
        }
        let nothing = StoredRecord { record: None, empty: false, written: None };
        assert_eq!(stranger.read(&nothing, 7, "ours", now), Shared::Free);
    }

    #[test]
    fn a_record_of_another_database_or_slot_that_moves_is_taken_and_stays_so() {
        for (system_id, slot) in [(8, Some("ours")), (8, None), (7, Some("theirs"))] {
            let (mut stranger, now) = (Stranger::default(), Instant::now());
            assert_eq!(stranger.read(&record(system_id, slot, 1), 7, "ours", now), Shared::Watch);
            let taken = Shared::Taken(Writer { system_id, slot: slot.map(Into::into) });
            assert_eq!(stranger.read(&record(system_id, slot, 2), 7, "ours", now), taken);
            let later = now + 10 * WATCHED_FOR;
            assert_eq!(stranger.read(&record(system_id, slot, 2), 7, "ours", later), taken, "it may be down");
            assert_eq!(stranger.read(&record(7, Some("ours"), 3), 7, "ours", later), Shared::Free);
            assert_eq!(stranger.read(&record(system_id, slot, 3), 7, "ours", later), Shared::Watch);
        }
    }

    #[test]
    fn a_record_that_stands_still_is_nobodys() {
        let (mut stranger, now) = (Stranger::default(), Instant::now());
        let left = record(8, Some("theirs"), 1);
        assert_eq!(stranger.read(&left, 7, "ours", now), Shared::Watch);
        assert_eq!(stranger.read(&left, 7, "ours", now + WATCHED_FOR / 2), Shared::Watch);
        let free = now + WATCHED_FOR;
        assert_eq!(stranger.read(&left, 7, "ours", free), Shared::Free);
        // A delivery that was in flight.
        assert_eq!(stranger.read(&record(8, Some("theirs"), 2), 7, "ours", free + WATCHED_FOR), Shared::Free);
        let later = free + LEFT_FOR;
        assert_eq!(stranger.read(&record(8, Some("theirs"), 3), 7, "ours", later), Shared::Watch);
        let taken = stranger.read(&record(8, Some("theirs"), 4), 7, "ours", later);
        assert!(matches!(taken, Shared::Taken(_)), "{taken:?}");
    }
}
