//! Tests of targets against real servers.

mod conformance;
mod faults;
mod flush;
mod full;
mod hostile;
mod worker;
mod leases;
mod redis;
mod redis_tls;
mod wrong;

use std::sync::Arc;

use ::redis::ToRedisArgs;
use coherd::targets::config::TargetConfig;
use coherd::targets::{Delivered, Delivery, Fault, Record, Target};
use coherd::types::invalidation::{Action, Batch, RuleId, Scope};
use coherd::types::lsn::Lsn;

use crate::support::Redis;

pub fn config(url: &str) -> TargetConfig {
    TargetConfig::new("cache", url, "app")
}

pub fn open(config: &TargetConfig) -> Arc<dyn Target> {
    coherd::targets::open(config).expect("a target")
}

pub fn open_url(url: &str) -> Arc<dyn Target> {
    open(&config(url))
}

/// Delivers as a newly connected worker does: it reads the record before it writes over it.
pub async fn deliver(target: &dyn Target, delivery: &Delivery) -> Result<Delivered, Fault> {
    target.load_record().await?;
    target.deliver(delivery).await
}

pub fn record(applied: u64) -> Record {
    Record {
        applied: Lsn::new(applied),
        confirmed: Lsn::new(applied / 2),
        settled: Lsn::new(applied / 2),
        system_id: u64::MAX,
        timeline: 7,
        sequence: 0,
        commit: None,
        rules: None,
    }
}

pub fn delivery(applied: u64, keys: &[(Action, &str)]) -> Delivery {
    let mut batch = Batch::default();
    for (action, key) in keys {
        batch.push(*action, RuleId(0), key.as_bytes());
    }
    Delivery { batch, record: record(applied) }
}

pub fn flush(applied: u64, scopes: &[(Action, &str)]) -> Delivery {
    let mut batch = Batch::default();
    for &(action, pattern) in scopes {
        batch.push_scope(&Scope { action, keys: coherd::types::pattern::Extent::read(pattern) });
    }
    Delivery { batch, record: record(applied) }
}

/// A blocking connection with short methods for what the tests ask.
pub struct Asked(pub ::redis::Connection);

impl Asked {
    pub fn of(server: &Redis) -> Asked {
        Asked(server.client())
    }

    pub fn run<T: ::redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        let (name, arguments) = command.split_first().expect("a command");
        let result = ::redis::cmd(name).arg(arguments).query(&mut self.0);
        result.unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    pub fn set<K: ToRedisArgs>(&mut self, key: K) {
        ::redis::cmd("SET").arg(key).arg("v").exec(&mut self.0).expect("SET");
    }

    pub fn fill(&mut self, count: usize, name: impl Fn(usize) -> String) {
        for start in (0..count).step_by(10_000) {
            let mut mset = ::redis::cmd("MSET");
            for n in start..count.min(start + 10_000) {
                mset.arg(name(n)).arg("v");
            }
            mset.exec(&mut self.0).expect("MSET");
        }
    }

    pub fn has(&mut self, key: &str) -> bool {
        self.run(&["EXISTS", key])
    }

    pub fn pointer(&mut self, key: &str) -> Option<u64> {
        self.run(&["GET", &format!("{key}:version")])
    }

    pub fn field(&mut self, name: &str) -> Option<String> {
        self.run(&["HGET", "coherd:app", name])
    }

    /// How often a command ran, according to `INFO commandstats`.
    pub fn calls(&mut self, command: &str) -> u64 {
        let stats: String = self.run(&["INFO", "commandstats"]);
        let line =
            stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")).map(str::to_owned));
        line.map_or(0, |line| line.split(',').next().expect("a number").parse().expect("a number"))
    }
}
