//! The state of the connection to the source: opening, resting between attempts, or streaming.

use std::future::Future;
use std::pin::Pin;

use tokio::time::Instant;

use super::Event;
use crate::core::continuity::SlotOrigin;
use crate::postgres::{Intake, Seen, SlotSeen, Source, SourceError, Stream};
use crate::types::lsn::Lsn;
use crate::types::server::System;

/// A stream that is ready to be read, and what the server reported when it was opened.
pub(super) struct Opened<T> {
    pub(super) stream: T,
    pub(super) system: System,
    pub(super) origin: SlotOrigin,
    /// Everything up to here is acknowledged.
    pub(super) start: Lsn,
}

/// The result of opening, and what the next attempt must do with the slot. A slot that this attempt created must not
/// count as found by the next one.
type Outcome<S> = (S, Slot, Result<Opened<<S as Source>::Stream>, SourceError>);

type Opening<S> = Pin<Box<dyn Future<Output = Outcome<S>> + Send>>;

/// The state of the connection. `Opening` and `Resting` end by themselves when they are polled.
pub(super) enum Link<S: Source> {
    Opening(Opening<S>),
    Resting {
        source: S,
        until: Instant,
        slot: Slot,
    },
    Streaming {
        source: S,
        stream: S::Stream,
    },
    /// The stream is closed until a target has room for what it would send.
    Parked {
        source: S,
    },
    /// There is no connection: one state is being replaced by another, or a drain goes on without the source.
    Nowhere,
}

impl<S: Source + 'static> Link<S> {
    /// Starts to open a stream.
    pub(super) fn open(mut source: S, slot: Slot) -> Self {
        Link::Opening(Box::pin(async move {
            let mut next = slot;
            let opened = open(&mut source, &mut next).await;
            (source, next, opened)
        }))
    }

    /// Waits for the next event of the connection. Dropping the future loses nothing.
    pub(super) async fn turned(&mut self, intake: Intake) -> Event<S> {
        match self {
            Link::Opening(opening) => {
                let (source, next, opened) = opening.await;
                // A completed future must not be polled again.
                *self = Link::Nowhere;
                Event::Opened(source, next, opened)
            }
            Link::Resting { until, .. } => {
                tokio::time::sleep_until(*until).await;
                Event::Rested
            }
            Link::Streaming { stream, .. } => Event::Ready(stream.ready(intake).await),
            Link::Parked { .. } | Link::Nowhere => std::future::pending().await,
        }
    }

    /// Takes the source out, dropping the stream if there is one.
    pub(super) fn take_source(&mut self) -> Option<S> {
        match std::mem::replace(self, Link::Nowhere) {
            Link::Resting { source, .. } | Link::Streaming { source, .. } | Link::Parked { source } => Some(source),
            Link::Opening(_) | Link::Nowhere => None,
        }
    }

    /// Closes the stream. The slot keeps the log that is not sent yet.
    pub(super) fn park(&mut self) {
        if let Some(source) = self.take_source() {
            *self = Link::Parked { source };
        }
    }

    /// Opens a link again that rests or is parked. Does nothing in another state.
    pub(super) fn reopen(&mut self) {
        match std::mem::replace(self, Link::Nowhere) {
            Link::Resting { source, slot, .. } => *self = Link::open(source, slot),
            Link::Parked { source } => *self = Link::open(source, Slot::Keep),
            other => *self = other,
        }
    }
}

/// What to do with an existing slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Follow it.
    Keep,
    /// Replace it with a new one, because changes are missing from it for good.
    Renew,
}

async fn open<S: Source>(source: &mut S, slot: &mut Slot) -> Result<Opened<S::Stream>, SourceError> {
    let Seen { system, slot: seen } = source.look().await?;
    let created = match &seen {
        SlotSeen::Usable { .. } if *slot == Slot::Keep => None,
        SlotSeen::Lost { reason } if *slot == Slot::Keep => {
            return Err(SourceError::gap(format!(
                "the slot is lost ({reason}), and with it what it had still to send"
            )));
        }
        SlotSeen::Usable { .. } | SlotSeen::Lost { .. } | SlotSeen::Missing => {
            // Set before the call, so that it holds even if the call or a later step fails.
            *slot = Slot::Renew;
            Some(source.create_slot().await?)
        }
    };
    let (stream, confirmed) = source.stream().await?;
    let (origin, start) = match created {
        Some(start) => (SlotOrigin::CreatedHere, start),
        None => (SlotOrigin::Found { confirmed }, confirmed),
    };
    Ok(Opened { stream, system, origin, start })
}
