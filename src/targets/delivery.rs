//! The worker that sends deliveries to one target of any kind: order, window, retries, confirmations. [`Shipment`]s and
//! flushes go in, [`Report`]s come out.
//!
//! The worker starts deliveries in order and may have several in flight, so a target must carry them out in the order
//! in which their futures are first polled. A delivery with scopes is alone in flight. As a rule, deliveries have no
//! scopes, and one flush of scopes runs beside them. After a failure, the worker sends everything that is not confirmed
//! again, in order, and one by one until something is confirmed. If the target may have changed, or is to be reconciled
//! again, the worker loads its record first.
//!
//! Invariant: a delivery is confirmed by the target, or it is still in `unconfirmed`, or the worker has ended and
//! nothing after it is confirmed either.

mod handle;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::{Delivered, Delivery, Fault, FaultKind, Pending, StoredRecord, Target};
use crate::backoff::Backoff;
use crate::core::{Ticket, WINDOW_DELIVERIES};
use crate::types::invalidation::Batch;
use crate::types::record::Answer;
pub use handle::WorkerHandle;
use handle::{Ahead, EarlyWay};

/// Backoff after a fault that passes by itself.
const BRIEF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(2));

/// Backoff after a fault that somebody has to fix.
const SLOW: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// A delivery on its way to the worker.
#[derive(Debug)]
pub struct Shipment {
    /// Returned with the confirmation.
    pub ticket: Ticket,
    /// What to send.
    pub delivery: Delivery,
}

/// What a worker reports.
#[derive(Debug)]
pub enum Report {
    /// The worker has reached the target, for the first time or again, and has loaded its record. It sends nothing
    /// before the answer, which corrects the records of deliveries that are not confirmed. If the answer is dropped,
    /// the worker loads the record again.
    RecordLoaded {
        /// The target's index.
        target: usize,
        /// Its stored record.
        stored: StoredRecord,
        /// Where the answer goes.
        answer: oneshot::Sender<Answer>,
    },
    /// The target confirmed all of the delivery, its record included.
    Confirmed {
        /// The target's index.
        target: usize,
        /// The ticket it came with.
        ticket: Ticket,
        /// Returned for reuse, with its batch as it was sent.
        delivery: Delivery,
        /// What the target did.
        delivered: Delivered,
    },
    /// An early invalidation has replaced other values at version pointers. Nothing else is reported of early
    /// invalidations: what they hit counts with the next delivery.
    Early {
        /// The target's index.
        target: usize,
        /// What was sent early.
        batch: Batch,
        /// What the target did.
        delivered: Delivered,
    },
    /// The target has flushed every scope of the batch.
    Flushed {
        /// The target's index.
        target: usize,
        /// The ticket it came with.
        ticket: Ticket,
        /// The batch as it was sent.
        batch: Batch,
        /// What the target did.
        delivered: Delivered,
    },
    /// An attempt failed; the next one follows by itself.
    Trouble {
        /// The target's index.
        target: usize,
        /// Why.
        fault: Fault,
        /// Failures in a row, this one included.
        attempts: u32,
    },
    /// The target works: for the first time, or again after trouble.
    Up {
        /// The target's index.
        target: usize,
    },
}

/// Starts the worker of target `index`. It loads the record at once, and works until the handle or the reports'
/// receiver is dropped. Needs a tokio runtime.
pub fn spawn(index: usize, target: Arc<dyn Target>, reports: mpsc::Sender<Report>) -> WorkerHandle {
    let (sender, inbox) = mpsc::channel(WINDOW_DELIVERIES);
    let (flush_sender, flushes) = mpsc::channel(1);
    let (unconfirmed, load) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
    let ahead = Arc::<Ahead>::default();
    let early = EarlyWay { index, target: Arc::clone(&target), reports: reports.clone(), ahead: Arc::clone(&ahead) };
    let worker = Worker {
        index,
        target,
        reports,
        inbox,
        flushes,
        flush: None,
        ahead,
        load: Arc::clone(&load),
        count: Arc::clone(&unconfirmed),
        unconfirmed: VecDeque::with_capacity(WINDOW_DELIVERIES),
        standing: Standing::Down,
        is_known_up: false,
        load_due: true,
        attempts: 0,
        brief: BRIEF,
        slow: SLOW,
    };
    tokio::spawn(async move {
        let ControlFlow::Break(Ended) = worker.run().await;
    });
    WorkerHandle { inbox: sender, flushes: flush_sender, early, load, unconfirmed }
}

