//! Whether coherd can look at what the log does not show: the publication, the tables and the slot's retention. A
//! daemon that cannot look does not know what it misses.

use std::time::{Duration, Instant};

/// A look that is older than this while the stream runs does not count any more.
pub const LOOK_AGE_MAX: Duration = Duration::from_secs(30);

/// The looks at the server since the first attempt.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    began: Instant,
    seen: Option<Instant>,
    /// The error of the last look, if it failed.
    fault: Option<String>,
}

impl Watch {
    pub(super) fn begin(now: Instant) -> Watch {
        Watch { began: now, seen: None, fault: None }
    }

    pub(super) fn saw(&mut self, now: Instant) {
        (self.seen, self.fault) = (Some(now), None);
    }

    pub(super) fn failed(&mut self, fault: &str) {
        if self.fault.as_deref() != Some(fault) {
            self.fault = Some(fault.to_owned());
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.fault.is_some()
    }

    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.seen.map(|seen| now.saturating_duration_since(seen))
    }

    /// How long nothing has been seen, and why, if that is too long. Time before `streaming`, when the stream started,
    /// does not count towards the limit.
    pub(super) fn blind(&self, streaming: Instant, now: Instant) -> Option<(Duration, &str)> {
        let since = self.seen.unwrap_or(self.began);
        let in_this_stream = now.saturating_duration_since(since.max(streaming));
        (in_this_stream >= LOOK_AGE_MAX).then(|| {
            (now.saturating_duration_since(since), self.fault.as_deref().unwrap_or("the last look has not ended"))
        })
    }
}
