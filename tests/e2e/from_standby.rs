//! A standby as the source.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shop;
use crate::support::daemon::text;
use crate::support::planted;
use crate::support::postgres::{Client, postgres_client};
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Postgres, Redis, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 200);";
const RULES: &str = "rules:\n  - table: users\n    keys: [\"user:{id}\"]\n";

/// A shop whose daemon follows a standby; configured, not started. `sql` is a session on the primary.
fn configured() -> (Shop, Postgres) {
    let database = Database::create_on(Arc::new(Postgres::start("")));
    database.run(SCHEMA);
    let redis = Redis::start();
    let daemon = Daemon::configure(&database, &redis.url(), RULES);
    let standby = database.server.standby("");
    daemon.edit(&database.dsn_as(&planted::role()), &standby.dsn_as("coherd", &database.name));
    let sql = database.client();
    (Shop { daemon, redis, sql, database }, standby)
}

/// The same, started. `None` if the version does not support it.
fn followed() -> Option<(Shop, Postgres)> {
    let (mut shop, standby) = configured();
    let server = Arc::clone(&shop.database.server);
    if server.version() < 160_000 {
        println!("skipped: standbys can be followed from Postgres 16 on");
        return None;
    }
    let told = server.tell_standbys();
    shop.daemon.setup(&shop.database);
    drop(told);
    shop.daemon.launch();
    Some((shop, standby))
}

fn invalidated(shop: &Shop, key: &str) {
    until("the key is invalidated", || (!shop.cached().contains(&key.to_owned())).then_some(()));
}

fn on(standby: &Postgres, shop: &Shop) -> Client {
    postgres_client(&standby.dsn(&shop.database.name)).unwrap()
}

/// The pid of the process that streams the slot; `None` if the slot is not in use.
fn active(sql: &mut Client, slot: &str) -> Option<String> {
    let pid = sql.one(&format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'"));
    (!pid.is_empty()).then_some(pid)
}

#[test]
fn changes_on_the_primary_are_invalidated_promptly_from_the_standbys_slot() {
    let Some((mut shop, standby)) = followed() else { return };
    let slot = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{}'", shop.database.name);
    assert_eq!(shop.sql.rows(&slot).len(), 0, "the primary has no slot");
    assert_eq!(on(&standby, &shop).rows(&slot).len(), 1);
    let mut took = Vec::new();
    for id in 1..=50 {
        let key = format!("user:{id}");
        shop.cache(&[&key]);
        shop.sql.run(&format!("UPDATE users SET n = n + 1 WHERE id = {id}"));
        let began = Instant::now();
        invalidated(&shop, &key);
        took.push(began.elapsed());
    }
    took.sort();
    println!("median {:?}, slowest {:?}", took[25], &took[47..]);
    // A machine may stall briefly; a walsender that sleeps through a change does so for seconds.
    assert!(took[47] < Duration::from_secs(1), "{took:?}");
    let check = shop.daemon.command(&["check"]);
    assert!(check.status.success(), "{}", text(&check));
}

#[test]
fn the_walsender_of_a_standby_hears_of_the_daemon_many_times_a_second() {
    let Some((shop, standby)) = followed() else { return };
    // A walsender on a standby sometimes misses that a change was replayed, and sleeps until it receives a message.
    // That is rare, so the test checks the countermeasure, which always shows.
    let mut heard = Vec::new();
    let mut sql = on(&standby, &shop);
    until("the daemon has said eleven times that it is alive", || {
        let at = sql.one("SELECT extract(epoch FROM reply_time) FROM pg_stat_replication");
        let at: f64 = at.parse().ok()?;
        if heard.last() != Some(&at) {
            heard.push(at);
        }
        (heard.len() > 10).then_some(())
    });
    assert!(heard[10] - heard[0] < 2.5, "{heard:?}");
}

#[test]
fn the_stream_goes_on_when_the_standby_is_promoted() {
    let Some((mut shop, standby)) = followed() else { return };
    shop.cache(&["user:1", "user:2", "user:3", "other"]);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    invalidated(&shop, "user:1");
    let walsender = active(&mut on(&standby, &shop), &shop.database.name);
    shop.database.server.stop(Signal::Interrupt);
    standby.promote();
    shop.sql = on(&standby, &shop);
    assert_eq!(shop.left_after("UPDATE users SET n = 2 WHERE id = 2"), ["other", "user:3"]);
    // The daemon reopens the stream to learn the timeline, and continues where it was: no gap, no flush.
    let reopened = until("the promoted server streams", || active(&mut shop.sql, &shop.database.name));
    assert_ne!(Some(reopened), walsender, "{}", shop.daemon.log());
    assert!(shop.daemon.log().contains("the standby that is followed was promoted"), "{}", shop.daemon.log());
    let metrics = shop.daemon.http("/metrics").1;
    for none in ["coherd_gaps_total{", "coherd_flushes_total{"] {
        assert!(!metrics.contains(none), "{metrics}");
    }
    // Also after a restart, when the timeline is known to be another one.
    shop.daemon.stop(Signal::Kill);
    shop.sql.run("UPDATE users SET n = 3 WHERE id = 3");
    shop.daemon.launch();
    shop.settle();
    assert_eq!(shop.cached(), ["other"], "{}", shop.daemon.log());
}

#[test]
fn before_16_a_standby_is_refused_with_what_to_do() {
    let (shop, standby) = configured();
    if shop.database.server.version() >= 160_000 {
        println!("skipped: from Postgres 16 on a standby can be followed");
        return;
    }
    standby.catch_up(&shop.database.server);
    for args in [vec!["setup", "--dsn", &shop.database.dsn()], vec!["run"], vec!["check"]] {
        let output = shop.daemon.command(&args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = text(&output);
        assert!(said.contains("is a standby, and Postgres 15 decodes"), "{said}");
        assert!(said.contains("name the primary"), "{said}");
    }
}
