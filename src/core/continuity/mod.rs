//! Whether a target can be carried on from where it stands, or has missed something.

mod budget;
mod coverage;
mod resume;
mod stranger;
mod stuck;
mod verdict;

use crate::types::lsn::Lsn;
pub(super) use budget::Budget;
pub use budget::Overspent;
pub(super) use coverage::{Coverage, Drift};
pub use resume::Anew;
pub(super) use resume::{Resume, resume};
pub use stranger::{Shared, Stranger, Writer};
pub use stuck::Failed;
pub(super) use stuck::Stuck;
pub use verdict::Gap;
pub(super) use verdict::{Known, Verdict, compare};

/// How this process came by its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: u32,
    /// What was written to it after this position is not part of the server's history.
    pub at: Lsn,
}
