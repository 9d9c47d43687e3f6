//! Transactions of up to a million rows.

use super::Shop;
use crate::support::process::peak_rss_kib;

const ROWS: u32 = 1_000_000;

#[test]
fn a_transaction_of_a_million_rows_takes_little_memory() {
    let schema = format!(
        "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO items SELECT generate_series(1, {ROWS});"
    );
    let mut shop = Shop::open(&schema, "  - table: items\n    keys: [\"item:{id}\"]\n");
    let mut client = shop.redis.client();
    for thousand in 0..ROWS / 1000 {
        let mut set = redis::cmd("MSET");
        for id in thousand * 1000 + 1..=thousand * 1000 + 1000 {
            set.arg(format!("item:{id}")).arg(1);
        }
        let () = set.query(&mut client).unwrap();
    }
    shop.cache(&["other"]);
    let keys: u32 = redis::cmd("DBSIZE").query(&mut client).unwrap();
    assert!(keys > ROWS);
    shop.sql.run("UPDATE items SET n = n + 1");
    shop.settle();
    assert_eq!(shop.cached(), ["other"]);
    let peak = peak_rss_kib(shop.daemon.pid());
    println!("peak RSS {} MiB", peak / 1024);
    assert!(peak <= 64 << 10, "{peak} KiB");
    assert!(!shop.daemon.log().contains("flushing"), "each key was invalidated by name");
}

#[test]
fn beyond_max_keys_per_transaction_the_scope_is_flushed() {
    let schema = "CREATE TABLE items (id int PRIMARY KEY); CREATE TABLE logs (id int PRIMARY KEY);";
    let rules = "  - table: items\n    keys: [\"item:{id}\"]\nlimits: { max_keys_per_transaction: 100 }\n";
    let mut shop = Shop::open(schema, rules);
    shop.cache(&["item:1", "item:99999", "other"]);
    assert_eq!(shop.left_after("INSERT INTO items SELECT generate_series(1, 100)"), ["item:99999", "other"]);
    assert!(shop.daemon.status()["flushes"].as_array().unwrap().is_empty());
    assert_eq!(shop.left_after("INSERT INTO items SELECT generate_series(201, 301)"), ["other"]);
    overflow_is_told(&shop, "max_keys_per_transaction", "100 keys");
}

/// Checks that the overflow is reported once in the log with rule, target and limit, and also in the metric and the
/// status.
fn overflow_is_told(shop: &Shop, limit: &str, most: &str) {
    let log = shop.daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(limit)).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for word in ["rules[0] public.items", "\"to\":\"cache\"", most] {
        assert!(lines[0].contains(word), "{word} is not in {}", lines[0]);
    }
    let metrics = shop.daemon.http("/metrics").1;
    let counted = format!("coherd_overflows_total{{target=\"cache\",limit=\"{limit}\"}} 1\n");
    assert!(metrics.contains(&counted), "{metrics}");
    let status = shop.daemon.status();
    assert_eq!(status["flushes"][0]["reason"], "overflow", "{status}");
    assert!(status["flushes"][0]["text"].as_str().unwrap().contains(limit), "{status}");
}

#[test]
fn beyond_max_pending_keys_the_scope_is_flushed_and_that_is_told_once() {
    let schema = "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);";
    let rules = "  - table: items\n    keys: [\"item:{id}\"]\nlimits: { max_pending_keys: 100 }\n";
    let mut shop = Shop::open(schema, rules);
    shop.settle();
    shop.cache(&["item:1", "item:99999", "other"]);
    shop.redis.signal(crate::support::process::Signal::Stop);
    for first in [1, 1001, 2001] {
        shop.sql.run(&format!("INSERT INTO items SELECT generate_series({first}, {first} + 300)"));
    }
    crate::support::until("it is told", || shop.daemon.log().contains("max_pending_keys").then_some(()));
    shop.redis.signal(crate::support::process::Signal::Continue);
    shop.settle();
    assert_eq!(shop.cached(), ["other"]);
    overflow_is_told(&shop, "max_pending_keys", "100");
}

#[test]
fn a_cache_that_is_away_under_a_large_load_takes_little_memory() {
    let schema = "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO items SELECT generate_series(1, 300000);";
    let mut shop = Shop::open(schema, "  - table: items\n    keys: [\"item:{id}\"]\n");
    shop.cache(&["item:1", "item:300000", "other"]);
    shop.redis.signal(crate::support::process::Signal::Stop);
    shop.sql.run("UPDATE items SET n = n + 1; UPDATE items SET n = n + 1;");
    crate::support::until("readiness says no", || (shop.daemon.http("/readyz").0 == 503).then_some(()));
    shop.redis.signal(crate::support::process::Signal::Continue);
    shop.settle();
    assert_eq!(shop.cached(), ["other"]);
    let peak = peak_rss_kib(shop.daemon.pid());
    assert!(peak <= 64 << 10, "{peak} KiB");
}
