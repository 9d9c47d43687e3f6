//! One target: a Redis, the network before it, and what it can be made to forget.

use fastrand::Rng;

use super::behind::Old;
use super::faults::{CacheRepair, Fault, State};
use crate::support::process::Signal;
use crate::support::{Proxy, Redis};

/// The targets, by their names in the configuration. Tables name them by their places here.
pub const NAMES: [&str; 2] = ["cache", "edge"];
/// Snapshots of a cache that are kept.
const SNAPSHOTS_MAX: usize = 3;

/// What came of a fault.
pub enum Hurt {
    /// It makes no sense at the moment.
    Not,
    /// Nothing has to fix it.
    ForGood,
    /// This fixes it, so many milliseconds later at the latest.
    Until(u64, CacheRepair),
}

/// A Redis, as the daemon reaches it.
pub struct Cache {
    pub name: &'static str,
    pub redis: Redis,
    pub proxy: Proxy,
    is: State,
    pub snapshots: Vec<Vec<u8>>,
    pub old: Option<Old>,
}

impl Cache {
    /// Up, and empty.
    pub fn start(name: &'static str) -> Cache {
        let redis = Redis::start_with(&["--notify-keyspace-events", "Eg"]);
        let proxy = Proxy::start(redis.port());
        Cache { name, redis, proxy, is: State::Up, snapshots: Vec::new(), old: None }
    }

    /// As the daemon reaches it.
    pub fn url_of_proxy(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.proxy.port())
    }

    /// As the application reaches it.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.redis.socket())
    }

    /// Begins a fault.
    pub fn hurt(&mut self, fault: Fault, rng: &mut Rng) -> Hurt {
        match (fault, self.is) {
            (Fault::KillCache, State::Up | State::Frozen) => {
                self.redis.kill();
                self.is = State::Down;
                Hurt::Until(1500, CacheRepair::Restart)
            }
            (Fault::StallCache, State::Up) => {
                self.redis.signal(Signal::Stop);
                self.is = State::Frozen;
                // Sometimes for longer than a reply may take.
                Hurt::Until(7000, CacheRepair::Thaw)
            }
            (Fault::RememberCache, State::Up) => {
                let snapshot = self.redis.dump();
                if self.snapshots.len() == SNAPSHOTS_MAX {
                    self.snapshots[rng.usize(..SNAPSHOTS_MAX)] = snapshot;
                } else {
                    self.snapshots.push(snapshot);
                }
                self.remember_old();
                Hurt::ForGood
            }
            (Fault::RestoreCache, State::Up | State::Frozen) if !self.snapshots.is_empty() => {
                self.redis.kill();
                self.is = State::Down;
                Hurt::Until(600, CacheRepair::Restore(rng.usize(..self.snapshots.len())))
            }
            (Fault::FlushAll, State::Up) => {
                redis::cmd("FLUSHALL").query::<()>(&mut self.redis.client()).expect("FLUSHALL");
                Hurt::ForGood
            }
            (fault, State::Up) => self.hurt_behind(fault, rng),
            _ => Hurt::Not,
        }
    }

    /// Ends a fault.
    pub fn repair(&mut self, repair: CacheRepair) {
        match repair {
            CacheRepair::Restart => self.redis.restart(),
            CacheRepair::Restore(snapshot) => self.redis.restore(&self.snapshots[snapshot]),
            CacheRepair::Thaw if self.is == State::Frozen => self.redis.signal(Signal::Continue),
            // Something worse has happened to it since.
            CacheRepair::Thaw => return,
        }
        self.is = State::Up;
    }
}
