//! What the daemon knows of itself: written by the pipeline, read by `/status`, `/readyz`, `/wait` and `/metrics`.

mod lag;
mod ready;
mod view;
mod waiting;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;

use crate::ledger::Watermarks;
use crate::lsn::Lsn;
use lag::Lag;
pub use ready::readiness;
pub use view::{EventView, TargetView, View, WatermarksView};
pub use waiting::Stage;
use waiting::Waiting;

/// The most gaps and the most flushes that are remembered, each.
pub const EVENTS_MAX: usize = 20;

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
    /// Continuity is broken and configuration says to wait (`on_gap: halt`).
    Halted {
        /// Which gap.
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
            State::Halted { .. } => "halted",
            State::Draining => "draining",
        }
    }

    /// Why, where the state has a reason.
    pub fn reason(&self) -> Option<&str> {
        match self {
            State::Standby { reason } | State::Reconnecting { reason } | State::Halted { reason } => Some(reason),
            State::Starting | State::Streaming | State::Draining => None,
        }
    }
}

/// One target, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// Name in the configuration.
    pub name: String,
    /// Kind, e.g. `redis`.
    pub kind: String,
    /// Whether it confirms deliveries.
    pub up: bool,
    /// The last fault, while it is not up.
    pub fault: Option<String>,
    /// Since when it has been up, or not.
    pub since: SystemTime,
    /// What it has confirmed without a gap.
    pub applied: Lsn,
    /// Keys that wait for it.
    pub pending_keys: u64,
    /// Deliveries on their way to it.
    pub in_flight: u64,
    /// Deliveries sent again since the start.
    pub retries: u64,
}

impl TargetStatus {
    /// It confirmed something.
    pub fn is_up(&mut self) {
        if !self.up {
            self.up = true;
            self.fault = None;
            self.since = SystemTime::now();
        }
    }

    /// It did not confirm; `fault` holds no key and no credential.
    pub fn is_down(&mut self, fault: &str) {
        if self.up {
            self.up = false;
            self.since = SystemTime::now();
        }
        if self.fault.as_deref() != Some(fault) {
            self.fault = Some(fault.to_owned());
        }
    }
}

/// A gap or a flush.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: SystemTime,
    /// The `reason` label of its metric.
    pub reason: &'static str,
    /// What happened, for people; holds no key and no credential.
    pub text: String,
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
    /// In the order of the configuration.
    pub targets: Vec<TargetStatus>,
    /// The last gaps, oldest first.
    pub gaps: VecDeque<Event>,
    /// The last flushes, oldest first.
    pub flushes: VecDeque<Event>,
    /// When the server last sent anything.
    pub last_message: Option<Instant>,
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

    /// Whether the loop turns.
    pub fn is_alive(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.turned) < TURN_MAX
    }

    fn settle(&mut self, now: Instant) {
        let end = self.end();
        self.lag.moved(self.watermarks.settled, end, now);
        self.turned = now;
    }
}

#[derive(Debug)]
struct Held {
    status: Status,
    waiting: Waiting,
}

/// The shared board. Cheap to clone; one writer, any number of readers. Writing takes an uncontended lock and allocates
/// nothing, except for [`Board::enter`], events and faults, which are rare.
#[derive(Debug, Clone)]
pub struct Board(Arc<Mutex<Held>>);

/// As many wait as may; see [`WAITERS_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{WAITERS_MAX} callers wait already; try again later, or wait in SQL with coherd.wait()")]
pub struct TooManyWaiters;