/// The handle or the reports' receiver was dropped.
struct Ended;

type Step<T> = ControlFlow<Ended, T>;

/// What the worker knows about the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing has been confirmed since the start or the last fault: one delivery at a time.
    Down,
    /// Deliveries may fill the window.
    Up,
}

struct Unconfirmed {
    ticket: Ticket,
    delivery: Arc<Delivery>,
    flight: Option<Pending<'static, Result<Delivered, Fault>>>,
}

/// A flush that is not confirmed.
struct Flush {
    ticket: Ticket,
    batch: Arc<Batch>,
    flight: Option<Pending<'static, Result<Delivered, Fault>>>,
    /// The flush is not tried again before this time.
    wait_until: Instant,
    /// Backoff of its own: a delivery that is confirmed meanwhile says nothing about the flush.
    brief: Backoff,
    slow: Backoff,
    attempts: u32,
}

struct Worker {
    index: usize,
    target: Arc<dyn Target>,
    reports: mpsc::Sender<Report>,
    inbox: mpsc::Receiver<Shipment>,
    flushes: mpsc::Receiver<(Ticket, Batch)>,
    flush: Option<Flush>,
    ahead: Arc<Ahead>,
    load: Arc<Notify>,
    count: Arc<AtomicUsize>,
    /// Oldest first; at most [`WINDOW_DELIVERIES`], which the handle enforces.
    unconfirmed: VecDeque<Unconfirmed>,
    standing: Standing,
    /// [`Report::Up`] was sent, and nothing has put it in doubt since.
    is_known_up: bool,
    load_due: bool,
    attempts: u32,
    brief: Backoff,
    slow: Backoff,
}

impl Flush {
    fn new(ticket: Ticket, batch: Batch) -> Flush {
        let (brief, slow) = (BRIEF, SLOW);
        let batch = Arc::new(batch);
        Flush { ticket, batch, flight: None, wait_until: Instant::now(), brief, slow, attempts: 0 }
    }
}

impl Worker {
    async fn run(mut self) -> ControlFlow<Ended, std::convert::Infallible> {
        loop {
            if self.load_due {
                self.reload_record().await?;
                continue;
            }
            self.launch();
            self.launch_flush();
            let Worker { unconfirmed, inbox, flushes, flush, reports, load, .. } = &mut self;
            let may_flush = flush.is_none();
            tokio::select! {
                biased;
                () = load.notified() => self.ground(),
                (index, outcome) = poll_fn(|context| landing(unconfirmed, context)) => match outcome {
                    Ok(delivered) => self.confirm(index, delivered).await?,
                    Err(fault) => self.fail(fault).await?,
                },
                shipment = inbox.recv() => self.take(shipment)?,
                Some((ticket, batch)) = flushes.recv(), if may_flush => {
                    self.flush = Some(Flush::new(ticket, batch));
                }
                outcome = flushed(flush) => match outcome {
                    None => {}
                    Some(Ok(delivered)) => self.confirm_flush(delivered).await?,
                    Some(Err(fault)) => self.fail_flush(fault).await?,
                },
                () = reports.closed() => return ControlFlow::Break(Ended),
            }
        }
    }

    fn take(&mut self, shipment: Option<Shipment>) -> Step<()> {
        let Some(Shipment { ticket, delivery }) = shipment else {
            return ControlFlow::Break(Ended);
        };
        self.unconfirmed.push_back(Unconfirmed { ticket, delivery: Arc::new(delivery), flight: None });
        ControlFlow::Continue(())
    }

