//! What goes into the core besides rows, and what comes out.

use std::time::Duration;

use super::continuity::{Anew, Gap, Overspent, SlotOrigin, Writer};
use super::{Absent, AckLsn, Ticket};
use crate::pgoutput::PgTime;
use crate::types::invalidation::{Batch, RuleId};
use crate::types::lsn::Lsn;
use crate::types::observation::Observation;
use crate::types::record::{Answer, Delivery, StoredRecord};
use crate::types::server::System;
use crate::types::snapshot::{ReplicaSeen, Snapshot};

/// What the server reported when the stream was opened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Opening {
    /// The server.
    pub system: System,
    /// How this process got the slot.
    pub slot: SlotOrigin,
    /// Everything up to here is acknowledged.
    pub start: Lsn,
    /// The pid of the walsender that sends the stream.
    pub walsender: u32,
}

/// An event. Rows come in through [`Gather`](crate::transaction::Gather).
#[derive(Debug)]
pub enum Input<'a> {
    /// The stream is open. The number is the microseconds since 1970 from which sequences are assigned; it is greater
    /// than any sequence that another process has assigned.
    StreamOpened(Opening, u64),
    /// The stream is closed, whether or not the core asked for that.
    StreamClosed,
    /// Another instance has the slot.
    SlotBusy,
    /// The slot has lost part of the log, so only a new slot can continue. The text says why.
    SlotLost(&'a str),
    /// What new snapshots on the source see; the probe was sent for the stream of this walsender.
    Snapshot(u32, Snapshot),
    /// A replica has answered.
    ReplicaReported(usize, ReplicaSeen),
    /// A look at the source. The tables of these rules have other children than before.
    Observed(&'a Observation, &'a [RuleId]),
    /// The server cannot be observed, and the connection that holds the attestation is lost.
    Unobserved,
    /// `coherd.wait()` sees from now on that this process attests the stream of this walsender, or no stream.
    Attested(Option<u32>),
    /// A target's stored record was read.
    RecordLoaded(usize, StoredRecord),
    /// A target has confirmed a delivery.
    Confirmed(usize, Ticket, Delivery),
    /// A target has flushed the scopes of a batch.
    Flushed(usize, Ticket, Batch),
    /// A target failed. `true`: it may have lost what it was sent.
    Trouble(usize, bool),
    /// A target answers.
    Up(usize),
    /// The loop turns. Whatever depends on time alone happens here.
    Turned,
    /// Frames were read; more may follow. `true`: there is a backlog.
    Decoded(bool),
    /// Everything that the stream had was read. `true`: there is a backlog.
    Read(bool),
    /// Reading has ended: the core sends what is gathered, and the last records.
    Drain,
}

/// Something that the runtime has to do.
#[derive(Debug, Clone)]
pub enum Output {
    /// Ask the source what its new snapshots show.
    Probe,
    /// Send a delivery to a target. Its worker has room: at most [`WINDOW_DELIVERIES`](super::WINDOW_DELIVERIES) are
    /// in flight.
    Send {
        /// Which target.
        target: usize,
        /// Is returned with the confirmation.
        ticket: Ticket,
        /// What to send.
        delivery: Delivery,
    },
    /// Invalidate keys on a target ahead of the delivery that counts: at most once, and whatever becomes of it.
    Early {
        /// Which target.
        target: usize,
        /// Contains only keys.
        batch: Batch,
    },
    /// Flush the scopes of a batch from a target, in parallel to its deliveries. No other flush of this target is in
    /// flight.
    Flush {
        /// Which target.
        target: usize,
        /// Is returned with the confirmation.
        ticket: Ticket,
        /// Contains only scopes.
        batch: Batch,
    },
    /// Read a target's stored record. Until then, nothing more is sent to the target.
    LoadRecord(usize),
    /// A target's record was reconciled; this tells the worker what to do with the deliveries in flight.
    Reconciled(usize, Answer),
    /// A target's record cannot be reconciled now: load it again later.
    LoadAgain(usize),
    /// Acknowledge this position to the source, so that it may remove the log up to it.
    Acknowledge(AckLsn),
    /// Let `coherd.wait()` see that this process attests the stream of this walsender, or no stream.
    Attest(Option<u32>),
    /// Ask the replicas how far they are; they have to replay this position.
    PollReplicas(Lsn),
    /// Close the stream and open it again.
    Reopen(Reopen),
    /// Close the stream until [`Output::Unpark`]: no target has room for what it would send.
    Park,
    /// Open a parked stream again.
    Unpark,
    /// Report an event.
    Event(Event),
}

