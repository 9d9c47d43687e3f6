//! How long to wait before trying again.

use std::time::Duration;

/// Full-jitter exponential backoff: the n-th wait is anything between zero and `first · 2ⁿ`, at most `most`
/// (Brooker, "Exponential Backoff And Jitter", 2015).
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    attempts: u32,
}

impl Backoff {
    /// Waits that start below `first` and never pass `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Backoff { first, most, attempts: 0 }
    }

    /// The next wait. `chance` is a fresh random number of 32 bits.
    pub fn next(&mut self, chance: u32) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.attempts.min(20)).min(self.most);
        self.attempts = self.attempts.saturating_add(1);
        ceiling.mul_f64(f64::from(chance) / f64::from(u32::MAX))
    }

    /// Failures in a row so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// It worked: the next failure waits briefly again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
