//! The daemon's main loop: changes come in, deliveries go out, acknowledgements go back. It passes every event to the
//! core and carries out the core's outputs. It knows the traits of source and target, not Postgres or Redis.

mod draining;
mod link;
mod observe;
mod performing;
mod probes;
mod reconnecting;
#[cfg(test)]
mod tests;
mod undecodable;

use std::future::Future;
use std::task::Poll;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::core::{Core, Input, Opening, Output, Policy, Replicas};
use crate::pgoutput::{self, Message};
use crate::postgres::{ErrorKind, Frame, Intake, Probed, Source, SourceError, Stream, Watched};
use crate::rules::config::Rule;
use crate::rules::heirs::Heirs;
use crate::targets::delivery::{Report, WorkerHandle};
use crate::transaction::manual::ManualKeys;
use crate::transaction::{Reader, Step};
use crate::types::record::Answer;
use crate::types::snapshot::Commit;
use link::{Link, Opened, Slot};
pub use observe::Observer;
pub use probes::Probes;
use reconnecting::Pace;

/// How the pipeline behaves.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The part of the configuration that the core needs.
    pub policy: Policy,
    /// `limits.max_keys_per_transaction`: beyond it, scopes replace the further keys of the transaction.
    pub transaction_keys_max: u64,
    /// `manual.keys`: which manual keys count.
    pub manual_keys: ManualKeys,
    /// This process has followed the log before, with another configuration. If the source refuses it now, it retries
    /// instead of ending.
    pub is_resumed: bool,
}

/// Why the pipeline ended without a shutdown request.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The source refused this process before it had followed the log, for a reason that a person must fix.
    #[error("{0}")]
    Refused(String),
    /// A delivery worker has ended, which is a bug.
    #[error("{0}")]
    Broken(String),
}

/// An event that turns the loop.
enum Event<S: Source> {
    Shutdown,
    Report(Report),
    Watched(Watched),
    Probed(Probed),
    Opened(S, Slot, Result<Opened<S::Stream>, SourceError>),
    Rested,
    Ready(Result<(), SourceError>),
    Tick,
}

/// The loop, with the connection to the source, the core and the workers of the targets.
pub struct Pipeline<S: Source> {
    link: Link<S>,
    pace: Pace,
    /// This process has followed the log, or waited to take over from another one.
    admitted: bool,
    reader: Reader,
    core: Core,
    /// In the order of the targets.
    workers: Vec<WorkerHandle>,
    /// For each target, where its worker waits for the answer to the record that it has loaded.
    answers: Vec<Option<oneshot::Sender<Answer>>>,
    reports: mpsc::Receiver<Report>,
    watched: mpsc::Receiver<Watched>,
    /// The walsender whose stream this process attests; `None` means no stream.
    attest: watch::Sender<Option<u32>>,
    probes: Probes,
    settings: Settings,
    observer: Observer,
    /// Empty between turns; kept for its memory.
    outputs: Vec<Output>,
}

