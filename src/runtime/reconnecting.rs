//! How long to wait before the next attempt to follow the log, after each kind of error.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::postgres::SourceError;
use crate::postgres::error::Retry;

/// The longest first wait before another attempt to reach a source that is away.
const LOST_WAIT_FIRST: Duration = Duration::from_millis(50);
/// The longest of all these waits.
const LOST_WAIT_MOST: Duration = Duration::from_secs(5);
/// How often a standby asks whether the slot is free. A takeover takes no longer than this.
const STANDBY_WAIT: Duration = Duration::from_millis(300);
/// How often coherd tries a source again that refused for a reason which a person must fix.
const REFUSED_WAIT: Duration = Duration::from_secs(10);

/// The pauses between attempts to open a stream.
pub(super) struct Pace {
    backoff: Backoff,
    decoding_timeout: Duration,
}

impl Pace {
    pub(super) fn new(decoding_timeout: Duration) -> Self {
        Pace { backoff: Backoff::new(LOST_WAIT_FIRST, LOST_WAIT_MOST), decoding_timeout }
    }

    pub(super) fn it_worked(&mut self) {
        self.backoff.reset();
    }

    /// The pause when the source has not failed.
    pub(super) fn rest(&mut self) -> Duration {
        self.backoff.next(fastrand::u32(..))
    }

    /// The pause after `error`.
    pub(super) fn rest_after(&mut self, error: &SourceError) -> Duration {
        match error.policy().retry {
            Retry::WithBackoff => self.rest(),
            // Each attempt makes the server decode again all that the slot holds back. Three fit into the timeout.
            Retry::WithinDecodingTimeout => REFUSED_WAIT.min(self.decoding_timeout / 4),
            Retry::WhenFree => STANDBY_WAIT,
            Retry::Slowly => REFUSED_WAIT,
        }
    }
}
