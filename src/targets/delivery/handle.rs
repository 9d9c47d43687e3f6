//! The way to a worker, and past it for what leaves early.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Waker};

use tokio::sync::{Notify, mpsc};

use super::{Report, Shipment};
use crate::core::{Ticket, WINDOW_DELIVERIES};
use crate::targets::{Delivered, Replaced, Target};
use crate::types::invalidation::Batch;

/// The handle of a worker. Dropping it ends the worker; what is not confirmed by then stays unconfirmed.
pub struct WorkerHandle {
    pub(super) inbox: mpsc::Sender<Shipment>,
    pub(super) flushes: mpsc::Sender<(Ticket, Batch)>,
    pub(super) early: EarlyWay,
    pub(super) load: Arc<Notify>,
    pub(super) unconfirmed: Arc<AtomicUsize>,
}

/// The way for early invalidations, past the worker: they wait for nothing and are not repeated.
pub(super) struct EarlyWay {
    pub(super) index: usize,
    pub(super) target: Arc<dyn Target>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) ahead: Arc<Ahead>,
}

/// The most early invalidations in flight. Further ones are dropped: the deliveries that count follow.
const EARLY_MAX: usize = 64;

/// Early invalidations in flight, and what those before them have done.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    in_flight: AtomicUsize,
    /// Keys that existed, which the next delivery counts.
    pub(super) hit: AtomicU64,
}

impl WorkerHandle {
    /// Whether the target takes early invalidations.
    pub fn takes_early(&self) -> bool {
        self.early.target.early().is_some()
    }

    /// Sends keys ahead of the delivery that counts. They are handed to the connection before this returns.
    pub fn invalidate_early(&mut self, batch: Batch) {
        let EarlyWay { index, target, reports, ahead } = &self.early;
        if ahead.in_flight.load(Ordering::Relaxed) >= EARLY_MAX {
            return;
        }
        let (index, target, reports, ahead) = (*index, Arc::clone(target), reports.clone(), Arc::clone(ahead));
        ahead.in_flight.fetch_add(1, Ordering::Relaxed);
        let mut flight = Box::pin(async move {
            let delivered = match target.early() {
                Some(early) => early.invalidate(&batch).await,
                None => Delivered::default(),
            };
            ahead.in_flight.fetch_sub(1, Ordering::Relaxed);
            if delivered.replaced == Replaced::default() {
                ahead.hit.fetch_add(delivered.hit, Ordering::Relaxed);
            } else {
                let _ = reports.send(Report::Early { target: index, batch, delivered }).await;
            }
        });
        if flight.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            tokio::spawn(flight);
        }
    }

    /// Flushes the scopes of a batch beside the deliveries. Returns the batch if an earlier one still waits to be
    /// started, or if the worker has ended.
    pub fn flush(&mut self, ticket: Ticket, batch: Batch) -> Result<(), Box<Batch>> {
        self.flushes.try_send((ticket, batch)).map_err(|refused| Box::new(refused.into_inner().1))
    }

    /// Whether one more delivery may be sent. Only a [`Report::Confirmed`] makes room.
    pub fn has_room(&self) -> bool {
        self.unconfirmed.load(Ordering::Relaxed) < WINDOW_DELIVERIES
    }

    /// Makes the worker load the target's record again before it sends anything more.
    pub fn load_record(&self) {
        self.load.notify_one();
    }

    /// Whether the worker has ended while its handle still exists: a bug, after which nothing more is confirmed.
    pub fn has_ended(&self) -> bool {
        self.inbox.is_closed()
    }

    /// Sends a delivery. Returns it if there is no room, or if the worker has ended.
    pub fn send(&mut self, shipment: Shipment) -> Result<(), Box<Shipment>> {
        if !self.has_room() {
            return Err(Box::new(shipment));
        }
        // Counted before the worker can see the shipment, so that the worker cannot count it down first.
        self.unconfirmed.fetch_add(1, Ordering::Relaxed);
        self.inbox.try_send(shipment).map_err(|refused| {
            self.unconfirmed.fetch_sub(1, Ordering::Relaxed);
            Box::new(refused.into_inner())
        })
    }
}
