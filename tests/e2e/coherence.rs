//! Races that deleting keys after a commit leaves open: a commit that readers do not see yet, a replica that replays
//! later. A reader fills the old row at the worst moment. Once the change is settled, the old row must be gone.

use std::sync::Arc;
use std::thread::JoinHandle;

use super::Shop;
use crate::support::postgres::{Client, postgres_client};
use crate::support::process::Signal;
use crate::support::standby::{STANDBY_NAME, Waiting};
use crate::support::{Daemon, Database, Postgres, Redis, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO users VALUES (1), (2);
    CREATE TABLE orders (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO orders VALUES (1);";
const RULES: &str =
    "rules:\n  - table: users\n    keys: [\"user:{id}\"]\n  - table: orders\n    keys: [\"order:{id}\"]\n";

/// A shop and a standby.
struct Pair {
    shop: Shop,
    standby: Postgres,
    there: Client,
}

impl Pair {
    /// `source` is added below `source:`; `{standby}` stands for the standby's DSN.
    fn open(settings: &str, source: &str) -> Pair {
        let database = Database::create_on(Arc::new(Postgres::start(settings)));
        database.run(SCHEMA);
        let redis = Redis::start();
        let mut daemon = Daemon::configure(&database, &redis.url(), RULES);
        let standby = database.server.standby("");
        standby.catch_up(&database.server);
        let dsn = standby.dsn_as("coherd", &database.name);
        daemon.edit("targets:", &format!("{}\ntargets:", source.replace("{standby}", &dsn)));
        daemon.setup(&database);
        daemon.launch();
        let there = postgres_client(&standby.dsn(&database.name)).unwrap();
        let sql = database.client();
        Pair { shop: Shop { daemon, redis, sql, database }, standby, there }
    }

    fn with_replica(source: &str) -> Pair {
        Pair::open("", &format!("  replicas: [\"{{standby}}\"]\n{source}"))
    }

    /// Makes the standby synchronous and stops it, so that commits wait for it from now on.
    fn lose_the_standby(&self) -> Waiting {
        self.standby.stop(Signal::Quit);
        let server = &self.shop.database.server;
        let waiting = server.wait_for(STANDBY_NAME);
        server.until_commits_wait();
        waiting
    }

    fn pause(&mut self) {
        self.there.run("SELECT pg_wal_replay_pause()");
        until("replay is paused", || {
            (self.there.one("SELECT pg_get_wal_replay_pause_state()") == "paused").then_some(())
        });
    }

    fn resume(&mut self) {
        self.there.run("SELECT pg_wal_replay_resume()");
    }

    /// Fills the cache with the value on the replica, and returns it.
    fn fill_from_the_replica(&mut self, id: u32) -> String {
        let n = self.there.one(&format!("SELECT n FROM users WHERE id = {id}"));
        self.shop.fill(id, &n);
        n
    }

    fn wait_until_applied(&mut self) {
        let token = self.shop.sql.one("SELECT coherd.token()");
        let (code, body) = self.shop.daemon.http(&format!("/wait?token={token}&stage=applied&timeout=30s"));
        assert_eq!(code, 200, "{body}");
    }

    fn is_settled(&mut self) -> bool {
        let token = self.shop.sql.one("SELECT coherd.token()");
        self.shop.daemon.http(&format!("/wait?token={token}&timeout=0ms")).0 == 200
    }

    /// Whether readers may fill caches from the replica.
    fn is_held(&self) -> bool {
        self.shop.daemon.status()["replicas"][0]["held"] == true
    }

    /// Why the daemon does not wait for the replica.
    fn left(&self) -> Option<String> {
        self.shop.daemon.status()["replicas"][0]["left"].as_str().map(str::to_owned)
    }
}

impl Shop {
    fn fill(&self, id: u32, value: &str) {
        let () = redis::cmd("SET").arg(format!("user:{id}")).arg(value).query(&mut self.redis.client()).unwrap();
    }

    /// Runs a change whose commit may wait.
    fn change(&self, sql: &'static str) -> JoinHandle<()> {
        let mut client = self.database.client();
        std::thread::spawn(move || client.run(sql))
    }

    fn until_invalidated(&self, key: &str) {
        until("the key is gone", || (!self.cached().iter().any(|its| its == key)).then_some(()));
    }
}

#[test]
fn a_row_that_was_filled_in_while_its_commit_waited_for_an_absent_standby_is_gone_once_it_is_settled() {
    let mut pair = Pair::open("", "");
    let _waiting = pair.lose_the_standby();
    let mut reader = pair.shop.database.client();
    pair.shop.cache(&["user:1", "user:2"]);
    let writer = pair.shop.change("UPDATE users SET n = 1 WHERE id = 1");
    pair.shop.until_invalidated("user:1");
    let old = reader.one("SELECT n FROM users WHERE id = 1");
    assert_eq!(old, "0", "the commit is in the log and not visible");
    pair.shop.fill(1, &old);
    pair.standby.launch();
    writer.join().unwrap();
    pair.shop.settle();
    assert_eq!(pair.shop.cached(), ["user:2"], "{}", pair.shop.daemon.log());
}

#[test]
fn commits_that_wait_for_nobody_are_applied_while_another_one_waits_for_its_standby() {
    let mut pair = Pair::open("", "");
    let _waiting = pair.lose_the_standby();
    pair.shop.sql.run("SET synchronous_commit = local");
    pair.shop.cache(&["user:1"]);
    let writer = pair.shop.change("UPDATE users SET n = 1 WHERE id = 1");
    pair.shop.until_invalidated("user:1");
    pair.shop.cache(&["user:1", "user:2"]);
    pair.shop.sql.run("UPDATE users SET n = 1 WHERE id = 2");
    pair.shop.until_invalidated("user:2");
    assert!(!pair.is_settled());
    pair.standby.launch();
    writer.join().unwrap();
    pair.shop.settle();
    assert_eq!(pair.shop.cached(), [] as [&str; 0]);
}

#[test]
fn prepared_transactions_and_subtransactions_pass_the_gate() {
    let mut shop = Shop::alone("max_prepared_transactions = 5", SCHEMA, &RULES["rules:\n".len()..]);
    shop.cache(&["order:1", "user:1", "user:2"]);
    shop.sql.run("BEGIN; UPDATE users SET n = 1 WHERE id = 1; PREPARE TRANSACTION 'later'");
    let left = shop.left_after(
        "BEGIN; SAVEPOINT a; UPDATE users SET n = 2 WHERE id = 2; RELEASE a; SAVEPOINT b;
         UPDATE orders SET n = 9; ROLLBACK TO b; COMMIT",
    );
    assert_eq!(left, ["order:1", "user:1"]);
    assert_eq!(shop.left_after("COMMIT PREPARED 'later'"), ["order:1"]);
}

#[test]
fn a_row_that_was_filled_in_from_a_replica_that_had_not_replayed_it_is_gone_once_it_is_settled() {
    let mut pair = Pair::with_replica("");
    pair.shop.cache(&["user:1", "user:2"]);
    pair.pause();
    pair.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    pair.wait_until_applied();
    assert_eq!(pair.fill_from_the_replica(1), "0");
    assert!(!pair.is_settled());
    pair.resume();
    pair.shop.settle();
    assert_eq!(pair.shop.cached(), ["user:2"], "{}", pair.shop.daemon.log());
}

#[test]
fn a_kill_between_the_invalidation_and_the_replica_pass_loses_neither() {
    let mut pair = Pair::with_replica("");
    pair.pause();
    pair.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    pair.wait_until_applied();
    pair.shop.daemon.stop(Signal::Kill);
    assert_eq!(pair.fill_from_the_replica(1), "0");
    pair.shop.daemon.launch();
    pair.wait_until_applied();
    assert_eq!(pair.fill_from_the_replica(1), "0");
    pair.resume();
    pair.shop.settle();
    assert_eq!(pair.shop.cached(), [] as [&str; 0]);
}

#[test]
fn a_replica_too_far_behind_holds_nothing_and_what_it_missed_is_flushed_when_it_is_back() {
    let mut pair = Pair::with_replica("  max_replica_lag: 1s");
    pair.pause();
    pair.shop.cache(&["order:1", "user:2"]);
    pair.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    pair.shop.settle();
    assert!(pair.left().is_some_and(|why| why.contains("has not replayed")), "{}", pair.shop.daemon.status());
    assert_eq!(pair.fill_from_the_replica(1), "0");
    pair.resume();
    until("the replica is back", || pair.left().is_none().then_some(()));
    pair.shop.settle();
    until("the rule is flushed", || (pair.shop.cached() == ["order:1"]).then_some(()));
}

#[test]
fn what_a_replica_missed_is_flushed_although_the_daemon_was_killed_meanwhile() {
    let mut pair = Pair::with_replica("  max_replica_lag: 1s");
    pair.pause();
    pair.shop.cache(&["order:1"]);
    pair.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    pair.shop.settle();
    pair.shop.daemon.stop(Signal::Kill);
    assert_eq!(pair.fill_from_the_replica(1), "0");
    pair.shop.daemon.launch();
    until("the rule is flushed", || (pair.shop.cached() == ["order:1"]).then_some(()));
    assert_eq!(pair.fill_from_the_replica(1), "0");
    pair.resume();
    until("it is flushed again", || (pair.shop.cached() == ["order:1"]).then_some(()));
}

#[test]
fn nobody_is_let_fill_from_a_replica_that_lacks_what_has_settled_whichever_daemon_is_asked() {
    let mut pair = Pair::with_replica("  max_replica_lag: 1s");
    until("the replica is held", || pair.is_held().then_some(()));
    pair.pause();
    pair.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    pair.shop.settle();
    assert!(!pair.is_held());
    pair.shop.daemon.stop(Signal::Kill);
    pair.shop.daemon.launch_unready();
    until("the replica is not waited for by the next daemon either", || {
        assert!(!pair.is_held(), "{}", pair.shop.daemon.status());
        pair.left()
    });
    pair.resume();
    until("the replica is held again", || pair.is_held().then_some(()));
    assert_eq!(pair.there.one("SELECT n FROM users WHERE id = 1"), "1");
}

#[test]
fn a_replica_that_is_gone_holds_nothing_and_is_waited_for_when_it_is_back() {
    let mut pair = Pair::with_replica("  max_replica_lag: 1s");
    pair.standby.stop(Signal::Quit);
    pair.shop.cache(&["user:1"]);
    assert_eq!(pair.shop.left_after("UPDATE users SET n = 1 WHERE id = 1"), [] as [&str; 0]);
    pair.standby.launch();
    until("the replica is back", || pair.left().is_none().then_some(()));
    pair.there = postgres_client(&pair.standby.dsn(&pair.shop.database.name)).unwrap();
    pair.pause();
    pair.shop.sql.run("UPDATE users SET n = 2 WHERE id = 1");
    pair.wait_until_applied();
    assert!(!pair.is_settled());
    pair.resume();
    pair.shop.settle();
}

#[test]
fn a_replica_that_was_promoted_is_no_replica() {
    let mut pair = Pair::with_replica("  max_replica_lag: 1s");
    pair.standby.promote();
    pair.there.run("UPDATE users SET n = 7");
    pair.shop.cache(&["user:1"]);
    assert_eq!(pair.shop.left_after("UPDATE users SET n = 1 WHERE id = 1"), [] as [&str; 0]);
    let why = until("it is told", || pair.left());
    assert!(why.contains("it takes writes, on timeline 2"), "{why}");
}
