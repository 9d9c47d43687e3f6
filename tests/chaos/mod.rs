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
use std::time::Duration;

use fastrand::Rng;

use crate::support::{Daemon, Database, Postgres, Proxy, Redis};
use faults::Faults;
use history::History;
use holds::Holds;
use writers::Writer;

/// How long the faults go on where nobody says.
const SECONDS: u64 = 15;
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
    let seed = given("COHERD_CHAOS_SEED").map_or_else(|| fastrand::u64(..1_000_000), |text| text.parse().expect("a number"));
    println!("chaos: seed {seed}, {seconds} s of faults");
    run(seed, Duration::from_secs(seconds));
}

fn run(seed: u64, duration: Duration) {
    let mut rng = Rng::with_seed(seed);
    let postgres = Arc::new(Postgres::start("wal_sender_timeout = 3s"));
    let database = Database::create_on(Arc::clone(&postgres));
    let redis = Redis::start_with(&["--notify-keyspace-events", "Eg"]);
    database.run(&tables::schema());
    let (source, target) = (Proxy::start(postgres.port()), Proxy::start(redis.port()));
    let mut daemon =
        Daemon::configure(&database, &format!("redis://127.0.0.1:{}/0", target.port()), &tables::rules());
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
    let threads = start(&world, &mut rng);
    let mut faults = Faults::new(Arc::clone(&world), (daemon, redis, postgres), (source, target), rng.fork());
    faults.rage(duration);
    faults.relent();
    world.stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().expect("no thread of the test fails"));
    let mut sql = database.client();
    verdict::settle(&mut faults, &mut sql);
    let stale = verdict::stale(&faults, &mut sql);
    println!("chaos: seed {seed}, {} s\n{}", duration.as_secs(), world.history.figures());
    if stale.is_empty() {
        return;
    }
    let log = std::env::temp_dir().join(format!("coherd-chaos-{seed}.log"));
    std::fs::write(&log, faults.daemon.log()).expect("temp dir");
    panic!("seed {seed}: {} stale keys; the daemon's log is in {}\n{}", stale.len(), log.display(), stale.join("\n"));
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
