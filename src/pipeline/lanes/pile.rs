//! Invalidations that wait together.

use crate::invalidation::Batch;
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;

/// A batch, and what is known of the commits it is for.
#[derive(Debug, Default)]
pub(super) struct Pile {
    pub(super) batch: Batch,
    pub(super) about: About,
}

/// What is known of the commits that a batch is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct About {
    /// The position of the latest of their commit records.
    pub(super) last: Lsn,
    /// When the oldest of them was committed.
    pub(super) oldest: Option<PgTime>,
    /// It mends what is not in the log, so that no record vouches for its rules before it was struck for good.
    pub(super) heals: bool,
}

impl Pile {
    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Takes everything out of `other`.
    pub(super) fn absorb(&mut self, other: &mut Pile) {
        if self.batch.is_empty() {
            std::mem::swap(&mut self.batch, &mut other.batch);
        } else {
            self.batch.append(&other.batch);
        }
        other.batch.clear();
        let its = std::mem::take(&mut other.about);
        self.about = About {
            last: self.about.last.max(its.last),
            oldest: [self.about.oldest, its.oldest].into_iter().flatten().min(),
            heals: self.about.heals || its.heals,
        };
    }
}
