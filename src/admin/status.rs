//! What the daemon knows of itself: written by the pipeline, read by `/status`, `/readyz`, `/wait`, `/metrics` and
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

/// The most gaps, the most flushes and the most resends that are remembered, each.
pub const EVENTS_MAX: usize = 20;

/// The most commits that are remembered.
pub const COMMITS_MAX: usize = 10;

/// The most callers of [`Board::reached`] at a time.
pub const WAITERS_MAX: usize = 10_000;

/// The loop counts as stuck when it has not turned for this long. It turns at least every few seconds, also when idle.
pub const TURN_MAX: Duration = Duration::from_secs(30);

/// What the daemon is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Looking at source and targets for the first time.
    Starting,
    /// Following the log.
    Streaming,
    /// Another instance has the slot.
    Standby {
        /// What the server said.
        reason: String,
    },
    /// The connection to Postgres is gone.
    Reconnecting {
        /// Why.
        reason: String,
    },
    /// Finishing what was begun, then ending.
    Draining,
}

impl State {
    /// One word, as `/status` writes it.
    pub const fn name(&self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Streaming => "streaming",
            State::Standby { .. } => "standby",
            State::Reconnecting { .. } => "reconnecting",
            State::Draining => "draining",
        }
    }

    /// Why, where the state has a reason.
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
    /// When.
    pub at: SystemTime,
    /// The `reason` label of its metric.
    pub reason: &'static str,
    /// What happened, for people; holds no key and no credential.
    pub text: String,
}

/// A commit that readers may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledCommit {
    /// Its end.
    pub end: Lsn,
    /// What rules made of it.
    pub made: Made,
    /// From the commit, by the server's clock, until it had settled, by ours.
    pub took: Duration,
}

/// A snapshot of everything.
#[derive(Debug, Clone)]
pub struct Status {
    /// What the daemon is doing.
    pub state: State,
    /// Since when.
    pub since: SystemTime,
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// The database, once it was seen.
    pub system_id: Option<u64>,
    /// Its timeline, once it was seen.
    pub timeline: Option<u32>,
    /// How far each stage has come.
    pub watermarks: Watermarks,
    /// The furthest position that the server has told.
    pub wal_end: Lsn,
    /// The log that the slot held back when the server was last watched; `None` where there was no slot, or no look yet.
    pub held: Option<HeldWal>,
    /// In the order of the configuration.
    pub targets: Vec<TargetStatus>,
    /// In the order of the configuration.
    pub rules: Vec<RuleStatus>,
    /// In the order of the configuration.
    pub replicas: Vec<ReplicaStatus>,
    /// Why coherd cannot check commit visibility, while that is so.
    pub probe_fault: Option<String>,
    /// The last gaps, oldest first.
    pub gaps: VecDeque<Event>,
    /// The last flushes, oldest first.
    pub flushes: VecDeque<Event>,
    /// The last times that a target was sent again, from memory, what it had lost; oldest first.
    pub resends: VecDeque<Event>,
    /// The tables that rules name, as [`Made::tables`] counts them.
    pub tables: Vec<Arc<str>>,
    /// The last commits with keys that have settled, oldest first; some of them, where there are many.
    pub commits: Vec<SettledCommit>,
    /// When the server last sent anything.
    pub last_message: Option<Instant>,
    /// Who has been running a transaction of this database for long, as far as the last look showed.
    pub holder: Option<String>,
    /// The looks at what is not in the log, once there was one.
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

    /// Bytes of log that are not settled.
    pub fn lag_bytes(&self) -> u64 {
        self.end().bytes_since(self.watermarks.settled)
    }

    /// How long settled has been behind [`Status::end`].
    pub fn lag(&self, now: Instant) -> Duration {
        self.lag.at(now)
    }

    /// How long the server has been silent; `None` where it never spoke.
    pub fn silence(&self, now: Instant) -> Option<Duration> {
        self.last_message.map(|at| now.saturating_duration_since(at))
    }

    /// Whether the loop turns.
    pub fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.turned) < TURN_MAX
    }

    /// How long ago the server was last watched with success; `None` before the first time.
    pub fn look_age(&self, now: Instant) -> Option<Duration> {
        self.watch.as_ref().and_then(|watch| watch.age(now))
    }

    /// How old what is known of the catalogue is; `None` before the first look at it.
    pub fn catalogue_age(&self, now: Instant) -> Option<Duration> {
        self.catalogue_at.map(|at| now.saturating_duration_since(at))
    }

    fn settle(&mut self, now: Instant) {
        let end = self.end();
        self.lag.moved(self.watermarks.settled, end, now);
        self.turned = now;
    }
}
