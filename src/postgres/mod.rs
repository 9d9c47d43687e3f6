//! The source: a Postgres server whose log coherd follows. The runtime calls [`Source`] and [`Stream`], and gets plain
//! values such as [`Seen`], [`Watched`] and [`Probed`].

pub mod catalog;
pub mod client;
pub mod error;
pub mod server;
pub mod probes;
mod slot;
pub mod stream;
pub mod survey;
pub mod synchronous;
pub mod watch;

use std::future::Future;

use crate::core::AckLsn;
use crate::types::lsn::Lsn;
use crate::types::observation::Observation;
use crate::types::server::System;
use crate::types::snapshot::{ReplicaSeen, Snapshot};
pub use error::{ErrorKind, SourceError};

/// A database whose log can be followed.
pub trait Source: Send {
    /// The stream that [`Source::stream`] opens.
    type Stream: Stream;

    /// Reads the state of the database and of the slot. Connects if there is no connection.
    fn look(&mut self) -> impl Future<Output = Result<Seen, SourceError>> + Send;

    /// Creates the slot and returns the position from which it will send.
    fn create_slot(&mut self) -> impl Future<Output = Result<Lsn, SourceError>> + Send;

    /// Starts streaming from the slot's confirmed position, and returns that position: another instance may have moved
    /// it since the last look. Fails with [`ErrorKind::Busy`] while another process streams from the slot.
    fn stream(&mut self) -> impl Future<Output = Result<(Self::Stream, Lsn), SourceError>> + Send;
}

/// One replication stream. While [`Stream::ready`] is polled, the stream sends status updates to the server on time,
/// whether or not anything is read.
pub trait Stream: Send {
    /// Waits until [`Stream::next`] may have a frame. With [`Intake::Closed`] it waits for ever, reads nothing, and
    /// only tells the server that it is alive. Dropping the future loses nothing.
    fn ready(&mut self, intake: Intake) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Returns the next frame, if it has already arrived.
    fn next(&mut self) -> Result<Option<Frame<'_>>, SourceError>;

    /// Tells the server that it may forget what is at or before `at`. The next poll of [`Stream::ready`] sends it.
    fn acknowledge(&mut self, at: AckLsn);

    /// Whether the stream is reading a backlog.
    fn is_behind(&self) -> bool;

    /// Process id of the walsender that sends the stream.
    fn walsender(&self) -> u32;

    /// Ends the stream in order (CopyDone), with the last acknowledgement delivered.
    fn finish(self) -> impl Future<Output = Result<(), SourceError>> + Send;
}

/// Whether the caller has room for more.
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

/// The result of one look at the source server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The server.
    pub system: System,
    /// The slot.
    pub slot: SlotSeen,
}

/// The state of the slot at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotSeen {
    /// There is no such slot.
    Missing,
    /// The slot can be streamed from, unless another process does so.
    Usable {
        /// `confirmed_flush_lsn`.
        confirmed: Lsn,
    },
    /// The slot exists, but the log it needs is gone.
    Lost {
        /// `invalidation_reason`, or the nearest thing that the version has.
        reason: String,
    },
}

/// What [`watch::watch`] reports.
#[derive(Debug)]
pub enum Watched {
    /// One look at the server.
    Seen(Observation),
    /// coherd cannot look at the server; sent once for each failed attempt. Nothing is known until the next
    /// [`Watched::Seen`].
    Away(SourceError),
    /// From now on `coherd.wait()` can see that this process attests the stream of this walsender, or (`None`) no
    /// stream.
    Attested(Option<u32>),
}

/// A question to the source about what its readers see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Question {
    /// The process that sends the stream: the answer must come from its server. `None` while there is no stream.
    pub walsender: Option<u32>,
    /// Number of the question, rising with each one. Only the last question is answered.
    pub number: u64,
}

/// What servers report about what their readers see; see [`probes`].
#[derive(Debug)]
pub enum Probed {
    /// The source's answer to a question that was put while the stream was that of `walsender`.
    Source {
        /// The process that sends the stream, on the server that answered.
        walsender: u32,
        /// What its readers see, all of it taken after the question was put.
        snapshot: Snapshot,
    },
    /// The source cannot be asked; sent once for each failed attempt. The probe retries by itself.
    SourceAway(SourceError),
    /// A replica's answer.
    Replica {
        /// Index of the replica, in the order of the configuration.
        index: usize,
        /// What it reported.
        seen: ReplicaSeen,
    },
    /// A replica cannot be asked; sent once for each failed attempt.
    ReplicaAway {
        /// Index of the replica.
        index: usize,
        /// The reason.
        error: SourceError,
    },
}
