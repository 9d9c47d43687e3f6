//! Where changes come from.

pub mod catalog;
pub mod client;
pub mod error;
pub mod server;
pub mod probes;
mod slot;
pub mod stream;
pub mod survey;
pub mod synchronous;
mod timeline;
pub mod watch;

use std::future::Future;

use crate::core::AckLsn;
use crate::core::continuity::Fork;
use crate::types::lsn::Lsn;
use crate::types::observation::Observation;
use crate::types::snapshot::{ReplicaSeen, Snapshot};
pub use error::{ErrorKind, SourceError};

/// A database whose log can be followed.
pub trait Source {
    /// What [`Source::stream`] opens.
    type Stream: Stream;

    /// What the database says of itself and of the slot. Connects where there is no connection.
    fn look(&mut self) -> impl Future<Output = Result<Seen, SourceError>>;

    /// Creates the slot and gives the position from which it will send.
    fn create_slot(&mut self) -> impl Future<Output = Result<Lsn, SourceError>>;

    /// Starts streaming from the slot's confirmed position, which it gives too: another instance may have moved it since
    /// the last look. [`ErrorKind::Busy`] while somebody else streams from it.
    fn stream(&mut self) -> impl Future<Output = Result<(Self::Stream, Lsn), SourceError>>;
}

/// One replication stream. It answers the server by itself: while [`Stream::ready`] is polled, status updates leave on
/// time, whether or not anything is read.
pub trait Stream {
    /// Waits until [`Stream::next`] may have something to give, or, with [`Intake::Closed`], for ever, reading nothing
    /// and only telling the server that it is alive. Dropping the future loses nothing.
    fn ready(&mut self, intake: Intake) -> impl Future<Output = Result<(), SourceError>>;

    /// The next frame that is already here.
    fn next(&mut self) -> Result<Option<Frame<'_>>, SourceError>;

    /// Tells the server that it may forget what is at or before `at`. Leaves with the next poll of [`Stream::ready`].
    fn acknowledge(&mut self, at: AckLsn);

    /// Whether a backlog is being read.
    fn is_behind(&self) -> bool;

    /// The process at the server that sends the stream.
    fn walsender(&self) -> u32;

    /// Ends the stream in order (CopyDone), with the last acknowledgement delivered.
    fn finish(self) -> impl Future<Output = Result<(), SourceError>>;
}

/// Whether there is room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// Read.
    Open,
    /// Read nothing: everything downstream is full.
    Closed,
}

/// One frame of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// One pgoutput message.
    Data(&'a [u8]),
    /// A keepalive: everything before the position has been sent.
    Position(Lsn),
}

/// What a look at the source showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `IDENTIFY_SYSTEM`'s `systemid`.
    pub system_id: u64,
    /// `IDENTIFY_SYSTEM`'s `timeline`.
    pub timeline: u32,
    /// `IDENTIFY_SYSTEM`'s `xlogpos`: the end of the flushed log.
    pub wal_end: Lsn,
    /// The slot.
    pub slot: SlotSeen,
    /// Where the server's log left earlier timelines (`TIMELINE_HISTORY`), oldest first; empty on timeline 1, and where
    /// the server could not say.
    pub forks: Vec<Fork>,
}

/// What a look at the slot showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotSeen {
    /// There is none.
    Missing,
    /// It can be streamed from, unless somebody else does so.
    Usable {
        /// `confirmed_flush_lsn`.
        confirmed: Lsn,
    },
    /// It exists, but the log it needs is gone.
    Lost {
        /// `invalidation_reason` or the nearest thing the version has.
        reason: String,
    },
}

/// What watching the server gives; see [`watch::watch`].
#[derive(Debug)]
pub enum Watched {
    /// A look at it.
    Seen(Observation),
    /// It cannot be looked at; sent once for each attempt that failed. Until the next [`Watched::Seen`] nothing is
    /// known.
    Away(SourceError),
    /// From now on `coherd.wait()` can see that this process attests the stream of this walsender, or for none.
    Attested(Option<u32>),
}

/// What is asked of the source.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Question {
    /// The process that sends the stream: the answer has to come from its server. `None` while there is no stream.
    pub walsender: Option<u32>,
    /// Counts the questions. Only the last one is answered.
    pub number: u64,
}

/// What servers say of what their readers see; see [`probes`].
#[derive(Debug)]
pub enum Probed {
    /// The source: an answer to a question that was put when the stream was that of `walsender`.
    Source {
        /// The process that sends the stream, at the server that was asked.
        walsender: u32,
        /// What its readers see, all of it after the question was put.
        snapshot: Snapshot,
    },
    /// The source cannot be asked; sent once for each attempt that failed. It is asked again by itself.
    SourceAway(SourceError),
    /// A replica.
    Replica {
        /// Which one, in the order of the configuration.
        index: usize,
        /// What it said.
        seen: ReplicaSeen,
    },
    /// A replica cannot be asked; sent once for each attempt that failed.
    ReplicaAway {
        /// Which one.
        index: usize,
        /// Why.
        error: SourceError,
    },
}
