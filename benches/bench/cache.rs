//! A Redis in which every key is cached.

use redis::Connection;

use crate::options::Transport;
use crate::support::Redis;
use crate::support::postgres::Client;

/// A temporary Redis.
pub(crate) struct Cache {
    redis: Redis,
    client: Connection,
}

impl Cache {
    pub(crate) fn start() -> Cache {
        Cache::start_with(&[])
    }

    /// Starts it with extra command-line arguments.
    pub(crate) fn start_with(args: &[&str]) -> Cache {
        let redis = Redis::start_with(args);
        let client = redis.client();
        Cache { redis, client }
    }

    /// The URL for coherd.
    pub(crate) fn url(&self, transport: Transport) -> String {
        match transport {
            Transport::Tcp => self.redis.url(),
            Transport::Unix => format!("redis+unix://{}", self.redis.socket()),
        }
    }

    /// The address for the floor.
    pub(crate) fn address(&self, transport: Transport) -> String {
        match transport {
            Transport::Tcp => format!("127.0.0.1:{}", self.redis.port()),
            Transport::Unix => self.redis.socket(),
        }
    }

    /// A new client.
    pub(crate) fn client(&self) -> Connection {
        self.redis.client()
    }

    /// Empties the server and caches `keys`.
    pub(crate) fn fill(&mut self, keys: impl Iterator<Item = String>) {
        let () = redis::cmd("FLUSHALL").query(&mut self.client).expect("FLUSHALL");
        let mut keys = keys.peekable();
        while keys.peek().is_some() {
            let mut set = redis::cmd("MSET");
            for key in keys.by_ref().take(1000) {
                set.arg(key).arg("cached");
            }
            let () = set.query(&mut self.client).expect("MSET");
        }
    }

    /// How often the server has run `command`.
    pub(crate) fn calls(&mut self, command: &str) -> u64 {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut self.client).expect("INFO");
        let rest = stats.split(&format!("cmdstat_{command}:calls=")).nth(1);
        rest.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    /// Writes coherd's record, with the slot's position as the target's.
    pub(crate) fn record(&mut self, sql: &mut Client, slot: &str) {
        let row = sql.rows(&format!(
            "SELECT confirmed_flush_lsn - '0/0', (SELECT system_identifier FROM pg_control_system()),
                    (SELECT timeline_id FROM pg_control_checkpoint())
             FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ));
        let mut record = redis::cmd("HSET");
        record.arg(format!("coherd:{slot}"));
        for (field, value) in ["applied", "system_id", "timeline"].iter().zip(&row[0]) {
            record.arg(field).arg(value);
        }
        // Includes the names that earlier builds use.
        for field in ["confirmed", "settled", "struck"] {
            record.arg(field).arg(&row[0][0]);
        }
        record.arg("rules").arg("new").arg("marks").arg("new").arg("updated_ms").arg(0);
        let () = record.query(&mut self.client).expect("HSET");
    }

    /// The number of keys.
    pub(crate) fn size(&mut self) -> u64 {
        redis::cmd("DBSIZE").query(&mut self.client).expect("DBSIZE")
    }
}