impl<S: Source + 'static> Pipeline<S> {
    /// `targets` are in the order of the numbers that rules name, and report to `reports`. The watcher of the server
    /// sends its observations to `watched` and attests the stream that `attest` names. The tasks behind `probes` ask
    /// the source and its replicas.
    pub fn new(
        source: S,
        rules: Vec<Rule>,
        (targets, reports): (Vec<WorkerHandle>, mpsc::Receiver<Report>),
        (watched, attest): (mpsc::Receiver<Watched>, watch::Sender<Option<u32>>),
        (probes, replicas): (Probes, Replicas),
        settings: Settings,
        observer: Observer,
    ) -> Self {
        let now = Instant::now().into_std();
        Pipeline {
            link: Link::open(source, Slot::Keep),
            pace: Pace::new(settings.policy.decoding_timeout),
            admitted: settings.is_resumed,
            reader: Reader::new(rules.clone(), settings.transaction_keys_max).with_manual(settings.manual_keys),
            core: Core::new(targets.len(), rules, &observer.slot(), settings.policy, replicas, now)
                .with_early(targets.iter().map(WorkerHandle::takes_early)),
            answers: targets.iter().map(|_| None).collect(),
            workers: targets,
            reports,
            watched,
            attest,
            probes,
            settings,
            observer: observer.with_limits(&settings),
            outputs: Vec::new(),
        }
    }

    /// Sets which tables inherit from the rules' tables, according to the last look at the catalogue.
    #[must_use]
    pub fn with_heirs(self, heirs: Heirs) -> Self {
        Pipeline { reader: self.reader.with_heirs(heirs), ..self }
    }

    /// Runs until `shutdown` is done, then drains.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Stopped> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let intake = if self.core.has_room() { Intake::Open } else { Intake::Closed };
            let next_turn = Instant::from_std(self.core.turn_due(Instant::now().into_std()));
            let event = tokio::select! {
                biased;
                () = &mut shutdown => Event::Shutdown,
                // Reports come before the stream: they make room for what it brings.
                Some(report) = self.reports.recv() => Event::Report(report),
                Some(watched) = self.watched.recv() => Event::Watched(watched),
                Some(probed) = self.probes.probed.recv() => Event::Probed(probed),
                event = self.link.turned(intake) => event,
                () = tokio::time::sleep_until(next_turn) => Event::Tick,
            };
            match event {
                Event::Shutdown => return self.drain().await,
                Event::Report(report) => self.reported(report)?,
                Event::Watched(watched) => self.watched(watched)?,
                Event::Probed(probed) => self.probed(probed)?,
                Event::Opened(source, _, Ok(opened)) => self.opened(source, opened)?,
                Event::Opened(source, slot, Err(error)) => self.rest(source, slot, error)?,
                Event::Rested => self.link.reopen(),
                Event::Ready(Ok(())) | Event::Tick => {}
                Event::Ready(Err(error)) => self.lost(error)?,
            }
            if self.decode()? {
                // What leaves early is on its way before anything else is done about it.
                others_first().await;
            }
            self.turn()?;
        }
    }

    /// Turns the loop once: reads what has arrived, as far as there is room. Returns whether something has left early.
    fn decode(&mut self) -> Result<bool, Stopped> {
        self.step(Input::Turned)?;
        if let Err(error) = self.read() {
            self.lost(error)?;
        }
        self.core.step(Instant::now().into_std(), Input::Decoded(self.is_behind()));
        self.perform()
    }

    fn is_behind(&self) -> bool {
        matches!(&self.link, Link::Streaming { stream, .. } if stream.is_behind())
    }

    /// Lets the core move everything on.
    fn turn(&mut self) -> Result<(), Stopped> {
        if let Some(target) = self.workers.iter().position(WorkerHandle::has_ended) {
            return Err(Stopped::Broken(self.observer.targets.worker_ended(target)));
        }
        self.step(Input::Read(self.is_behind()))?;
        self.observer.turned(&mut self.reader, &self.core);
        Ok(())
    }

    /// Passes an event to the core and carries out its outputs.
    fn step(&mut self, input: Input<'_>) -> Result<(), Stopped> {
        self.core.step(Instant::now().into_std(), input);
        self.perform().map(drop)
    }

    /// Reads the frames that have arrived, as long as there is room.
    fn read(&mut self) -> Result<(), SourceError> {
        let Pipeline { link: Link::Streaming { stream, .. }, reader, core, observer, .. } = self else {
            return Ok(());
        };
        while core.has_room() {
            match stream.next()? {
                None => break,
                // Inside a transaction the position proves nothing: the commit has not arrived yet.
                Some(Frame::Position(position)) if reader.is_open() => observer.source.heard(position),
                Some(Frame::Position(position)) => {
                    observer.source.heard(position);
                    core.idle(position);
                }
                Some(Frame::Data(bytes)) => {
                    let message = pgoutput::decode(bytes).map_err(|error| SourceError::protocol(error.to_string()))?;
                    read_message(message, reader, core, observer)?;
                }
            }
        }
        Ok(())
    }

    fn opened(&mut self, source: S, opened: Opened<S::Stream>) -> Result<(), Stopped> {
        let Opened { stream, system, origin, start } = opened;
        let opening = Opening { system, slot: origin, start, walsender: stream.walsender() };
        self.pace.it_worked();
        self.admitted = true;
        self.link = Link::Streaming { source, stream };
        self.step(Input::StreamOpened(opening, clock_us()))
    }

    /// Rests after the stream broke, before opening it again. What was gathered and sent stays; Postgres sends a
    /// half-read transaction again.
    fn lost(&mut self, error: SourceError) -> Result<(), Stopped> {
        let Some(source) = self.link.take_source() else { return Ok(()) };
        let error = self.failed_for_good(error);
        self.rest(source, Slot::Keep, error)
    }

    /// Forgets the stream: the reader starts over, the probes stop, and the core learns that it is closed.
    fn let_go(&mut self) -> Result<(), Stopped> {
        self.reader.start_over();
        self.probes.closed();
        self.step(Input::StreamClosed)
    }

    fn rest(&mut self, source: S, slot: Slot, error: SourceError) -> Result<(), Stopped> {
        self.let_go()?;
        let is_first = match error.kind() {
            ErrorKind::Synchronous => !self.admitted,
            _ => !self.core.is_following() && !self.settings.is_resumed,
        };
        if error.policy().needs_person && is_first {
            return Err(Stopped::Refused(error.to_string()));
        }
        // A gap is in the slot itself, so only a new slot gets past it.
        let slot = match error.kind() {
            ErrorKind::Gap => {
                self.step(Input::SlotLost(&error.to_string()))?;
                Slot::Renew
            }
            ErrorKind::Busy => {
                self.step(Input::SlotBusy)?;
                self.admitted = true;
                // If a new slot was due, the instance that streams has created it.
                Slot::Keep
            }
            ErrorKind::Lost
            | ErrorKind::Refused
            | ErrorKind::Pooler
            | ErrorKind::Synchronous
            | ErrorKind::Protocol
            | ErrorKind::NotDecodable { .. } => slot,
        };
        let pause = self.pace.rest_after(&error);
        self.observer.source.away(&error, pause);
        self.link = Link::Resting { source, until: Instant::now() + pause, slot };
        Ok(())
    }
}

fn read_message(
    message: Message<'_>,
    reader: &mut Reader,
    core: &mut Core,
    observer: &mut Observer,
) -> Result<(), SourceError> {
    if let Message::Begin { final_lsn, commit_time, xid } = message {
        core.begun(Commit { xid, at: final_lsn }, commit_time);
    }
    match reader.read(message, core) {
        Ok(Step::Within) => {}
        Ok(Step::Committed { end, commit_time, made }) => {
            if core.commit_invalidates() {
                observer.commits.read(end, commit_time, made);
            }
            core.committed(end.end());
        }
        Ok(Step::Flushed(table)) => core.flushed_manually(&table),
        Ok(Step::Awaited(at)) => core.awaited(at),
        Ok(Step::Unreadable(unreadable)) => observer.manual.unreadable(&unreadable),
        Err(error) => return Err(SourceError::protocol(error.to_string())),
    }
    Ok(())
}

/// Lets every task that is ready run once. Unlike tokio's own yield, it does not look for IO first.
async fn others_first() {
    let mut is_second = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut is_second, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Microseconds since 1970.
fn clock_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}
