//! A target that is down for too long: the slot goes on without it, and the record proves what it missed.

use super::Shop;
use crate::support::postgres::postgres_client;
use crate::support::process::Signal;
use crate::support::{Daemon, Redis, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 100);
    CREATE TABLE bulk (x text);";
const RULES: &str = "rules:\n  - table: users\n    keys: [\"user:{id}\"]\n";

/// A shop with a budget of 8 MiB and a second cache for the same daemon.
fn open(rest: &str) -> (Shop, Redis) {
    let mut shop = Shop::alone("", SCHEMA, "  - table: users\n    keys: [\"user:{id}\"]\n");
    let edge = Redis::start();
    shop.daemon.stop(Signal::Term);
    let urls = format!("{}\n  edge:\n    url: {}", shop.redis.url(), edge.url());
    shop.daemon = Daemon::configure(&shop.database, &urls, &format!("{RULES}{rest}"));
    shop.daemon.edit("source:\n", "source:\n  wal_budget: 8MiB\n");
    shop.daemon.launch();
    shop.settle();
    shop.cache(&["user:1", "user:2", "user:3", "other"]);
    for key in ["user:1", "user:2", "user:3", "other"] {
        let () = redis::cmd("SET").arg(key).arg("cached").query(&mut edge.client()).unwrap();
    }
    (shop, edge)
}

fn keys(redis: &Redis) -> Vec<String> {
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut redis.client()).unwrap();
    keys.retain(|key| !key.starts_with("coherd:"));
    keys.sort();
    keys
}

impl Shop {
    /// Writes log that matches no rule, until the target is suspended.
    fn exhaust_the_budget(&mut self) {
        until("the target is suspended", || {
            self.sql.run("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 1000)");
            (self.daemon.status()["targets"][0]["suspended"] == true).then_some(())
        });
    }

    fn confirmed_past(&mut self, token: &str) -> bool {
        let name = &self.database.name;
        let sql = format!(
            "SELECT confirmed_flush_lsn >= '0/0'::pg_lsn + {token} FROM pg_replication_slots WHERE slot_name = '{name}'"
        );
        self.sql.one(&sql) == "t"
    }

    fn waits(&mut self, token: &str, timeout: &str) -> bool {
        let name = &self.database.name;
        self.sql.one(&format!("SELECT coherd.wait({token}, '{timeout}', '{name}')")) == "t"
    }
}

