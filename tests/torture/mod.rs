//! Promise 3 on real servers: once the settled watermark has passed a commit, no reader that follows a read protocol is
//! served an older value, on the primary or on a listed replica.
//!
//! Writers write a few dozen rows. Readers of every level read them through the cache, with arbitrary delays. Meanwhile
//! commits wait for their standby, the replica stops, the daemon dies. The test checks each read: before it begins, the
//! reader looks up what is settled, and the value it gets must not be older than the latest write at or before that
//! position. Level 0, and plain SETs at level 1, promise less; the test only counts their stale reads.
//!
//! `make torture SECONDS=120 SEED=7` runs it longer, or repeats a run. The seed decides which actions happen, but not
//! how threads and processes interleave. Some faults are made to coincide (`together.rs`): the cache is down and the
//! target suspended, the catalogue drifts, the walsender stops and the replica lags, all at once.

mod faults;
mod link;
mod readers;
mod rows;
mod together;
mod verdict;
mod writers;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::chaos::history::History;
use crate::support::{Daemon, Database, Postgres, Proxy, Redis};
use faults::Faults;
use link::Link;
use rows::{ROWS, Rows, Value, Worth};
use writers::{COMMITS, Writer};

/// The default duration of the faults in each half, in seconds.
const SECONDS: u64 = 8;
/// How long writers and readers continue after the last fault.
const CALM: Duration = Duration::from_millis(700);
/// The number of readers of each level.
const READERS: usize = 8;
/// How many violations are reported with their history.
const TOLD_MAX: usize = 4;

/// How long a replica may lag, and what readers do about one that lags further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// The replica stops for less than `max_replica_lag` and does not crash, so the daemon always waits for it. Readers
    /// take no precautions.
    Always,
    /// The replica stops for longer, and crashes, which may take it back. Then the promise holds for readers that read
    /// from the replica only if the daemon has said `held` since they got their lease or version. They ask `/status`
    /// after the lease was granted, and need a timely answer; without one they read from the primary. The replica has
    /// replayed everything that had settled by then, so what the reader reads afterwards is no older. What settles
    /// later invalidates the reader's lease, or moves its pointer.
    WhileHeld,
}

/// The kinds of reads, for the verdict and the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Zero,
    /// A session that checks whether its own write has settled. It gets values that others have SET, perhaps late.
    One,
    /// The same, but all readers fill with leases.
    OneWithLeases,
    Leases,
    Pointers,
    /// The value from the database, before it is cached.
    Database,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Zero => "level 0, plain GET and SET",
            Level::One => "level 1, plain GET and SET",
            Level::OneWithLeases => "level 1, leases",
            Level::Leases => "level 2, leases",
            Level::Pointers => "level 2, version pointers",
            Level::Database => "the database itself",
        }
    }

    fn is_promised(self) -> bool {
        !matches!(self, Level::Zero | Level::One)
    }
}

/// State that all threads share.
pub struct World {
    pub rows: Rows,
    pub history: History,
    pub promise: Promise,
    pub primary: String,
    pub replica: String,
    pub cache: String,
    /// The key of the record in the cache.
    pub record: String,
    pub slot: String,
    /// The port of the daemon's admin server.
    pub admin: u16,
    began: Instant,
    violations: Mutex<Vec<String>>,
    served: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    lull: AtomicBool,
    stop: AtomicBool,
}

impl World {
    /// Whether writers pause, so that everything settles and a reader finds each old value in a cache.
    pub fn lulls(&self) -> bool {
        self.lull.load(Ordering::Relaxed)
    }

    pub fn lull(&self, begins: bool) {
        self.lull.store(begins, Ordering::Relaxed);
    }

    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub fn count(&self, level: Level, what: &'static str) {
        *self.served.lock().unwrap_or_else(PoisonError::into_inner).entry((level.name(), what)).or_default() += 1;
    }

    /// Records an event of a row.
    pub fn tell(&self, row: usize, what: &str) {
        self.history.of_keys([row.to_string()], what);
    }

    /// Checks `value`, which a reader got that had seen `settled` before.
    pub fn served(&self, level: Level, row: usize, settled: u64, value: Value, by: &str) {
        self.count(level, "served");
        if self.rows.is_at_rest(row, settled) {
            self.count(level, "where all had settled");
        }
        let worth = self.rows.assess(row, settled, value);
        if worth == Worth::Fresh {
            return;
        }
        self.count(level, if level.is_promised() { "VIOLATIONS" } else { "stale" });
        let what = format!("{}: {by} gave {value:?}, {worth:?}, although {settled} had settled", level.name());
        self.tell(row, &what);
        if level.is_promised() {
            self.violated(row, &what);
        }
    }

    pub fn violated(&self, row: usize, what: &str) {
        let mut violations = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!("after {:.3} s, row {row}: {what}", self.began.elapsed().as_secs_f64());
        if violations.len() < TOLD_MAX {
            let _ = write!(text, "\n{}", self.history.of_key(&row.to_string()));
        }
        violations.push(text);
    }

    /// Records an error of the cache. Readers always reach the cache, so it is unexpected.
    pub fn failed(&self, error: &redis::RedisError) {
        self.history.of_all(&format!("the cache says {error}"));
        self.history.count(&format!("errors of the cache: {:?}", error.kind()), 1);
    }

    fn figures(&self) -> String {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |text: String, ((level, what), count): (&(&str, &str), &u64)| {
            text + &format!("  {level}: {what} {count}\n")
        };
        self.history.figures() + &served.iter().fold(String::new(), line)
    }
}

