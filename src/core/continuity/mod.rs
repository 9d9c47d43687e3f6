//! Decides whether a target can continue from its stored record, or may have missed something. The inputs are records,
//! positions and looks at the source; the outputs are verdicts.

mod budget;
mod compare_record;
mod coverage;
mod resume;
mod stranger;
mod stuck;

pub use crate::types::slot::SlotOrigin;
pub(super) use budget::Budget;
pub use budget::Overspent;
pub use compare_record::Gap;
pub(super) use compare_record::{Known, Verdict, compare};
pub(super) use coverage::{Coverage, Drift};
pub use resume::Anew;
pub(super) use resume::{Resume, resume};
pub use stranger::{Shared, Stranger, Writer};
pub use stuck::Failed;
pub(super) use stuck::Stuck;
