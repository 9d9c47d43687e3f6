//! What workers and the one who watches the server report, and what the core asks of the workers.

use tokio::time::Instant;

use super::judging::Asking;
use super::link::Link;
use super::{Pipeline, Stopped, Vouched};
use crate::core::Output;
use crate::source::{Source, SourceError, Watched};
use crate::target::delivery::{Report, Shipment, may_have_changed};

impl<S: Source + 'static> Pipeline<S> {
    /// Does what the core asks for.
    pub(super) fn perform(&mut self) {
        for output in self.core.take_outputs() {
            match output {
                Output::Send { target, ticket, delivery } => {
                    if let Some(worker) = self.workers.get_mut(target) {
                        // There is room, so it can only be refused where the worker has ended, which ends the daemon.
                        let _ = worker.send(Shipment { ticket, delivery });
                    }
                }
                Output::Flush { target, ticket, batch } => {
                    if let Some(worker) = self.workers.get_mut(target) {
                        // The same: no other flush is in flight.
                        let _ = worker.flush(ticket, batch);
                    }
                }
                Output::LoadRecord { target } => {
                    if let Some(worker) = self.workers.get(target) {
                        worker.recall();
                    }
                }
            }
        }
    }

    pub(super) fn watched(&mut self, watched: Watched) -> Result<(), Stopped> {
        match watched {
            Watched::Seen(look) => {
                self.observed(&look)?;
                if let (Some(why), Link::Streaming { .. }) = (look.synchronous, &self.link) {
                    return self.lost(SourceError::Synchronous(why));
                }
            }
            Watched::Away(error) => {
                if self.vouched == Vouched::Perhaps {
                    self.vouched = Vouched::OutOfReach;
                }
                self.recorder.unwatched(&error);
            }
            Watched::Vouched(None) if self.vouched == Vouched::Perhaps && self.vouch.borrow().is_none() => {
                self.vouched = Vouched::ForNone;
            }
            Watched::Vouched(_) => {}
        }
        Ok(())
    }

    pub(super) fn reported(&mut self, report: Report) -> Result<(), Stopped> {
        match report {
            Report::Recalled { lane, recollection, answer } => {
                return self.recalled(Asking { lane, recollection, answer });
            }
            Report::Confirmed { lane, ticket, delivery, delivered } => {
                self.recorder.delivered(lane, &delivery.batch, &delivered);
                let oldest_commit = self.core.confirmed(lane, ticket, delivery, Instant::now().into_std());
                self.recorder.applied(oldest_commit);
            }
            Report::Flushed { lane, ticket, batch, delivered } => {
                self.recorder.delivered(lane, &batch, &delivered);
                let oldest_commit = self.core.flushed(lane, ticket, batch, Instant::now().into_std());
                self.recorder.applied(oldest_commit);
            }
            Report::Trouble { lane, fault, attempts } => {
                if may_have_changed(fault.kind) {
                    self.core.doubt(lane);
                }
                self.core.set_up(lane, false);
                self.recorder.target_down(lane, &fault, attempts);
            }
            Report::Up { lane } => {
                self.core.set_up(lane, true);
                self.recorder.target_up(lane);
            }
        }
        Ok(())
    }
}
