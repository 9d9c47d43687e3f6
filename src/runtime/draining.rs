//! What is left to do at a shutdown.

use std::time::Duration;

use tokio::time::Instant;

use super::link::Link;
use super::{Event, Pipeline, Stopped};
use crate::core::{Input, TURN_EVERY};
use crate::postgres::{Intake, Source, Stream};

/// How long a shutdown waits for targets to confirm what is on its way. What they do not is sent again at the next start.
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(10);

impl<S: Source + 'static> Pipeline<S> {
    /// The second, smaller loop: nothing more is read; what is gathered is sent and confirmed, the records move, and
    /// the source hears of it.
    pub(super) async fn drain(mut self) -> Result<(), Stopped> {
        self.observer.source.draining();
        self.step(Input::Drain)?;
        let deadline = Instant::now() + DRAIN_TIME;
        while !self.core.is_drained() && Instant::now() < deadline {
            self.step(Input::Read(false))?;
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => self.reported(report)?,
                Some(watched) = self.watched.recv() => self.watched(watched)?,
                Some(probed) = self.probes.probed.recv() => self.probed(probed)?,
                event = self.link.turned(Intake::Closed) => {
                    // A source that is away stays away, and one that has rested would be ready over and over.
                    if let Event::Ready(Err(_)) | Event::Opened(..) | Event::Rested = event {
                        self.link = Link::Nowhere;
                        self.step(Input::StreamClosed)?;
                    }
                }
                () = tokio::time::sleep_until(deadline.min(Instant::now() + TURN_EVERY)) => {}
            }
        }
        self.step(Input::Read(false))?;
        let unconfirmed = || (0..self.core.target_count()).map(|target| self.core.waiting(target).1).sum();
        self.observer.source.drained((!self.core.is_drained()).then(unconfirmed));
        match std::mem::replace(&mut self.link, Link::Nowhere) {
            // The process ends either way, and what was not acknowledged comes again.
            Link::Streaming { stream, .. } => stream.finish().await.or(Ok(())),
            _ => Ok(()),
        }
    }
}
