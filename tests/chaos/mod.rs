//! Everything breaks at random while writers write and readers fill the cache. In the end no key may be stale.
//!
//! `make chaos SECONDS=60 SEED=7` runs it for longer, or again. The seed decides what is done; how the threads and
//! processes meet stays chance.

mod faults;
mod history;
mod holds;
mod readers;
mod tables;
mod verdict;
mod writers;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::support::{Daemon, Database, Postgres, Proxy, Redis};
use faults::{Faults, Harm};
use history::History;
use holds::Holds;
use writers::Writer;

/// How long the faults go on, over all rounds, where nobody says.
const SECONDS: u64 = 16;
/// How long one round's faults go on. A flush hides what was lost before it, so it is looked often.
const ROUND: Duration = Duration::from_secs(8);
/// How long writers and readers go on after the last fault, so that there is something in the cache to be wrong.
const CALM: Duration = Duration::from_millis(700);
const WRITERS: usize = 3;

/// What all threads share.
pub struct World {
    pub holds: Arc<Holds>,
    pub history: History,
    /// Straight to the server, past the proxy.
    pub dsn: String,
    pub cache_url: String,
    /// Also the name of slot and publication.
    pub database: String,
    stop: AtomicBool,
}

impl World {
    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
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
    let (mut faults, _database) = stage(&mut rng);
    let rounds = usize::try_from(seconds.div_ceil(ROUND.as_secs()).max(1)).expect("a modest number");
    for harm in [Harm::ToConnections, Harm::ToMemories].into_iter().cycle().take(rounds) {
        let stale = round(&mut faults, &mut rng, harm);
        if !stale.is_empty() {
            let log = std::env::temp_dir().join(format!("coherd-chaos-{seed}.log"));
            std::fs::write(&log, faults.daemon.log()).expect("temp dir");
            let figures = faults.world.history.figures();
            panic!("seed {seed}: stale keys; the daemon's log is in {}\n{figures}{}", log.display(), stale.join("\n"));
        }
    }
    let log = faults.daemon.log();
    for event in log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        if event["message"].as_str().is_some_and(|text| text.contains("flushing every scope")) {
            faults.world.history.count(&format!("flushes: {}", event["reason"]), 1);
        }
    }
    println!("chaos: seed {seed}, {seconds} s, no stale key\n{}", faults.world.history.figures());
}

/// Every server, with a proxy on either side of the daemon, and all of it at work.
fn stage(rng: &mut Rng) -> (Faults, Database) {
    let postgres = Arc::new(Postgres::start("wal_sender_timeout = 3s"));
    let database = Database::create_on(Arc::clone(&postgres));
    let redis = Redis::start_with(&["--notify-keyspace-events", "Eg"]);
    database.run(&tables::schema());
    let (source, target) = (Proxy::start(postgres.port()), Proxy::start(redis.port()));
    // A slot and a record that are lost together look like a first start.
    let rest = format!("{}on_first_start: flush\n", tables::rules());
    let mut daemon = Daemon::configure(&database, &format!("redis://127.0.0.1:{}/0", target.port()), &rest);
    daemon.edit(&format!("127.0.0.1:{}/", postgres.port()), &format!("127.0.0.1:{}/", source.port()));
    daemon.setup(&database);
    daemon.launch();
    let world = Arc::new(World {
        holds: Arc::default(),
        history: History::begin(),
        dsn: database.dsn(),
        cache_url: format!("redis+unix://{}", redis.socket()),
        database: database.name.clone(),
        stop: AtomicBool::new(false),
    });
    (Faults::new(world, (daemon, redis, postgres), (source, target), rng.fork()), database)
}

/// Faults for a while, then calm, then the verdict.
fn round(faults: &mut Faults, rng: &mut Rng, harm: Harm) -> Vec<String> {
    let world = Arc::clone(&faults.world);
    world.history.of_all(&format!("a round of {harm:?} begins"));
    world.stop.store(false, Ordering::Relaxed);
    let threads = start(&world, rng);
    faults.rage(harm, ROUND);
    faults.relent();
    let calm = Instant::now() + CALM;
    while Instant::now() < calm {
        faults.tend();
        std::thread::sleep(Duration::from_millis(5));
    }
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
    for filler in [readers::fill, readers::fill] {
        let (world, rng) = (Arc::clone(world), rng.fork());
        threads.push(std::thread::spawn(move || filler(world, rng)));
    }
    let world = Arc::clone(world);
    threads.push(std::thread::spawn(move || readers::watch(world)));
    threads
}
