//! Flushes of many rules over a large cache.

use std::time::{Duration, Instant};

use super::Shop;
use crate::support::process::Signal;
use crate::support::until;

const RULES: usize = 20;

/// Flushes go at `pace`, in keys per second.
fn shop(pace: u32) -> Shop {
    let tables = |n: usize| {
        format!(
            "CREATE TABLE t{n} (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO t{n} SELECT generate_series(1, 9);"
        )
    };
    let rule = |n: usize| format!("  - table: t{n}\n    keys: [\"row{n}:{{id}}\", \"page:{n}:{{id}}:html\"]\n");
    let schema: String = (0..RULES).map(tables).collect();
    let rules: String = (0..RULES).map(rule).collect();
    let shop = Shop::open(&schema, &format!("{rules}limits: {{flush_keys_per_second: {pace}}}\n"));
    shop.daemon.edit("/0\n", "/0\n    leases: true\n");
    shop
}

fn fill(shop: &Shop, foreign: usize) {
    let mut client = shop.redis.client();
    for start in (0..foreign).step_by(10_000) {
        let mut set = redis::cmd("MSET");
        (start..foreign.min(start + 10_000)).for_each(|n| {
            set.arg(format!("foreign:{n}")).arg(1);
        });
        let () = set.query(&mut client).unwrap();
    }
    for rule in 0..RULES {
        shop.cache(&[&format!("row{rule}:1"), &format!("page:{rule}:1:html"), &format!("{{row{rule}:1}}:lease")]);
    }
}

/// A lost slot makes coherd flush everything. Returns the time from the daemon's start to the end of the flush.
fn flushed_after_a_lost_slot(shop: &mut Shop, foreign: usize) -> Duration {
    lose_slot(shop);
    fill(shop, foreign);
    let began = Instant::now();
    shop.daemon.launch_unready();
    until("everything is flushed", || {
        let keys: usize = redis::cmd("DBSIZE").query(&mut shop.redis.client()).unwrap();
        (keys == foreign + 1 && shop.daemon.http("/readyz").0 == 200).then_some(())
    });
    let took = began.elapsed();
    shop.settle();
    took
}

fn lose_slot(shop: &mut Shop) {
    shop.daemon.stop(Signal::Term);
    let drop = format!("SELECT pg_drop_replication_slot('{}')", shop.database.name);
    until("the slot can be dropped", || shop.sql.try_run(&drop).ok());
}

/// The number of SCAN calls of Redis.
fn scans(shop: &Shop) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut shop.redis.client()).unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_scan:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn a_lost_slot_costs_two_passes_over_the_keys_whatever_the_number_of_rules() {
    let mut shop = shop(50_000);
    let took = flushed_after_a_lost_slot(&mut shop, 50_000);
    let scans = scans(&shop);
    println!("{scans} calls of SCAN, {} ms", took.as_millis());
    assert!(shop.cached().iter().all(|key| key.starts_with("foreign:")), "{:?}", shop.cached().len());
    assert_eq!(shop.cached().len(), 50_000);
    assert!(scans <= 2 * 54, "{scans} calls of SCAN for 50,000 keys");
}

#[test]
fn live_changes_go_on_while_many_rules_are_flushed() {
    // The pace makes the flush long: 19 rules with 3,000 keys each.
    let mut shop = shop(5_000);
    fill(&shop, 300_000);
    let mut client = shop.redis.client();
    for rule in 0..RULES - 1 {
        let mut set = redis::cmd("MSET");
        (0..3_000).for_each(|n| {
            set.arg(format!("row{rule}:{n}")).arg(1);
        });
        let () = set.query(&mut client).unwrap();
    }
    let all: u64 = redis::cmd("DBSIZE").query(&mut client).unwrap();
    let tables: Vec<String> = (0..RULES - 1).map(|n| format!("t{n}")).collect();
    shop.sql.run(&format!("TRUNCATE {}", tables.join(", ")));
    until("the flush is under way", || {
        let left: u64 = redis::cmd("DBSIZE").query(&mut client).unwrap();
        (left < all).then_some(())
    });
    shop.cache(&["row19:9"]);
    let changed = Instant::now();
    shop.sql.run("UPDATE t19 SET n = 1 WHERE id = 9");
    until("the changed key is gone", || {
        let is_there: bool = redis::cmd("EXISTS").arg("row19:9").query(&mut client).unwrap();
        (!is_there).then_some(())
    });
    let took = changed.elapsed();
    let left: u64 = redis::cmd("DBSIZE").query(&mut client).unwrap();
    assert!(left > 310_000, "the flush is over: {left} keys are left after {} ms", took.as_millis());
    assert!(took < Duration::from_secs(1), "{} ms", took.as_millis());
}

#[test]
fn a_long_flush_is_not_ready_and_says_so() {
    let mut shop = shop(20);
    lose_slot(&mut shop);
    fill(&shop, 100);
    shop.daemon.launch_unready();
    until("it says that it flushes", || {
        let (code, text) = shop.daemon.http("/readyz");
        (code == 503 && text.contains("flushing 40 scope(s)")).then_some(())
    });
    until("it is done and ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    assert!(shop.cached().iter().all(|key| key.starts_with("foreign:")));
}
