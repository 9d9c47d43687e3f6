//! Random faults. Each starts at once and is fixed a while later. The daemon is restarted whenever it ends, as a
//! service manager would do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::World;
use super::behind;
use super::caches::{Cache, Hurt};
use crate::support::chance::one_of;
use crate::support::postgres::{Client, postgres_client};
use crate::support::process::Signal;
use crate::support::proxy::Way;
use crate::support::{Daemon, Postgres, Proxy};

/// The longest pause between two faults. It is short, so that several are active together.
const PAUSE_MOST_MS: u64 = 700;
/// The pause between the end of the daemon and its next start.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// A server that shuts down may wait for its walsender; the daemon ends the connection after five seconds.
const SHUTDOWN_MOST: Duration = Duration::from_secs(30);
/// What the faults of a round attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Processes and connections. The daemon has to invalidate every key individually.
    Connections,
    /// Also memories: slots are dropped, caches come back with other contents. Then the daemon flushes.
    Memories,
    /// The contents of caches change behind open connections, and nothing makes the daemon reconnect.
    Behind,
    /// Processes, connections and the catalogue. The daemon flushes only what it must, so other flushes do not hide a
    /// missed key.
    Catalogue,
}

/// A fault of caches or their network hits one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillDaemon,
    FreezeDaemon,
    EndDaemon,
    /// SIGHUP: workers, probes and the stream start anew, while keys are on their way.
    ReloadDaemon,
    KillCache,
    StallCache,
    RememberCache,
    RestoreCache,
    FlushAll,
    CutWalsender,
    CrashPostgres,
    StopPostgres,
    DropSlotOfDeadDaemon,
    DropSlotOfLiveDaemon,
    Network(Side, Trouble),
    /// Another server is behind the connection, with the contents of an earlier time.
    SwapCache,
    /// FLUSHALL, then entries of an earlier time, without the record.
    FlushAndRestore,
    /// SWAPDB with a database that has the contents of an earlier time.
    SwapDatabases,
    /// The record of an earlier time, with the entries that belong to it.
    RestoreRecord,
    /// The slot goes on without the target.
    Suspend,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Cut,
    Refuse,
    Delay,
    StallToServer,
    StallToClient,
    Truncate,
}

/// How often each fault happens, relative to the others.
const WEIGHTS: &[(u32, Fault)] = &[
    (10, Fault::KillDaemon),
    (5, Fault::FreezeDaemon),
    (4, Fault::EndDaemon),
    (6, Fault::ReloadDaemon),
    (4, Fault::KillCache),
    (4, Fault::StallCache),
    (6, Fault::RememberCache),
    (5, Fault::RestoreCache),
    (3, Fault::FlushAll),
    (6, Fault::CutWalsender),
    (4, Fault::CrashPostgres),
    (2, Fault::StopPostgres),
    (3, Fault::DropSlotOfDeadDaemon),
    (3, Fault::DropSlotOfLiveDaemon),
    (4, Fault::Network(Side::Source, Trouble::Cut)),
    (2, Fault::Network(Side::Source, Trouble::Refuse)),
    (2, Fault::Network(Side::Source, Trouble::Delay)),
    (2, Fault::Network(Side::Source, Trouble::StallToServer)),
    (2, Fault::Network(Side::Source, Trouble::StallToClient)),
    (5, Fault::Network(Side::Source, Trouble::Truncate)),
    (4, Fault::Network(Side::Target, Trouble::Cut)),
    (2, Fault::Network(Side::Target, Trouble::Refuse)),
    (2, Fault::Network(Side::Target, Trouble::Delay)),
    (2, Fault::Network(Side::Target, Trouble::StallToServer)),
    (2, Fault::Network(Side::Target, Trouble::StallToClient)),
    (5, Fault::Network(Side::Target, Trouble::Truncate)),
];

impl Fault {
    fn is_of_a_cache(self) -> bool {
        matches!(
            self,
            Fault::KillCache
                | Fault::StallCache
                | Fault::RememberCache
                | Fault::RestoreCache
                | Fault::FlushAll
                | Fault::Suspend
                | Fault::Network(Side::Target, _)
        ) || self.is_behind()
    }

    /// Whether it changes a cache behind an open connection.
    fn is_behind(self) -> bool {
        matches!(self, Fault::SwapCache | Fault::FlushAndRestore | Fault::SwapDatabases | Fault::RestoreRecord)
    }

    fn is_of(self, harm: Harm) -> bool {
        let to_memories = matches!(
            self,
            Fault::KillCache
                | Fault::RestoreCache
                | Fault::FlushAll
                | Fault::DropSlotOfDeadDaemon
                | Fault::DropSlotOfLiveDaemon
        );
        let opens_others = matches!(
            self,
            Fault::KillDaemon
                | Fault::EndDaemon
                | Fault::ReloadDaemon
                | Fault::FreezeDaemon
                | Fault::StallCache
                | Fault::Suspend
                | Fault::Network(Side::Target, _)
        );
        match harm {
            Harm::Behind => self == Fault::RememberCache || !to_memories && !opens_others,
            Harm::Memories => !self.is_behind(),
            Harm::Connections | Harm::Catalogue => !to_memories && !self.is_behind(),
        }
    }
}

