//! One target and one rule, as they are now.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::types::lsn::Lsn;

/// One target, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// Name in the configuration.
    pub name: String,
    /// Kind, e.g. `redis`.
    pub kind: String,
    /// Whether it confirms deliveries.
    pub up: bool,
    /// The last fault, while it is not up.
    pub fault: Option<String>,
    /// It may have missed changes, and configuration says to wait for a person (`on_gap: halt`): what it may have
    /// missed. See [`HALT_ADVICE`](super::HALT_ADVICE).
    pub halted: Option<String>,
    /// Another coherd writes its record, so nothing is sent: for which databases, as it reads on after "gets nothing:".
    pub taken: Option<String>,
    /// The slot goes on without it: where and why, as it reads on after "the target was".
    pub suspended: Option<String>,
    /// Since when it has been up, or not.
    pub since: SystemTime,
    /// What it has confirmed without a gap.
    pub applied: Lsn,
    /// Keys that wait for it.
    pub pending_keys: u64,
    /// Deliveries on their way to it.
    pub in_flight: u64,
    /// Deliveries sent again since the start.
    pub retries: u64,
    /// A flush that is under way, behind which everything else waits.
    pub flushing: Option<Flushing>,
}

/// A flush that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushing {
    /// Its scopes.
    pub scopes: usize,
    /// Since when.
    pub since: Instant,
}

impl TargetStatus {
    /// One that has not answered yet.
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

    /// It confirmed something.
    pub fn is_up(&mut self) {
        if !self.up {
            self.up = true;
            self.fault = None;
            self.since = SystemTime::now();
        }
    }

    /// So many scopes are being flushed.
    pub fn is_flushing(&mut self, scopes: usize) {
        let since = self.flushing.map_or_else(Instant::now, |flushing| flushing.since);
        self.flushing = (scopes > 0).then_some(Flushing { scopes, since });
    }

    /// It did not confirm; `fault` holds no key and no credential.
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

/// One rule, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleStatus {
    /// `rules[2] public.users`.
    pub subject: Arc<str>,
    /// Why changes that concern it may not be in the stream, and what fixes that; `None` while all of them are.
    pub uncovered: Option<Arc<str>>,
}
