//! What the operator decides about gaps, first starts and limits; the core's settings.

use std::time::Duration;

use serde::Deserialize;

/// What to do about a gap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// Flush every scope concerned, and go on.
    #[default]
    Flush,
    /// Keep running, not ready, until a person decides.
    Halt,
}

/// What to do about a cache that coherd has never written to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFirstStart {
    /// Trust its contents.
    #[default]
    Keep,
    /// Flush every scope.
    Flush,
}

/// Default for [`Policy::recent_bytes`].
pub const RECENT_BYTES: usize = 8 << 20;

/// The part of the configuration that the core needs.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// What to do about a gap.
    pub on_gap: OnGap,
    /// What to do at a first start.
    pub on_first_start: OnFirstStart,
    /// `limits.max_pending_keys`.
    pub pending_keys: usize,
    /// `source.wal_budget`, in bytes; `None` means no limit.
    pub wal_budget: Option<u64>,
    /// `source.decoding_timeout`.
    pub decoding_timeout: Duration,
    /// How much of the latest deliveries to all targets is kept in memory, in bytes, to send it again to a target that
    /// has lost it.
    pub recent_bytes: usize,
    /// `repeat_after`; zero means never.
    pub repeat_after: Duration,
}

impl Policy {
    /// Waits for everything and repeats nothing.
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
