//! What goes wrong, at random: each fault begins at once and is mended by itself a while later. The daemon is started
//! again whenever it ends, as a service manager would.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::World;
use crate::support::postgres::{Client, postgres_client};
use crate::support::process::Signal;
use crate::support::proxy::Way;
use crate::support::{Daemon, Postgres, Proxy, Redis};

/// The longest pause between two faults, so that several are at work together.
const PAUSE_MOST_MS: u64 = 700;
/// Between the end of the daemon and its next start.
const RESTART_AFTER: Duration = Duration::from_millis(100);
/// A server that shuts down may wait for its walsender, and the daemon lets it go after five seconds.
const SHUTDOWN_MOST: Duration = Duration::from_secs(30);
/// Snapshots of the cache that are kept.
const SNAPSHOTS_MAX: usize = 3;

/// What a round's faults are after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Processes and connections: every key has to be struck by itself.
    ToConnections,
    /// The memories too: slots go, caches come back as something else. Then the daemon flushes.
    ToMemories,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    KillDaemon,
    FreezeDaemon,
    EndDaemon,
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
    /// A rule's table taken out of the publication and put back. The daemon does not look for it while it runs, so this
    /// one has no weight; give it one when it does.
    RepublishTable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Cut,
    Refuse,
    Delay,
    StallToServer,
    StallToClient,
    Truncate,
}

/// How often each fault comes, relative to the others.
const WEIGHTS: &[(u32, Fault)] = &[
    (10, Fault::KillDaemon),
    (5, Fault::FreezeDaemon),
    (4, Fault::EndDaemon),
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
    (0, Fault::RepublishTable),
];

impl Fault {
    fn is_of(self, harm: Harm) -> bool {
        let to_memories = matches!(
            self,
            Fault::KillCache
                | Fault::RestoreCache
                | Fault::FlushAll
                | Fault::DropSlotOfDeadDaemon
                | Fault::DropSlotOfLiveDaemon
        );
        !to_memories || harm == Harm::ToMemories
    }
}

/// What ends a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mend {
    LaunchDaemon,
    ThawDaemon,
    RestartCache,
    RestoreCache(usize),
    ThawCache,
    LaunchPostgres,
    Network(Side),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Frozen,
    /// On its way down since then.
    Ending(Instant),
    Down,
}

/// The servers, and the one thread that hurts them.
pub struct Faults {
    pub world: Arc<World>,
    pub daemon: Daemon,
    pub redis: Redis,
    pub postgres: Arc<Postgres>,
    pub source: Proxy,
    pub target: Proxy,
    rng: Rng,
    daemon_is: State,
    redis_is: State,
    postgres_is: State,
    snapshots: Vec<Vec<u8>>,
    mends: Vec<(Instant, Mend)>,
}

impl Faults {
    /// Everything runs.
    pub fn new(
        world: Arc<World>,
        (daemon, redis, postgres): (Daemon, Redis, Arc<Postgres>),
        (source, target): (Proxy, Proxy),
        rng: Rng,
    ) -> Faults {
        let (daemon_is, redis_is, postgres_is) = (State::Up, State::Up, State::Up);
        let (snapshots, mends) = (Vec::new(), Vec::new());
        Faults {
            world,
            daemon,
            redis,
            postgres,
            source,
            target,
            rng,
            daemon_is,
            redis_is,
            postgres_is,
            snapshots,
            mends,
        }
    }

