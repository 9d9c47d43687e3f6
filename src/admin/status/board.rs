//! The shared status of the daemon: one writer, any number of readers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use tokio::sync::{oneshot, watch};

use super::lag::Lag;
use super::waiting::{Stage, Waiting};
use super::watch::Watch;
use super::{
    COMMITS_MAX, EVENTS_MAX, Event, ReplicaStatus, RuleStatus, SettledCommit, State, Status, TargetStatus, WAITERS_MAX,
};
use crate::core::Watermarks;
use crate::types::lsn::Lsn;
use crate::types::observation::HeldWal;

#[derive(Debug)]
struct Held {
    status: Status,
    waiting: Waiting,
    /// How many callers wait.
    waiters: watch::Sender<usize>,
}

impl Held {
    fn count(&self) {
        let count = self.waiting.len();
        self.waiters.send_if_modified(|before| std::mem::replace(before, count) != count);
    }
}

/// The shared status. Cheap to clone; one writer, any number of readers. Writing takes an uncontended lock and
/// allocates nothing, except for [`Board::enter`], events and faults, which are rare.
#[derive(Debug, Clone)]
pub struct Board(Arc<Mutex<Held>>);

/// The error when [`WAITERS_MAX`] callers already wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{WAITERS_MAX} callers wait already; try again later, or wait in SQL with coherd.wait()")]
pub struct TooManyWaiters;

impl Board {
    /// The status of a daemon that has seen nothing yet. `targets` are names and kinds, in the order of the
    /// configuration.
    pub fn new<N: Into<String>, K: Into<String>>(
        slot: &str,
        publication: &str,
        targets: impl IntoIterator<Item = (N, K)>,
    ) -> Board {
        let (since, now) = (SystemTime::now(), Instant::now());
        let status = Status {
            state: State::Starting,
            since,
            slot: slot.to_owned(),
            publication: publication.to_owned(),
            system_id: None,
            timeline: None,
            watermarks: Watermarks::default(),
            wal_end: Lsn::ZERO,
            held: None,
            targets: unheard(targets, since),
            rules: Vec::new(),
            gaps: VecDeque::new(),
            flushes: VecDeque::new(),
            resends: VecDeque::new(),
            tables: Vec::new(),
            commits: Vec::with_capacity(COMMITS_MAX),
            last_message: None,
            replicas: Vec::new(),
            probe_fault: None,
            holder: None,
            watch: None,
            catalogue_at: None,
            entered: now,
            turned: now,
            lag: Lag::default(),
        };
        Board(Arc::new(Mutex::new(Held { status, waiting: Waiting::default(), waiters: watch::Sender::new(0) })))
    }

