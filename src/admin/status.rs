//! What the daemon knows about itself: written by the pipeline, read by `/status`, `/readyz`, `/wait`, `/metrics` and
//! systemd.

mod board;
mod lag;
mod ready;
mod replica;
mod summary;
mod target;
mod unsettled;
mod view;
mod waiting;
mod watch;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::core::Watermarks;
use crate::transaction::Made;
use crate::types::lsn::Lsn;
use crate::types::observation::HeldWal;
pub use board::{Board, TooManyWaiters};
use lag::Lag;
pub use ready::{HALT_ADVICE, readiness, record_advice};
pub use replica::ReplicaStatus;
pub use summary::summary;
pub use target::{RuleStatus, TargetStatus};
pub use unsettled::{Sample, Unsettled};
pub use view::{CommitView, EventView, ReplicaView, RuleView, TargetView, View, WatermarksView};
pub use waiting::Stage;
pub use watch::LOOK_AGE_MAX;
use watch::Watch;

/// The most gaps that are kept, and likewise flushes and resends.
pub const EVENTS_MAX: usize = 20;

/// The most commits that are kept.
pub const COMMITS_MAX: usize = 10;

/// The most callers of [`Board::reached`] at a time.
pub const WAITERS_MAX: usize = 10_000;

/// The loop counts as stuck when it has not turned for this long. It turns at least every few seconds, also when idle.
pub const TURN_MAX: Duration = Duration::from_secs(30);

/// What the daemon is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Looking at the source and the targets for the first time.
    Starting,
    /// Following the log.
    Streaming,
    /// Another instance has the slot.
    Standby {
        /// What the server said.
        reason: String,
    },
    /// There is no connection to Postgres.
    Reconnecting {
        /// Why.
        reason: String,
    },
    /// Finishing what is under way before the daemon ends.
    Draining,
}

impl State {
    /// The state as one word, as `/status` shows it.
    pub const fn name(&self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Streaming => "streaming",
            State::Standby { .. } => "standby",
            State::Reconnecting { .. } => "reconnecting",
            State::Draining => "draining",
        }
    }

    /// The reason, if the state has one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            State::Standby { reason } | State::Reconnecting { reason } => Some(reason),
            State::Starting | State::Streaming | State::Draining => None,
        }
    }
}

/// A gap, a flush or a resend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub at: SystemTime,
    /// The `reason` label of its metric.
    pub reason: &'static str,
    /// What happened, for people; contains no key and no credential.
    pub text: String,
}

/// A commit that has settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledCommit {
    /// The end of its commit record.
    pub end: Lsn,
    /// The tables and the number of keys that rules made of it.
    pub made: Made,
    /// Time from the commit, by the server's clock, until it settled, by coherd's clock.
    pub took: Duration,
}

/// A snapshot of everything.
#[derive(Debug, Clone)]
pub struct Status {
    /// What the daemon is doing.
    pub state: State,
    /// When this state began.
    pub since: SystemTime,
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// The system identifier of the database; `None` before the first connection.
    pub system_id: Option<u64>,
    /// The timeline of the database; `None` before the first connection.
    pub timeline: Option<u32>,
    /// How far each stage has come.
    pub watermarks: Watermarks,
    /// The furthest log position that the server has reported.
    pub wal_end: Lsn,
    /// The log that the slot held back at the last look at the server; `None` without a slot or before the first look.
    pub held: Option<HeldWal>,
    /// In the order of the configuration.
    pub targets: Vec<TargetStatus>,
    /// In the order of the configuration.
    pub rules: Vec<RuleStatus>,
    /// In the order of the configuration.
    pub replicas: Vec<ReplicaStatus>,
    /// Why coherd cannot check commit visibility; `None` while it can.
    pub probe_fault: Option<String>,
    /// The last gaps, oldest first.
    pub gaps: VecDeque<Event>,
    /// The last flushes, oldest first.
    pub flushes: VecDeque<Event>,
    /// The last resends, in which coherd sent a target from memory what it had lost; oldest first.
    pub resends: VecDeque<Event>,
    /// The tables that rules name, as [`Made::tables`] counts them.
    pub tables: Vec<Arc<str>>,
    /// The last settled commits with keys, oldest first. Only a sample, if there are many.
    pub commits: Vec<SettledCommit>,
    /// When the server last sent anything.
    pub last_message: Option<Instant>,
    /// The session that has long been running a transaction in this database, if the last look found one.
    pub holder: Option<String>,
    /// The looks at what the log does not show; `None` before the first.
    watch: Option<Watch>,
    catalogue_at: Option<Instant>,
    /// When the state began.
    entered: Instant,
    turned: Instant,
    lag: Lag,
}

impl Status {
    /// The furthest position known to exist.
    pub fn end(&self) -> Lsn {
        self.wal_end.max(self.watermarks.decoded)
    }

    /// Bytes of log that have not settled.
    pub fn lag_bytes(&self) -> u64 {
        self.end().bytes_since(self.watermarks.settled)
    }

    /// How long settled has been behind [`Status::end`].
    pub fn lag(&self, now: Instant) -> Duration {
        self.lag.at(now)
    }

    /// How long the server has been silent; `None` if it never sent anything.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        self.last_message.map(|at| now.saturating_duration_since(at))
    }

    /// Whether the loop turns; see [`TURN_MAX`].
    pub fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.turned) < TURN_MAX
    }

    /// Time since the last successful look at the server; `None` before the first.
    pub fn look_age(&self, now: Instant) -> Option<Duration> {
        self.watch.as_ref().and_then(|watch| watch.age(now))
    }

    /// Whether the last look at the server failed.
    pub fn is_blind(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::has_failed)
    }

    /// Age of what is known about the catalogue; `None` before the first look at it.
    pub fn catalogue_age(&self, now: Instant) -> Option<Duration> {
        self.catalogue_at.map(|at| now.saturating_duration_since(at))
    }

    fn settle(&mut self, now: Instant) {
        let end = self.end();
        self.lag.moved(self.watermarks.settled, end, now);
        self.turned = now;
    }
}