    /// Hurts for so long.
    pub fn rage(&mut self, harm: Harm, duration: Duration) {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            let next = Instant::now() + Duration::from_millis(self.rng.u64(10..PAUSE_MOST_MS));
            while Instant::now() < next {
                self.tend();
                std::thread::sleep(Duration::from_millis(5));
            }
            let fault = self.choose(harm);
            if self.begin(fault) {
                self.world.history.of_all(&format!("fault: {fault:?}"));
                self.world.history.count(&format!("faults: {fault:?}"), 1);
            }
        }
    }

    /// Mends everything at once.
    pub fn relent(&mut self) {
        self.world.history.of_all("the faults end");
        for (at, _) in &mut self.mends {
            *at = Instant::now();
        }
        while !self.mends.is_empty() || self.postgres_is != State::Up {
            self.tend();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Mends what is due, and starts the daemon again where it has ended.
    pub fn tend(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.mends).into_iter().partition(|(at, _)| *at <= now);
        self.mends = later;
        let due: Vec<(Instant, Mend)> = due;
        for (_, mend) in due {
            self.mend(mend);
        }
        if self.daemon_is == State::Up && self.daemon.has_ended() {
            let code = self.daemon.stop(Signal::Term);
            let log = self.daemon.log();
            let said = log.lines().last().unwrap_or_default();
            self.world.history.of_all(&format!("the daemon ended with {code}: {said}"));
            let said: String = if code == 0 { String::new() } else { said.chars().take(300).collect() };
            self.world.history.count(&format!("daemon ended with {code} {said}"), 1);
            self.down(RESTART_AFTER);
        }
        if let State::Ending(since) = self.postgres_is {
            assert!(since.elapsed() < SHUTDOWN_MOST, "Postgres is kept from stopping:\n{}", self.daemon.log());
            if self.postgres.has_ended() {
                self.postgres.stop(Signal::Quit);
                self.postgres_is = State::Down;
                self.later(1000, Mend::LaunchPostgres);
            }
        }
    }

    fn mend(&mut self, mend: Mend) {
        self.world.history.of_all(&format!("mended: {mend:?}"));
        match mend {
            Mend::LaunchDaemon => {
                self.daemon.launch_unready();
                self.daemon_is = State::Up;
            }
            Mend::ThawDaemon if self.daemon_is == State::Frozen => {
                self.daemon.signal(Signal::Continue);
                self.daemon_is = State::Up;
            }
            Mend::RestartCache => {
                self.redis.restart();
                self.redis_is = State::Up;
            }
            Mend::RestoreCache(snapshot) => {
                self.redis.restore(&self.snapshots[snapshot]);
                self.redis_is = State::Up;
            }
            Mend::ThawCache if self.redis_is == State::Frozen => {
                self.redis.signal(Signal::Continue);
                self.redis_is = State::Up;
            }
            Mend::LaunchPostgres => {
                self.postgres.launch();
                self.postgres_is = State::Up;
            }
            // Something worse has happened to it since.
            Mend::ThawDaemon | Mend::ThawCache => {}
            Mend::Network(side) => self.network(side).behave(),
        }
    }

    fn network(&self, side: Side) -> &Proxy {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    fn later(&mut self, most_ms: u64, mend: Mend) {
        let pause = Duration::from_millis(self.rng.u64(..most_ms));
        self.mends.push((Instant::now() + pause, mend));
    }

    /// The daemon is gone, and comes back.
    fn down(&mut self, pause: Duration) {
        self.daemon_is = State::Down;
        self.mends.push((Instant::now() + pause, Mend::LaunchDaemon));
    }

    fn choose(&mut self, harm: Harm) -> Fault {
        let faults = WEIGHTS.iter().filter(|(_, fault)| fault.is_of(harm));
        let all: u32 = faults.clone().map(|(weight, _)| weight).sum();
        let mut left = self.rng.u32(..all);
        for &(weight, fault) in faults {
            match left.checked_sub(weight) {
                Some(rest) => left = rest,
                None => return fault,
            }
        }
        unreachable!("it is less than the sum of the weights")
    }

    /// Gives false where the fault makes no sense at the moment.
    fn begin(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::KillDaemon | Fault::FreezeDaemon | Fault::EndDaemon => self.hurt_daemon(fault),
            Fault::KillCache | Fault::StallCache | Fault::RememberCache | Fault::RestoreCache | Fault::FlushAll => {
                self.hurt_cache(fault)
            }
            Fault::Network(side, trouble) => self.hurt_network(side, trouble),
            Fault::RepublishTable => false,
            _ if self.postgres_is != State::Up => false,
            Fault::CutWalsender => self.sql().is_some_and(|mut sql| sql.try_rows(&self.terminate()).is_ok()),
            Fault::CrashPostgres => {
                self.postgres.stop(Signal::Quit);
                self.postgres_is = State::Down;
                self.later(1500, Mend::LaunchPostgres);
                true
            }
            Fault::StopPostgres => {
                self.postgres.signal(Signal::Interrupt);
                self.postgres_is = State::Ending(Instant::now());
                true
            }
            Fault::DropSlotOfLiveDaemon => self.drop_slot(),
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
                // Sometimes for longer than wal_sender_timeout.
                self.later(4500, Mend::ThawDaemon);
            }
            // It drains first; whoever tends sees its end.
            (Fault::EndDaemon, State::Up) => self.daemon.signal(Signal::Term),
            _ => return false,
        }
        true
    }

    fn hurt_cache(&mut self, fault: Fault) -> bool {
        match (fault, self.redis_is) {
            (Fault::KillCache, State::Up | State::Frozen) => {
                self.redis.kill();
                self.redis_is = State::Down;
                self.later(1500, Mend::RestartCache);
            }
            (Fault::StallCache, State::Up) => {
                self.redis.signal(Signal::Stop);
                self.redis_is = State::Frozen;
                // Sometimes for longer than a reply may take.
                self.later(7000, Mend::ThawCache);
            }
            (Fault::RememberCache, State::Up) => {
                if self.snapshots.len() == SNAPSHOTS_MAX {
                    let place = self.rng.usize(..SNAPSHOTS_MAX);
                    self.snapshots[place] = self.redis.dump();
                } else {
                    self.snapshots.push(self.redis.dump());
                }
            }
            (Fault::RestoreCache, State::Up | State::Frozen) if !self.snapshots.is_empty() => {
                let snapshot = self.rng.usize(..self.snapshots.len());
                self.redis.kill();
                self.redis_is = State::Down;
                self.later(600, Mend::RestoreCache(snapshot));
            }
            (Fault::FlushAll, State::Up) => {
                redis::cmd("FLUSHALL").query::<()>(&mut self.redis.client()).expect("FLUSHALL");
            }
            _ => return false,
        }
        true
    }

    fn hurt_network(&mut self, side: Side, trouble: Trouble) -> bool {
        let (bytes, delay_ms) = (self.rng.usize(..20_000), self.rng.u64(1..50));
        let way = if self.rng.bool() { Way::ToServer } else { Way::ToClient };
        let proxy = self.network(side);
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
            self.later(6000, Mend::Network(side));
        }
        true
    }

    fn sql(&self) -> Option<Client> {
        postgres_client(&self.postgres.dsn(&self.world.database)).ok()
    }

    fn terminate(&self) -> String {
        let slot = &self.world.database;
        format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        )
    }

    /// Drops the slot as soon as nobody is at it, whether or not the daemon comes back meanwhile.
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
