//! What people decide.

use std::time::Duration;

use serde::Deserialize;

use crate::by_hand::ManualKeys;
use crate::core::Limits;

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
    /// Which keys count that are named by hand.
    pub manual_keys: ManualKeys,
    /// Bytes of log that the slot may hold back; beyond, it is given up on purpose. `None`: any amount.
    pub wal_budget: Option<u64>,
    /// How long decoding may fail at one position before a new slot replaces the old one.
    pub decoding_timeout: Duration,
    /// The pause after which everything is struck once more, for readers without a protocol; zero: not at all.
    pub repeat_after: Duration,
    /// This process has followed the log before, with another configuration: a source that refuses it is tried again,
    /// as later in its life.
    pub is_resumed: bool,
}

impl Settings {
    pub(super) fn limits(&self) -> Limits {
        Limits { pending_keys: self.pending_keys_max, repeat_after: self.repeat_after }
    }
}
