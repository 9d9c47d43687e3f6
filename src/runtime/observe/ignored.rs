//! Manual keys that no rule covers: each is counted, and told now and then. Anybody may send them, and they may
//! hold what nobody should read in a log, so only their number is told.

use std::time::{Duration, Instant};

use tracing::warn;

use super::Observer;
use crate::backoff::Throttle;

/// Between two lines of the log, at least.
const TELL_PACE: Duration = Duration::from_mins(1);

/// How many are not told yet.
#[derive(Debug)]
pub(super) struct Ignored {
    keys: u64,
    throttle: Throttle,
}

impl Default for Ignored {
    fn default() -> Self {
        Ignored { keys: 0, throttle: Throttle::new(TELL_PACE) }
    }
}

impl Observer {
    pub(super) fn ignored(&mut self, keys: u64) {
        if keys > 0 {
            self.metrics.ignored(keys);
            self.ignored.keys += keys;
        }
        if self.ignored.keys == 0 || !self.ignored.throttle.is_due(Instant::now()) {
            return;
        }
        let keys = std::mem::take(&mut self.ignored.keys);
        warn!(
            keys,
            "manual keys are ignored, because no rule covers them (manual.keys: rules): name them in a rule, or set \
             manual.keys to any and reload coherd (systemctl reload coherd)"
        );
    }
}