#[test]
fn the_slot_goes_on_without_a_target_that_is_away_for_too_long_and_the_others_notice_nothing() {
    let (mut shop, edge) = open("");
    shop.redis.signal(Signal::Stop);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    let token = shop.sql.one("SELECT coherd.token()");
    shop.exhaust_the_budget();
    until("the slot goes on", || shop.confirmed_past(&token).then_some(()));
    assert!(!shop.waits(&token, "300ms"), "the slot's position is no proof any more");
    // Any role that may log in can take the lock by which a daemon attests that its stream is settled.
    let pid = shop.walsender();
    shop.sql.run("CREATE ROLE forger LOGIN");
    let mut forger = postgres_client(&shop.database.dsn_as("forger")).unwrap();
    forger.run(&format!("SELECT pg_advisory_lock_shared(1668245605, {pid})"));
    assert!(!shop.waits(&token, "300ms"), "nobody else's word counts");
    assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=100ms")).0, 504);
    let (code, reasons) = shop.daemon.http("/readyz");
    assert!(code == 503 && reasons.contains("target cache was suspended at "), "{reasons}");
    // The other target gets its invalidations by name, before and after.
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 2");
    until("the other target is served", || (keys(&edge) == ["other", "user:3"]).then_some(()));
    shop.redis.signal(Signal::Continue);
    until("it is flushed", || (shop.cached() == ["other"]).then_some(()));
    assert!(shop.waits(&token, "30s"));
    until("it is ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    assert_eq!(shop.daemon.status()["targets"][0]["suspended"], false);
    shop.cache(&["user:1", "user:3"]);
    assert_eq!(shop.left_after("UPDATE users SET n = 2 WHERE id = 1"), ["other", "user:3"]);
    assert_eq!(keys(&edge), ["other", "user:3"], "what was not suspended is not flushed");
}

#[test]
fn what_a_target_missed_that_was_suspended_is_proved_to_another_start() {
    let (mut shop, edge) = open("");
    shop.redis.signal(Signal::Stop);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    let token = shop.sql.one("SELECT coherd.token()");
    shop.exhaust_the_budget();
    until("the slot goes on", || shop.confirmed_past(&token).then_some(()));
    shop.daemon.stop(Signal::Kill);
    shop.redis.signal(Signal::Continue);
    shop.daemon.launch();
    until("it is flushed", || (shop.cached() == ["other"]).then_some(()));
    assert!(shop.daemon.http("/metrics").1.contains("coherd_gaps_total{reason=\"target_went_back\"} 1"));
    assert!(shop.waits(&token, "30s"));
    assert_eq!(keys(&edge), ["other", "user:2", "user:3"]);
}

#[test]
fn with_on_gap_halt_postgres_is_let_go_and_the_target_waits_for_a_person() {
    let (mut shop, _edge) = open("on_gap: halt\n");
    shop.redis.signal(Signal::Stop);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    let token = shop.sql.one("SELECT coherd.token()");
    shop.exhaust_the_budget();
    until("the slot goes on", || shop.confirmed_past(&token).then_some(()));
    shop.redis.signal(Signal::Continue);
    until("readiness tells what to do", || {
        let (code, reasons) = shop.daemon.http("/readyz");
        (code == 503 && reasons.contains("run coherd flush, or set on_gap: flush")).then_some(())
    });
    assert!(shop.cached().contains(&"user:2".to_owned()), "nothing is flushed");
    shop.daemon.stop(Signal::Term);
    shop.daemon.edit("on_gap: halt", "on_gap: flush");
    shop.daemon.launch();
    until("it is flushed", || (shop.cached() == ["other"]).then_some(()));
}

#[test]
fn with_on_gap_halt_a_manual_flush_lets_the_target_that_was_suspended_go_on() {
    let (mut shop, _edge) = open("on_gap: halt\n");
    shop.redis.signal(Signal::Stop);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    let token = shop.sql.one("SELECT coherd.token()");
    shop.exhaust_the_budget();
    until("the slot goes on", || shop.confirmed_past(&token).then_some(()));
    shop.redis.signal(Signal::Continue);
    until("the target is halted", || (shop.daemon.status()["targets"][0]["halted"] == true).then_some(()));
    let flushed = shop.daemon.command(&["flush", "--yes", "--dsn", &shop.database.dsn()]);
    assert!(flushed.status.success(), "{}", crate::support::daemon::text(&flushed));
    until("it is flushed", || (shop.cached() == ["other"]).then_some(()));
    until("the daemon is ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
}

#[test]
fn a_transaction_that_runs_for_long_costs_no_target_anything() {
    let (mut shop, _edge) = open("");
    let mut long = shop.database.client();
    long.run("BEGIN; INSERT INTO bulk VALUES ('holds the log back')");
    let retained = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) > 2 * 8388608 FROM pg_replication_slots";
    until("the slot holds back twice the budget", || {
        shop.sql.run("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 1000)");
        (shop.sql.one(retained) == "t").then_some(())
    });
    // Two more looks show it.
    for _ in 0..2 {
        let before = shop.daemon.http("/metrics").1;
        let held =
            |text: &str| text.lines().find(|line| line.starts_with("coherd_slot_retained_bytes")).map(str::to_owned);
        until("it is looked at again", || {
            shop.sql.run("INSERT INTO bulk SELECT repeat('x', 1000)");
            (held(&shop.daemon.http("/metrics").1) != held(&before)).then_some(())
        });
    }
    assert_eq!(shop.daemon.status()["targets"][0]["suspended"], false);
    assert_eq!(shop.left_after("UPDATE users SET n = 2 WHERE id = 1"), ["other", "user:2", "user:3"]);
    long.run("ROLLBACK");
}
