//! Whether the server is watched: what the log does not show (the publication, the tables, the slot's retention) is
//! looked at beside it, and a daemon that cannot look does not know what it misses.

use std::time::{Duration, Instant};

/// A look that is older than this while the stream runs is no look any more.
pub const LOOK_AGE_MAX: Duration = Duration::from_secs(30);

/// The looks, from the first one on.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    began: Instant,
    seen: Option<Instant>,
    /// What the last look said, where it failed.
    fault: Option<String>,
}

impl Watch {
    pub(super) fn begin(now: Instant) -> Watch {
        Watch { began: now, seen: None, fault: None }
    }

    pub(super) fn saw(&mut self, now: Instant) {
        (self.seen, self.fault) = (Some(now), None);
    }

    /// Gives whether this is the first failure after a success, or ever.
    pub(super) fn failed(&mut self, fault: &str) -> bool {
        let begins = self.fault.is_none();
        if self.fault.as_deref() != Some(fault) {
            self.fault = Some(fault.to_owned());
        }
        begins
    }

    pub(super) fn has_failed(&self) -> bool {
        self.fault.is_some()
    }

    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.seen.map(|seen| now.saturating_duration_since(seen))
    }

    /// For how long nothing has been seen, and why, where that is too long. What the stream had no time to see since it
    /// runs, from `streaming` on, does not count.
    pub(super) fn blind(&self, streaming: Instant, now: Instant) -> Option<(Duration, &str)> {
        let since = self.seen.unwrap_or(self.began);
        let in_this_stream = now.saturating_duration_since(since.max(streaming));
        (in_this_stream >= LOOK_AGE_MAX).then(|| {
            (now.saturating_duration_since(since), self.fault.as_deref().unwrap_or("the last look has not ended"))
        })
    }
}
