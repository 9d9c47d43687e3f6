//! Caches that go down, stall, or come back with other contents.

use super::Shop;
use crate::support::process::Signal;
use crate::support::until;

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 2000);";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

/// Writes for longer than `wal_sender_timeout`, by the server's clock.
fn write_for_five_seconds(shop: &mut Shop) {
    let end = shop.sql.one("SELECT clock_timestamp() + interval '5 s'");
    let mut id = 0;
    while shop.sql.one(&format!("SELECT clock_timestamp() < '{end}'")) == "t" {
        id = id % 2000 + 1;
        shop.sql.run(&format!("UPDATE users SET n = n + 1 WHERE id = {id}; SELECT pg_sleep(0.002)"));
    }
    shop.sql.run("UPDATE users SET n = n + 1");
}

fn keys() -> Vec<String> {
    (1..=2000).map(|id| format!("user:{id}")).collect()
}

#[test]
fn a_stalled_cache_costs_no_key_and_no_walsender() {
    let mut shop = Shop::alone("wal_sender_timeout = 3s", SCHEMA, RULE);
    shop.cache(&keys().iter().map(String::as_str).collect::<Vec<_>>());
    let before = shop.walsender();
    shop.redis.signal(Signal::Stop);
    write_for_five_seconds(&mut shop);
    until("readiness says no", || (shop.daemon.http("/readyz").0 == 503).then_some(()));
    assert_eq!(shop.walsender(), before, "the walsender was cut:\n{}", shop.database.server.log());
    shop.redis.signal(Signal::Continue);
    shop.settle();
    assert!(shop.cached().is_empty());
    assert_eq!(shop.walsender(), before);
    until("readiness says yes", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
}

#[test]
fn a_killed_cache_costs_no_walsender_and_comes_back_coherent() {
    let mut shop = Shop::alone("wal_sender_timeout = 3s", SCHEMA, RULE);
    let before = shop.walsender();
    shop.redis.kill();
    write_for_five_seconds(&mut shop);
    until("readiness says no", || (shop.daemon.http("/readyz").0 == 503).then_some(()));
    assert_eq!(shop.walsender(), before);
    shop.redis.restart();
    // A reader fills the key before the daemon is back. The next delivery must still invalidate it.
    shop.cache(&["user:1", "other"]);
    shop.settle();
    assert_eq!(shop.cached(), ["other"]);
    assert_eq!(shop.walsender(), before);
}

#[test]
fn a_halted_target_is_told_for_as_long_as_it_is_halted() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}on_gap: halt\n"));
    shop.cache(&["user:1"]);
    shop.daemon.stop(Signal::Term);
    let mut client = shop.redis.client();
    let () = redis::cmd("DEL").arg(format!("coherd:{}", shop.database.name)).query(&mut client).unwrap();
    shop.daemon.launch_unready();
    let halted = |shop: &Shop| {
        let (code, body) = shop.daemon.http("/readyz");
        code == 503
            && body.contains("target cache is halted (on_gap: halt)")
            && body.contains("run coherd flush, or set on_gap: flush")
    };
    until("readiness tells of the gap", || halted(&shop).then_some(()));
    // The stream breaks and is opened again, which changes the daemon's state.
    let before = shop.walsender();
    shop.sql.run(&format!("SELECT pg_terminate_backend({before})"));
    until("the stream is opened again", || (shop.walsender() != before).then_some(()));
    until("the state is streaming", || (shop.daemon.status()["state"] == "streaming").then_some(()));
    assert!(halted(&shop), "{}", shop.daemon.http("/readyz").1);
    assert_eq!(shop.daemon.status()["targets"][0]["halted"], true);
    assert_eq!(shop.cached(), ["user:1"]);
    let table = crate::support::daemon::text(&shop.daemon.command(&["status"]));
    assert!(table.contains("\ncache   redis  halted "), "{table}");
}

#[test]
fn a_postgres_that_is_told_to_stop_is_not_held_up_by_a_cache_that_is_away() {
    let schema = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 200000);";
    let mut shop = Shop::alone("", schema, RULE);
    shop.cache(&["user:1", "other"]);
    shop.redis.signal(Signal::Stop);
    shop.sql.run("UPDATE users SET n = n + 1");
    until("readiness says no", || (shop.daemon.http("/readyz").0 == 503).then_some(()));
    let server = std::sync::Arc::clone(&shop.database.server);
    let (stopped, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        server.stop(Signal::Interrupt);
        let _ = stopped.send(());
    });
    told.recv_timeout(std::time::Duration::from_mins(1)).expect("Postgres stops within a minute");
    shop.database.server.launch();
    shop.sql = shop.database.client();
    shop.redis.signal(Signal::Continue);
    shop.settle();
    assert_eq!(shop.cached(), ["other"]);
}

#[test]
fn a_walsender_that_hangs_is_noticed_and_replaced() {
    let mut shop = Shop::alone("", SCHEMA, RULE);
    let walsender: u32 = shop.walsender().parse().unwrap();
    shop.cache(&["user:1", "other"]);
    crate::support::process::send_signal(walsender, Signal::Stop);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    crate::support::wait::until_within(std::time::Duration::from_secs(90), "readiness says no", || {
        (shop.daemon.http("/readyz").0 == 503).then_some(())
    });
    crate::support::process::send_signal(walsender, Signal::Continue);
    shop.settle();
    assert_eq!(shop.cached(), ["other"]);
    assert_ne!(shop.walsender(), walsender.to_string());
}
