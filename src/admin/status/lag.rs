//! How long settled has been behind the end of the log.

use std::time::{Duration, Instant};

use crate::types::lsn::Lsn;

/// Measures lag as time, from positions alone: it notes the end of the log, and how long settled takes to get there.
///
/// Under steady load settled never reaches the moving end, so "time since both were equal" would grow for ever. So the
/// lag is the larger of two times: how long the last mark took, and the age of the present one. A steady lag then reads
/// as steady.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Lag {
    mark: Option<(Lsn, Instant)>,
    last: Duration,
}

impl Lag {
    /// Settled is at `settled`, and the log reaches at least `end`.
    pub(super) fn moved(&mut self, settled: Lsn, end: Lsn, now: Instant) {
        if let Some((mark, since)) = self.mark
            && settled >= mark
        {
            self.last = now.saturating_duration_since(since);
            self.mark = None;
        }
        if settled >= end {
            *self = Lag::default();
        } else if self.mark.is_none() {
            self.mark = Some((end, now));
        }
    }

    /// The lag at `now`.
    pub(super) fn at(&self, now: Instant) -> Duration {
        let age = self.mark.map_or(Duration::ZERO, |(_, since)| now.saturating_duration_since(since));
        age.max(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_has_caught_up_has_no_lag() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        assert_eq!(lag.at(start), Duration::ZERO);
        lag.moved(lsn(10), lsn(20), start);
        assert_eq!(lag.at(start + seconds(3)), seconds(3));
        lag.moved(lsn(20), lsn(20), start + seconds(4));
        assert_eq!(lag.at(start + seconds(9)), Duration::ZERO);
    }

    #[test]
    fn a_standstill_grows_even_while_the_end_moves() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        for n in 0..30 {
            lag.moved(lsn(10), lsn(20 + n), start + seconds(n));
        }
        assert_eq!(lag.at(start + seconds(30)), seconds(30));
    }

    #[test]
    fn a_steady_load_that_is_settled_in_a_second_never_reads_as_more_than_a_little() {
        let (mut lag, start) = (Lag::default(), Instant::now());
        for n in 1..100 {
            lag.moved(lsn(n - 1), lsn(n), start + seconds(n));
            assert!(lag.at(start + seconds(n)) <= seconds(1), "{n}");
        }
        assert_eq!(lag.at(start + seconds(100)), seconds(1));
    }
}
