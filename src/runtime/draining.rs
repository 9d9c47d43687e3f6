//! The shutdown: delivers what is gathered and acknowledges it, within a time limit.

use std::time::Duration;

use tokio::time::Instant;

use super::link::Link;
use super::{Event, Pipeline, Stopped};
use crate::core::{Input, TURN_EVERY};
use crate::postgres::{Intake, Source, Stream};

/// How long a shutdown waits for targets to confirm what was sent. coherd sends the rest again at the next start.
pub(super) const DRAIN_TIME: Duration = Duration::from_secs(10);

impl<S: Source + 'static> Pipeline<S> {
    /// The second, smaller loop. It reads nothing more, sends what is gathered, waits for the confirmations, writes the
    /// last records and acknowledges them to the source.
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
                    // A drain opens no stream again. A link that has rested would be ready at once, again and again.
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
            // An error changes nothing: the process ends, and Postgres sends again what is not acknowledged.
            Link::Streaming { stream, .. } => stream.finish().await.or(Ok(())),
            _ => Ok(()),
        }
    }
}
