//! Processes that are killed or stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Shop;
use crate::support::process::Signal;
use crate::support::until;

const ROWS: u32 = 5000;
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

fn schema() -> String {
    format!(
        "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, {ROWS});"
    )
}

fn fill(shop: &Shop) {
    let mut pipe = redis::pipe();
    for id in 1..=ROWS {
        pipe.cmd("SET").arg(format!("user:{id}")).arg("old").ignore();
    }
    let () = pipe.query(&mut shop.redis.client()).unwrap();
}

#[test]
fn kill_9_at_thirty_random_instants_loses_no_key() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut shop = Shop::open(&schema(), RULE);
    fill(&shop);
    let done = Arc::new(AtomicU32::new(0));
    let writer = std::thread::spawn({
        let (dsn, done) = (shop.database.dsn(), Arc::clone(&done));
        move || {
            let mut sql = crate::support::postgres::postgres_client(&dsn).unwrap();
            for id in 1..=ROWS {
                sql.run(&format!("UPDATE users SET n = n + 1 WHERE id = {id}"));
                done.store(id, Ordering::Relaxed);
            }
        }
    });
    // Kills depend on the number of updates written, spread over the whole load, and not on the clock.
    let mut instants: Vec<u32> = (0..30).map(|_| chance.u32(1..ROWS)).collect();
    instants.sort_unstable();
    for instant in instants {
        until("the load has come far enough", || (done.load(Ordering::Relaxed) >= instant).then_some(()));
        shop.daemon.stop(Signal::Kill);
        shop.daemon.launch_unready();
        // Half of the time the daemon is killed while it is still starting.
        if chance.bool() {
            shop.walsender();
        }
    }
    writer.join().unwrap();
    until("the daemon follows", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    shop.settle();
    assert_eq!(shop.cached().len(), 0, "seed {seed}: keys survive");
}

#[test]
fn a_shutdown_delivers_acknowledges_and_exits_with_zero() {
    let mut shop = Shop::open(&schema(), RULE);
    fill(&shop);
    shop.sql.run("UPDATE users SET n = n + 1");
    let committed = shop.sql.one("SELECT pg_current_wal_lsn()");
    // The daemon must have begun to read; otherwise there is nothing to drain.
    until("the first key is gone", || (shop.cached().len() < ROWS as usize).then_some(()));
    assert_eq!(shop.daemon.stop(Signal::Term), 0, "{}", shop.daemon.log());
    let confirmed = format!(
        "SELECT active, confirmed_flush_lsn <= '{committed}' FROM pg_replication_slots WHERE slot_name = '{}'",
        shop.database.name
    );
    assert_eq!(shop.sql.rows(&confirmed)[0][0], "f", "the slot is free");
    shop.daemon.launch();
    shop.settle();
    assert!(shop.cached().is_empty());
}

#[test]
fn a_terminated_walsender_is_replaced() {
    let mut shop = Shop::open(&schema(), RULE);
    let stop = Arc::new(AtomicBool::new(false));
    fill(&shop);
    let killer = std::thread::spawn({
        let (dsn, slot, stop) = (shop.database.dsn(), shop.database.name.clone(), Arc::clone(&stop));
        move || {
            let mut sql = crate::support::postgres::postgres_client(&dsn).unwrap();
            let kill = format!(
                "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
            );
            let mut killed = 0;
            while !stop.load(Ordering::Relaxed) {
                killed += sql.one(&kill).parse::<u32>().unwrap();
            }
            killed
        }
    });
    for id in 1..=500 {
        shop.sql.run(&format!("UPDATE users SET n = n + 1 WHERE id = {id}"));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(killer.join().unwrap() > 0);
    shop.settle();
    assert_eq!(shop.cached().len(), (ROWS - 500) as usize);
}
