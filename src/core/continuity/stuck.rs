//! Decides whether a failure to decode the log is temporary, or Postgres fails at that position for ever.
//!
//! In: each failure with its position and time. Out: whether only a new slot gets past the position. Each new slot
//! costs a flush of every scope, so the wait doubles whenever one new slot soon follows another.

use std::time::{Duration, Instant};

use crate::types::lsn::Lsn;

/// Failures at one position before a new slot is worth its cost.
const TIMES_MIN: u32 = 3;
/// How often the wait doubles: a first wait of one minute grows to at most eight.
const DOUBLED_MOST: u32 = 3;
/// After this many times the first wait without a new slot, the wait is back to the first one.
const FORGOTTEN_AFTER: u32 = 16;

/// Consecutive failures at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Failing {
    at: Lsn,
    since: Instant,
    times: u32,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// It may be temporary: try again until this much time has passed since the first failure.
    TryAgain(Duration),
    /// Only a new slot gets past the position.
    ForGood {
        /// Failed attempts.
        times: u32,
        /// Time since the first of them.
        lasted: Duration,
    },
}

/// Counts failures to decode the log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stuck {
    timeout: Duration,
    failing: Option<Failing>,
    renewals: u32,
    renewed: Option<Instant>,
}

impl Stuck {
    /// The first wait is `timeout`.
    pub const fn new(timeout: Duration) -> Stuck {
        Stuck { timeout, failing: None, renewals: 0, renewed: None }
    }

    /// Counts a failure at the position. [`Failed::ForGood`] counts a new slot and forgets the failures.
    pub fn failed(&mut self, at: Lsn, now: Instant) -> Failed {
        let failing = self.failing.get_or_insert(Failing { at, since: now, times: 0 });
        if failing.at != at {
            *failing = Failing { at, since: now, times: 0 };
        }
        failing.times = failing.times.saturating_add(1);
        let Failing { since, times, .. } = *failing;
        let forgotten = self.timeout.saturating_mul(FORGOTTEN_AFTER);
        if self.renewed.is_some_and(|renewed| since.saturating_duration_since(renewed) >= forgotten) {
            self.renewals = 0;
        }
        let patience = self.timeout.saturating_mul(1 << self.renewals.min(DOUBLED_MOST));
        let lasted = now.saturating_duration_since(since);
        if times < TIMES_MIN || lasted < patience {
            return Failed::TryAgain(patience);
        }
        (self.failing, self.renewed, self.renewals) = (None, Some(now), self.renewals.saturating_add(1));
        Failed::ForGood { times, lasted }
    }

    /// Notes that everything before `decoded` is decoded. Returns whether that is beyond the position of the last
    /// failure.
    pub fn passed(&mut self, decoded: Lsn) -> bool {
        self.failing.take_if(|failing| decoded > failing.at).is_some()
    }

    /// Whether the last attempt failed.
    pub const fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Ends longer waits because the slot holds back too much log: a flush costs less than a full disk.
    pub const fn hurry(&mut self) {
        self.renewals = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(1);
    const HERE: Lsn = Lsn::new(100);

    /// Fails at `at` every ten seconds from `from` until a new slot is due; returns the time until then.
    fn renewed_after(stuck: &mut Stuck, at: Lsn, from: Instant) -> Duration {
        (0..1000_u32)
            .map(|n| Duration::from_secs(10) * n)
            .find(|after| matches!(stuck.failed(at, from + *after), Failed::ForGood { .. }))
            .unwrap()
    }

    #[test]
    fn three_failures_over_the_timeout_are_for_good() {
        let (mut stuck, now) = (Stuck::new(TIMEOUT), Instant::now());
        assert_eq!(stuck.failed(HERE, now), Failed::TryAgain(TIMEOUT));
        assert_eq!(stuck.failed(HERE, now + 2 * TIMEOUT), Failed::TryAgain(TIMEOUT), "only two");
        let lasted = 3 * TIMEOUT;
        assert_eq!(stuck.failed(HERE, now + lasted), Failed::ForGood { times: 3, lasted });
        assert!(!stuck.is_failing());
    }

    #[test]
    fn failures_elsewhere_do_not_count_and_neither_do_those_that_were_passed() {
        let (mut stuck, now) = (Stuck::new(TIMEOUT), Instant::now());
        for n in 0..100 {
            let failed = stuck.failed(Lsn::new(n), now + TIMEOUT * u32::try_from(n).unwrap());
            assert_eq!(failed, Failed::TryAgain(TIMEOUT), "{n}");
        }
        assert!(!stuck.passed(Lsn::new(99)) && stuck.is_failing());
        assert!(stuck.passed(Lsn::new(100)) && !stuck.is_failing());
        assert!(!stuck.passed(Lsn::new(101)), "once");
    }

    #[test]
    fn each_new_slot_soon_after_another_is_waited_for_twice_as_long_up_to_a_bound() {
        let (mut stuck, mut now) = (Stuck::new(TIMEOUT), Instant::now());
        let mut waits = Vec::new();
        for n in 0..6 {
            let wait = renewed_after(&mut stuck, Lsn::new(n), now);
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [60, 120, 240, 480, 480, 480]);
        assert_eq!(renewed_after(&mut stuck, HERE, now + TIMEOUT * FORGOTTEN_AFTER).as_secs(), 60, "long ago");
    }

    #[test]
    fn a_slot_that_holds_back_too_much_is_not_waited_for_longer() {
        let (mut stuck, now) = (Stuck::new(TIMEOUT), Instant::now());
        renewed_after(&mut stuck, HERE, now);
        stuck.hurry();
        assert_eq!(renewed_after(&mut stuck, HERE, now + 2 * TIMEOUT).as_secs(), 60);
    }
}
