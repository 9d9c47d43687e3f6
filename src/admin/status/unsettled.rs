//! Samples of commits, to measure how long commits take to settle. However long a target is away, it keeps at most
//! [`SAMPLES_MAX`] commits, spread over the whole time.

use std::collections::VecDeque;

use crate::core::Watermarks;
use crate::pgoutput::PgTime;
use crate::transaction::Made;
use crate::types::lsn::Lsn;

const SAMPLES_MAX: usize = 256;

/// One commit.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// The end of its commit record.
    pub end: Lsn,
    /// The time of the commit, by the server's clock.
    pub committed: PgTime,
    /// What rules made of its rows.
    pub made: Made,
}

/// Sampled commits that have not settled, oldest first.
#[derive(Debug)]
pub struct Unsettled {
    samples: VecDeque<Sample>,
    /// One in this many commits is kept.
    one_of: u64,
    left_out: u64,
}

impl Unsettled {
    /// No samples; allocates all its memory.
    #[expect(clippy::new_without_default, reason = "it takes its memory at once")]
    pub fn new() -> Self {
        Unsettled { samples: VecDeque::with_capacity(SAMPLES_MAX), one_of: 1, left_out: 0 }
    }

    /// Adds a commit that has not settled and is later than all before it.
    pub fn add(&mut self, sample: Sample) {
        self.left_out += 1;
        if self.left_out < self.one_of {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.one_of = self.one_of.saturating_mul(2);
        }
        self.left_out = 0;
        self.samples.push_back(sample);
    }

    /// Calls `give` with each settled sample. A sample beyond `decoded` turned out not to be part of the database's
    /// history, and is dropped.
    pub fn settled(&mut self, watermarks: &Watermarks, mut give: impl FnMut(Sample)) {
        while self.samples.back().is_some_and(|sample| sample.end > watermarks.decoded) {
            self.samples.pop_back();
        }
        while let Some(sample) = self.samples.pop_front_if(|sample| sample.end <= watermarks.settled) {
            give(sample);
        }
        if self.samples.is_empty() {
            (self.one_of, self.left_out) = (1, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(end: u64, committed: i64) -> Sample {
        Sample { end: Lsn::new(end), committed: PgTime(committed), made: Made::default() }
    }

    fn settled(its: &mut Unsettled, decoded: u64, settled: u64) -> Vec<i64> {
        let mut times = Vec::new();
        let watermarks = Watermarks { decoded: Lsn::new(decoded), settled: Lsn::new(settled), ..Watermarks::default() };
        its.settled(&watermarks, |sample| times.push(sample.committed.0));
        times
    }

    #[test]
    fn a_commit_is_given_once_and_when_it_has_settled() {
        let mut its = Unsettled::new();
        its.add(at(10, 1));
        its.add(at(20, 2));
        assert_eq!(settled(&mut its, 20, 9), [0_i64; 0]);
        assert_eq!(settled(&mut its, 20, 10), [1]);
        assert_eq!(settled(&mut its, 20, 30), [2]);
        assert_eq!(settled(&mut its, 20, 30), [0_i64; 0]);
    }

    #[test]
    fn many_are_thinned_out_evenly() {
        let mut its = Unsettled::new();
        for n in 0..1_000_000 {
            its.add(at(n, i64::try_from(n).unwrap()));
            assert!(its.samples.len() <= SAMPLES_MAX);
        }
        let times = settled(&mut its, 1_000_000, 1_000_000);
        assert!(times.len() >= SAMPLES_MAX / 2, "{}", times.len());
        let most = times.windows(2).map(|two| two[1] - two[0]).max();
        assert!(most <= Some(1_000_000 * 2 / i64::try_from(SAMPLES_MAX).unwrap() + 1), "{most:?}");
        its.add(at(2_000_000, 7));
        assert_eq!(settled(&mut its, 2_000_000, 2_000_000), [7], "and every one again");
    }

    #[test]
    fn what_is_not_part_of_the_history_is_forgotten() {
        let mut its = Unsettled::new();
        its.add(at(10, 1));
        its.add(at(20, 2));
        assert_eq!(settled(&mut its, 15, 5), [0_i64; 0]);
        assert_eq!(settled(&mut its, 30, 30), [1]);
    }
}