/// The repair of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    LaunchDaemon,
    ThawDaemon,
    Cache(usize, CacheRepair),
    LaunchPostgres,
    SourceNetwork,
    TargetNetwork(usize),
}

/// The repair of a cache's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheRepair {
    Restart,
    Restore(usize),
    Thaw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Up,
    Frozen,
    /// Shutting down since this time.
    Ending(Instant),
    Down,
}

/// The servers. One thread injects all faults.
pub struct Faults {
    pub world: Arc<World>,
    pub daemon: Daemon,
    pub caches: Vec<Cache>,
    pub postgres: Arc<Postgres>,
    pub source: Proxy,
    rng: Rng,
    daemon_is: State,
    postgres_is: State,
    repairs: Vec<(Instant, Repair)>,
}

impl Faults {
    /// All servers, which are running.
    pub fn new(
        world: Arc<World>,
        daemon: Daemon,
        caches: Vec<Cache>,
        (postgres, source): (Arc<Postgres>, Proxy),
        rng: Rng,
    ) -> Faults {
        let (daemon_is, postgres_is) = (State::Up, State::Up);
        Faults { world, daemon, caches, postgres, source, rng, daemon_is, postgres_is, repairs: Vec::new() }
    }

    /// Injects faults for `duration`.
    pub fn rage(&mut self, harm: Harm, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let next = Instant::now() + Duration::from_millis(self.rng.u64(10..PAUSE_MOST_MS));
            self.tend_until(|| Instant::now() >= next);
            let fault = self.choose(harm);
            let one = self.rng.usize(..self.caches.len());
            if self.begin(fault, one) {
                let at = if fault.is_of_a_cache() { self.caches[one].name } else { "" };
                self.world.history.of_all(&format!("fault: {fault:?} {at}"));
                self.world.history.count(&format!("faults: {fault:?}"), 1);
            }
        }
    }

    /// Fixes everything at once.
    pub fn relent(&mut self) {
        self.world.history.of_all("the faults end");
        for (at, _) in &mut self.repairs {
            *at = Instant::now();
        }
        while !self.repairs.is_empty() || self.postgres_is != State::Up {
            self.tend();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Calls [`Faults::tend`] until `done` is true.
    pub fn tend_until(&mut self, done: impl Fn() -> bool) {
        while !done() {
            self.tend();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes the repairs that are due, and restarts the daemon if it has ended.
    pub fn tend(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.repairs).into_iter().partition(|(at, _)| *at <= now);
        self.repairs = later;
        let due: Vec<(Instant, Repair)> = due;
        for (_, repair) in due {
            self.repair(repair);
        }
        if self.daemon_is == State::Up && self.daemon.has_ended() {
            let code = self.daemon.stop(Signal::Term);
            let log = self.daemon.log();
            let said = log.lines().last().unwrap_or_default();
            self.world.history.of_all(&format!("the daemon ended with {code}: {said}"));
            self.world.history.count(&format!("daemon ended by itself: with {code}"), 1);
            self.down(RESTART_AFTER);
        }
        if let State::Ending(since) = self.postgres_is {
            assert!(since.elapsed() < SHUTDOWN_MOST, "Postgres is kept from stopping:\n{}", self.daemon.log());
            if self.postgres.has_ended() {
                self.postgres.stop(Signal::Quit);
                self.postgres_is = State::Down;
                self.later(1000, Repair::LaunchPostgres);
            }
        }
    }

    fn repair(&mut self, repair: Repair) {
        self.world.history.of_all(&format!("repaired: {repair:?}"));
        match repair {
            Repair::LaunchDaemon => {
                self.daemon.launch_unready();
                self.daemon_is = State::Up;
            }
            Repair::ThawDaemon if self.daemon_is == State::Frozen => {
                self.daemon.signal(Signal::Continue);
                self.daemon_is = State::Up;
            }
            Repair::Cache(one, repair) => self.caches[one].repair(repair),
            Repair::LaunchPostgres => {
                self.postgres.launch();
                self.postgres_is = State::Up;
            }
            // A worse fault has followed.
            Repair::ThawDaemon => {}
            Repair::SourceNetwork => self.source.behave(),
            Repair::TargetNetwork(one) => self.caches[one].proxy.behave(),
        }
    }

    pub fn later(&mut self, most_ms: u64, repair: Repair) {
        let pause = Duration::from_millis(self.rng.u64(..most_ms));
        self.repairs.push((Instant::now() + pause, repair));
    }

    /// Whether the daemon is running, as far as is known.
    pub fn daemon_answers(&self) -> bool {
        self.daemon_is == State::Up
    }

    /// The daemon has ended; it restarts after `pause`.
    fn down(&mut self, pause: Duration) {
        self.daemon_is = State::Down;
        self.repairs.push((Instant::now() + pause, Repair::LaunchDaemon));
    }

    fn choose(&mut self, harm: Harm) -> Fault {
        one_of(&mut self.rng, WEIGHTS.iter().chain(behind::WEIGHTS).filter(|(_, fault)| fault.is_of(harm)))
    }

    /// Returns false if the fault makes no sense at the moment. `one` is the cache, for faults of a cache.
    fn begin(&mut self, fault: Fault, one: usize) -> bool {
        match fault {
            Fault::KillDaemon | Fault::FreezeDaemon | Fault::EndDaemon | Fault::ReloadDaemon => self.hurt_daemon(fault),
            Fault::KillCache | Fault::StallCache | Fault::RememberCache | Fault::RestoreCache | Fault::FlushAll => {
                self.hurt_cache(fault, one)
            }
            Fault::SwapCache | Fault::FlushAndRestore | Fault::SwapDatabases | Fault::RestoreRecord => {
                self.hurt_cache(fault, one)
            }
            Fault::Network(side, trouble) => self.hurt_network(side, trouble, one),
            _ if self.postgres_is != State::Up => false,
            Fault::CutWalsender => self.sql().is_some_and(|mut sql| sql.try_rows(&self.terminate()).is_ok()),
            Fault::CrashPostgres => {
                self.postgres.stop(Signal::Quit);
                self.postgres_is = State::Down;
                self.later(1500, Repair::LaunchPostgres);
                true
            }
            Fault::StopPostgres => {
                self.postgres.signal(Signal::Interrupt);
                self.postgres_is = State::Ending(Instant::now());
                true
            }
            Fault::DropSlotOfLiveDaemon => self.drop_slot(),
            Fault::Suspend => self.suspend(one),
            Fault::DropSlotOfDeadDaemon => self.hurt_daemon(Fault::KillDaemon) && self.drop_slot(),
        }
    }

    fn hurt_daemon(&mut self, fault: Fault) -> bool {
        match (fault, self.daemon_is) {
            (Fault::KillDaemon, State::Up | State::Frozen) => {
                self.daemon.stop(Signal::Kill);
                let pause = Duration::from_millis(self.rng.u64(..1000));
                self.down(pause);
            }
            (Fault::FreezeDaemon, State::Up) => {
                self.daemon.signal(Signal::Stop);
                self.daemon_is = State::Frozen;
                // Sometimes longer than wal_sender_timeout.
                self.later(4500, Repair::ThawDaemon);
            }
            // The daemon drains first. [`Faults::tend`] notices its end.
            (Fault::EndDaemon, State::Up) => self.daemon.signal(Signal::Term),
            // Before it listens for the signal, it would be killed.
            (Fault::ReloadDaemon, State::Up) if self.daemon.http("/livez").0 != 0 => {
                self.daemon.signal(Signal::Hangup);
            }
            _ => return false,
        }
        true
    }

    fn hurt_cache(&mut self, fault: Fault, one: usize) -> bool {
        match self.caches[one].hurt(fault, &mut self.rng) {
            Hurt::Not => false,
            Hurt::ForGood => true,
            Hurt::Until(most_ms, repair) => {
                self.later(most_ms, Repair::Cache(one, repair));
                true
            }
        }
    }

    fn hurt_network(&mut self, side: Side, trouble: Trouble, one: usize) -> bool {
        let (bytes, delay_ms) = (self.rng.usize(..20_000), self.rng.u64(1..50));
        let way = if self.rng.bool() { Way::ToServer } else { Way::ToClient };
        let (proxy, repair) = match side {
            Side::Source => (&self.source, Repair::SourceNetwork),
            Side::Target => (&self.caches[one].proxy, Repair::TargetNetwork(one)),
        };
        match trouble {
            Trouble::Cut => proxy.cut(),
            Trouble::Refuse => {
                proxy.refuse(true);
                proxy.cut();
            }
            Trouble::Delay => proxy.delay(Duration::from_millis(delay_ms)),
            Trouble::StallToServer => proxy.stall(Way::ToServer, true),
            Trouble::StallToClient => proxy.stall(Way::ToClient, true),
            Trouble::Truncate => proxy.truncate_after(way, bytes),
        }
        if !matches!(trouble, Trouble::Cut) {
            self.later(6000, repair);
        }
        true
    }

    pub fn sql(&self) -> Option<Client> {
        postgres_client(&self.postgres.dsn(&self.world.database)).ok()
    }

    fn terminate(&self) -> String {
        let slot = &self.world.database;
        format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        )
    }

    /// Terminates the slot's walsender and drops the slot. Retries, because the daemon may reconnect in between.
    fn drop_slot(&mut self) -> bool {
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{}'",
            self.world.database
        );
        let Some(mut sql) = self.sql() else { return false };
        (0..200)
            .any(|_| sql.try_rows(&self.terminate()).is_ok() && sql.try_rows(&drop).is_ok_and(|rows| !rows.is_empty()))
    }
}