impl Board {
    /// A daemon that has seen nothing yet. `targets` are names and kinds, in the order of the configuration.
    pub fn new<N: Into<String>, K: Into<String>>(
        slot: &str,
        publication: &str,
        targets: impl IntoIterator<Item = (N, K)>,
    ) -> Board {
        let since = SystemTime::now();
        let target = |(name, kind): (N, K)| TargetStatus {
            name: name.into(),
            kind: kind.into(),
            up: false,
            fault: None,
            since,
            applied: Lsn::ZERO,
            pending_keys: 0,
            in_flight: 0,
            retries: 0,
        };
        let status = Status {
            state: State::Starting,
            since,
            slot: slot.to_owned(),
            publication: publication.to_owned(),
            system_id: None,
            timeline: None,
            watermarks: Watermarks::default(),
            wal_end: Lsn::ZERO,
            targets: targets.into_iter().map(target).collect(),
            gaps: VecDeque::new(),
            flushes: VecDeque::new(),
            last_message: None,
            turned: Instant::now(),
            lag: Lag::default(),
        };
        Board(Arc::new(Mutex::new(Held { status, waiting: Waiting::default() })))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Every write leaves plain fields, whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop has turned. Called at least every few seconds in every state; see [`TURN_MAX`].
    pub fn turned(&self) {
        self.held().status.turned = Instant::now();
    }

    /// A new state.
    pub fn enter(&self, state: State) {
        let status = &mut self.held().status;
        if status.state.name() != state.name() {
            status.since = SystemTime::now();
        }
        status.state = state;
        status.turned = Instant::now();
    }

    /// The database was looked at (`IDENTIFY_SYSTEM`).
    pub fn seen(&self, system_id: u64, timeline: u32, wal_end: Lsn) {
        let status = &mut self.held().status;
        status.system_id = Some(system_id);
        status.timeline = Some(timeline);
        if wal_end < status.wal_end {
            // The database went back in time or is another one: what was noted of its end may never come.
            status.lag = Lag::default();
        }
        status.wal_end = wal_end;
        status.settle(Instant::now());
    }

    /// The server has sent something; its log reaches at least `wal_end`.
    pub fn heard(&self, wal_end: Lsn) {
        let (status, now) = (&mut self.held().status, Instant::now());
        status.last_message = Some(now);
        status.wal_end = status.wal_end.max(wal_end);
        status.settle(now);
    }

    /// The watermarks are `watermarks`. Wakes whoever waited for them. They may also move back, with another database.
    pub fn moved(&self, watermarks: Watermarks) {
        let mut held = self.held();
        let Held { status, waiting } = &mut *held;
        status.watermarks = watermarks;
        status.settle(Instant::now());
        waiting.wake(&watermarks);
    }

    /// Changes target number `index`.
    pub fn target(&self, index: usize, change: impl FnOnce(&mut TargetStatus)) {
        if let Some(target) = self.held().status.targets.get_mut(index) {
            change(target);
        }
    }

    /// Continuity is broken.
    pub fn gap(&self, reason: &'static str, text: String) {
        push(&mut self.held().status.gaps, reason, text);
    }

    /// Scopes were flushed.
    pub fn flushed(&self, reason: &'static str, text: String) {
        push(&mut self.held().status.flushes, reason, text);
    }

    /// Everything, as it is now.
    pub fn status(&self) -> Status {
        self.held().status.clone()
    }

    /// The watermarks, as they are now.
    pub fn watermarks(&self) -> Watermarks {
        self.held().status.watermarks
    }

    /// Waits until `stage` has reached `at`. Dropping the future gives the place back.
    pub async fn reached(&self, stage: Stage, at: Lsn) -> Result<(), TooManyWaiters> {
        let (place, woken) = {
            let mut held = self.held();
            if stage.of(&held.status.watermarks) >= at {
                return Ok(());
            }
            if held.waiting.len() >= WAITERS_MAX {
                return Err(TooManyWaiters);
            }
            let (ticket, woken) = held.waiting.join(stage, at);
            (Place { board: self, stage, ticket }, woken)
        };
        wait(woken).await;
        drop(place);
        Ok(())
    }
}

/// The sender is dropped only with its queue, and then nobody asks any more.
async fn wait(woken: oneshot::Receiver<()>) {
    if woken.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A place among those who wait.
struct Place<'b> {
    board: &'b Board,
    stage: Stage,
    ticket: (Lsn, u64),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.board.held().waiting.leave(self.stage, self.ticket);
    }
}

fn push(events: &mut VecDeque<Event>, reason: &'static str, text: String) {
    if events.len() == EVENTS_MAX {
        events.pop_front();
    }
    events.push_back(Event { at: SystemTime::now(), reason, text });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new("coherd", "coherd", [("cache", "redis")])
    }

    fn settled(n: u64) -> Watermarks {
        let lsn = Lsn::new(n);
        Watermarks { decoded: lsn, visible: lsn, applied: lsn, settled: lsn }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_when_the_position_is_reached_and_not_before() {
        let board = board();
        let mut wait = std::pin::pin!(board.reached(Stage::Settled, Lsn::new(100)));
        let soon = Duration::from_secs(1);
        board.moved(Watermarks { settled: Lsn::new(99), ..settled(500) });
        assert!(tokio::time::timeout(soon, &mut wait).await.is_err());
        assert_eq!(board.reached(Stage::Applied, Lsn::new(100)).await, Ok(()));
        board.moved(settled(100));
        assert_eq!(tokio::time::timeout(soon, wait).await, Ok(Ok(())));
    }

    #[tokio::test(start_paused = true)]
    async fn who_stops_waiting_gives_the_place_back() {
        let board = board();
        {
            let mut waits: Vec<_> =
                (0..WAITERS_MAX).map(|_| Box::pin(board.reached(Stage::Settled, Lsn::new(1)))).collect();
            for wait in &mut waits {
                assert!(tokio::time::timeout(Duration::ZERO, wait).await.is_err());
            }
            assert_eq!(board.reached(Stage::Settled, Lsn::new(1)).await, Err(TooManyWaiters));
        }
        assert_eq!(board.held().waiting.len(), 0);
    }

    #[test]
    fn only_the_last_events_are_remembered() {
        let board = board();
        for n in 0..EVENTS_MAX + 3 {
            board.gap("slot_missing", n.to_string());
        }
        let gaps = board.status().gaps;
        assert_eq!(gaps.len(), EVENTS_MAX);
        assert_eq!(gaps.front().map(|event| event.text.as_str()), Some("3"));
    }

    #[test]
    fn a_loop_that_does_not_turn_is_not_alive() {
        let status = board().status();
        assert!(status.is_alive(Instant::now()));
        assert!(!status.is_alive(Instant::now() + TURN_MAX));
    }

    #[test]
    fn the_lag_counts_from_the_end_that_the_server_told() {
        let board = board();
        board.moved(settled(100));
        board.heard(Lsn::new(700));
        assert_eq!(board.status().lag_bytes(), 600);
        board.heard(Lsn::new(650));
        assert_eq!(board.status().wal_end, Lsn::new(700), "the end never moves back");
    }

    #[test]
    fn a_database_that_went_back_in_time_does_not_leave_a_lag_for_ever() {
        let board = board();
        board.seen(1, 1, Lsn::new(1000));
        board.seen(2, 1, Lsn::new(50));
        board.moved(settled(50));
        let status = board.status();
        assert_eq!(status.lag_bytes(), 0);
        assert_eq!(status.lag(Instant::now() + TURN_MAX), Duration::ZERO);
    }
}
