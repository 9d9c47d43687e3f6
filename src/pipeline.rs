//! The one loop: changes in, deliveries out, acknowledgements back. It knows the traits of source and target, never
//! Postgres or Redis.

mod draining;
mod halting;
mod judging;
mod link;
mod overflow;
mod recorder;
mod reporting;
mod settings;
mod sharing;
mod sighting;
mod stuck;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::continuity::{Budget, Coverage, History, Resume, SlotOrigin, Stranger, Stuck, resume};
use crate::core::Core;
use crate::lsn::Lsn;
use crate::pgoutput::{self, Message};
use crate::rules::config::Rule;
use crate::rules::heirs::Heirs;
use crate::sight::Commit;
use crate::source::{Frame, Intake, Seen, Sighted, Source, SourceError, Stream, Watched};
use crate::target::delivery::{Lane as Worker, Report};
use crate::transaction::{Reader, Step};
use halting::Halts;
use judging::Asking;
use link::{Link, Opened, Pace, Slot};
pub use recorder::Recorder;
pub use settings::{OnFirstStart, OnGap, Settings};
use sighting::Asked;
pub use sighting::Sights;

/// How often the loop turns when nothing happens.
const TICK: Duration = Duration::from_millis(100);
/// How often the source is told what is acknowledged, unless somebody waits for it. It takes a lock for each, and now and
/// then writes the slot to its disk.
const ACKNOWLEDGE_EVERY: Duration = Duration::from_millis(2);
/// The same while there is a backlog, which comes at half the speed where this is done a hundred times a second (seen with
/// BBR on loopback).
const ACKNOWLEDGE_BEHIND_EVERY: Duration = Duration::from_millis(50);
/// How long a stream is held that cannot be read, because no target has room.
const FULL_MAX: Duration = Duration::from_secs(20);
/// A loop that has not turned for so long was stopped (SIGSTOP, a paused machine), and another instance may be at work.
const STOPPED_MIN: Duration = Duration::from_secs(2);

/// Why the pipeline ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// The source will not let us in.
    #[error("{0}")]
    Refused(String),
    /// A worker has ended, which none ever should.
    #[error("{0}")]
    Broken(String),
}

/// Everything that can happen.
enum Event<S: Source> {
    Shutdown,
    Report(Report),
    Watched(Watched),
    Sighted(Sighted),
    Opened(S, Slot, Result<Opened<S::Stream>, SourceError>),
    Rested,
    Ready(Result<(), SourceError>),
    Tick,
}

/// What is known of the source since it was first opened.
struct Followed {
    seen: Seen,
    origin: SlotOrigin,
    /// The end of the log when following began. Beyond it only records of this process are to be believed.
    reached: Lsn,
    /// Looks at the server since the stream was open, when no other instance could be at work any more.
    looks: u8,
}

/// Whether SQL may see that this process vouches for the present stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vouched {
    ForNone,
    Perhaps,
    /// Perhaps, and the connection that holds it is lost.
    OutOfReach,
}

/// From source to targets and back.
pub struct Pipeline<S: Source> {
    link: Link<S>,
    pace: Pace,
    known: Option<Followed>,
    /// This process has followed the log, or waited to take over from another one.
    admitted: bool,
    /// When the loop last turned.
    turned: Instant,
    /// Since when no target has had room.
    full_since: Option<Instant>,
    reader: Reader,
    core: Core,
    /// In the order of the targets.
    workers: Vec<Worker>,
    reports: mpsc::Receiver<Report>,
    watched: mpsc::Receiver<Watched>,
    /// For which walsender's stream this process should vouch, and whether it may.
    vouch: watch::Sender<Option<u32>>,
    vouched: Vouched,
    /// When the source was told last what is acknowledged.
    acknowledged_at: Instant,
    sights: Sights,
    asked: Asked,
    coverage: Coverage,
    /// The end of the log at the last look at the server.
    log_end: Lsn,
    budget: Budget,
    stuck: Stuck,
    /// Targets that came before source and catalogue could be looked at.
    early: Vec<Asking>,
    /// For each lane, who else writes its record.
    strangers: Vec<Stranger>,
    halts: Halts,
    /// Why the slot was made anew.
    renewed_because: Option<String>,
    settings: Settings,
    recorder: Recorder,
}

