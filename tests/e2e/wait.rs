//! `coherd.wait()` is prompt: it waits for the caller's own change, never for a timer. `make waits` repeats it more
//! often (`COHERD_WAITS`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::Shop;
use crate::support::Daemon;
use crate::support::daemon::text;
use crate::support::postgres::postgres_client;
use crate::support::process::Signal;
use crate::support::{Database, Redis, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO users SELECT generate_series(1, 1000);
    CREATE TABLE notes (id bigserial PRIMARY KEY, line text); CREATE TABLE logs (id bigserial PRIMARY KEY, line text);";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

/// The default number of waits for each kind of change.
const WAITS: usize = 50;

/// More moves of the record than a stream may make at once after a long idle time.
const SAVED_MOVES: usize = 310;
/// Far below the second after which a record moves by itself, and far above what a busy machine needs.
const PROMPT_MS: f64 = 200.0;

const KINDS: [(&str, &str); 4] = [
    ("a mapped row", "UPDATE users SET n = n + 1 WHERE id = 7"),
    ("a published table without a rule", "INSERT INTO notes (line) VALUES ('x')"),
    ("a table outside of the publication", "INSERT INTO logs (line) VALUES ('x')"),
    ("1,000 mapped rows", "UPDATE users SET n = n + 1"),
];

fn shop() -> Shop {
    let mut shop = Shop::alone("", SCHEMA, RULE);
    shop.sql.run(&format!("ALTER PUBLICATION {} ADD TABLE notes", shop.database.name));
    shop.settle();
    shop
}

fn waits() -> usize {
    let given = std::env::var("COHERD_WAITS").ok().filter(|text| !text.is_empty());
    given.map_or(WAITS, |text| text.parse().expect("a whole number"))
}

/// Repeats the change and the wait. Returns the duration of each wait in milliseconds, the shortest first.
fn times(shop: &mut Shop, change: &str, count: usize) -> Vec<f64> {
    let wait = format!("SELECT coherd.wait(timeout => '30s', slot => '{}')", shop.database.name);
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            shop.sql.run(change);
            let began = Instant::now();
            assert_eq!(shop.sql.one(&wait), "t", "{}", shop.daemon.status());
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

fn told(kind: &str, times: &[f64]) -> f64 {
    let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
    let (p50, p99, max) = (at(50), at(99), at(100));
    println!("coherd.wait() behind {kind}: n {}, p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms", times.len());
    p50
}

#[test]
fn a_wait_is_prompt_on_a_database_that_is_otherwise_idle() {
    for (kind, change) in KINDS {
        let times = times(&mut shop(), change, waits());
        assert!(told(kind, &times) < PROMPT_MS, "behind {kind}: {times:?}");
    }
}

#[test]
fn a_wait_is_prompt_while_others_write_what_no_rule_names() {
    let mut shop = shop();
    let (dsn, ends) = (shop.database.dsn(), Arc::new(AtomicBool::new(false)));
    let writer = std::thread::spawn({
        let ends = Arc::clone(&ends);
        move || {
            let mut sql = postgres_client(&dsn).expect("connects");
            while !ends.load(Ordering::Relaxed) {
                sql.run("INSERT INTO logs (line) VALUES ('x')");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    // Uses up the moves that an idle stream has saved.
    times(&mut shop, "INSERT INTO logs (line) VALUES ('x')", SAVED_MOVES);
    let all: Vec<_> = KINDS.iter().map(|(kind, change)| (kind, times(&mut shop, change, waits()))).collect();
    ends.store(true, Ordering::Relaxed);
    writer.join().expect("it wrote");
    for (kind, times) in all {
        assert!(told(&format!("{kind}, others writing"), &times) < PROMPT_MS, "behind {kind}: {times:?}");
    }
}

#[test]
fn the_command_waits_for_what_was_committed_so_far() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:7", "user:8"]);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 7");
    let done = shop.daemon.command(&["wait"]);
    assert!(done.status.success(), "{}", text(&done));
    assert_eq!(shop.cached(), ["user:8"]);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 8");
    let token = shop.sql.one("SELECT coherd.token()");
    let done = shop.daemon.command(&["wait", "--token", &token, "--stage", "applied", "--json"]);
    assert!(done.status.success(), "{}", text(&done));
    let told: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!((&told["reached"], &told["stage"]), (&true.into(), &"applied".into()));
    assert!(shop.cached().is_empty());
}

#[test]
fn the_command_says_which_cache_is_behind() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.redis.signal(Signal::Stop);
    shop.sql.run("UPDATE users SET n = 1 WHERE id = 7");
    let late = shop.daemon.command(&["wait", "--timeout", "300ms"]);
    shop.redis.signal(Signal::Continue);
    assert_eq!(late.status.code(), Some(1));
    let told = text(&late);
    assert!(
        told.contains("is not settled within 300 ms; settled is at ") && told.contains("\ntarget cache ("),
        "{told}"
    );
    let done = shop.daemon.command(&["wait", "--timeout", "30s"]);
    assert!(done.status.success(), "{}", text(&done));
}

#[test]
fn the_command_needs_a_slot_and_a_daemon_that_streams() {
    let (database, redis) = (Database::create(), Redis::start());
    database.run(SCHEMA);
    let mut daemon = Daemon::configure(&database, &redis.url(), &format!("rules:\n{RULE}"));
    let refusal = |daemon: &Daemon| {
        let refused = daemon.command(&["wait", "--timeout", "30s"]);
        assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
        assert!(refused.stdout.is_empty());
        text(&refused)
    };
    assert!(refusal(&daemon).contains("there is no replication slot"), "{}", refusal(&daemon));
    daemon.setup(&database);
    let told = refusal(&daemon);
    assert!(told.contains("is the daemon running, with this configuration? `coherd run` starts it"), "{told}");
    daemon.launch();
    let mut twin = daemon.twin();
    twin.launch_unready();
    until("the twin stands by", || (twin.status()["state"] == "standby").then_some(()));
    let told = refusal(&twin);
    assert!(told.contains("this daemon is a hot standby") && told.contains("coherd.wait()"), "{told}");
}
