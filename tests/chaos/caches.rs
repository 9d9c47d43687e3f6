//! One target: a Redis, the network in front of it, and faults that make it forget.

use fastrand::Rng;

use super::behind::Old;
use super::faults::{CacheRepair, Fault, State};
use crate::support::process::Signal;
use crate::support::{Proxy, Redis};

/// The targets by their names in the configuration. Tables refer to them by index.
pub const NAMES: [&str; 2] = ["cache", "edge"];
/// How many snapshots of a cache are kept.
const SNAPSHOTS_MAX: usize = 3;

/// The outcome of a fault.
pub enum Hurt {
    /// The fault makes no sense at the moment.
    Not,
    /// The fault needs no repair.
    ForGood,
    /// The repair, and the latest time for it in milliseconds.
    Until(u64, CacheRepair),
}

/// A Redis and the proxy through which the daemon reaches it.
pub struct Cache {
    pub name: &'static str,
    pub redis: Redis,
    pub proxy: Proxy,
    is: State,
    pub snapshots: Vec<Vec<u8>>,
    pub old: Option<Old>,
}

impl Cache {
    /// Starts an empty Redis.
    pub fn start(name: &'static str) -> Cache {
        let redis = Redis::start_with(&["--notify-keyspace-events", "Eg"]);
        let proxy = Proxy::start(redis.port());
        Cache { name, redis, proxy, is: State::Up, snapshots: Vec::new(), old: None }
    }

    /// The URL for the daemon, through the proxy.
    pub fn url_of_proxy(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.proxy.port())
    }

    /// The URL for the application, past the proxy.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.redis.socket())
    }

    /// Starts a fault.
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
                // Sometimes longer than the reply time-out.
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
            // A worse fault has followed.
            CacheRepair::Thaw => return,
        }
        self.is = State::Up;
    }
}