    /// Applies another configuration. What is known about the database stays.
    pub fn configured<N: Into<String>, K: Into<String>>(
        &self,
        slot: &str,
        publication: &str,
        targets: impl IntoIterator<Item = (N, K)>,
    ) {
        let status = &mut self.held().status;
        (status.slot, status.publication) = (slot.to_owned(), publication.to_owned());
        status.targets = unheard(targets, SystemTime::now());
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Writes only set plain fields, so the status is intact after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the rules, by [`Rule::subject`](crate::rules::config::Rule::subject), in the order of the configuration.
    /// All count as covered: whoever starts the pipeline has checked that.
    pub fn rules(&self, subjects: impl IntoIterator<Item = Arc<str>>) {
        let rule = |subject| RuleStatus { subject, uncovered: None };
        self.held().status.rules = subjects.into_iter().map(rule).collect();
    }

    /// Sets the tables that rules name, in the order of the bits in a commit's
    /// [`Made::tables`](crate::transaction::Made::tables). Forgets the commits under earlier rules.
    pub fn tables(&self, tables: impl IntoIterator<Item = Arc<str>>) {
        let status = &mut self.held().status;
        status.tables = tables.into_iter().collect();
        status.commits.clear();
    }

    /// Sets the last settled commits, oldest first.
    pub fn settled(&self, commits: &VecDeque<SettledCommit>) {
        let its = &mut self.held().status.commits;
        its.clear();
        its.extend(commits);
    }

    /// The loop has turned. Called at least every few seconds in every state; see [`TURN_MAX`](super::TURN_MAX).
    pub fn turned(&self) {
        self.held().status.turned = Instant::now();
    }

    /// The loop has turned, and in that turn the server has sent something.
    pub fn read(&self) {
        let (status, now) = (&mut self.held().status, Instant::now());
        (status.last_message, status.turned) = (Some(now), now);
    }

    /// Enters a state.
    pub fn enter(&self, state: State) {
        let (status, now) = (&mut self.held().status, Instant::now());
        if status.state.name() != state.name() {
            (status.since, status.entered) = (SystemTime::now(), now);
        }
        (status.state, status.turned) = (state, now);
    }

    /// Notes the result of `IDENTIFY_SYSTEM`.
    pub fn seen(&self, system_id: u64, timeline: u32, wal_end: Lsn) {
        let status = &mut self.held().status;
        status.system_id = Some(system_id);
        status.timeline = Some(timeline);
        if wal_end < status.wal_end {
            // The database went back in time or is another one, so its log may never reach the end that was noted.
            status.lag = Lag::default();
        }
        status.wal_end = wal_end;
        status.settle(Instant::now());
    }

    /// Notes that the server has sent something and that its log reaches at least `wal_end`.
    pub fn heard(&self, wal_end: Lsn) {
        let (status, now) = (&mut self.held().status, Instant::now());
        status.last_message = Some(now);
        status.wal_end = status.wal_end.max(wal_end);
        status.settle(now);
    }

    /// Sets the watermarks and wakes the callers that waited for them. With another database, watermarks may also move
    /// back.
    pub fn moved(&self, watermarks: Watermarks) {
        let mut held = self.held();
        let Held { status, waiting, .. } = &mut *held;
        status.watermarks = watermarks;
        status.settle(Instant::now());
        if waiting.len() > 0 {
            waiting.wake(&watermarks);
            held.count();
        }
    }

    /// Changes target number `index`.
    pub fn target(&self, index: usize, change: impl FnOnce(&mut TargetStatus)) {
        if let Some(target) = self.held().status.targets.get_mut(index) {
            change(target);
        }
    }

    /// Notes a gap.
    pub fn gap(&self, reason: &'static str, text: String) {
        push(&mut self.held().status.gaps, reason, text);
    }

    /// Notes a flush of scopes.
    pub fn flushed(&self, reason: &'static str, text: String) {
        push(&mut self.held().status.flushes, reason, text);
    }

    /// Notes that coherd sent a target from memory what it had lost.
    pub fn resent(&self, reason: &'static str, text: String) {
        push(&mut self.held().status.resends, reason, text);
    }

    /// Notes a successful look at the server: the log that the slot holds back, and the catalogue as it was at
    /// `catalogue_at`.
    pub fn observed(&self, held: Option<HeldWal>, catalogue_at: Instant) {
        let (status, now) = (&mut self.held().status, Instant::now());
        (status.held, status.catalogue_at) = (held, Some(catalogue_at));
        status.watch.get_or_insert_with(|| Watch::begin(now)).saw(now);
    }

    /// Notes the session that runs a long transaction, if there is one.
    pub fn held_by(&self, holder: Option<&str>) {
        let status = &mut self.held().status;
        if status.holder.as_deref() != holder {
            status.holder = holder.map(Into::into);
        }
    }

    /// Notes a failed look at the server; `fault` says why.
    pub fn unwatched(&self, fault: &str) {
        let status = &mut self.held().status;
        status.watch.get_or_insert_with(|| Watch::begin(Instant::now())).failed(fault);
    }

    /// Notes that changes that concern rule number `index` may be missing from the stream; `text` says why and what
    /// fixes it.
    pub fn uncover(&self, index: usize, text: &str) {
        if let Some(rule) = self.held().status.rules.get_mut(index)
            && rule.uncovered.as_deref() != Some(text)
        {
            rule.uncovered = Some(text.into());
        }
    }

    /// Notes that every change that concerns rule number `index` is in the stream.
    pub fn cover(&self, index: usize) {
        if let Some(rule) = self.held().status.rules.get_mut(index) {
            rule.uncovered = None;
        }
    }

    /// Sets the replicas, in the order of the configuration.
    pub fn replicas(&self, names: impl IntoIterator<Item = Arc<str>>) {
        let since = SystemTime::now();
        self.held().status.replicas = names.into_iter().map(|name| ReplicaStatus::unheard(name, since)).collect();
    }

    /// Changes replica number `index`.
    pub fn replica(&self, index: usize, change: impl FnOnce(&mut ReplicaStatus)) {
        if let Some(replica) = self.held().status.replicas.get_mut(index) {
            change(replica);
        }
    }

    /// Notes why settled does not wait for replica number `index`; `None` if it waits.
    pub fn replica_stands(&self, index: usize, left: Option<String>) {
        self.replica(index, |its| {
            // When it is waited for again, readers may not yet rely on it.
            its.held &= left.is_none();
            (its.left, its.since) = (left, SystemTime::now());
        });
    }

    /// The name of replica number `index`.
    pub fn replica_name(&self, index: usize) -> Arc<str> {
        self.held().status.replicas.get(index).map_or_else(|| "?".into(), |its| Arc::clone(&its.name))
    }

    /// Notes that the visibility probe succeeded.
    pub fn probed(&self) {
        self.held().status.probe_fault = None;
    }

    /// Notes that the visibility probe failed; `fault` says why.
    pub fn unprobed(&self, fault: &str) {
        self.held().status.probe_fault = Some(fault.to_owned());
    }

    /// A copy of the whole status.
    pub fn status(&self) -> Status {
        self.held().status.clone()
    }

    /// The slot's name.
    pub fn slot(&self) -> String {
        self.held().status.slot.clone()
    }

    /// The watermarks, as they are now.
    pub fn watermarks(&self) -> Watermarks {
        self.held().status.watermarks
    }

    /// How many callers wait for a position.
    pub fn waiters(&self) -> watch::Receiver<usize> {
        self.held().waiters.subscribe()
    }

    /// Waits until `stage` has reached `at`. Dropping the future frees the caller's place. Fails if [`WAITERS_MAX`]
    /// callers already wait.
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
            held.count();
            (Place { board: self, stage, ticket }, woken)
        };
        wait(woken).await;
        drop(place);
        Ok(())
    }
}

