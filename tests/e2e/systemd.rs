//! The notifications that a service manager receives.

use super::Shop;
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Manager, Proxy, Redis, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users VALUES (1);";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

/// Configures the daemon as a service of `manager`, without starting it.
fn under(manager: &Manager, shop: &mut Shop) {
    shop.daemon.stop(Signal::Term);
    shop.daemon.set_env("NOTIFY_SOCKET", &manager.address());
}

#[test]
fn ready_is_said_when_the_daemon_follows_the_log_and_not_before() {
    let (database, redis, manager) = (Database::create(), Redis::start(), Manager::start());
    database.run(SCHEMA);
    let proxy = Proxy::start(database.server.port());
    let mut daemon = Daemon::configure(&database, &redis.url(), &format!("rules:\n{RULE}"));
    daemon.setup(&database);
    daemon.edit(&format!("127.0.0.1:{}", database.server.port()), &format!("127.0.0.1:{}", proxy.port()));
    daemon.set_env("NOTIFY_SOCKET", &manager.address());
    proxy.refuse(true);
    daemon.launch_unready();
    manager.until_heard("STATUS=reconnecting: ");
    assert!(!manager.heard().contains(&"READY=1".to_owned()), "{:?}", manager.heard());
    proxy.refuse(false);
    manager.until_heard("READY=1");
    let active = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", database.name);
    assert_eq!(database.client().one(&active), "t");
    until("the status line is current", || {
        let line = manager.status();
        (line.starts_with("following the log: settled ") && line.ends_with(", 1 of 1 targets up")).then_some(())
    });
    let ready = manager.heard().iter().filter(|line| *line == "READY=1").count();
    assert_eq!(ready, 1);
    // The DSN is the user's input and does not belong in the journal.
    assert!(manager.heard().iter().all(|line| !line.contains("postgresql://")), "{:?}", manager.heard());
}

#[test]
fn a_cache_that_goes_away_shows_in_the_status_line() {
    let (mut shop, manager) = (Shop::open(SCHEMA, RULE), Manager::start());
    under(&manager, &mut shop);
    shop.daemon.launch();
    until("the cache is up", || manager.status().ends_with("1 of 1 targets up").then_some(()));
    shop.redis.kill();
    until("the cache is down", || manager.status().ends_with("0 of 1 targets up").then_some(()));
}

#[test]
fn the_watchdog_is_fed_while_the_loop_turns_and_not_while_it_stands() {
    let (mut shop, manager) = (Shop::open(SCHEMA, RULE), Manager::start());
    under(&manager, &mut shop);
    shop.daemon.set_env("WATCHDOG_USEC", "400000");
    shop.daemon.launch();
    let pings = || manager.heard().iter().filter(|line| *line == "WATCHDOG=1").count();
    let before = pings();
    until("it is fed again and again", || (pings() >= before + 5).then_some(()));
    shop.daemon.signal(Signal::Stop);
    until("the signal has arrived", || {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", shop.daemon.pid())).unwrap();
        state.contains(") T ").then_some(())
    });
    let stopped = pings();
    // Two full intervals, by the server's clock.
    shop.sql.run("SELECT pg_sleep(0.8)");
    assert_eq!(pings(), stopped);
    shop.daemon.signal(Signal::Continue);
    until("it is fed again", || (pings() > stopped).then_some(()));
}

#[test]
fn without_a_watchdog_nothing_is_fed() {
    let (mut shop, manager) = (Shop::open(SCHEMA, RULE), Manager::start());
    under(&manager, &mut shop);
    shop.daemon.launch();
    manager.until_heard("READY=1");
    assert!(!manager.heard().contains(&"WATCHDOG=1".to_owned()));
}

#[test]
fn the_end_is_told_before_it_comes() {
    let (mut shop, manager) = (Shop::open(SCHEMA, RULE), Manager::start());
    under(&manager, &mut shop);
    shop.daemon.launch();
    assert_eq!(shop.daemon.stop(Signal::Term), 0);
    // The process has ended, so everything that it sent has arrived.
    let heard = manager.heard();
    assert_eq!(heard[heard.len() - 2..], ["STOPPING=1", "STATUS=stopping: what has been read is delivered first"]);
}
