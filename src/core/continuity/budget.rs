//! Decides whether the log that the slot holds back is about to exceed its limit.

use std::fmt;

use crate::types::observation::HeldWal;

/// The growth to allow for until the next look is made and the slot has moved, as a multiple of the growth since the
/// last look.
const LOOKS_AHEAD: u64 = 2;
/// With fewer segments than this left of `safe_wal_size`, the server is about to invalidate the slot itself.
const SAFE_SEGMENTS: u64 = 2;

/// Watches the log that the slot holds back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// In bytes; `None` means no limit.
    limit: Option<u64>,
    last: Option<HeldWal>,
}

/// The limit is nearly reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Overspent {
    /// The slot holds back nearly all that `wal_budget` allows.
    Budget {
        /// Bytes held back.
        retained: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The slot holds back nearly all that `max_slot_wal_keep_size` allows.
    Safe {
        /// `safe_wal_size`, in bytes.
        left: u64,
    },
}

impl fmt::Display for Overspent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Overspent::Budget { retained, limit } => write!(
                f,
                "the slot holds back {} MiB of log, and source.wal_budget is {} MiB",
                retained >> 20,
                limit >> 20
            ),
            Overspent::Safe { left } => write!(
                f,
                "the server gives the slot up when {} MiB more are written (max_slot_wal_keep_size)",
                left >> 20
            ),
        }
    }
}

impl Budget {
    /// A budget of `limit` bytes. With `None`, no target is ever suspended.
    pub fn new(limit: Option<u64>) -> Self {
        Budget { limit, last: None }
    }

    /// By how many bytes the log has grown since the last look.
    pub fn grown(&self, now: &HeldWal) -> Option<u64> {
        self.last.map(|last| now.end.bytes_since(last.end))
    }

    /// Takes in a look, and returns the limit that is nearly reached, if any.
    pub fn looked(&mut self, held: HeldWal) -> Option<Overspent> {
        let limit = self.limit?;
        let grown = self.last.map_or(0, |last| held.retained.saturating_sub(last.retained));
        self.last = Some(held);
        let ahead = grown.saturating_mul(LOOKS_AHEAD);
        if held.retained.saturating_add(ahead) >= limit {
            return Some(Overspent::Budget { retained: held.retained, limit });
        }
        let low = held.segment.saturating_mul(SAFE_SEGMENTS).max(ahead);
        held.safe.filter(|left| *left <= low).map(|left| Overspent::Safe { left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::lsn::Lsn;

    const MIB: u64 = 1 << 20;

    fn held(retained: u64, safe: Option<u64>) -> HeldWal {
        HeldWal { end: Lsn::ZERO, retained: retained * MIB, safe: safe.map(|safe| safe * MIB), segment: 16 * MIB }
    }

    #[test]
    fn it_is_spent_before_the_next_looks_could_find_more_than_the_limit() {
        let mut budget = Budget::new(Some(100 * MIB));
        for retained in [10, 30, 31, 60] {
            assert_eq!(budget.looked(held(retained, None)).is_some(), retained == 60, "{retained}");
        }
        let spent = Overspent::Budget { retained: 100 * MIB, limit: 100 * MIB };
        assert_eq!(Budget::new(Some(100 * MIB)).looked(held(100, None)), Some(spent), "at the first look");
    }

    #[test]
    fn it_is_spent_when_the_server_is_about_to_give_the_slot_up() {
        let mut budget = Budget::new(Some(1 << 40));
        assert_eq!(budget.looked(held(10, Some(100))), None);
        assert_eq!(budget.looked(held(20, Some(90))), None);
        assert_eq!(budget.looked(held(21, Some(32))), Some(Overspent::Safe { left: 32 * MIB }));
        assert!(budget.looked(held(61, Some(79))).is_some(), "as fast as it grows");
    }

    #[test]
    fn without_any_bound_nothing_is_ever_spent() {
        assert_eq!(Budget::new(None).looked(held(1 << 20, Some(0))), None);
    }
}
