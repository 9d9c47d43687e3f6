//! The status of one target and of one rule.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::types::lsn::Lsn;

/// The status of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// Name in the configuration.
    pub name: String,
    /// Kind, e.g. `redis`.
    pub kind: String,
    /// Whether it confirms deliveries.
    pub up: bool,
    /// The last fault; `None` while the target is up.
    pub fault: Option<String>,
    /// What the target may have missed, if the configuration says to wait for a person (`on_gap: halt`). See
    /// [`HALT_ADVICE`](super::HALT_ADVICE).
    pub halted: Option<String>,
    /// Which other database's coherd writes this target's record, so that nothing is sent; continues "gets nothing:".
    pub taken: Option<String>,
    /// Where and why the slot went on without the target; continues "the target was".
    pub suspended: Option<String>,
    /// When it last came up or went down.
    pub since: SystemTime,
    /// What it has confirmed without a gap.
    pub applied: Lsn,
    /// Keys that wait for the target.
    pub pending_keys: u64,
    /// Deliveries that are sent and not confirmed.
    pub in_flight: u64,
    /// Deliveries that were sent again since the daemon's start.
    pub retries: u64,
    /// The flush that is under way; everything else waits behind it.
    pub flushing: Option<Flushing>,
}

/// A flush that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushing {
    /// The number of its scopes.
    pub scopes: usize,
    /// When it began.
    pub since: Instant,
}

impl TargetStatus {
    /// A target that has not answered yet.
    pub(super) fn unheard(name: String, kind: String, since: SystemTime) -> TargetStatus {
        TargetStatus {
            name,
            kind,
            up: false,
            fault: None,
            halted: None,
            taken: None,
            suspended: None,
            since,
            applied: Lsn::ZERO,
            pending_keys: 0,
            in_flight: 0,
            retries: 0,
            flushing: None,
        }
    }

    /// Notes that the target confirmed something.
    pub fn is_up(&mut self) {
        if !self.up {
            self.up = true;
            self.fault = None;
            self.since = SystemTime::now();
        }
    }

    /// Notes that `scopes` scopes are being flushed; 0 ends the flush.
    pub fn is_flushing(&mut self, scopes: usize) {
        let since = self.flushing.map_or_else(Instant::now, |flushing| flushing.since);
        self.flushing = (scopes > 0).then_some(Flushing { scopes, since });
    }

    /// Notes that the target did not confirm; `fault` contains no key and no credential.
    pub fn is_down(&mut self, fault: &str) {
        if self.up {
            self.up = false;
            self.since = SystemTime::now();
        }
        if self.fault.as_deref() != Some(fault) {
            self.fault = Some(fault.to_owned());
        }
    }
}

/// The status of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleStatus {
    /// `rules[2] public.users`.
    pub subject: Arc<str>,
    /// Why changes that concern the rule may be missing from the stream, and what fixes that; `None` while the rule is
    /// covered.
    pub uncovered: Option<Arc<str>>,
}
