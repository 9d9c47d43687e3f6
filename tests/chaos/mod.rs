//! Everything breaks at random while writers write and readers fill the caches. In the end no key may be stale.
//!
//! `make chaos SECONDS=60 SEED=7` runs it longer, or repeats a run. The seed decides which actions happen, but not how
//! threads and processes interleave. In some rounds the contents of a cache change behind an open connection
//! (`behind.rs`). In all rounds `wal_budget` is small, and is sometimes used up while a target is down and the
//! catalogue drifts. `tests/torture` covers lagging replicas.

mod behind;
mod caches;
mod catalogue;
mod faults;
pub mod history;
mod holds;
mod readers;
mod tables;
mod verdict;
mod writers;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::support::{Daemon, Database, Postgres, Proxy};
use caches::{Cache, NAMES};
use catalogue::Dba;
use faults::{Faults, Harm};
use history::History;
use holds::Holds;
use writers::Writer;

/// The default duration of the faults over all rounds: one round of each kind.
const SECONDS: u64 = ROUND.as_secs() * HARMS.len() as u64;
/// The duration of the faults in one round. Rounds are short, because a flush hides what was lost before it.
const ROUND: Duration = Duration::from_secs(8);
/// How long writers and readers continue after the last fault, so that the caches have entries to check.
const CALM: Duration = Duration::from_millis(700);
const WRITERS: usize = 3;
/// The kind of each round, in order.
const HARMS: &[Harm] = &[Harm::Connections, Harm::Behind, Harm::Memories, Harm::Behind, Harm::Catalogue];

/// State that all threads share.
pub struct World {
    pub holds: Arc<Holds>,
    pub history: History,
    /// The DSN of the server, past the proxy.
    pub dsn: String,
    /// The URL of each cache, past the proxy.
    pub cache_urls: Vec<String>,
    /// The name of the database, the slot and the publication.
    pub database: String,
    /// The entry of each table in the publication, by the table's name.
    pub published: HashMap<String, String>,
    catalogue_changed: Mutex<Instant>,
    /// Writers do nothing that flushes a scope, because a flush would hide a stale key.
    unhidden: AtomicBool,
    calm: AtomicBool,
    stop: AtomicBool,
}

impl World {
    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether writers may empty tables and flush scopes.
    pub fn may_flush(&self) -> bool {
        !self.unhidden.load(Ordering::Relaxed)
    }