/// Whether readers may read from the replica, by the daemon's `/status`.
pub fn is_held(status: &serde_json::Value) -> bool {
    status["replicas"][0]["held"] == true
}

#[test]
fn no_reader_with_a_protocol_is_ever_served_what_is_older_than_settled() {
    let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let seconds = given("COHERD_TORTURE_SECONDS").map_or(2 * SECONDS, |text| text.parse().expect("whole seconds"));
    let seed =
        given("COHERD_TORTURE_SEED").map_or_else(|| fastrand::u64(..1_000_000), |text| text.parse().expect("a number"));
    let repeat = given("COHERD_TORTURE_REPEAT").map_or_else(String::new, |pause| format!("repeat_after: {pause}\n"));
    println!("torture: seed {seed}, {seconds} s of faults {repeat}");
    let mut rng = Rng::with_seed(seed);
    for promise in [Promise::Always, Promise::WhileHeld] {
        half(promise, Duration::from_secs(seconds.div_ceil(2)), &repeat, &mut rng, seed);
    }
}

fn half(promise: Promise, lasts: Duration, repeat: &str, rng: &mut Rng, seed: u64) {
    let (mut faults, redis, _database) = stage(promise, repeat, rng);
    let world = Arc::clone(&faults.world);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    let tasks = runtime.block_on(start(&world, &runtime, rng));
    faults.rage(lasts);
    faults.relent();
    faults.tend_until(Instant::now() + CALM);
    world.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        runtime.block_on(task).expect("no task of the test fails");
    }
    verdict::settle(&mut faults);
    verdict::compare(&faults, &redis);
    let violations = world.violations.lock().unwrap_or_else(PoisonError::into_inner);
    println!(
        "torture: seed {seed}, promise {promise:?}, {lasts:?}, violations = {}\n{}",
        violations.len(),
        world.figures()
    );
    if !violations.is_empty() {
        let log = std::env::temp_dir().join(format!("coherd-torture-{seed}-{promise:?}.log"));
        std::fs::write(&log, faults.daemon.log()).expect("temp dir");
        let told: Vec<&str> = violations.iter().take(4 * TOLD_MAX).map(String::as_str).collect();
        panic!(
            "seed {seed}, promise {promise:?}: {} violations; the daemon's log is in {}\n{}",
            violations.len(),
            log.display(),
            told.join("\n")
        );
    }
}

fn schema() -> String {
    format!(
        "CREATE SEQUENCE v; CREATE TABLE hot (id int PRIMARY KEY, v bigint NOT NULL);
         INSERT INTO hot SELECT id, nextval('v') FROM generate_series(0, {}) id; CREATE TABLE bulk (x text);",
        ROWS - 1
    )
}

const RULES: &str = "rules:\n  - table: hot\n    keys: [\"lease:{id}\", \"plain:{id}\"]\n  - table: hot\n    keys: [\"ptr:{id}\"]\n    action: bump\n";

/// Starts a primary, its replica, a cache and the daemon.
fn stage(promise: Promise, repeat: &str, rng: &mut Rng) -> (Faults, Redis, Database) {
    let quiet = "log_replication_commands = off";
    let primary = Arc::new(Postgres::start(&format!("wal_sender_timeout = 4s\n{quiet}")));
    let database = Database::create_on(Arc::clone(&primary));
    database.run(&schema());
    let redis = Redis::start();
    let network = Proxy::start(redis.port());
    let url = format!("redis://127.0.0.1:{}/0\n    leases: true", network.port());
    let mut daemon = Daemon::configure(&database, &url, &format!("{RULES}{repeat}"));
    daemon.edit("source:\n", &format!("source:\n  wal_budget: {}\n", together::BUDGET));
    let replica = primary.standby(quiet);
    replica.catch_up(&primary);
    let dsn = replica.dsn_as("coherd", &database.name);
    let lag = if promise == Promise::Always { "30s" } else { "1s" };
    daemon.edit("targets:", &format!("  replicas: [\"{dsn}\"]\n  max_replica_lag: {lag}\ntargets:"));
    daemon.setup(&database);
    daemon.launch();
    let values = database.client().rows("SELECT v FROM hot ORDER BY id");
    let world = Arc::new(World {
        rows: Rows::begin(values.iter().map(|row| row[0].parse().expect("a version"))),
        history: History::begin(),
        promise,
        primary: database.dsn(),
        replica: replica.dsn(&database.name),
        cache: format!("redis+unix://{}", redis.socket()),
        record: format!("coherd:{}", database.name),
        slot: database.name.clone(),
        admin: daemon.admin(),
        began: Instant::now(),
        violations: Mutex::default(),
        served: Mutex::default(),
        lull: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    });
    (Faults::new(world, (daemon, network), primary, replica, rng.fork()), redis, database)
}

async fn start(world: &Arc<World>, runtime: &Runtime, rng: &mut Rng) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for commit in COMMITS {
        let writer = Writer::connect(world, rng.fork(), commit).await.expect("the primary is there");
        tasks.push(runtime.spawn(writer.run()));
    }
    for _ in 0..READERS {
        tasks.push(runtime.spawn(readers::plain(Link::connect(world, rng.fork()).await)));
        tasks.push(runtime.spawn(readers::leases(Link::connect(world, rng.fork()).await)));
        tasks.push(runtime.spawn(readers::pointers(Link::connect(world, rng.fork()).await)));
        let writer = Writer::connect(world, rng.fork(), "local").await.expect("the primary is there");
        tasks.push(runtime.spawn(readers::sessions(Link::connect(world, rng.fork()).await, writer)));
    }
    tasks.push(runtime.spawn(readers::evict(Link::connect(world, rng.fork()).await)));
    tasks
}
