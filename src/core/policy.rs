//! What people decide.

use std::time::Duration;

use serde::Deserialize;

/// What to do where continuity is broken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// Flush every scope concerned, and go on.
    #[default]
    Flush,
    /// Stay up, not ready, until somebody decides.
    Halt,
}

/// What to do with a cache that coherd has never seen before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFirstStart {
    /// Trust what is in it.
    #[default]
    Keep,
    /// Flush every scope.
    Flush,
}

/// What is kept of what was delivered lately, where nobody says otherwise.
pub const RECENT_BYTES: usize = 8 << 20;

/// What the core needs of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Broken continuity.
    pub on_gap: OnGap,
    /// First start.
    pub on_first_start: OnFirstStart,
    /// `limits.max_pending_keys`.
    pub pending_keys: usize,
    /// `source.wal_budget`, in bytes; `None` is without bound.
    pub wal_budget: Option<u64>,
    /// `source.decoding_timeout`.
    pub decoding_timeout: Duration,
    /// What all targets together were delivered lately and is kept in memory, in bytes, to be sent again to a target that
    /// has lost it.
    pub recent_bytes: usize,
    /// `repeat_after`; zero for never.
    pub repeat_after: Duration,
}

impl Policy {
    /// Waits for everything, and repeats nothing.
    pub const fn patient() -> Policy {
        Policy {
            on_gap: OnGap::Flush,
            on_first_start: OnFirstStart::Keep,
            pending_keys: usize::MAX,
            wal_budget: None,
            decoding_timeout: Duration::MAX,
            recent_bytes: RECENT_BYTES,
            repeat_after: Duration::ZERO,
        }
    }
}
