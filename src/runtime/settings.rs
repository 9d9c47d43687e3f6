//! What people decide.

use std::sync::Arc;
use std::time::Duration;

use crate::by_hand::ManualKeys;
use crate::core::{OnFirstStart, OnGap, Policy, RECENT_BYTES};

/// How the pipeline behaves.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Broken continuity.
    pub on_gap: OnGap,
    /// First start.
    pub on_first_start: OnFirstStart,
    /// Keys gathered for one target beyond which they are coarsened to scopes.
    pub pending_keys_max: usize,
    /// Keys of one transaction beyond which its further keys are coarsened to scopes.
    pub transaction_keys_max: u64,
    /// Which manual keys count.
    pub manual_keys: ManualKeys,
    /// Bytes of log that the slot may hold back; beyond, it goes on without the targets that do not keep up. `None`: any
    /// amount.
    pub wal_budget: Option<u64>,
    /// How long decoding may fail at one position before a new slot replaces the old one.
    pub decoding_timeout: Duration,
    /// The pause after which everything is invalidated once more, for readers without a protocol; zero: not at all.
    pub repeat_after: Duration,
    /// This process has followed the log before, with another configuration: a source that refuses it is tried again,
    /// as later in its life.
    pub is_resumed: bool,
}

impl Settings {
    /// What the core needs of it, for the slot of this name.
    pub(super) fn policy(&self, slot: &str) -> Policy {
        Policy {
            slot: Arc::from(slot),
            on_gap: self.on_gap,
            on_first_start: self.on_first_start,
            pending_keys: self.pending_keys_max,
            wal_budget: self.wal_budget,
            decoding_timeout: self.decoding_timeout,
            recent_bytes: RECENT_BYTES,
            repeat_after: self.repeat_after,
        }
    }
}