/// Why the stream is reopened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reopen {
    /// This process stood still for this long (SIGSTOP, a paused machine), and another instance may be active.
    StoodStill(Duration),
    /// The attestation of this stream must be withdrawn, and the connection that holds it is lost. A new stream has
    /// another walsender, for which the attestation does not hold.
    CannotTakeBack,
    /// The standby that coherd follows was promoted.
    Promoted,
    /// Another instance has written the record of this target.
    Overtaken(usize),
    /// Writers wait for the stream. The text says why.
    Synchronous(String),
}

/// Something to log, count, or show as status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// First start: the contents of the target are trusted.
    FirstStart(usize),
    /// The target may have missed something.
    Gap(usize, Why),
    /// Scopes of the target are flushed.
    Flushing(usize, Why),
    /// The target gets again, from memory, what it lost.
    Resent(usize, Gap),
    /// Nothing more is sent to the target until a person decides.
    Halted(usize, Why),
    /// Every table of the target's rules was flushed manually, so the target continues.
    Released(usize),
    /// The slot goes on without the target.
    Suspended(usize, Why),
    /// A suspended target is served again.
    Resumed(usize),
    /// Another coherd writes the target's record, for the database of that writer; this one follows this system
    /// identifier.
    RecordTaken(usize, Writer, u64),
    /// No other coherd writes the target's record.
    RecordFree(usize),
    /// More keys waited for the target than allowed; the scopes of these rules replaced them.
    Overflowed(usize, Vec<RuleId>),
    /// This many manual keys were lost with a suspended target.
    ManualLost(u64),
    /// Changes that concern the rule may be missing from the stream, or the rule cannot be kept as configured. The
    /// text says why, and gives the SQL that fixes it.
    Uncovered(RuleId, String),
    /// The rule is covered again.
    Covered(RuleId),
    /// A target has confirmed a delivery for the first time; the time of the oldest commit in it.
    Applied(Option<PgTime>),
    /// Nothing that this process knows is valid any more.
    Anew(Anew),
    /// The stream is open. `true`: it failed before, and has not passed that position yet.
    Streaming(Opening, bool),
    /// The stream has passed the position where it failed.
    StreamsOn,
    /// The replica is no longer held: what it has not replayed settles without it.
    ReplicaLeft(usize, Absent),
    /// The replica is waited for again.
    ReplicaReturned(usize),
    /// Whether readers may rely on the replica, judged by its answers.
    ReplicaHeld(usize, bool),
}

/// Why a target is flushed, halted or suspended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// `on_first_start: flush`.
    FirstStart,
    /// Its record shows a gap. If the slot was lost, the text says why.
    Gap(Gap, Option<String>),
    /// Its record does not list these rules.
    NotListed(Vec<RuleId>),
    /// Changes of the rule's table are missing from the stream, all or some of them.
    Uncovered(RuleId),
    /// The way in which the publication holds the rule's table has changed.
    Republished(RuleId),
    /// The set of tables that inherit from the rule's table has changed.
    Reinherited(RuleId),
    /// A replica has returned that was not waited for.
    ReplicaReturned,
    /// The slot holds back too much log; the end of the log.
    Overspent(Lsn, Overspent),
}

impl Why {
    /// The metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            Why::FirstStart => "first_start",
            Why::Gap(gap, _) => gap.reason(),
            Why::NotListed(_) | Why::Uncovered(_) | Why::Republished(_) | Why::Reinherited(_) => "publication_changed",
            Why::ReplicaReturned => "replica_returned",
            Why::Overspent(..) => "wal_budget",
        }
    }
}
