//! Truncated tables, and transactions too large to be invalidated key by key: coherd flushes scopes.

use super::Shop;
use crate::support::process::Signal;
use crate::support::until;

const TABLES: &str = "CREATE TABLE a (id serial PRIMARY KEY, note text); CREATE TABLE b (id int PRIMARY KEY);
    CREATE TABLE c (id int PRIMARY KEY); CREATE TABLE unmapped (id int);
    INSERT INTO a (note) SELECT 'x' FROM generate_series(1, 3); INSERT INTO b VALUES (1); INSERT INTO c VALUES (1);";
const RULES: &str = "  - table: a\n    keys: [\"a:{id}\", \"list-of-a\"]\n  - table: b\n    keys: [\"b:{id}\"]\n  - table: c\n    keys: [\"c:{id}\"]\n";

#[test]
fn several_tables_in_one_truncate_flush_their_scopes_and_no_others() {
    let mut shop = Shop::open(TABLES, RULES);
    shop.cache(&["a:1", "a:99", "list-of-a", "b:1", "b:77", "c:1", "ab:1", "other"]);
    assert_eq!(shop.left_after("TRUNCATE a, unmapped, b"), ["ab:1", "c:1", "other"]);
}

#[test]
fn truncate_cascade_flushes_the_scope_of_a_table_that_references_the_truncated_one() {
    let schema = "CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE others (id int PRIMARY KEY);
        CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents);
        CREATE TABLE grandchildren (id int PRIMARY KEY, child int REFERENCES children);
        INSERT INTO parents VALUES (1); INSERT INTO children VALUES (1, 1); INSERT INTO grandchildren VALUES (1, 1);";
    // No rule for the table that the statement names.
    let rules = "  - table: children\n    keys: [\"child:{id}\"]\n  - table: grandchildren\n    keys: [\"grandchild:{id}\"]\n  - table: others\n    keys: [\"o:{id}\"]\n";
    let mut shop = Shop::open(schema, rules);
    shop.cache(&["child:1", "child:99", "grandchild:1", "o:1"]);
    assert_eq!(shop.left_after("TRUNCATE parents CASCADE"), ["o:1"]);
}

/// A partitioned table with rows in both partitions.
const EVENTS: &str = "CREATE TABLE events (id int, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (10);
    CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM (10) TO (20);
    INSERT INTO events VALUES (1, 1), (2, 11);";
const EVENT_RULE: &str = "  - table: events\n    keys: [\"event:{id}\"]\n";

#[test]
fn truncate_of_a_partitioned_root_flushes_its_scope() {
    let mut shop = Shop::open(EVENTS, EVENT_RULE);
    shop.cache(&["event:1", "event:2", "event:99", "other"]);
    assert_eq!(shop.left_after("TRUNCATE events"), ["other"]);
}

#[test]
fn truncate_of_one_partition_alone_is_noticed_within_seconds() {
    let mut shop = Shop::open(EVENTS, EVENT_RULE);
    shop.cache(&["event:1", "event:2", "other"]);
    shop.sql.run("TRUNCATE events_1");
    // Nothing in the stream shows this.
    until("the key of the row that is gone is gone too", || {
        (!shop.cached().contains(&"event:1".to_owned())).then_some(())
    });
    assert!(shop.cached().contains(&"other".to_owned()));
}

#[test]
fn truncate_restart_identity_flushes_like_any_other() {
    let mut shop = Shop::open(TABLES, RULES);
    shop.cache(&["a:1", "a:99", "b:1", "list-of-a"]);
    assert_eq!(shop.left_after("TRUNCATE a RESTART IDENTITY"), ["b:1"]);
    // The first row inserted after it reuses an old number.
    shop.cache(&["a:1", "a:2"]);
    assert_eq!(shop.left_after("INSERT INTO a (note) VALUES ('new')"), ["a:2", "b:1"]);
}

#[test]
fn a_truncate_that_is_rolled_back_flushes_nothing() {
    let mut shop = Shop::open(TABLES, RULES);
    shop.cache(&["a:1", "a:99", "b:1", "c:1"]);
    assert_eq!(shop.left_after("BEGIN; TRUNCATE a, b; ROLLBACK"), ["a:1", "a:99", "b:1", "c:1"]);
    let savepoint = "BEGIN; SAVEPOINT s; TRUNCATE a; ROLLBACK TO s; TRUNCATE b; COMMIT";
    assert_eq!(shop.left_after(savepoint), ["a:1", "a:99", "c:1"]);
}

#[test]
fn what_a_transaction_writes_after_its_truncate_is_invalidated_as_well() {
    let mut shop = Shop::open(TABLES, RULES);
    shop.cache(&["a:1", "b:1", "c:1", "c:2"]);
    let both = "BEGIN; INSERT INTO c VALUES (2); TRUNCATE a; INSERT INTO b VALUES (5); COMMIT";
    assert_eq!(shop.left_after(both), ["b:1", "c:1"]);
}

#[test]
fn a_transaction_beyond_max_pending_keys_has_its_scope_flushed() {
    let limits = "limits: { max_pending_keys: 100 }\n";
    let mut shop = Shop::open(TABLES, &format!("{RULES}{limits}"));
    shop.settle();
    shop.cache(&["b:99999", "b:1", "c:1"]);
    // While the cache is stopped, all keys queue up.
    shop.redis.signal(Signal::Stop);
    shop.sql.run("INSERT INTO b SELECT generate_series(1000, 9000)");
    until("the daemon has read it", || {
        let inserted = "coherd_changes_total{table=\"public.b\",op=\"insert\"} 8001";
        shop.daemon.http("/metrics").1.contains(inserted).then_some(())
    });
    let pending = shop.daemon.status()["targets"][0]["pending_keys"].as_u64().unwrap();
    assert!(pending <= 100, "{pending} keys wait in memory");
    shop.redis.signal(Signal::Continue);
    shop.settle();
    assert_eq!(shop.cached(), ["c:1"]);
}
