//! How long to wait before a retry, and how often to repeat a message in the log.

use std::time::{Duration, Instant};

/// Full-jitter exponential backoff: wait n, from 0, is a random time between zero and `first · 2ⁿ`, at most `most`
/// (Brooker, "Exponential Backoff And Jitter", 2015).
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempts: u32,
}

impl Backoff {
    /// Backoff whose first wait is at most `first` and whose waits never exceed `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Backoff { first, most, attempts: 0 }
    }

    /// The next wait. `chance` is a new 32-bit random number.
    pub fn next(&mut self, chance: u32) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.attempts.min(20)).min(self.most);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }

    /// Consecutive failures so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Resets the backoff after a success: the wait after the next failure is short again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Whether to log the latest of `attempts` consecutive failures. Logging all of them would flood the log: the first
/// line says what is wrong, and the lines at powers of two say that it continues.
pub const fn is_worth_a_line(attempts: u32) -> bool {
    attempts == 1 || attempts >= 16 && attempts.is_power_of_two()
}

/// Limits how often something is done or logged.
#[derive(Debug)]
pub struct Throttle {
    every: Duration,
    last: Option<Instant>,
}

impl Throttle {
    /// Due at once, and then once per `every`.
    pub const fn new(every: Duration) -> Self {
        Throttle { every, last: None }
    }

    /// Whether it is due at `now`. If so, the next interval begins.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= self.every);
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_failures_is_told_at_its_start_and_ever_more_rarely() {
        let told: Vec<u32> = (0..=100).filter(|attempts| is_worth_a_line(*attempts)).collect();
        assert_eq!(told, [1, 16, 32, 64]);
    }

    #[test]
    fn what_is_throttled_is_due_at_once_and_then_once_in_that_time() {
        let (mut throttle, now) = (Throttle::new(Duration::from_secs(10)), Instant::now());
        let due = [0, 9, 10, 11, 19, 20].map(|seconds| throttle.is_due(now + Duration::from_secs(seconds)));
        assert_eq!(due, [true, false, true, false, false, true]);
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_most_and_starts_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(50));
        let waits: Vec<u128> = (0..5).map(|_| backoff.next(u32::MAX).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 50, 50]);
        assert_eq!(backoff.next(0), Duration::ZERO);
        backoff.reset();
        assert_eq!(backoff.next(u32::MAX).as_millis(), 10);
    }

    #[test]
    fn a_year_of_failures_overflows_nothing() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for _ in 0..1000 {
            assert!(backoff.next(u32::MAX) <= Duration::from_secs(30));
        }
    }
}