impl<S: Source + 'static> Pipeline<S> {
    /// `targets` are in the order of the lanes that rules name, and report to `reports`. Whoever watches the server sends
    /// what it shows to `watched`, and sees to it that this process vouches for what `vouch` says. Others ask what readers
    /// see, as `sights` has it.
    pub fn new(
        source: S,
        rules: Vec<Rule>,
        (targets, reports): (Vec<Worker>, mpsc::Receiver<Report>),
        (watched, vouch): (mpsc::Receiver<Watched>, watch::Sender<Option<u32>>),
        sights: Sights,
        settings: Settings,
        recorder: Recorder,
    ) -> Self {
        let halts = Halts::new(&rules);
        Pipeline {
            link: Link::open(source, Slot::Keep),
            pace: Pace::new(settings.decoding_timeout),
            known: None,
            admitted: settings.is_resumed,
            turned: Instant::now(),
            full_since: None,
            strangers: targets.iter().map(|_| Stranger::default()).collect(),
            core: Core::new(targets.len(), &rules, settings.limits(), Instant::now().into_std(), clock_us()),
            workers: targets,
            watched,
            vouch,
            vouched: Vouched::ForNone,
            acknowledged_at: Instant::now(),
            sights,
            asked: Asked::new(),
            coverage: Coverage::new(rules.clone()),
            log_end: Lsn::ZERO,
            budget: Budget::new(settings.wal_budget),
            stuck: Stuck::new(settings.decoding_timeout),
            reader: Reader::new(rules, settings.transaction_keys_max).with_manual(settings.manual_keys),
            reports,
            early: Vec::new(),
            halts,
            renewed_because: None,
            settings,
            recorder,
        }
    }

    /// Which tables inherit from those of rules, as the catalogue had it last.
    #[must_use]
    pub fn with_heirs(self, heirs: Heirs) -> Self {
        Pipeline { reader: self.reader.with_heirs(heirs), ..self }
    }

    /// Runs until `shutdown` is done, then drains.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Stopped> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let intake = if self.core.has_room() { Intake::Open } else { Intake::Closed };
            let next_turn = self.next_turn(Instant::now());
            let event = tokio::select! {
                biased;
                () = &mut shutdown => Event::Shutdown,
                // Room is made before more is taken in.
                Some(report) = self.reports.recv() => Event::Report(report),
                Some(watched) = self.watched.recv() => Event::Watched(watched),
                Some(sighted) = self.sights.sighted.recv() => Event::Sighted(sighted),
                event = self.link.turned(intake) => event,
                () = tokio::time::sleep_until(next_turn) => Event::Tick,
            };
            match event {
                Event::Shutdown => return self.drain().await,
                Event::Report(report) => self.reported(report)?,
                Event::Watched(watched) => self.watched(watched)?,
                Event::Sighted(sighted) => self.sighted(sighted)?,
                Event::Opened(source, _, Ok(opened)) => self.opened(source, opened),
                Event::Opened(source, slot, Err(error)) => self.rest(source, slot, error)?,
                Event::Rested => self.link.reopen(),
                Event::Ready(Ok(())) | Event::Tick => {}
                Event::Ready(Err(error)) => self.lost(error)?,
            }
            self.turn()?;
        }
    }

    /// Moves everything on by as much as there is room for.
    fn turn(&mut self) -> Result<(), Stopped> {
        let stood_still = std::mem::replace(&mut self.turned, Instant::now()).elapsed();
        if stood_still >= STOPPED_MIN && matches!(self.link, Link::Streaming { .. }) {
            self.lost(SourceError::Lost(format!("this process stood still for {} s", stood_still.as_secs())))?;
            self.core.unverify();
        }
        let is_streaming = matches!(self.link, Link::Streaming { .. });
        if is_streaming && self.vouched == Vouched::OutOfReach && self.core.is_ahead_of_settled() {
            // The server may take long to notice that the connection which holds it is gone. It is for one walsender.
            self.lost(SourceError::Lost("the stream is opened anew, because nobody may vouch for it any more".into()))?;
        }
        self.park_or_unpark();
        if let Err(error) = self.read() {
            self.lost(error)?;
        }
        self.got_past_failure();
        self.other_histories();
        self.release()?;
        if let Some(lane) = self.workers.iter().position(Worker::has_ended) {
            return Err(Stopped::Broken(self.recorder.worker_ended(lane)));
        }
        self.core.bound();
        let now = Instant::now();
        self.pass(now);
        if self.core.take_rules_due() {
            self.vouch();
        }
        self.core.send(now.into_std());
        self.perform();
        self.acknowledge(false);
        while let Some(lane) = self.core.take_resumed() {
            self.recorder.taken_back(lane);
        }
        match self.core.take_manual_lost() {
            0 => {}
            lost => self.recorder.lost_by_hand(lost),
        }
        self.tell_overflows();
        self.recorder.turned(&mut self.reader, &self.core);
        Ok(())
    }

    /// A stream that nobody reads keeps its walsender, and Postgres does not shut down before a walsender has sent
    /// everything. So when no target has had room for long, the stream is let go; the slot keeps its place.
    fn park_or_unpark(&mut self) {
        if self.core.has_room() {
            self.full_since = None;
        } else {
            self.full_since.get_or_insert_with(Instant::now);
        }
        match (&self.link, self.full_since) {
            (Link::Parked { .. }, None) => self.link.reopen(),
            (Link::Streaming { .. }, Some(since)) if since.elapsed() >= FULL_MAX => {
                self.let_go();
                self.link.park();
                self.recorder.parked();
            }
            _ => {}
        }
    }

    /// Reads the frames that are here, while there is room.
    fn read(&mut self) -> Result<(), SourceError> {
        let Pipeline { link: Link::Streaming { stream, .. }, reader, core, recorder, .. } = self else {
            return Ok(());
        };
        while core.has_room() {
            match stream.next()? {
                None => break,
                // Inside a transaction the position says nothing: its commit is still to come.
                Some(Frame::Position(position)) if reader.is_open() => recorder.heard(position),
                Some(Frame::Position(position)) => {
                    recorder.heard(position);
                    core.idle(position);
                }
                Some(Frame::Data(bytes)) => {
                    let message = pgoutput::decode(bytes).map_err(|error| SourceError::Protocol(error.to_string()))?;
                    read_message(message, reader, core, recorder)?;
                }
            }
        }
        Ok(())
    }

    /// Who waits in SQL takes what is acknowledged for settled, as long as this process vouches for it. So where it is
    /// not, that is taken back first.
    fn acknowledge(&mut self, at_once: bool) {
        let is_ahead = self.core.is_ahead_of_settled();
        let Link::Streaming { stream, .. } = &mut self.link else {
            self.vouch.send_if_modified(|before| before.take().is_some());
            return;
        };
        let wanted = (!is_ahead).then(|| stream.walsender());
        if wanted.is_some() && self.vouched == Vouched::ForNone {
            // As soon as it is asked for, it may be seen.
            self.vouched = Vouched::Perhaps;
        }
        self.vouch.send_if_modified(|before| std::mem::replace(before, wanted) != wanted);
        let pace = if stream.is_behind() { ACKNOWLEDGE_BEHIND_EVERY } else { ACKNOWLEDGE_EVERY };
        if (!is_ahead || self.vouched == Vouched::ForNone)
            && (at_once || self.core.is_awaited() || self.acknowledged_at.elapsed() >= pace)
            && let Some(position) = self.core.acknowledge()
        {
            stream.acknowledge(position);
            self.acknowledged_at = Instant::now();
        }
    }

    fn opened(&mut self, source: S, opened: Opened<S::Stream>) {
        let Opened { mut stream, seen, origin, start } = opened;
        if let SlotOrigin::Found { .. } = origin {
            self.renewed_because = None;
        }
        let (mut origin, mut reached, mut looks) = (origin, seen.wal_end, 0);
        match self.known.take().map(|before| (self.resume(&before, &seen, origin), before)) {
            None => self.begin(start, &seen),
            Some((Resume::Anew(why), _)) => {
                self.recorder.anew(why);
                self.begin(start, &seen);
            }
            Some((how, before)) => {
                // A slot that this process created stays one: targets that have not been asked yet must still be told.
                if before.origin == SlotOrigin::CreatedHere {
                    origin = before.origin;
                }
                (reached, looks) = (before.reached, before.looks);
                if let Resume::Forked(at) = how {
                    // Targets that were sent anything of what is gone say so themselves: their records are beyond.
                    self.core.fork(at, seen.timeline);
                    self.log_end = seen.wal_end;
                    self.core.unverify();
                }
            }
        }
        self.core.opened(start);
        self.core.load_records();
        self.sights.opened(&seen, stream.walsender());
        self.asked = Asked::new();
        self.replicas_turned();
        // Whatever is held is for another walsender.
        self.vouched = Vouched::ForNone;
        stream.acknowledge(self.core.acknowledged_at(start));
        self.pace.it_worked();
        self.admitted = true;
        self.recorder.streaming(&seen, start, self.stuck.is_failing());
        self.known = Some(Followed { seen, origin, reached, looks });
        self.link = Link::Streaming { source, stream };
        // What they remembered may be hours old, as for a standby that takes over; without an answer they are asked anew.
        self.early.clear();
    }

    fn resume(&self, before: &Followed, now: &Seen, origin: SlotOrigin) -> Resume {
        let core = &self.core;
        let history = |seen: &Seen, end| History {
            system_id: seen.system_id,
            timeline: seen.timeline,
            fork: seen.forks.last().map(|fork| fork.at),
            end,
        };
        let (was, is) = (history(&before.seen, core.decoded()), history(now, now.wal_end));
        resume(&was, &is, origin, core.acknowledged().lsn(), &now.forks)
    }

    /// Follows another history than before, or the first one.
    fn begin(&mut self, start: Lsn, seen: &Seen) {
        self.log_end = seen.wal_end;
        self.core.begin(start, (seen.system_id, seen.timeline), clock_us());
        self.core.withhold_again(|lane| self.coverage.is_whole(|rule| rule.lanes.contains(&lane)));
    }

    /// The stream broke: rest, then open anew. What was gathered and sent stays; what was half read comes again.
    fn lost(&mut self, error: SourceError) -> Result<(), Stopped> {
        match self.link.take_source() {
            Some(source) => {
                let error = self.failed_for_good(error);
                self.rest(source, Slot::Keep, error)
            }
            None => Ok(()),
        }
    }

    /// There is no stream any more.
    fn let_go(&mut self) {
        self.reader.start_over();
        self.core.stream_closed();
        self.sights.closed();
    }

    fn rest(&mut self, source: S, slot: Slot, error: SourceError) -> Result<(), Stopped> {
        self.let_go();
        if let (SourceError::Refused(text), None, false) = (&error, &self.known, self.settings.is_resumed) {
            return Err(Stopped::Refused(text.clone()));
        }
        if let (SourceError::Synchronous(text), false) = (&error, self.admitted) {
            return Err(Stopped::Refused(text.clone()));
        }
        if let SourceError::Gap(text) = &error {
            self.renewed_because = Some(text.clone());
        }
        if let SourceError::Busy(_) = error {
            // Another instance writes the records now, and what this one knows is soon out of date.
            self.core.unverify();
            self.known = None;
            self.admitted = true;
        }
        // A gap in the stream is in the slot: only a new one gets past it.
        let slot = match error {
            SourceError::Gap(_) => Slot::Renew,
            // Whoever is at work has made it anew, where that was due.
            SourceError::Busy(_) => Slot::Keep,
            SourceError::Lost(_)
            | SourceError::Refused(_)
            | SourceError::Synchronous(_)
            | SourceError::Protocol(_)
            | SourceError::NotDecodable { .. } => slot,
        };
        let pause = self.pace.rest_after(&error);
        self.recorder.source_away(&error, pause);
        self.link = Link::Resting { source, until: Instant::now() + pause, slot };
        Ok(())
    }
}

fn read_message(
    message: Message<'_>,
    reader: &mut Reader,
    core: &mut Core,
    recorder: &mut Recorder,
) -> Result<(), SourceError> {
    if let Message::Begin { final_lsn, commit_time, xid } = message {
        core.begun(Commit { xid, at: final_lsn }, commit_time);
    }
    match reader.read(message, core) {
        Ok(Step::Within) => {}
        Ok(Step::Committed { end, commit_time, made }) => {
            if core.commit_invalidates() {
                recorder.committed(end, commit_time, made);
            }
            core.committed(end.end());
        }
        Ok(Step::Flushed(table)) => core.flushed_manually(table),
        Ok(Step::Awaited(at)) => core.awaited(at),
        Ok(Step::Unreadable(unreadable)) => recorder.unreadable(&unreadable),
        Err(error) => return Err(SourceError::Protocol(error.to_string())),
    }
    Ok(())
}

/// Microseconds since 1970.
fn clock_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}
