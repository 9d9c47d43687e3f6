//! Scenarios in which coherd could report settled too early. Such an error shows as a stale key although everything is
//! reported as settled.

mod drift;
mod put_back;
mod reattached;
mod suspended;
mod swapped;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shop;
use crate::protocol::{Form, Got, Reader};
use crate::support::postgres::{Client, postgres_client};
use crate::support::process::{Signal, send_signal};
use crate::support::{Daemon, Database, Postgres, Proxy, Redis, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO users SELECT generate_series(1, 300);
    CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    CREATE TABLE bulk (x text);";
/// Readers read a row of `users` by its lease under one key, and by its version pointer under another.
const RULES: &str = "rules:\n  - table: users\n    keys: [\"user:{id}\"]\n  - table: users\n    keys: [\"ptr:{id}\"]\n    action: bump\n  - table: items\n    keys: [\"item:{id}\"]\n";
/// How long a test waits for a position that must not be reported as settled yet.
const EARLY: &str = "1s";
/// How long a reader waits until the daemon lets it read from the replica; the daemon reports this with a short delay.
const HELD_MOST: Duration = Duration::from_secs(2);

/// A primary, a replica that the daemon waits for, and a cache that readers of level 2 fill from either server. The
/// daemon reaches the cache through a proxy, so that the cache can be down for the daemon alone.
struct Stage {
    shop: Shop,
    network: Proxy,
    replica: Arc<Postgres>,
    there: Client,
}

impl Stage {
    /// `source` is added below `source:`.
    fn open(source: &str) -> Stage {
        // Without autovacuum. A transaction that runs during a look makes the daemon flush the rules again, perhaps
        // after more was read.
        let database = Database::create_on(Arc::new(Postgres::start("autovacuum = off")));
        database.run(SCHEMA);
        let redis = Redis::start();
        let network = Proxy::start(redis.port());
        let url = format!("redis://127.0.0.1:{}/0\n    leases: true", network.port());
        let mut daemon = Daemon::configure(&database, &url, RULES);
        let replica = Arc::new(database.server.standby(""));
        replica.catch_up(&database.server);
        let dsn = replica.dsn_as("coherd", &database.name);
        daemon.edit("targets:", &format!("  replicas: [\"{dsn}\"]\n{source}targets:"));
        daemon.setup(&database);
        daemon.launch();
        let there = postgres_client(&replica.dsn(&database.name)).expect("connects");
        let sql = database.client();
        let mut stage = Stage { shop: Shop { daemon, redis, sql, database }, network, replica, there };
        stage.shop.settle();
        stage
    }

    /// Cuts the daemon off from the cache, or reconnects it.
    fn cache_is_away(&self, away: bool) {
        self.network.refuse(away);
        self.network.cut();
        if away {
            until("the daemon notices that the cache is away", || {
                (self.shop.daemon.status()["targets"][0]["up"] == false).then_some(())
            });
        }
    }

    /// Lets the replica replay everything so far, then pauses it.
    fn pause(&mut self) {
        self.replica.catch_up(&self.shop.database.server);
        self.there.run("SELECT pg_wal_replay_pause()");
        until("replay is paused", || {
            (self.there.one("SELECT pg_get_wal_replay_pause_state()") == "paused").then_some(())
        });
    }

    fn resume(&mut self) {
        self.there.run("SELECT pg_wal_replay_resume()");
        self.replica.catch_up(&self.shop.database.server);
    }

    /// A position at or past every commit so far.
    fn token(&mut self) -> u64 {
        self.shop.sql.one("SELECT coherd.token()").parse().expect("a position")
    }

    fn until_read(&self, token: u64) {
        until("the daemon has read the log up to there", || {
            let text = self.shop.daemon.status()["watermarks"]["decoded"].as_str().map(str::to_owned);
            (position(&text?) >= token).then_some(())
        });
    }

    /// Whether `coherd.wait()` soon reports everything up to `token` as settled.
    fn is_called_settled(&mut self, token: u64) -> bool {
        self.shop.is_called_settled(token)
    }

    /// Reads a row as a reader of level 2, by both protocols. It reads from the replica if the daemon says `held` after
    /// the reader has its lease and version, otherwise from the primary.
    fn read(&mut self, id: u32) {
        let (key, pointer) = (format!("user:{id}"), format!("ptr:{id}"));
        let mut reader = Reader { connection: self.shop.redis.client(), form: Form::Function };
        let got = reader.get(key.as_bytes());
        let version = reader.version(&pointer);
        let sql = if self.is_held() { &mut self.there } else { &mut self.shop.sql };
        let n = sql.one(&format!("SELECT n FROM users WHERE id = {id}"));
        if let Got::Lease { token, .. } = got {
            reader.fill(key.as_bytes(), &token, n.as_bytes());
        }
        let () = redis::cmd("SET").arg(format!("{pointer}:v{version}")).arg(n).query(&mut reader.connection).unwrap();
    }

    fn is_held(&self) -> bool {
        self.shop.daemon.status()["replicas"][0]["held"] == true
    }

    /// Ends a test: `token` is past a commit that the paused replica has not replayed. Reads row 1, resumes the replica
    /// and waits until everything settles. Then no cached value may be older than the database.
    fn must_not_settle_before_it_is_replayed(&mut self, token: u64) {
        let early = self.is_called_settled(token);
        // It is as good if the daemon allows no fills from the replica for this long.
        let end = Instant::now() + HELD_MOST;
        while !self.is_held() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.read(1);
        self.resume();
        self.shop.settle();
        let stale = self.shop.stale();
        assert!(
            !early && stale.is_empty(),
            "called settled before the replica had replayed it: {early}; stale after all has settled: {stale:?}"
        );
    }
}

impl Shop {
    fn is_called_settled(&mut self, token: u64) -> bool {
        let slot = &self.database.name;
        self.sql.one(&format!("SELECT coherd.wait({token}, '{EARLY}', '{slot}')")) == "t"
    }

    /// The `users` keys under which readers find another value than the database's.
    fn stale(&mut self) -> Vec<String> {
        let rows = self.sql.rows("SELECT id, n FROM users");
        let right: HashMap<String, String> = rows.into_iter().map(|mut row| (row.remove(0), row.remove(0))).collect();
        let mut cache = self.redis.client();
        let mut stale = Vec::new();
        for (id, n) in &right {
            let mut get = |key: String| redis::cmd("GET").arg(key).query::<Option<String>>(&mut cache).unwrap();
            let entry = get(format!("ptr:{id}:version")).and_then(|version| get(format!("ptr:{id}:v{version}")));
            let found = [(format!("user:{id}"), get(format!("user:{id}"))), (format!("ptr:{id}"), entry)];
            for (key, found) in found.into_iter().filter_map(|(key, found)| Some((key, found?))) {
                if found != *n {
                    stale.push(format!("{key} is {found}, and the row {n}"));
                }
            }
        }
        stale.sort();
        stale
    }
}

/// A stopped walsender: reading lags while everything else goes on. Dropping this continues it.
struct StoppedWalsender(u32);

impl StoppedWalsender {
    fn of(shop: &mut Shop) -> StoppedWalsender {
        let pid = shop.walsender().parse().expect("a pid");
        send_signal(pid, Signal::Stop);
        StoppedWalsender(pid)
    }
}

impl Drop for StoppedWalsender {
    fn drop(&mut self) {
        send_signal(self.0, Signal::Continue);
    }
}

/// `16/B374D848` as a number.
fn position(text: &str) -> u64 {
    let (high, low) = text.split_once('/').expect("a position");
    let part = |text| u64::from_str_radix(text, 16).expect("hexadecimal digits");
    part(high) << 32 | part(low)
}
