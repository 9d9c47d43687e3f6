//! What goes into the core beside rows, and what comes out.

use std::time::Duration;

use super::continuity::{Anew, Fork, Gap, Overspent, SlotOrigin, Writer};
use super::{Absent, AckLsn, Ticket};
use crate::pgoutput::PgTime;
use crate::types::invalidation::{Batch, RuleId};
use crate::types::lsn::Lsn;
use crate::types::observation::Observation;
use crate::types::record::{Answer, Delivery, StoredRecord};
use crate::types::snapshot::{ReplicaSeen, Snapshot};

/// What a look at the server showed when the stream was opened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Opening {
    /// `IDENTIFY_SYSTEM`'s `systemid`.
    pub system_id: u64,
    /// `IDENTIFY_SYSTEM`'s `timeline`.
    pub timeline: u32,
    /// The end of the flushed log.
    pub wal_end: Lsn,
    /// Where the server's log left earlier timelines, oldest first.
    pub forks: Vec<Fork>,
    /// How this process came by the slot.
    pub slot: SlotOrigin,
    /// Everything up to here is acknowledged.
    pub start: Lsn,
    /// The process at the server that sends the stream.
    pub walsender: u32,
}

/// What has happened. Rows come by [`Gather`](crate::transaction::Gather).
#[derive(Debug)]
pub enum Input<'a> {
    /// The stream is open. `clock_us`: microseconds since 1970, from which sequences are given out, later than whatever
    /// another process has given out.
    StreamOpened(Opening, u64),
    /// The stream is closed, whether the core has asked for it or not.
    StreamClosed,
    /// Another instance has the slot.
    SlotBusy,
    /// The slot has lost something: only a new one goes on. The text says why.
    SlotLost(&'a str),
    /// The source says what its new snapshots show, asked over the stream of this walsender.
    Snapshot(u32, Snapshot),
    /// A replica has answered.
    ReplicaReported(usize, ReplicaSeen),
    /// The server was looked at; the tables of these rules have other children than before.
    Observed(&'a Observation, &'a [RuleId]),
    /// The server cannot be looked at, and the connection that holds the attestation is lost.
    Unobserved,
    /// `coherd.wait()` can see from now on that this process attests the stream of that walsender, or none.
    Attested(Option<u32>),
    /// A target's stored record was read.
    RecordLoaded(usize, StoredRecord),
    /// A target has confirmed a delivery.
    Confirmed(usize, Ticket, Delivery),
    /// A target has flushed the scopes of a batch.
    Flushed(usize, Ticket, Batch),
    /// Something went wrong with a target; `true`: it may have lost what it was sent.
    Trouble(usize, bool),
    /// A target answers.
    Up(usize),
    /// The loop turns. What only time brings about happens here.
    Turned,
    /// What the stream had was read; `true`: there is more, a backlog.
    Read(bool),
    /// Nothing more is read: what is gathered is sent, and the last records.
    Drain,
}

/// Something to be done.
#[derive(Debug, Clone)]
pub enum Output {
    /// Ask the source what its new snapshots show.
    Probe,
    /// Send a delivery to a target. The worker has room: no more than [`WINDOW_DELIVERIES`](super::WINDOW_DELIVERIES) are in
    /// flight.
    Send {
        /// Which target.
        target: usize,
        /// Comes back with the confirmation.
        ticket: Ticket,
        /// What to send.
        delivery: Delivery,
    },
    /// Have a target flush the scopes of a batch, beside its deliveries. No other flush of it is in flight.
    Flush {
        /// Which target.
        target: usize,
        /// Comes back with the confirmation.
        ticket: Ticket,
        /// Scopes and nothing else.
        batch: Batch,
    },
    /// Ask a target for its stored record before anything more is sent to it.
    LoadRecord(usize),
    /// A target's record is reconciled, and this follows for the deliveries that are in flight.
    Reconciled(usize, Answer),
    /// A target's record cannot be reconciled now: load it again in a while.
    LoadAgain(usize),
    /// Tell the source that it may forget what is at or before this position.
    Acknowledge(AckLsn),
    /// Let `coherd.wait()` see that this process attests the stream of this walsender, or none.
    Attest(Option<u32>),
    /// Replicas have to replay this position.
    PollReplicas(Lsn),
    /// Close the stream and open it again.
    Reopen(Reopen),
    /// Close the stream until [`Output::Unpark`]: no target has room for what it would send.
    Park,
    /// Open it again.
    Unpark,
    /// Tell people.
    Event(Event),
}

/// Why the stream is opened anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reopen {
    /// This process stood still for so long (SIGSTOP, a paused machine), and another instance may be at work.
    StoodStill(Duration),
    /// The attestation of this stream is out of reach and must not be believed any more. It is for one walsender.
    CannotTakeBack,
    /// The standby that is followed was promoted.
    Promoted,
    /// Another instance has written the record of a target.
    Overtaken(usize),
    /// Writers wait for the stream. The text says why.
    Synchronous(String),
}

/// Something that people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What is in the target is trusted.
    FirstStart(usize),
    /// The target may have missed something.
    Gap(usize, Why),
    /// Its scopes are flushed.
    Flushing(usize, Why),
    /// It is sent again, from memory, what it has lost.
    Resent(usize, Gap),
    /// Nothing more is sent to it until a person decides.
    Halted(usize, Why),
    /// Somebody has flushed every table of its rules.
    Released(usize),
    /// The slot goes on without it.
    Suspended(usize, Why),
    /// A suspended target is served again.
    Resumed(usize),
    /// Another coherd writes its record, for that database; this one follows this system identifier.
    RecordTaken(usize, Writer, u64),
    /// Nobody else writes its record.
    RecordFree(usize),
    /// More keys waited for the target than may; the scopes of these rules replaced theirs.
    Overflowed(usize, Vec<RuleId>),
    /// So many manual keys were lost with a suspended target.
    ManualLost(u64),
    /// Changes that concern the rule may not, or not all, be in the stream, or it cannot be kept as it is meant. The text
    /// says why, and which SQL is the remedy.
    Uncovered(RuleId, String),
    /// They all are again.
    Covered(RuleId),
    /// A target has confirmed a delivery for the first time; when the oldest commit in it was made.
    Applied(Option<PgTime>),
    /// Nothing that this process knows counts any more.
    Anew(Anew),
    /// The stream is open. `true`: it has failed before, and not got past that position yet.
    Streaming(Opening, bool),
    /// The stream has got past the position where it failed.
    StreamsOn,
    /// What the replica has not replayed settles without it.
    ReplicaLeft(usize, Absent),
    /// It is waited for again.
    ReplicaReturned(usize),
    /// Whether readers may rely on the replica, as far as its answers go.
    ReplicaHeld(usize, bool),
}

/// Why a target is flushed, halted or suspended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// `on_first_start: flush`.
    FirstStart,
    /// Its record shows a gap. The text says why the slot was lost, where it was.
    Gap(Gap, Option<String>),
    /// Its record does not list these rules.
    NotListed(Vec<RuleId>),
    /// Changes of the rule's table are not, or not all, in the stream.
    Uncovered(RuleId),
    /// The way in which the publication holds the rule's table has changed.
    Republished(RuleId),
    /// Other tables inherit from the rule's table.
    Reinherited(RuleId),
    /// A replica is back that was not waited for.
    ReplicaReturned,
    /// The log that the slot holds back is too much; its end.
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
