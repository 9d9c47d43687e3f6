//! Decides what the stored record must say before a delivery writes over it.
//!
//! Each record names its *writer*, a random value that coherd draws again whenever it reads the record, and a sequence
//! that grows with each delivery. A delivery's script writes only over the record of the delivery before it; the first
//! one, only over the record exactly as coherd read it. Any other record was put there without this connection: by
//! FLUSHALL, SWAPDB, a restore, a proxy that failed over, another coherd. The script then changes nothing, so that the
//! evidence stays, and coherd reconciles the target.

use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Accepts no sequence.
#[expect(clippy::reversed_empty_ranges, reason = "it is meant to be empty")]
const NONE: RangeInclusive<u64> = 1..=0;

/// What identified a record when it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Read {
    /// Its field `writer`; empty if it has none.
    pub(super) writer: Vec<u8>,
    /// Its field `sequence`; empty if it has none.
    pub(super) sequence: Vec<u8>,
}

impl Read {
    /// The record's key held another type.
    pub(super) fn of_another_type() -> Read {
        Read { writer: b"WRONGTYPE".to_vec(), sequence: Vec::new() }
    }

    /// Matches no record.
    fn nothing() -> Read {
        Read { writer: b"NOTHING".to_vec(), sequence: Vec::new() }
    }
}

/// The records that one delivery may write over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    /// The current writer.
    pub(super) writer: String,
    /// The sequences of this writer that are accepted.
    pub(super) sequences: RangeInclusive<u64>,
    /// The record as it was read, or `Read::nothing()` if that one is not accepted.
    pub(super) read: Read,
}

/// The records written since the record was last read.
#[derive(Debug, Default)]
pub(super) struct Chain(Mutex<Written>);

#[derive(Debug, Default)]
struct Written {
    writer: String,
    read: Read,
    /// The sequence of the last delivery that was confirmed, if any.
    confirmed: Option<u64>,
    /// The sequence of the last delivery that was sent, if any.
    sent: Option<u64>,
}

impl Chain {
    /// Starts again from the record that was just read.
    pub(super) fn begin(&self, read: Read) {
        let writer = format!("{:016x}", fastrand::u64(..));
        *self.lock() = Written { writer, read, confirmed: None, sent: None };
    }

    /// Returns what the delivery with this sequence may write over. Must be called in the order in which deliveries are
    /// sent. A delivery that is sent again may follow any of those that were sent with it, because all of them are sent
    /// again.
    pub(super) fn next(&self, sequence: u64) -> Expected {
        let mut written = self.lock();
        let Written { writer, read, confirmed, sent } = &mut *written;
        let (sequences, read) = match *sent {
            None => (NONE, read.clone()),
            Some(last) if sequence <= last => {
                (confirmed.unwrap_or(0)..=last, confirmed.map_or_else(|| read.clone(), |_| Read::nothing()))
            }
            Some(last) => (last..=last, Read::nothing()),
        };
        *sent = Some(sent.map_or(sequence, |last| last.max(sequence)));
        Expected { writer: writer.clone(), sequences, read }
    }

    /// Notes that a delivery was confirmed.
    pub(super) fn confirmed(&self, sequence: u64) {
        let mut written = self.lock();
        written.confirmed = Some(written.confirmed.map_or(sequence, |confirmed| confirmed.max(sequence)));
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sequence: u64) -> Read {
        Read { writer: b"before".to_vec(), sequence: sequence.to_string().into_bytes() }
    }

    fn next(chain: &Chain, sequence: u64) -> (Option<(u64, u64)>, bool) {
        let Expected { sequences, read, .. } = chain.next(sequence);
        let range = (!sequences.is_empty()).then(|| (*sequences.start(), *sequences.end()));
        (range, read != Read::nothing())
    }

    #[test]
    fn the_first_delivery_writes_over_what_was_read_and_each_other_one_over_the_one_before() {
        let chain = Chain::default();
        chain.begin(read(5));
        assert_eq!(next(&chain, 10), (None, true));
        assert_eq!(next(&chain, 11), (Some((10, 10)), false));
        assert_eq!(next(&chain, 13), (Some((11, 11)), false));
        chain.confirmed(10);
        assert_eq!(next(&chain, 14), (Some((13, 13)), false));
    }

    #[test]
    fn what_is_sent_again_may_follow_whatever_was_sent_and_not_confirmed() {
        let chain = Chain::default();
        chain.begin(read(5));
        for sequence in [10, 11, 12] {
            next(&chain, sequence);
        }
        assert_eq!(next(&chain, 10), (Some((0, 12)), true), "nothing was confirmed: perhaps nothing was written");
        chain.confirmed(10);
        assert_eq!(next(&chain, 11), (Some((10, 12)), false));
        assert_eq!(next(&chain, 12), (Some((10, 12)), false));
        assert_eq!(next(&chain, 13), (Some((12, 12)), false));
    }

    #[test]
    fn reading_the_record_draws_another_writer_and_forgets_what_was_sent() {
        let chain = Chain::default();
        chain.begin(read(5));
        let before = chain.next(10).writer;
        chain.begin(read(10));
        let after = chain.next(9);
        assert_ne!(after.writer, before);
        assert_eq!((after.sequences, after.read), (NONE, read(10)));
    }
}
