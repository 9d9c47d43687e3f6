//! The daemon from end to end: a change in a real Postgres, keys in a real Redis.

mod asynchronous;
mod manual;
mod broken_rule;
mod budget;
mod bulk;
mod coherence;
mod constructs;
mod continuity;
mod crash;
mod crowd;
mod drift;
mod failover;
mod flush;
mod from_standby;
mod full;
mod hostile;
mod idle;
mod inheritance;
mod keys;
mod locks;
mod many;
mod outage;
mod oversize;
mod planted;
mod prepared;
mod readers;
mod refusals;
mod reload;
mod rotation;
mod sharing;
mod settled_early;
mod soak;
mod standby;
mod synchronous;
mod systemd;
mod tables;
mod targets;
mod truncate;
mod types;
mod wait;
mod wrong;

use std::time::Instant;

use crate::support::postgres::Client;
use crate::support::{Daemon, Database, Postgres, Redis, until};

/// A database, a cache and the daemon that connects them.
pub struct Shop {
    // Dropped in this order: the daemon must release the slot before the database is dropped.
    pub daemon: Daemon,
    pub redis: Redis,
    pub sql: Client,
    pub database: Database,
}

impl Shop {
    /// Opens a shop on the shared server. `schema` runs before setup; `rules` are the entries of `rules:`.
    pub fn open(schema: &str, rules: &str) -> Shop {
        Shop::open_on(Database::create(), schema, rules)
    }

    /// Opens a shop on a server of its own.
    pub fn alone(settings: &str, schema: &str, rules: &str) -> Shop {
        Shop::open_on(Database::create_on(Postgres::start(settings).into()), schema, rules)
    }

    fn open_on(database: Database, schema: &str, rules: &str) -> Shop {
        let redis = Redis::start();
        database.run(schema);
        let daemon = Daemon::start(&database, &redis, &format!("rules:\n{rules}"));
        let sql = database.client();
        Shop { daemon, redis, sql, database }
    }

    /// Stores keys in the cache, as an application would.
    pub fn cache(&self, keys: &[&str]) {
        let mut client = self.redis.client();
        for key in keys {
            let () = redis::cmd("SET").arg(key).arg("cached").query(&mut client).unwrap();
        }
    }

    /// The keys in the cache, sorted, without coherd's own record.
    pub fn cached(&self) -> Vec<String> {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut self.redis.client()).unwrap();
        keys.retain(|key| !key.starts_with("coherd:"));
        keys.sort();
        keys
    }

    /// Waits until everything committed so far is settled, as a DBA would.
    pub fn settle(&mut self) {
        let wait = format!("SELECT coherd.wait(timeout => '60s', slot => '{}')", self.database.name);
        assert_eq!(self.sql.one(&wait), "t", "not settled in time: {}\n{}", self.daemon.status(), self.daemon.log());
    }

    /// Runs a change, waits until it is settled, and returns the remaining keys.
    pub fn left_after(&mut self, sql: &str) -> Vec<String> {
        self.sql.run(sql);
        self.settle();
        self.cached()
    }

    /// The walsender's process id, once there is one.
    pub fn walsender(&mut self) -> String {
        let query = format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", self.database.name);
        until("somebody follows the slot", || Some(self.sql.one(&query)).filter(|pid| !pid.is_empty()))
    }

    /// Waits until the daemon has looked at the present catalogue and has queued what follows from that look.
    pub fn until_looked_at(&self) {
        let now = Instant::now();
        until("the daemon looks at the catalogue", || {
            // Read the clock first, so that the comparison errs on the safe side.
            let since = now.elapsed();
            let age = self.daemon.status()["catalogue_age_seconds"].as_f64()?;
            (age < since.as_secs_f64()).then_some(())
        });
    }
}
