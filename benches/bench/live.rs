//! A live load: writers at a fixed rate, each changing another cached key, on a Postgres that flushes every commit to
//! disk. One process takes both timestamps: when COMMIT has returned to the writer, and when Redis's keyspace event
//! reports that the key is gone. The writer caches the key before its change is due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cache::Cache;
use crate::consumer::{Follower, Place, begun};
use crate::meter::{Usage, median, quantile};
use crate::notify;
use crate::options::{Consumer, Options, Transport, Word, number};
use crate::report::Report;
use crate::session::Session;
use crate::support::postgres::Client;
use crate::support::wait::until_within;
use crate::support::{Database, Postgres};

/// As in production: every commit is on disk before it returns.
pub(crate) const SETTINGS: &str = "fsync = on
synchronous_commit = on
shared_buffers = 512MB
max_wal_size = 16GB
checkpoint_timeout = 1h
autovacuum = off";

/// The number of writing sessions.
pub(crate) const WRITERS: u64 = 8;

/// Transactions per second, unless `LIVE_TPS` names one rate.
const RATES: [f64; 3] = [500.0, 2000.0, 5000.0];

/// The least number of rounds: the machine is noisy, and medians of fewer say little.
const ROUNDS_MIN: usize = 5;

/// The number of rows in the table.
pub(crate) const ROWS: u64 = 200_000;

pub(crate) const RULES: &str = "rules:\n  - { table: items, keys: [\"item:{id}\"] }\n";

/// The result of one measurement.
struct Live {
    tps: f64,
    /// Latencies in microseconds at 50, 95 and 99 %.
    latencies: [f64; 3],
    /// CPU seconds per second.
    cpu: f64,
}

/// Measures the time from commit to the key's deletion, for each consumer in turn.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let seconds: f64 = number("LIVE_SECONDS", 4.0);
    let only: f64 = number("LIVE_TPS", 0.0);
    let rates = if only > 0.0 { vec![only] } else { RATES.to_vec() };
    let mut stage = Stage::set();
    let most = stage.most(Duration::from_secs(2));
    let nobody = [
        ("asked tps", json!("the most")),
        ("transport", json!(null)),
        ("consumer", json!("nobody")),
        ("tps", json!(most.round())),
    ];
    report.row("live", &nobody);
    for tps in rates {
        for &transport in &options.transports {
            let consumers: Vec<Consumer> = options.consumers.iter().copied().filter(|its| its.is_live()).collect();
            let mut measured: Vec<Vec<Live>> = consumers.iter().map(|_| Vec::new()).collect();
            for _round in 0..options.rounds.max(ROUNDS_MIN) {
                for (consumer, all) in consumers.iter().zip(&mut measured) {
                    all.push(stage.measure(*consumer, transport, tps, seconds));
                }
            }
            for (consumer, all) in consumers.iter().zip(&measured) {
                let of = |value: &dyn Fn(&Live) -> f64| median(all.iter().map(value));
                report.row(
                    "live",
                    &[
                        ("asked tps", json!(tps)),
                        ("transport", json!(transport.word())),
                        ("consumer", json!(consumer.word())),
                        ("tps", json!(of(&|live| live.tps).round())),
                        ("p50 µs", json!(of(&|live| live.latencies[0]).round())),
                        ("p95 µs", json!(of(&|live| live.latencies[1]).round())),
                        ("p99 µs", json!(of(&|live| live.latencies[2]).round())),
                        ("CPU %", json!(of(&|live| live.cpu * 100.0))),
                    ],
                );
            }
        }
    }
}

/// The servers of a live load.
pub(crate) struct Stage {
    pub(crate) database: Database,
    pub(crate) cache: Cache,
}

impl Stage {
    pub(crate) fn set() -> Stage {
        let database = Database::create_on(Arc::new(Postgres::start(SETTINGS)));
        database.run(&format!(
            "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, pad text NOT NULL)
                 WITH (fillfactor = 50);
             INSERT INTO items SELECT n, 0, repeat('x', 280) FROM generate_series(1, {ROWS}) n;
             CREATE PUBLICATION keys FOR TABLE items (id);"
        ));
        database.run(notify::SETUP);
        database.run("VACUUM ANALYZE");
        // K: events on a key's own channel, g: DEL and other commands of all types. SET causes none.
        Stage { database, cache: Cache::start_with(&["--notify-keyspace-events", "Kg"]) }
    }

    pub(crate) fn session(&self) -> Session {
        Session::connect(&format!("127.0.0.1:{}", self.database.server.port()), &self.database.name)
    }

