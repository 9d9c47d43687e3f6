//! Two caches behind one daemon: trouble with one must not affect the other.

use std::time::{Duration, Instant};

use crate::support::postgres::Client;
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Postgres, Redis, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO users SELECT generate_series(1, 3000);
    CREATE TABLE carts (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO carts VALUES (1), (2);";
/// The rule of users has both targets, that of carts only the second.
const RULES: &str = "rules:\n  - table: users\n    keys: [\"user:{id}\"]\n  - table: carts\n    keys: [\"cart:{id}\"]\n    targets: [edge]\n";

struct Pair {
    // Dropped in this order: the daemon must release the slot before the database is dropped.
    daemon: Daemon,
    cache: Redis,
    edge: Redis,
    sql: Client,
    database: Database,
}

impl Pair {
    fn open(more: &str) -> Pair {
        let server = Postgres::start("wal_sender_timeout = 3s");
        let database = Database::create_on(server.into());
        database.run(SCHEMA);
        let (cache, edge) = (Redis::start(), Redis::start());
        // The second target is inserted after the first one's url.
        let urls = format!("{}\n  edge:\n    url: {}", cache.url(), edge.url());
        let mut daemon = Daemon::configure(&database, &urls, &format!("{RULES}{more}"));
        daemon.setup(&database);
        daemon.launch();
        let sql = database.client();
        Pair { daemon, cache, edge, sql, database }
    }

    fn slot(&mut self, column: &str) -> String {
        let name = &self.database.name;
        self.sql.one(&format!("SELECT {column} FROM pg_replication_slots WHERE slot_name = '{name}'"))
    }

    fn settle(&mut self) {
        let wait = format!("SELECT coherd.wait(timeout => '60s', slot => '{}')", self.database.name);
        assert_eq!(self.sql.one(&wait), "t", "{}\n{}", self.daemon.status(), self.daemon.log());
    }
}

fn fill(redis: &Redis, keys: &[&str]) {
    for key in keys {
        let () = redis::cmd("SET").arg(key).arg("cached").query(&mut redis.client()).unwrap();
    }
}

fn keys(redis: &Redis) -> Vec<String> {
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut redis.client()).unwrap();
    keys.retain(|key| !key.starts_with("coherd:"));
    keys.sort();
    keys
}

#[test]
fn a_rule_invalidates_only_the_targets_it_names() {
    let mut pair = Pair::open("");
    for redis in [&pair.cache, &pair.edge] {
        fill(redis, &["user:1", "user:2", "cart:1"]);
    }
    pair.sql.run("UPDATE users SET n = 1 WHERE id = 1; UPDATE carts SET n = 1 WHERE id = 1");
    pair.settle();
    assert_eq!(keys(&pair.cache), ["cart:1", "user:2"]);
    assert_eq!(keys(&pair.edge), ["user:2"]);
    pair.sql.run("TRUNCATE carts; SELECT coherd.invalidate('user:2', 'cart:1')");
    fill(&pair.edge, &["cart:7"]);
    pair.sql.run("SELECT coherd.flush('carts')");
    pair.settle();
    assert_eq!(keys(&pair.cache), ["cart:1"], "the flush of a rule goes where the rule goes");
    assert!(keys(&pair.edge).is_empty(), "a manual key goes where a rule covers it");
}

/// Writes for longer than `wal_sender_timeout`, and checks that each change reaches `up` while the other target is
/// down.
fn stays_prompt(pair: &mut Pair, up: impl Fn(&Pair) -> &Redis) {
    let (mut slowest, began) = (Duration::ZERO, Instant::now());
    let mut id = 0;
    while began.elapsed() < Duration::from_secs(5) {
        id = id % 2000 + 1;
        let key = format!("user:{id}");
        let mut client = up(pair).client();
        let () = redis::cmd("SET").arg(&key).arg("cached").query(&mut client).unwrap();
        let written = Instant::now();
        pair.sql.run(&format!("UPDATE users SET n = n + 1 WHERE id = {id}"));
        until("the key is gone", || {
            let left: u32 = redis::cmd("EXISTS").arg(&key).query(&mut client).unwrap();
            (left == 0).then_some(())
        });
        slowest = slowest.max(written.elapsed());
    }
    println!("the slowest of {id} took {slowest:?}");
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

fn goes_away_and_comes_back(mut pair: Pair, away: impl Fn(&mut Pair), back: impl Fn(&mut Pair)) {
    pair.settle();
    let before = pair.slot("active_pid");
    fill(&pair.cache, &["user:1", "user:3000", "other"]);
    away(&mut pair);
    let held = pair.slot("confirmed_flush_lsn");
    stays_prompt(&mut pair, |pair| &pair.edge);
    pair.sql.run("UPDATE users SET n = n + 1");
    until("readiness names the target", || {
        let (code, body) = pair.daemon.http("/readyz");
        (code == 503 && body.contains("target cache is down")).then_some(())
    });
    assert_eq!(pair.slot("active_pid"), before, "the walsender was cut");
    let moved = pair.slot(&format!("confirmed_flush_lsn - '{held}'::pg_lsn"));
    assert_eq!(moved, "0", "the slot is held for the target that is away");
    back(&mut pair);
    pair.settle();
    assert_eq!(pair.slot("active_pid"), before);
    assert!(keys(&pair.cache).iter().all(|key| key == "other"), "{:?}", keys(&pair.cache));
    assert!(keys(&pair.edge).is_empty());
    until("readiness says yes", || (pair.daemon.http("/readyz").0 == 200).then_some(()));
}

#[test]
fn a_target_that_is_killed_holds_the_slot_but_not_the_other_target() {
    let back = |pair: &mut Pair| {
        pair.cache.restart();
        // A reader fills these keys before the daemon is back.
        fill(&pair.cache, &["user:1", "user:3000", "other"]);
    };
    goes_away_and_comes_back(Pair::open(""), |pair| pair.cache.kill(), back);
}

#[test]
fn a_target_that_stalls_holds_the_slot_but_not_the_other_target() {
    let away = |pair: &mut Pair| pair.cache.signal(Signal::Stop);
    goes_away_and_comes_back(Pair::open(""), away, |pair| pair.cache.signal(Signal::Continue));
}

#[test]
fn a_target_with_more_waiting_keys_than_memory_allows_has_scopes_flushed_instead() {
    let away = |pair: &mut Pair| pair.cache.signal(Signal::Stop);
    let pair = Pair::open("limits: { max_pending_keys: 500 }\n");
    goes_away_and_comes_back(pair, away, |pair| pair.cache.signal(Signal::Continue));
}

#[test]
fn a_daemon_that_dies_while_one_target_is_away_sends_that_target_what_it_missed() {
    let mut pair = Pair::open("");
    pair.settle();
    fill(&pair.cache, &["user:1", "user:2"]);
    fill(&pair.edge, &["user:1", "user:2"]);
    pair.cache.signal(Signal::Stop);
    pair.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    until("the other target is served", || (keys(&pair.edge) == ["user:2"]).then_some(()));
    pair.daemon.stop(Signal::Kill);
    pair.cache.signal(Signal::Continue);
    pair.daemon.launch();
    pair.settle();
    assert_eq!(keys(&pair.cache), ["user:2"]);
    assert_eq!(keys(&pair.edge), ["user:2"], "nothing was missed there, so nothing was flushed");
}