/// The sender is dropped only with its queue, and then no caller is left.
async fn wait(woken: oneshot::Receiver<()>) {
    if woken.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A place among the waiting callers; dropping it frees the place.
struct Place<'b> {
    board: &'b Board,
    stage: Stage,
    ticket: (Lsn, u64),
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut held = self.board.held();
        held.waiting.leave(self.stage, self.ticket);
        held.count();
    }
}

fn unheard<N: Into<String>, K: Into<String>>(
    targets: impl IntoIterator<Item = (N, K)>,
    since: SystemTime,
) -> Vec<TargetStatus> {
    targets.into_iter().map(|(name, kind)| TargetStatus::unheard(name.into(), kind.into(), since)).collect()
}

fn push(events: &mut VecDeque<Event>, reason: &'static str, text: String) {
    if events.len() == EVENTS_MAX {
        events.pop_front();
    }
    events.push_back(Event { at: SystemTime::now(), reason, text });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::admin::status::TURN_MAX;

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
    fn a_state_begins_once() {
        let board = board();
        let began = |state: State| {
            board.enter(state);
            board.status().entered
        };
        let streaming = began(State::Streaming);
        assert_eq!(began(State::Streaming), streaming);
        let away = began(State::Reconnecting { reason: "gone".to_owned() });
        assert!(away > streaming);
        assert_eq!(began(State::Reconnecting { reason: "still gone".to_owned() }), away);
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
