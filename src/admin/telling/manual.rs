//! Reports manual invalidations that cannot be carried out. Any role can send any number of them, and they may contain
//! private data. So coherd logs only their number, and only at intervals.

use std::time::{Duration, Instant};

use tracing::{error, warn};

use crate::admin::metrics::Metrics;
use crate::admin::status::Board;
use crate::backoff::Throttle;
use crate::transaction::manual::UnreadableManual;

/// The shortest time between two log lines about keys that no rule covers.
const IGNORED_PACE: Duration = Duration::from_mins(1);

/// The shortest time between two log lines about messages that cannot be read.
const UNREADABLE_PACE: Duration = Duration::from_secs(10);

pub(crate) struct Manual {
    board: Board,
    metrics: Metrics,
    /// The number of keys that no rule covers and that are not logged yet.
    ignored: (Throttle, u64),
    unreadable: (Throttle, u64),
}

impl Manual {
    pub(crate) fn new(board: &Board, metrics: &Metrics) -> Manual {
        let (ignored, unreadable) = ((Throttle::new(IGNORED_PACE), 0), (Throttle::new(UNREADABLE_PACE), 0));
        Manual { board: board.clone(), metrics: metrics.clone(), ignored, unreadable }
    }

    /// Since the last call, `more` keys arrived that no rule covers.
    pub(crate) fn ignored(&mut self, more: u64) {
        if more > 0 {
            self.metrics.ignored(more);
        }
        let (throttle, keys) = &mut self.ignored;
        *keys += more;
        if *keys > 0 && throttle.is_due(Instant::now()) {
            warn!(
                keys,
                "manual keys are ignored, because no rule covers them (manual.keys: rules): name them in a rule, or set \
                 manual.keys to any and reload coherd (systemctl reload coherd)"
            );
            *keys = 0;
        }
    }

    pub(crate) fn unreadable(&mut self, unreadable: &UnreadableManual) {
        let (throttle, untold) = &mut self.unreadable;
        if throttle.is_due(Instant::now()) {
            error!(untold, "{unreadable} Flushing every scope of every rule instead");
            *untold = 0;
        } else {
            *untold += 1;
        }
        self.metrics.flushed(unreadable.reason());
        self.board.flushed(unreadable.reason(), unreadable.to_string());
    }

    pub(crate) fn lost(&self, keys: u64) {
        self.board.turned();
        error!(
            keys,
            "lost manual keys of a suspended target, because they do not fit in memory; when the target is back, run coherd \
             invalidate for those that no rule covers (coherd has not kept their names)"
        );
    }
}
