//! Random faults of the servers and the network between them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::together::{self, Unseen};
use super::{Promise, World};
use crate::support::chance::one_of;
use crate::support::postgres::{Client, postgres_client};
use crate::support::process::{Signal, send_signal};
use crate::support::standby::STANDBY_NAME;
use crate::support::{Daemon, Postgres, Proxy};

/// The longest pause between two faults. It is short, so that several are active together.
const PAUSE_MOST_MS: u64 = 700;
/// The longest pause in which no writer writes.
const LULL_MOST_MS: u64 = 3000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Commits wait for a standby that is not there.
    StandbyGoes,
    /// Commits wait for the replica, or for nobody.
    StandbyComes,
    /// The replica receives and does not replay.
    PauseReplay,
    /// The replica replays with a delay.
    DelayReplay,
    /// The replica receives and confirms nothing.
    FreezeReceiver,
    RestartReplica,
    /// The replica returns with less than it had shown.
    CrashReplica,
    KillDaemon,
    /// Killed while it does not wait for the replica.
    KillDaemonThatWaitsNot,
    FreezeDaemon,
    /// SIGHUP: workers, probes and the stream start anew, while keys are on their way.
    ReloadDaemon,
    CutWalsender,
    /// Terminates the SQL sessions of the visibility probe, and others.
    CutSessions,
    CutFollower,
    /// The daemon cannot reach the cache; readers can.
    CacheAway,
    /// [`Fault::CacheAway`], and `wal_budget` is used up.
    Suspend,
    /// The table is removed from the publication, changed, and added again.
    Drift,
    /// The walsender is stopped, so nothing is read from the log.
    StopWalsender,
    /// Several of these at once, with a replica that lags.
    Together,
}

