//! A target that is down for long under load. Neither the daemon's memory nor the log that its slot holds back exceeds
//! its limit. `make outage SECONDS=600` runs it longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::postgres::{Client, postgres_client};
use crate::support::process::{Signal, peak_rss_kib, rss_kib};
use crate::support::{Daemon, Database, Postgres, Redis};

/// How long the target is down by default, in seconds.
const SECONDS: u64 = 20;
/// A shorter load does not exceed the long budget: it writes about 3 MiB of log per second.
const LONG_SECONDS: u64 = 60;
const SHORT_BUDGET_MIB: u64 = 16;
const LONG_BUDGET_MIB: u64 = 64;
/// `wal_segment_size`: the server frees whole segments.
const SEGMENT_MIB: u64 = 16;
const RSS_MOST_MIB: u64 = 64;
const ROWS: u64 = 200_000;
const CACHED_ROWS: u64 = 5000;
/// Transactions per step of the load, and the intended duration of a step: a thousand transactions per second.
const STEP_COMMITS: u64 = 10;
const STEP: Duration = Duration::from_millis(10);
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

const MIB: u64 = 1 << 20;

#[test]
fn a_target_away_under_load_costs_neither_memory_nor_log() {
    let given = std::env::var("COHERD_OUTAGE_SECONDS").ok().filter(|text| !text.is_empty());
    let seconds = given.map_or(SECONDS, |text| text.parse().expect("whole seconds"));
    let budget_mib = if seconds < LONG_SECONDS { SHORT_BUDGET_MIB } else { LONG_BUDGET_MIB };
    let mut soak = Soak::begin(budget_mib);
    let snapshot = soak.redis.dump();
    let (load, began) = (Load::start(&soak.database), soak.sql.one("SELECT pg_current_wal_lsn()"));
    soak.redis.signal(Signal::Stop);
    let mut most = soak.watch(Duration::from_secs(seconds) / 2);
    soak.redis.kill();
    most = most.and(soak.watch(Duration::from_secs(seconds) / 2));
    let commits = load.stop();
    let written = soak.sql.one(&format!("SELECT (pg_current_wal_lsn() - '{began}')::bigint"));
    let written_mib = written.parse::<u64>().expect("bytes") / MIB;
    // With everything cached before the outage, as a Redis with persistence would restart.
    soak.redis.restore(&snapshot);
    soak.settle();
    let (fresh, stale) = soak.compare();
    let peak_mib = peak_rss_kib(soak.daemon.pid()) / 1024;
    println!(
        "outage: {seconds} s, {} commits/s, {written_mib} MiB of log written; RSS at most {} MiB (VmHWM {peak_mib} MiB); \
         log held back at most {} MiB, budget {budget_mib} MiB; {fresh} keys compared, stale = {}",
        commits / seconds,
        most.rss_kib / 1024,
        most.retained / MIB,
        stale.len()
    );
    assert!(stale.is_empty(), "{stale:?}\n{}", soak.daemon.log());
    soak.invalidates_by_name();
    assert!(peak_mib <= RSS_MOST_MIB, "{peak_mib} MiB");
    let allowed_mib = budget_mib + SEGMENT_MIB;
    assert!(written_mib > allowed_mib, "{written_mib} MiB of log are too few to hold back too much");
    assert!(most.retained <= allowed_mib * MIB, "{} MiB of log held back", most.retained / MIB);
}

struct Soak {
    // Dropped in this order: the daemon must release the slot before the database is dropped.
    daemon: Daemon,
    redis: Redis,
    sql: Client,
    database: Database,
}

/// The highest values seen.
#[derive(Clone, Copy, Default)]
struct Most {
    rss_kib: u64,
    retained: u64,
}

impl Most {
    fn and(self, other: Most) -> Most {
        Most { rss_kib: self.rss_kib.max(other.rss_kib), retained: self.retained.max(other.retained) }
    }
}

