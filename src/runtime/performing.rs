//! Passes the reports of workers, watcher and probes to the core, and carries out the core's outputs.

use tokio::time::Instant;

use super::link::{Link, Slot};
use super::{Pipeline, Stopped};
use crate::core::{Input, Output, Reopen};
use crate::postgres::{ErrorKind, Probed, Source, SourceError, Stream, Watched};
use crate::targets::delivery::{Report, Shipment, may_have_changed};

impl<S: Source + 'static> Pipeline<S> {
    /// Carries out the core's outputs, in order. Returns whether there were any.
    pub(super) fn perform(&mut self) -> Result<bool, Stopped> {
        let mut outputs = std::mem::take(&mut self.outputs);
        self.core.take_outputs(&mut outputs);
        let has_any = !outputs.is_empty();
        for output in outputs.drain(..) {
            self.perform_one(output)?;
        }
        self.outputs = outputs;
        Ok(has_any)
    }

    fn perform_one(&mut self, output: Output) -> Result<(), Stopped> {
        match output {
            Output::Probe => {
                if let Link::Streaming { stream, .. } = &self.link {
                    self.probes.ask(stream.walsender());
                }
            }
            // The worker has room, so sending fails only if the worker has ended. The next turn then ends the daemon.
            Output::Send { target, ticket, delivery } => {
                if let Some(worker) = self.workers.get_mut(target) {
                    let _ = worker.send(Shipment { ticket, delivery });
                }
            }
            Output::Early { target, batch } => {
                if let Some(worker) = self.workers.get_mut(target) {
                    self.observer.targets.sent_early(target, batch.len());
                    worker.invalidate_early(batch);
                }
            }
            Output::Flush { target, ticket, batch } => {
                if let Some(worker) = self.workers.get_mut(target) {
                    let _ = worker.flush(ticket, batch);
                }
            }
            Output::LoadRecord(target) => {
                if let Some(worker) = self.workers.get(target) {
                    worker.load_record();
                }
            }
            Output::Reconciled(target, its) => {
                if let Some(answer) = self.answers.get_mut(target).and_then(Option::take) {
                    // A worker that has ended needs no answer.
                    let _ = answer.send(its);
                }
            }
            // A worker whose answer is dropped loads the record again.
            Output::LoadAgain(target) => drop(self.answers.get_mut(target).and_then(Option::take)),
            Output::Acknowledge(position) => {
                if let Link::Streaming { stream, .. } = &mut self.link {
                    stream.acknowledge(position);
                }
            }
            Output::Attest(walsender) => drop(self.attest.send_replace(walsender)),
            Output::PollReplicas(position) => drop(self.probes.wanted.send_replace(position)),
            Output::Reopen(why) => return self.reopen(why),
            Output::Park => {
                self.let_go()?;
                self.link.park();
                self.observer.source.parked();
            }
            Output::Unpark => self.link.reopen(),
            Output::Event(event) => self.observer.tell(event),
        }
        Ok(())
    }

    /// Closes a stream that has not failed, and opens it again after a pause.
    fn reopen(&mut self, why: Reopen) -> Result<(), Stopped> {
        let reason = match why {
            Reopen::StoodStill(lasted) => format!("this process stood still for {} s", lasted.as_secs()),
            Reopen::CannotTakeBack => "coherd.wait() must not rely on this stream any more".into(),
            Reopen::Promoted => "the standby that is followed was promoted".into(),
            Reopen::Overtaken(target) => self.observer.targets.overtaken(target),
            Reopen::Synchronous(why) => return self.lost(SourceError::new(ErrorKind::Synchronous, why)),
        };
        let Some(source) = self.link.take_source() else { return Ok(()) };
        self.let_go()?;
        let pause = self.pace.rest();
        self.observer.source.reopens(reason, pause);
        self.link = Link::Resting { source, until: Instant::now() + pause, slot: Slot::Keep };
        Ok(())
    }

    pub(super) fn watched(&mut self, watched: Watched) -> Result<(), Stopped> {
        match watched {
            Watched::Seen(look) => {
                let reinherited = look.database.as_ref().map(|database| self.reader.looked(database));
                self.step(Input::Observed(&look, &reinherited.unwrap_or_default()))?;
                // After the step: a client that sees the catalogue's new age may rely on the effects of the look.
                self.observer.source.watched(&look);
                Ok(())
            }
            Watched::Away(error) => {
                self.observer.source.unwatched(&error);
                self.step(Input::Unobserved)
            }
            Watched::Attested(walsender) => self.step(Input::Attested(walsender)),
        }
    }

    pub(super) fn probed(&mut self, probed: Probed) -> Result<(), Stopped> {
        match probed {
            Probed::Source { walsender, snapshot } => {
                if matches!(&self.link, Link::Streaming { stream, .. } if stream.walsender() == walsender) {
                    self.observer.source.probed();
                }
                self.step(Input::Snapshot(walsender, snapshot))
            }
            Probed::SourceAway(error) => {
                self.observer.source.unprobed(&error);
                Ok(())
            }
            Probed::Replica { index, seen } => {
                self.step(Input::ReplicaReported(index, seen))?;
                self.observer.replicas.seen(index, seen.replayed);
                Ok(())
            }
            Probed::ReplicaAway { index, error } => {
                self.observer.replicas.away(index, &error);
                Ok(())
            }
        }
    }

    pub(super) fn reported(&mut self, report: Report) -> Result<(), Stopped> {
        match report {
            Report::RecordLoaded { target, stored, answer } => {
                if let Some(before) = self.answers.get_mut(target) {
                    *before = Some(answer);
                }
                self.step(Input::RecordLoaded(target, stored))
            }
            Report::Confirmed { target, ticket, delivery, delivered } => {
                self.observer.delivered(target, &delivery.batch, &delivered);
                self.step(Input::Confirmed(target, ticket, delivery))
            }
            Report::Early { target, batch, delivered } => {
                self.observer.replaced(target, &batch, &delivered);
                Ok(())
            }
            Report::Flushed { target, ticket, batch, delivered } => {
                self.observer.delivered(target, &batch, &delivered);
                self.step(Input::Flushed(target, ticket, batch))
            }
            Report::Trouble { target, fault, attempts } => {
                self.observer.targets.down(target, &fault, attempts);
                self.step(Input::Trouble(target, may_have_changed(fault.kind)))
            }
            Report::Up { target } => {
                self.observer.targets.up(target);
                self.step(Input::Up(target))
            }
        }
    }
}