    /// Whether the catalogue must not change.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub fn catalogue_changed(&self) {
        *self.catalogue_changed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When the catalogue was last changed.
    pub fn catalogue_changed_at(&self) -> Instant {
        *self.catalogue_changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[test]
fn whatever_breaks_no_key_is_stale_in_the_end() {
    let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let seconds = given("COHERD_CHAOS_SECONDS").map_or(SECONDS, |text| text.parse().expect("whole seconds"));
    let seed =
        given("COHERD_CHAOS_SEED").map_or_else(|| fastrand::u64(..1_000_000), |text| text.parse().expect("a number"));
    println!("chaos: seed {seed}, {seconds} s of faults");
    let mut rng = Rng::with_seed(seed);
    // Order matters: the daemon is dropped first.
    let (_database, mut faults) = stage(&mut rng);
    let rounds = usize::try_from(seconds.div_ceil(ROUND.as_secs()).max(1)).expect("a modest number");
    for harm in HARMS.iter().copied().cycle().take(rounds) {
        let stale = round(&mut faults, &mut rng, harm);
        if !stale.is_empty() {
            let log = std::env::temp_dir().join(format!("coherd-chaos-{seed}.log"));
            std::fs::write(&log, faults.daemon.log()).expect("temp dir");
            let figures = faults.world.history.figures();
            panic!("seed {seed}: stale keys; the daemon's log is in {}\n{figures}{}", log.display(), stale.join("\n"));
        }
        faults.world.history.count(&format!("rounds: {harm:?}"), 1);
    }
    let log = faults.daemon.log();
    for event in log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        let message = event["message"].as_str().unwrap_or_default();
        if message == "the configuration is reloaded" {
            faults.world.history.count("daemon: reloaded", 1);
        }
        if message.contains("flushing the affected scopes") {
            let reason = event["reason"].as_str().unwrap_or_default();
            faults.world.history.count(&format!("flushes: {reason}"), 1);
        }
    }
    println!("chaos: seed {seed}, {seconds} s, stale = 0\n{}", faults.world.history.figures());
}

/// Starts every server, a proxy on either side of the daemon, and all threads.
fn stage(rng: &mut Rng) -> (Database, Faults) {
    let postgres = Arc::new(Postgres::start("wal_sender_timeout = 3s"));
    let database = Database::create_on(Arc::clone(&postgres));
    database.run(&tables::schema());
    let source = Proxy::start(postgres.port());
    let caches = NAMES.map(Cache::start);
    // A slot and a record that are lost together look like a first start.
    let rest = format!("{}on_first_start: flush\n", tables::rules());
    // The second target is inserted after the first one's url.
    let urls = format!("{}\n  {}:\n    url: {}", caches[0].url_of_proxy(), caches[1].name, caches[1].url_of_proxy());
    let mut daemon = Daemon::configure(&database, &urls, &rest);
    daemon.edit(&format!("127.0.0.1:{}/", postgres.port()), &format!("127.0.0.1:{}/", source.port()));
    daemon.edit("source:\n", &format!("source:\n  wal_budget: {}\n", behind::BUDGET));
    daemon.setup(&database);
    daemon.launch();
    let world = Arc::new(World {
        holds: Arc::default(),
        history: History::begin(),
        dsn: database.dsn(),
        cache_urls: caches.iter().map(Cache::url).collect(),
        database: database.name.clone(),
        published: catalogue::published(&database),
        catalogue_changed: Mutex::new(Instant::now()),
        unhidden: AtomicBool::new(false),
        calm: AtomicBool::new(false),
        stop: AtomicBool::new(false),
    });
    (database, Faults::new(world, daemon, caches.into(), (postgres, source), rng.fork()))
}

/// Runs faults for a while, then calm, then the verdict.
fn round(faults: &mut Faults, rng: &mut Rng, harm: Harm) -> Vec<String> {
    let world = Arc::clone(&faults.world);
    world.history.of_all(&format!("a round of {harm:?} begins"));
    world.stop.store(false, Ordering::Relaxed);
    world.calm.store(false, Ordering::Relaxed);
    world.unhidden.store(harm == Harm::Catalogue, Ordering::Relaxed);
    let threads = start(&world, rng);
    let dba = matches!(harm, Harm::Memories | Harm::Catalogue).then(|| {
        let (world, rng) = (Arc::clone(&world), rng.fork());
        std::thread::spawn(move || Dba::run(world, rng))
    });
    faults.rage(harm, ROUND);
    faults.relent();
    world.calm.store(true, Ordering::Relaxed);
    if let Some(dba) = dba {
        faults.tend_until(|| dba.is_finished());
        dba.join().expect("no thread of the test fails");
    }
    let calm = Instant::now() + CALM;
    faults.tend_until(|| Instant::now() >= calm);
    world.stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("no thread of the test fails");
    }
    let mut sql = world.connect().expect("the database is up");
    verdict::settle(faults, &mut sql);
    verdict::stale(faults, &mut sql)
}

fn start(world: &Arc<World>, rng: &mut Rng) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    for number in 0..WRITERS {
        let (world, rng) = (Arc::clone(world), rng.fork());
        threads.push(std::thread::spawn(move || Writer::run(&format!("writer {number}"), world, rng)));
    }
    for one in 0..NAMES.len() {
        let (its, rng) = (Arc::clone(world), rng.fork());
        threads.push(std::thread::spawn(move || readers::fill(its, rng, one)));
        let world = Arc::clone(world);
        threads.push(std::thread::spawn(move || readers::watch(world, one)));
    }
    threads
}
