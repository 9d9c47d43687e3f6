//! Caches that go away, stall, and come back as something else.

use super::Shop;
use crate::support::process::Signal;
use crate::support::until;

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 2000);";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

/// Writes for longer than `wal_sender_timeout`, by the server's own clock.
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
    // Filled by a reader before the daemon is back: what it delivers next must still strike it.
    shop.cache(&["user:1", "other"]);
    shop.settle();
    assert_eq!(shop.cached(), ["other"]);
    assert_eq!(shop.walsender(), before);
}

#[test]
fn a_cache_restored_from_an_old_snapshot_is_flushed() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:1", "user:2", "other"]);
    let old = shop.redis.dump();
    assert_eq!(shop.left_after("UPDATE users SET n = 1 WHERE id = 1"), ["other", "user:2"]);
    shop.redis.restore(&old);
    until("the stale key is gone", || (shop.cached() == ["other"]).then_some(()));
    let metrics = shop.daemon.http("/metrics").1;
    assert!(metrics.contains("coherd_gaps_total{reason=\"target_went_back\"} 1"), "{}", shop.daemon.log());
}

#[test]
fn a_cache_restored_while_the_daemon_was_down_is_flushed_at_the_start() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:1", "user:2", "other"]);
    let old = shop.redis.dump();
    assert_eq!(shop.left_after("UPDATE users SET n = 1 WHERE id = 1"), ["other", "user:2"]);
    shop.daemon.stop(Signal::Term);
    shop.redis.restore(&old);
    shop.daemon.launch();
    until("the stale key is gone", || (shop.cached() == ["other"]).then_some(()));
}

#[test]
fn a_slot_that_was_dropped_while_the_daemon_was_down_means_a_flush() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:1", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.sql.run(&format!("SELECT pg_drop_replication_slot('{}')", shop.database.name));
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    shop.daemon.launch();
    until("the stale key is gone", || (shop.cached() == ["other"]).then_some(()));
    assert!(shop.daemon.http("/metrics").1.contains("coherd_gaps_total{reason=\"slot_gone\"} 1"));
}

#[test]
fn what_a_lost_slot_missed_is_not_called_settled_before_the_flush() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:1", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.sql.run(&format!("SELECT pg_drop_replication_slot('{}')", shop.database.name));
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    let token = shop.sql.one("SELECT coherd.token()");
    shop.redis.signal(Signal::Stop);
    shop.daemon.launch_unready();
    // The new slot begins after the change, and the cache cannot be flushed yet.
    let active = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{}' AND active", shop.database.name);
    until("the daemon follows a new slot", || shop.sql.rows(&active).pop());
    assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=500ms")).0, 504);
    shop.redis.signal(Signal::Continue);
    assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=30s")).0, 200);
    assert_eq!(shop.cached(), ["other"]);
}

#[test]
fn with_on_gap_halt_the_daemon_stays_up_not_ready_and_says_what_to_do() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}on_gap: halt\n"));
    shop.cache(&["user:1"]);
    shop.daemon.stop(Signal::Term);
    shop.sql.run(&format!("SELECT pg_drop_replication_slot('{}')", shop.database.name));
    shop.daemon.launch_unready();
    until("readiness tells of the gap", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("on_gap")).then_some(())
    });
    assert_eq!(shop.cached(), ["user:1"]);
    assert!(!shop.daemon.has_ended());
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
        code == 503 && body.contains("target cache is halted (on_gap: halt)") && body.contains("set on_gap to flush")
    };
    until("readiness tells of the gap", || halted(&shop).then_some(()));
    // The stream breaks and is opened again, which is another state.
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
fn a_slot_that_lost_its_wal_is_made_anew_and_the_cache_flushed() {
    let mut shop = Shop::alone("max_slot_wal_keep_size = 1MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB", SCHEMA, RULE);
    shop.cache(&["user:1", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1; CREATE TABLE bulk (x text)");
    until("the slot is lost", || {
        shop.sql.run("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 20000)");
        shop.sql.run("SELECT pg_switch_wal(); CHECKPOINT");
        (shop.sql.one("SELECT wal_status FROM pg_replication_slots") == "lost").then_some(())
    });
    shop.daemon.launch();
    until("the stale key is gone", || (shop.cached() == ["other"]).then_some(()));
    shop.cache(&["user:2"]);
    assert_eq!(shop.left_after("UPDATE users SET n = 2 WHERE id = 2"), ["other"]);
}

#[test]
fn a_publication_that_was_dropped_and_made_again_while_running_means_a_new_slot_and_a_flush() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:1", "user:2", "other"]);
    let publication = shop.database.name.clone();
    shop.sql.run(&format!("DROP PUBLICATION {publication}"));
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    until("the daemon has noticed", || (shop.daemon.http("/readyz").0 == 503).then_some(()));
    shop.sql.run(&format!("CREATE PUBLICATION {publication} FOR TABLE users (id) WITH (publish_via_partition_root)"));
    until("every key of the rule is gone", || (shop.cached() == ["other"]).then_some(()));
    until("the daemon is ready again", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    shop.cache(&["user:2"]);
    assert_eq!(shop.left_after("UPDATE users SET n = 2 WHERE id = 2"), ["other"]);
}

#[test]
fn with_on_gap_halt_a_slot_that_breaks_while_running_leaves_the_daemon_up_not_ready_and_the_gap_provable() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}on_gap: halt\n"));
    shop.cache(&["user:1", "other"]);
    let publication = shop.database.name.clone();
    shop.sql.run(&format!("DROP PUBLICATION {publication}"));
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    until("readiness tells of the gap", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("on_gap")).then_some(())
    });
    assert_eq!(shop.cached(), ["other", "user:1"]);
    shop.sql.run(&format!("CREATE PUBLICATION {publication} FOR TABLE users (id) WITH (publish_via_partition_root)"));
    shop.daemon.stop(Signal::Term);
    shop.daemon.edit("on_gap: halt", "on_gap: flush");
    shop.daemon.launch();
    until("the stale key is gone", || (shop.cached() == ["other"]).then_some(()));
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