    /// Starts the deliveries that may be in flight and are not.
    fn launch(&mut self) {
        let window = match self.standing {
            Standing::Up => WINDOW_DELIVERIES,
            Standing::Down => 1,
        };
        let mut alone = false;
        for (index, next) in self.unconfirmed.iter_mut().enumerate().take(window) {
            let barrier = !next.delivery.batch.scopes().is_empty();
            if alone || (barrier && index > 0) {
                break;
            }
            alone = barrier;
            if next.flight.is_none() {
                let (target, delivery) = (Arc::clone(&self.target), Arc::clone(&next.delivery));
                next.flight = Some(Box::pin(async move { target.deliver(&delivery).await }));
            }
        }
    }

    /// Starts the flush, if there is one that may start.
    fn launch_flush(&mut self) {
        if let Some(flush) =
            self.flush.as_mut().filter(|flush| flush.flight.is_none() && flush.wait_until <= Instant::now())
        {
            let (target, batch) = (Arc::clone(&self.target), Arc::clone(&flush.batch));
            flush.flight = Some(Box::pin(async move { target.flush(&batch).await }));
        }
    }

    async fn confirm_flush(&mut self, delivered: Delivered) -> Step<()> {
        let Some(Flush { ticket, batch, flight, .. }) = self.flush.take() else { return ControlFlow::Continue(()) };
        // The flight shares the batch, and `try_unwrap` needs the last reference.
        drop(flight);
        let batch = Arc::try_unwrap(batch).unwrap_or_default();
        self.report(Report::Flushed { target: self.index, ticket, batch, delivered }).await?;
        self.up().await
    }

    /// Deliveries continue, unless the target may have changed.
    async fn fail_flush(&mut self, fault: Fault) -> Step<()> {
        if may_have_changed(fault.kind) {
            return self.fail(fault).await;
        }
        let Some(flush) = &mut self.flush else { return ControlFlow::Continue(()) };
        let backoff = if fault.kind.passes_by_itself() { &mut flush.brief } else { &mut flush.slow };
        (flush.flight, flush.wait_until) = (None, Instant::now() + backoff.next(fastrand::u32(..)));
        flush.attempts = flush.attempts.saturating_add(1);
        let attempts = flush.attempts;
        self.is_known_up = false;
        self.report(Report::Trouble { target: self.index, fault, attempts }).await
    }

    /// Drops every flight, so that the target's record can be loaded.
    fn ground(&mut self) {
        for unconfirmed in &mut self.unconfirmed {
            unconfirmed.flight = None;
        }
        if let Some(flush) = &mut self.flush {
            flush.flight = None;
        }
        (self.standing, self.is_known_up) = (Standing::Down, false);
        self.load_due = true;
    }

    async fn confirm(&mut self, index: usize, delivered: Delivered) -> Step<()> {
        let Some(Unconfirmed { ticket, delivery, flight }) = self.unconfirmed.remove(index) else {
            return ControlFlow::Continue(());
        };
        // The flight shares the delivery, and `try_unwrap` needs the last reference.
        drop(flight);
        let delivery = Arc::try_unwrap(delivery).unwrap_or_else(|shared| {
            debug_assert!(false, "a landed flight still holds its delivery");
            Delivery { batch: Batch::default(), record: shared.record.clone() }
        });
        self.count.fetch_sub(1, Ordering::Relaxed);
        let hit = delivered.hit + self.ahead.hit.swap(0, Ordering::Relaxed);
        let delivered = Delivered { hit, ..delivered };
        self.report(Report::Confirmed { target: self.index, ticket, delivery, delivered }).await?;
        self.up().await
    }

    async fn up(&mut self) -> Step<()> {
        self.attempts = 0;
        self.brief.reset();
        self.slow.reset();
        self.standing = Standing::Up;
        let is_flush_refused = self.flush.as_ref().is_some_and(|flush| flush.attempts > 0);
        if is_flush_refused || std::mem::replace(&mut self.is_known_up, true) {
            return ControlFlow::Continue(());
        }
        self.report(Report::Up { target: self.index }).await
    }

