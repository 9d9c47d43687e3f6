//! The callers that wait for a position. Only those whose position is reached are woken: thousands may wait while the
//! watermarks move thousands of times a second, all on the thread that drives the pipeline.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use crate::core::Watermarks;
use crate::types::lsn::Lsn;

/// A stage that callers can wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Every target has confirmed the invalidations.
    Applied,
    /// Readers may rely on it.
    Settled,
}

impl Stage {
    /// Its name in `/wait` and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Stage::Applied => "applied",
            Stage::Settled => "settled",
        }
    }

    /// Its watermark.
    pub const fn of(self, watermarks: &Watermarks) -> Lsn {
        match self {
            Stage::Applied => watermarks.applied,
            Stage::Settled => watermarks.settled,
        }
    }
}

type Queue = BTreeMap<(Lsn, u64), oneshot::Sender<()>>;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    applied: Queue,
    settled: Queue,
    next: u64,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.applied.len() + self.settled.len()
    }

    pub(super) fn join(&mut self, stage: Stage, at: Lsn) -> ((Lsn, u64), oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        let ticket = (at, self.next);
        self.next += 1;
        self.queue(stage).insert(ticket, sender);
        (ticket, receiver)
    }

    pub(super) fn leave(&mut self, stage: Stage, ticket: (Lsn, u64)) {
        self.queue(stage).remove(&ticket);
    }

    pub(super) fn wake(&mut self, watermarks: &Watermarks) {
        for stage in [Stage::Applied, Stage::Settled] {
            let reached = stage.of(watermarks);
            let queue = self.queue(stage);
            while let Some(first) = queue.first_entry().filter(|first| first.key().0 <= reached) {
                // A caller that has gone away needs no wake-up.
                let _ = first.remove().send(());
            }
        }
    }

    fn queue(&mut self, stage: Stage) -> &mut Queue {
        match stage {
            Stage::Applied => &mut self.applied,
            Stage::Settled => &mut self.settled,
        }
    }
}