    /// The highest rate of [`WRITERS`] sessions, in transactions per second.
    fn most(&self, time: Duration) -> f64 {
        let began = Instant::now();
        let done: u64 = std::thread::scope(|scope| {
            let write = |writer| {
                move || {
                    let (mut session, mut done) = (self.session(), 0);
                    while began.elapsed() < time {
                        let id = (done * WRITERS + writer) % ROWS + 1;
                        session.run(&format!("UPDATE items SET n = n + 1 WHERE id = {id}"));
                        done += 1;
                    }
                    done
                }
            };
            let all: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(write(writer))).collect();
            all.into_iter().map(|writer| writer.join().expect("it writes")).sum()
        });
        done as f64 / began.elapsed().as_secs_f64()
    }

    /// Starts a consumer and waits until it has caught up with a new slot, or listens.
    pub(crate) fn follow(
        &mut self,
        sql: &mut Client,
        slot: &str,
        consumer: Consumer,
        transport: Transport,
    ) -> Follower {
        self.cache.fill(std::iter::empty());
        let place = Place { database: &self.database, transport, slot, publication: "keys" };
        if consumer == Consumer::Notify {
            let listener = Follower::bare("notify", &place, &self.cache);
            notify::listens(sql);
            return listener;
        }
        sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
        self.cache.record(sql, slot);
        let follower = match consumer {
            Consumer::Coherd => Follower::coherd(&place, std::slice::from_ref(&self.cache), RULES, None),
            Consumer::Before => {
                Follower::coherd(&place, std::slice::from_ref(&self.cache), RULES, crate::options::before().as_deref())
            }
            Consumer::Crate => Follower::bare("crate", &place, &self.cache),
            Consumer::Floor | Consumer::PgRecvlogical | Consumer::Notify => {
                Follower::bare("floor", &place, &self.cache)
            }
        };
        begun(sql, slot, || {
            follower.must_live();
            false
        });
        if matches!(consumer, Consumer::Coherd | Consumer::Before) {
            follower.settled(&sql.one("SELECT pg_current_wal_flush_lsn()"));
        }
        follower
    }

    fn measure(&mut self, consumer: Consumer, transport: Transport, tps: f64, seconds: f64) -> Live {
        let mut sql = self.database.client();
        let follower = self.follow(&mut sql, "live", consumer, transport);
        let stamps = Stamps::new((tps * seconds) as usize);
        let before = follower.usage();
        let (this, stamps_of_all) = (&*self, &stamps);
        let elapsed = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| this.watch(stamps_of_all));
            until_within(Duration::from_secs(5), "the events are subscribed to", || {
                stamps.watching.load(Ordering::SeqCst).then_some(())
            });
            let began = Instant::now();
            let table = consumer.table();
            let writer = |writer| scope.spawn(move || this.write(table, stamps_of_all, writer, (began, tps)));
            let writers: Vec<_> = (0..WRITERS).map(writer).collect();
            for writer in writers {
                writer.join().expect("it writes");
            }
            let elapsed = began.elapsed();
            watcher.join().expect("it watches");
            elapsed
        });
        let cpu = follower.usage().since(before).cpu_seconds / elapsed.as_secs_f64();
        unfollow(follower, &mut sql, "live", consumer);
        let mut latencies = stamps.latencies();
        let latencies = [0.5, 0.95, 0.99].map(|share| quantile(&mut latencies, share));
        Live { tps: stamps.gone.len() as f64 / elapsed.as_secs_f64(), latencies, cpu }
    }

    /// Makes one writer's share of the changes, each when it is due or as soon after as the writer is free.
    fn write(&self, table: &str, stamps: &Stamps, writer: u64, (began, tps): (Instant, f64)) {
        let (mut session, mut cache) = (self.session(), self.cache.client());
        for number in (writer..stamps.gone.len() as u64).step_by(WRITERS as usize) {
            let id = number % ROWS + 1;
            let () = redis::cmd("SET").arg(format!("item:{id}")).arg("cached").query(&mut cache).expect("SET");
            let at = began + Duration::from_secs_f64(number as f64 / tps);
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            session.run(&format!("UPDATE {table} SET n = n + 1 WHERE id = {id}"));
            stamps.committed[number as usize].store(stamps.now(), Ordering::Relaxed);
        }
    }

    /// Timestamps the events until the last one.
    fn watch(&self, stamps: &Stamps) {
        let mut client = self.cache.client();
        let mut events = client.as_pubsub();
        events.psubscribe("__keyspace@0__:item:*").expect("PSUBSCRIBE");
        events.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        stamps.watching.store(true, Ordering::SeqCst);
        let mut missing = stamps.gone.len();
        while missing > 0 {
            let event = events.get_message().expect("every key goes within 10 s of the one before");
            let now = stamps.now();
            let id: Option<usize> = event.get_channel_name().rsplit_once(':').and_then(|(_, id)| id.parse().ok());
            let number = id.expect("item:ID") - 1;
            // No key is written twice in one measurement.
            assert_eq!(stamps.gone[number].swap(now, Ordering::Relaxed), 0, "item:{} went twice", number + 1);
            missing -= 1;
        }
    }
}

/// Ends what [`Stage::follow`] has started, and drops its slot.
pub(crate) fn unfollow(follower: Follower, sql: &mut Client, slot: &str, consumer: Consumer) {
    follower.must_live();
    drop(follower);
    if consumer != Consumer::Notify {
        let drop_it = format!("SELECT pg_drop_replication_slot('{slot}')");
        until_within(Duration::from_secs(30), "the slot is free", || sql.try_run(&drop_it).ok());
    }
}

/// The times of each change, in nanoseconds; zero before they are known.
struct Stamps {
    began: Instant,
    watching: AtomicBool,
    committed: Vec<AtomicU64>,
    gone: Vec<AtomicU64>,
}

impl Stamps {
    fn new(count: usize) -> Stamps {
        assert!(count as u64 <= ROWS, "{count} changes need as many rows, and there are {ROWS}");
        let zeros = || std::iter::repeat_with(|| AtomicU64::new(0)).take(count).collect();
        Stamps { began: Instant::now(), watching: AtomicBool::new(false), committed: zeros(), gone: zeros() }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Latencies in microseconds; negative if the key went before COMMIT had returned.
    fn latencies(&self) -> Vec<f64> {
        let both = self.committed.iter().zip(&self.gone);
        both.map(|(committed, gone)| {
            (gone.load(Ordering::Relaxed) as f64 - committed.load(Ordering::Relaxed) as f64) / 1000.0
        })
        .collect()
    }
}