    /// Drops every flight, reports the fault, and waits.
    async fn fail(&mut self, fault: Fault) -> Step<()> {
        let load_due = self.load_due || may_have_changed(fault.kind);
        self.ground();
        self.load_due = load_due;
        self.attempts = self.attempts.saturating_add(1);
        let backoff = if fault.kind.passes_by_itself() { &mut self.brief } else { &mut self.slow };
        let wait = backoff.next(fastrand::u32(..));
        self.report(Report::Trouble { target: self.index, fault, attempts: self.attempts }).await?;
        self.meanwhile(tokio::time::sleep(wait)).await
    }

    /// Loads the target's record, reports it, and applies the answer.
    async fn reload_record(&mut self) -> Step<()> {
        self.was_called();
        let target = Arc::clone(&self.target);
        let stored = match self.meanwhile(async move { target.load_record().await }).await? {
            Ok(stored) => stored,
            Err(fault) => return self.fail(fault).await,
        };
        if self.was_called() {
            // The record may have been read before the call, so it is loaded once more.
            return ControlFlow::Continue(());
        }
        let (answer, verdict) = oneshot::channel();
        self.report(Report::RecordLoaded { target: self.index, stored, answer }).await?;
        let Ok(answer) = self.meanwhile(verdict).await? else {
            let wait = self.brief.next(fastrand::u32(..));
            return self.meanwhile(tokio::time::sleep(wait)).await;
        };
        // Deliveries that were sent before the answer may still be in the inbox.
        while let Ok(shipment) = self.inbox.try_recv() {
            self.take(Some(shipment))?;
        }
        for delivery in self.unconfirmed.iter_mut().filter_map(|its| Arc::get_mut(&mut its.delivery)) {
            answer.correct(&mut delivery.record);
        }
        self.load_due = false;
        // If something waits to be confirmed, its confirmation is the better sign that the target is up.
        if self.unconfirmed.is_empty() { self.up().await } else { ControlFlow::Continue(()) }
    }

    /// Whether the handle has asked for the record since the last check.
    fn was_called(&self) -> bool {
        let mut notified = pin!(self.load.notified());
        notified.as_mut().enable()
    }

    async fn report(&mut self, report: Report) -> Step<()> {
        match self.reports.send(report).await {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(Ended),
        }
    }

    /// Waits for `work`, and takes shipments meanwhile, which is also how the worker notices that the handle was
    /// dropped.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Step<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return ControlFlow::Continue(done),
                shipment = self.inbox.recv() => self.take(shipment)?,
                () = self.reports.closed() => return ControlFlow::Break(Ended),
            }
        }
    }
}

/// Whether, after this fault, the target may be another one or may have gone back in time.
pub fn may_have_changed(kind: FaultKind) -> bool {
    match kind {
        FaultKind::Connection | FaultKind::Timeout | FaultKind::ReadOnly | FaultKind::NotReady | FaultKind::Changed => {
            true
        }
        FaultKind::OutOfMemory | FaultKind::Denied | FaultKind::Rejected => false,
    }
}

/// Waits for the flush; `None` when it is time to try it again.
async fn flushed(flush: &mut Option<Flush>) -> Option<Result<Delivered, Fault>> {
    match flush {
        None => std::future::pending().await,
        Some(Flush { flight: Some(flight), .. }) => Some(flight.as_mut().await),
        Some(Flush { wait_until, .. }) => {
            tokio::time::sleep_until(*wait_until).await;
            None
        }
    }
}

/// Polls the flights, oldest first: the order of the first polls is the order on the wire.
fn landing(
    unconfirmed: &mut VecDeque<Unconfirmed>,
    context: &mut Context<'_>,
) -> Poll<(usize, Result<Delivered, Fault>)> {
    for (index, waiting) in unconfirmed.iter_mut().enumerate() {
        if let Some(flight) = &mut waiting.flight
            && let Poll::Ready(outcome) = flight.as_mut().poll(context)
        {
            return Poll::Ready((index, outcome));
        }
    }
    Poll::Pending
}

#[cfg(test)]
mod tests;
