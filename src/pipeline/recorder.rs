//! What the pipeline tells people: log lines now, status and metrics beside them. Nothing here decides anything.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::lanes::Lanes;
use crate::by_hand::UnreadableOrder;
use crate::invalidation::Batch;
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::source::{Seen, SourceError};
use crate::target::{Delivered, Fault};
use crate::transaction::Reader;

/// Tells what happens.
pub struct Recorder {
    targets: Vec<Arc<str>>,
}

impl Recorder {
    /// For targets of these names, in the order of their lanes.
    pub fn new(targets: Vec<Arc<str>>) -> Self {
        Recorder { targets }
    }

    #[cfg(test)]
    pub(super) fn for_tests(targets: &[&str]) -> Self {
        Recorder::new(targets.iter().map(|&name| name.into()).collect())
    }

    fn name(&self, lane: usize) -> &str {
        self.targets.get(lane).map_or("?", |name| name)
    }

    pub(super) fn turned(&mut self, _reader: &mut Reader, _lanes: &Lanes) {}

    pub(super) fn heard(&mut self, _position: Lsn) {}

    pub(super) fn streaming(&mut self, seen: &Seen, start: Lsn) {
        info!(%start, wal_end = %seen.wal_end, timeline = seen.timeline, "streaming");
    }

    pub(super) fn source_away(&mut self, error: &SourceError, pause: Duration) {
        match error {
            SourceError::Busy(_) => debug!("{error}; waiting as a standby"),
            _ => warn!("{error}; trying again in {pause:?}"),
        }
    }

    pub(super) fn delivered(&mut self, _lane: usize, _batch: &Batch, _delivered: Delivered) {}

    pub(super) fn applied(&mut self, _oldest_commit: Option<PgTime>) {}

    pub(super) fn target_down(&mut self, lane: usize, fault: &Fault, attempts: u32) {
        // Every attempt would flood the log; the doubling ones still show that it goes on.
        if attempts.is_power_of_two() {
            warn!(target_name = self.name(lane), attempts, "{fault}; nothing is lost, it is tried again");
        }
    }

    pub(super) fn target_up(&mut self, lane: usize) {
        info!(target_name = self.name(lane), "the target confirms deliveries");
    }

    pub(super) fn flushing(&mut self, lane: usize, reason: &'static str, text: &str) {
        warn!(target_name = self.name(lane), reason, "{text}; flushing every scope of its rules");
    }

    pub(super) fn halted(&mut self, lane: usize, reason: &'static str, text: &str) {
        error!(
            target_name = self.name(lane),
            reason,
            "{text}; on_gap is halt: set it to flush and start coherd again, and the scopes of its rules are flushed"
        );
    }

    pub(super) fn unreadable(&mut self, unreadable: &UnreadableOrder) {
        error!("{unreadable} Every scope of every rule is flushed in its place");
    }

    pub(super) fn draining(&mut self) {
        info!("shutting down: delivering what has been read");
    }

    pub(super) fn drained(&mut self, all: bool) {
        match all {
            true => info!("everything that was read is confirmed"),
            false => warn!("not everything is confirmed; it is sent again at the next start"),
        }
    }
}