impl Soak {
    fn begin(budget_mib: u64) -> Soak {
        // A slot moves to the last record of running transactions before its confirmed position. Postgres writes one at
        // least every 15 s and at every checkpoint, and with so small a log checkpoints are frequent.
        let server = Postgres::start("max_wal_size = 32MB\nmin_wal_size = 32MB\nlog_checkpoints = off");
        let database = Database::create_on(server.into());
        database.run(&format!(
            "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
             INSERT INTO items SELECT generate_series(1, {ROWS});"
        ));
        let redis = Redis::start();
        let daemon =
            Daemon::configure(&database, &redis.url(), "rules:\n  - table: items\n    keys: [\"item:{id}\"]\n");
        daemon.edit("source:\n", &format!("source:\n  wal_budget: {budget_mib}MiB\n"));
        daemon.setup(&database);
        let mut soak = Soak { daemon, redis, sql: database.client(), database };
        soak.daemon.launch();
        soak.settle();
        let mut set = redis::cmd("MSET");
        for id in 1..=CACHED_ROWS {
            set.arg(format!("item:{id}")).arg(0);
        }
        let () = set.query(&mut soak.redis.client()).expect("MSET");
        soak
    }

    /// Samples the daemon and its slot for `duration`.
    fn watch(&mut self, duration: Duration) -> Most {
        let end = Instant::now() + duration;
        let mut most = Most::default();
        while Instant::now() < end {
            assert!(!self.daemon.has_ended(), "{}", self.daemon.log());
            most = most.and(Most { rss_kib: rss_kib(self.daemon.pid()), retained: self.retained() });
            std::thread::sleep(SAMPLE_EVERY);
        }
        most
    }

    /// Zero while there is no slot.
    fn retained(&mut self) -> u64 {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots";
        self.sql.rows(sql).first().and_then(|row| row[0].parse().ok()).unwrap_or_default()
    }

    fn settle(&mut self) {
        let wait = format!("SELECT coherd.wait(timeout => '60s', slot => '{}')", self.database.name);
        assert_eq!(self.sql.one(&wait), "t", "{}\n{}", self.daemon.status(), self.daemon.log());
    }

    /// Checks that a change invalidates its own key and no other.
    fn invalidates_by_name(&mut self) {
        let mut client = self.redis.client();
        let () = redis::cmd("MSET").arg("item:2").arg(0).arg("item:3").arg(0).query(&mut client).expect("MSET");
        self.sql.run("UPDATE items SET n = n + 1 WHERE id = 2");
        self.settle();
        let left: (bool, bool) = redis::pipe().exists("item:2").exists("item:3").query(&mut client).expect("EXISTS");
        assert_eq!(left, (false, true), "{}", self.daemon.log());
    }

    /// Compares every cached key with the database. Returns how many were compared, and which are stale.
    fn compare(&mut self) -> (u64, Vec<String>) {
        let keys: Vec<String> = (1..=CACHED_ROWS).map(|id| format!("item:{id}")).collect();
        let cached: Vec<Option<String>> = redis::cmd("MGET").arg(&keys).query(&mut self.redis.client()).expect("MGET");
        let rows = self.sql.rows(&format!("SELECT n FROM items WHERE id <= {CACHED_ROWS} ORDER BY id"));
        let mut compared = 0;
        let mut stale = Vec::new();
        for ((key, cached), row) in keys.iter().zip(cached).zip(rows) {
            let Some(cached) = cached else { continue };
            compared += 1;
            if cached != row[0] {
                stale.push(format!("{key} is cached as {cached}, and the database has {}", row[0]));
            }
        }
        stale.truncate(10);
        (compared, stale)
    }
}

/// A writer of small transactions at a steady rate.
struct Load {
    stop: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Load {
    fn start(database: &Database) -> Load {
        let (stop, commits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut sql = postgres_client(&database.dsn()).expect("connects");
        let thread = std::thread::spawn({
            let (stop, commits) = (Arc::clone(&stop), Arc::clone(&commits));
            move || {
                let mut next = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..STEP_COMMITS {
                        let done = commits.fetch_add(1, Ordering::Relaxed);
                        sql.run(&transaction(done));
                    }
                    next += STEP;
                    std::thread::sleep(next.saturating_duration_since(Instant::now()));
                }
            }
        });
        Load { stop, commits, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load does not fail");
        self.commits.load(Ordering::Relaxed)
    }
}

/// Changes one row, a different one each time, and writes 3 KB of log that concerns no rule. Every other cached row
/// never changes.
fn transaction(done: u64) -> String {
    let id = (2 * done) % ROWS + 2;
    format!(
        "BEGIN; UPDATE items SET n = n + 1 WHERE id = {id}; SELECT pg_logical_emit_message(true, 'ballast', repeat('x', 3000)); COMMIT"
    )
}