/// How often each fault happens, relative to the others.
const WEIGHTS: &[(u32, Fault)] = &[
    (10, Fault::StandbyGoes),
    (3, Fault::StandbyComes),
    (10, Fault::PauseReplay),
    (5, Fault::DelayReplay),
    (4, Fault::FreezeReceiver),
    (1, Fault::RestartReplica),
    (2, Fault::CrashReplica),
    (4, Fault::KillDaemon),
    (20, Fault::KillDaemonThatWaitsNot),
    (2, Fault::FreezeDaemon),
    (12, Fault::ReloadDaemon),
    (4, Fault::CutWalsender),
    (4, Fault::CutSessions),
    (3, Fault::CutFollower),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    Standby,
    Replay,
    Delay,
    Receiver(u32),
    StartDaemon,
    ThawDaemon,
    Cache,
    Walsender(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Up,
    Frozen,
    Down,
}

/// The servers, and the faults that are active.
pub struct Faults {
    pub world: Arc<World>,
    pub daemon: Daemon,
    pub primary: Arc<Postgres>,
    pub replica: Postgres,
    /// The proxy between the daemon and the cache.
    pub network: Proxy,
    pub rng: Rng,
    pub daemon_is: State,
    pub unseen: Vec<Unseen>,
    repairs: Vec<(Instant, Repair)>,
    pub sql: Client,
}

impl Faults {
    pub fn new(
        world: Arc<World>,
        (daemon, network): (Daemon, Proxy),
        primary: Arc<Postgres>,
        replica: Postgres,
        rng: Rng,
    ) -> Faults {
        let mut sql = postgres_client(&world.primary).expect("connects");
        sql.run("SET synchronous_commit = local");
        let (daemon_is, repairs, unseen) = (State::Up, Vec::new(), Vec::new());
        Faults { world, daemon, primary, replica, network, rng, daemon_is, unseen, repairs, sql }
    }

    /// A superuser's session on the primary. Its commits do not wait for standbys.
    pub fn primary_session(&self) -> Client {
        let mut sql = postgres_client(&self.world.primary).expect("connects");
        sql.run("SET synchronous_commit = local");
        sql
    }

    /// Injects one fault after the other.
    pub fn rage(&mut self, lasts: Duration) {
        let end = Instant::now() + lasts;
        while Instant::now() < end {
            let fault = one_of(&mut self.rng, WEIGHTS.iter().chain(together::WEIGHTS));
            if self.inflict(fault) {
                self.world.history.of_all(&format!("fault: {fault:?}"));
                self.world.history.count(&format!("faults: {fault:?}"), 1);
            }
            let lulls = self.rng.u32(..4) == 0;
            if lulls && self.rng.bool() {
                self.remedies();
            }
            let lulls = lulls || fault == Fault::Together;
            self.world.lull(lulls);
            let most = if lulls { LULL_MOST_MS } else { PAUSE_MOST_MS };
            let pause = Duration::from_millis(self.rng.u64(..most));
            self.tend_until(end.min(Instant::now() + pause));
            self.world.lull(false);
        }
    }

    /// Fixes everything.
    pub fn relent(&mut self) {
        self.remedies();
        self.follow_standby("");
        self.delay_replay(0);
        self.world.history.of_all("no more faults");
    }

    fn remedies(&mut self) {
        for (_, repair) in std::mem::take(&mut self.repairs) {
            self.repair(repair);
        }
    }

    /// Fixes what is due, until `end`.
    pub fn tend_until(&mut self, end: Instant) {
        loop {
            let now = Instant::now();
            let (due, later) = std::mem::take(&mut self.repairs).into_iter().partition(|(at, _)| *at <= now);
            self.repairs = later;
            let due: Vec<(Instant, Repair)> = due;
            for (_, repair) in due {
                self.repair(repair);
            }
            self.see();
            if now >= end {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn later(&mut self, most_ms: u64, repair: Repair) -> bool {
        let after = self.rng.u64(..most_ms);
        self.at(after, repair);
        true
    }

    pub fn at(&mut self, after_ms: u64, repair: Repair) {
        self.repairs.push((Instant::now() + Duration::from_millis(after_ms), repair));
    }

    /// Starts a fault. Returns whether it makes sense at the moment.
    pub fn inflict(&mut self, fault: Fault) -> bool {
        let tight = self.world.promise == Promise::WhileHeld;
        let rarely = self.rng.u32(..4) == 0;
        match (fault, self.daemon_is) {
            (Fault::StandbyGoes, _) => {
                self.follow_standby("ghost");
                self.later(1000, Repair::Standby)
            }
            (Fault::StandbyComes, _) => {
                let name = if self.rng.bool() { STANDBY_NAME } else { "" };
                self.follow_standby(name);
                true
            }
            (Fault::PauseReplay, _) => {
                let long = tight && self.rng.u32(..3) == 0;
                self.hold_replay();
                self.later(if long { 4000 } else { 600 }, Repair::Replay)
            }
            (Fault::DelayReplay, _) => {
                let delay = self.rng.u64(50..if tight { 900 } else { 300 });
                self.delay_replay(delay);
                self.later(2000, Repair::Delay)
            }
            (Fault::FreezeReceiver, _) => self.freeze_receiver(),
            // Not while the daemon is frozen: a daemon that wakes may for a moment report what it knew before the
            // crash.
            (Fault::CrashReplica, State::Up | State::Down) if tight => self.restart_replica(Signal::Quit),
            (Fault::RestartReplica, _) => self.restart_replica(Signal::Interrupt),
            (Fault::KillDaemon, State::Up | State::Frozen) => {
                self.daemon.stop(Signal::Kill);
                self.daemon_is = State::Down;
                self.later(if rarely { 1000 } else { 50 }, Repair::StartDaemon)
            }
            (Fault::KillDaemonThatWaitsNot, State::Up) if tight => {
                let waits_not = self.daemon.status()["replicas"][0]["left"].is_string();
                waits_not && self.inflict(Fault::KillDaemon)
            }
            (Fault::FreezeDaemon, State::Up) => {
                self.daemon.signal(Signal::Stop);
                self.daemon_is = State::Frozen;
                self.later(if rarely { 4000 } else { 500 }, Repair::ThawDaemon)
            }
            // Before it listens for the signal, it would be killed.
            (Fault::ReloadDaemon, State::Up) if self.daemon.http("/livez").0 != 0 => {
                self.daemon.signal(Signal::Hangup);
                true
            }
            (Fault::CutWalsender, _) => {
                let slot = &self.world.slot;
                self.sql.run(&format!(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
                ));
                true
            }
            (Fault::CutSessions, _) => {
                self.sql.run(&cut("client backend"));
                true
            }
            (Fault::CutFollower, _) => self.there().is_some_and(|mut sql| sql.try_run(&cut("walsender")).is_ok()),
            _ => self.inflict_together(fault),
        }
    }

    pub fn hold_replay(&self) {
        let _ = self.there().map(|mut sql| sql.try_run("SELECT pg_wal_replay_pause()"));
    }

    fn repair(&mut self, repair: Repair) {
        match repair {
            Repair::Standby => {
                let name = if self.rng.bool() { STANDBY_NAME } else { "" };
                self.follow_standby(name);
            }
            Repair::Replay => {
                let _ = self.there().map(|mut sql| sql.try_run("SELECT pg_wal_replay_resume()"));
            }
            Repair::Delay => self.delay_replay(0),
            Repair::Receiver(pid) => send_signal(pid, Signal::Continue),
            Repair::StartDaemon if self.daemon_is == State::Down => {
                self.daemon.launch_unready();
                self.daemon_is = State::Up;
            }
            Repair::ThawDaemon if self.daemon_is == State::Frozen => {
                self.daemon.signal(Signal::Continue);
                self.daemon_is = State::Up;
            }
            // Another fault has followed.
            Repair::StartDaemon | Repair::ThawDaemon => return,
            Repair::Cache => self.network.behave(),
            Repair::Walsender(pid) => send_signal(pid, Signal::Continue),
        }
        self.world.history.of_all(&format!("repaired: {repair:?}"));
    }

    /// A session on the replica, which may be down.
    fn there(&self) -> Option<Client> {
        postgres_client(&self.world.replica).ok()
    }

    pub fn follow_standby(&mut self, name: &str) {
        self.sql.run(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"));
        self.sql.run("SELECT pg_reload_conf()");
    }

    fn delay_replay(&self, millis: u64) {
        if let Some(mut sql) = self.there() {
            let _ = sql.try_run(&format!("ALTER SYSTEM SET recovery_min_apply_delay = {millis}"));
            let _ = sql.try_run("SELECT pg_reload_conf()");
        }
    }

    fn freeze_receiver(&mut self) -> bool {
        let pid = self.there().and_then(|mut sql| {
            let rows = sql.try_rows("SELECT pid FROM pg_stat_wal_receiver").ok()?;
            rows.first()?.first()?.parse().ok()
        });
        pid.is_some_and(|pid| {
            send_signal(pid, Signal::Stop);
            self.later(600, Repair::Receiver(pid))
        })
    }

    /// A stopped receiver would keep its server from shutting down.
    fn restart_replica(&mut self, how: Signal) -> bool {
        let is_receiver = |(_, repair): &mut (Instant, Repair)| matches!(repair, Repair::Receiver(_));
        let receivers: Vec<(Instant, Repair)> = self.repairs.extract_if(.., is_receiver).collect();
        for (_, repair) in receivers {
            self.repair(repair);
        }
        self.replica.stop(how);
        self.world.history.of_all(&format!("the replica has ended by {how:?}"));
        self.replica.launch();
        true
    }
}

fn cut(what: &str) -> String {
    format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'coherd' AND backend_type = '{what}'"
    )
}
