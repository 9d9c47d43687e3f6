//! Manual invalidations in SQL: invalidate, touch, flush, wait, token.

use super::Shop;

const SCHEMA: &str =
    "CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users SELECT n, 'x' FROM generate_series(1, 5) n;
    CREATE TABLE products (id int PRIMARY KEY);";
const RULES: &str = "  - table: users\n    keys: [\"user:{id}\"]\n  - table: products\n    keys: [\"product:{id}\"]\n    action: bump\n";

#[test]
fn keys_are_invalidated_by_name() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULES}manual:\n  keys: any\n"));
    shop.cache(&["user:1", "user:2", "anything at all", "product:4"]);
    assert_eq!(shop.left_after("SELECT coherd.invalidate('user:1', 'anything at all')"), ["product:4", "user:2"]);
    assert_eq!(
        shop.left_after("SELECT coherd.invalidate('product:4')"),
        ["product:4:version", "user:2"],
        "where a rule bumps, the pointer moves as well"
    );
}

#[test]
fn only_keys_that_a_rule_covers_can_be_named_unless_the_configuration_says_any() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1", "user:2", "session:alice", "product:4"]);
    let messages = "SELECT coherd.invalidate('user:1', 'session:alice', 'product:4');
        SELECT pg_logical_emit_message(true, 'coherd', '{\"v\": 1, \"do\": \"invalidate\", \"keys\": [\"session:alice\"]}')";
    assert_eq!(shop.left_after(messages), ["product:4:version", "session:alice", "user:2"]);
    let metrics = shop.daemon.http("/metrics").1;
    assert!(metrics.contains("coherd_manual_keys_ignored_total 2\n"), "{metrics}");
    let log = shop.daemon.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("manual keys are ignored")).collect();
    assert!(told.len() == 1 && told[0].contains("manual.keys") && !log.contains("session:alice"), "{told:?}");
    shop.daemon.edit("rules:\n", "manual: {keys: any}\nrules:\n");
    shop.daemon.signal(crate::support::process::Signal::Hangup);
    crate::support::until("the configuration is reloaded", || {
        shop.daemon.log().contains("the configuration is reloaded").then_some(())
    });
    assert_eq!(shop.left_after(messages), ["product:4:version", "user:2"]);
}

#[test]
fn rows_are_touched_without_being_written() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1", "user:2", "user:3", "user:4"]);
    let touch = format!("SELECT coherd.touch('users', 'id BETWEEN 2 AND 3', '{}')", shop.database.name);
    assert_eq!(shop.left_after(&touch), ["user:1", "user:4"]);
}

#[test]
fn a_table_is_flushed() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1", "user:999", "product:1"]);
    assert_eq!(shop.left_after("SELECT coherd.flush('users')"), ["product:1"]);
}

#[test]
fn a_rollback_undoes_them() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1", "user:2"]);
    let all = format!(
        "BEGIN; SELECT coherd.invalidate('user:1'), coherd.flush('users'), coherd.touch('users', 'true', '{}'); ROLLBACK",
        shop.database.name
    );
    assert_eq!(shop.left_after(&all), ["user:1", "user:2"]);
}

#[test]
fn a_token_taken_after_a_commit_is_settled_once_the_record_has_reached_it() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.cache(&["user:1"]);
    shop.sql.run("UPDATE users SET name = 'y' WHERE id = 1");
    let token = shop.sql.one("SELECT coherd.token()");
    let (code, body) = shop.daemon.http(&format!("/wait?token={token}&timeout=30s"));
    assert_eq!(code, 200, "{body}");
    assert!(shop.cached().is_empty());
    let record = |shop: &Shop| -> u64 {
        let key = format!("coherd:{}", shop.database.name);
        redis::cmd("HGET").arg(key).arg("settled").query(&mut shop.redis.client()).unwrap()
    };
    let token: u64 = token.parse().unwrap();
    crate::support::until("readers see it settled in the record", || (record(&shop) >= token).then_some(()));
}

#[test]
fn wait_times_out_while_the_cache_is_away() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.redis.signal(crate::support::process::Signal::Stop);
    shop.sql.run("UPDATE users SET name = 'z' WHERE id = 1");
    let wait = format!("SELECT coherd.wait(timeout => '200ms', slot => '{}')", shop.database.name);
    assert_eq!(shop.sql.one(&wait), "f");
    let token = shop.sql.one("SELECT coherd.token()");
    assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=100ms")).0, 504);
    shop.redis.signal(crate::support::process::Signal::Continue);
    shop.settle();
}
