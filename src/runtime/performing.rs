//! What workers and watchers report goes into the core, and what comes out of it is done.

use tokio::time::Instant;

use super::link::{Link, Slot};
use super::{Pipeline, Stopped};
use crate::core::{Input, Output, Reopen};
use crate::source::{Sighted, Source, SourceError, Stream, Watched};
use crate::target::delivery::{Report, Shipment, may_have_changed};

impl<S: Source + 'static> Pipeline<S> {
    /// Does what the core asks for, in order.
    pub(super) fn perform(&mut self) -> Result<(), Stopped> {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.core.take_outputs(&mut outputs);
        for output in outputs.drain(..) {
            self.perform_one(output)?;
        }
        self.outputs = outputs;
        Ok(())
    }

    fn perform_one(&mut self, output: Output) -> Result<(), Stopped> {
        match output {
            Output::Probe => {
                if let Link::Streaming { stream, .. } = &self.link {
                    self.sights.ask(stream.walsender());
                }
            }
            // There is room, so they can only be refused where the worker has ended, which ends the daemon.
            Output::Send { target, ticket, delivery } => {
                if let Some(worker) = self.workers.get_mut(target) {
                    let _ = worker.send(Shipment { ticket, delivery });
                }
            }
            Output::Flush { target, ticket, batch } => {
                if let Some(worker) = self.workers.get_mut(target) {
                    let _ = worker.flush(ticket, batch);
                }
            }
            Output::LoadRecord(target) => {
                if let Some(worker) = self.workers.get(target) {
                    worker.recall();
                }
            }
            Output::Reconciled(target, batch) => {
                if let Some(answer) = self.answers.get_mut(target).and_then(Option::take) {
                    // A worker that is gone has nothing to send either.
                    let _ = answer.send(batch);
                }
            }
            // Without an answer it loads the record again.
            Output::LoadAgain(target) => drop(self.answers.get_mut(target).and_then(Option::take)),
            Output::Acknowledge(position) => {
                if let Link::Streaming { stream, .. } = &mut self.link {
                    stream.acknowledge(position);
                }
            }
            Output::Attest(walsender) => drop(self.attest.send_replace(walsender)),
            Output::PollReplicas(position) => drop(self.sights.wanted.send_replace(position)),
            Output::Reopen(why) => return self.reopen(why),
            Output::Park => {
                self.let_go()?;
                self.link.park();
                self.observer.parked();
            }
            Output::Unpark => self.link.reopen(),
            Output::Event(event) => self.observer.tell(event),
        }
        Ok(())
    }

    /// Closes the stream, although the source has not failed, and opens it again.
    fn reopen(&mut self, why: Reopen) -> Result<(), Stopped> {
        let reason = match why {
            Reopen::StoodStill(lasted) => format!("this process stood still for {} s", lasted.as_secs()),
            Reopen::CannotTakeBack => "coherd.wait() must not believe this stream any more".into(),
            Reopen::Promoted => "the standby that is followed was promoted".into(),
            Reopen::Overtaken(target) => self.observer.overtaken(target),
            Reopen::Synchronous(why) => return self.lost(SourceError::Synchronous(why)),
        };
        let Some(source) = self.link.take_source() else { return Ok(()) };
        self.let_go()?;
        let pause = self.pace.rest();
        self.observer.reopens(reason, pause);
        self.link = Link::Resting { source, until: Instant::now() + pause, slot: Slot::Keep };
        Ok(())
    }

    pub(super) fn watched(&mut self, watched: Watched) -> Result<(), Stopped> {
        match watched {
            Watched::Seen(look) => {
                let reinherited = look.database.as_ref().map(|database| self.reader.looked(database));
                self.step(Input::Observed(&look, &reinherited.unwrap_or_default()))?;
                // Last: who sees how old the catalogue is may count on what followed from it.
                self.observer.observed(&look);
                Ok(())
            }
            Watched::Away(error) => {
                self.observer.unwatched(&error);
                self.step(Input::Unobserved)
            }
            Watched::Vouched(walsender) => self.step(Input::Attested(walsender)),
        }
    }

    pub(super) fn sighted(&mut self, sighted: Sighted) -> Result<(), Stopped> {
        match sighted {
            Sighted::Source { walsender, sight } => {
                if matches!(&self.link, Link::Streaming { stream, .. } if stream.walsender() == walsender) {
                    self.observer.sighted();
                }
                self.step(Input::Snapshot(walsender, sight))
            }
            Sighted::SourceAway(error) => {
                self.observer.unsighted(&error);
                Ok(())
            }
            Sighted::Replica { index, seen } => {
                self.step(Input::ReplicaReported(index, seen))?;
                self.observer.replica_seen(index, seen.replayed);
                Ok(())
            }
            Sighted::ReplicaAway { index, error } => {
                self.observer.replica_away(index, &error);
                Ok(())
            }
        }
    }

    pub(super) fn reported(&mut self, report: Report) -> Result<(), Stopped> {
        match report {
            Report::Recalled { lane, recollection, answer } => {
                if let Some(before) = self.answers.get_mut(lane) {
                    *before = Some(answer);
                }
                self.step(Input::RecordLoaded(lane, recollection))
            }
            Report::Confirmed { lane, ticket, delivery, delivered } => {
                self.observer.delivered(lane, &delivery.batch, &delivered);
                self.step(Input::Confirmed(lane, ticket, delivery))
            }
            Report::Flushed { lane, ticket, batch, delivered } => {
                self.observer.delivered(lane, &batch, &delivered);
                self.step(Input::Flushed(lane, ticket, batch))
            }
            Report::Trouble { lane, fault, attempts } => {
                self.observer.target_down(lane, &fault, attempts);
                self.step(Input::Trouble(lane, may_have_changed(fault.kind)))
            }
            Report::Up { lane } => {
                self.observer.target_up(lane);
                self.step(Input::Up(lane))
            }
        }
    }
}
