//! Tables of every kind, and tables that change while the daemon runs.

use super::Shop;
use crate::support::daemon::text;
use crate::support::{Daemon, Database, Postgres, Redis};

#[test]
fn quoted_and_mixed_case_names_work() {
    let schema = "CREATE SCHEMA \"Sales\"; CREATE TABLE \"Sales\".\"Order Items\" (\"Id\" int PRIMARY KEY, \"a}b\" text, \"Q\"\"t\" int NOT NULL);
        ALTER TABLE \"Sales\".\"Order Items\" REPLICA IDENTITY FULL;
        INSERT INTO \"Sales\".\"Order Items\" VALUES (1, 'x', 5);";
    let rules = "  - table: '\"Sales\".\"Order Items\"'\n    keys: ['{table}:{\"Id\"}', 'q:{\"a}b\"}:{\"Q\"\"t\"}']\n";
    let mut shop = Shop::open(schema, rules);
    shop.cache(&["Order Items:1", "q:x:5", "q:x:6", "q:y:6"]);
    assert_eq!(shop.left_after("UPDATE \"Sales\".\"Order Items\" SET \"Q\"\"t\" = 6"), ["q:y:6"]);
}

#[test]
fn a_composite_key_makes_one_key_of_its_columns() {
    let schema = "CREATE TABLE seats (flight text, seat int, name text, PRIMARY KEY (flight, seat));
        INSERT INTO seats VALUES ('LH1', 7, 'Ann');";
    let mut shop = Shop::open(schema, "  - table: seats\n    keys: [\"seat:{flight}:{seat}\"]\n");
    shop.cache(&["seat:LH1:7", "seat:LH1:8", "seat:LH2:7"]);
    assert_eq!(shop.left_after("UPDATE seats SET seat = 8"), ["seat:LH2:7"]);
}

#[test]
fn a_rule_for_a_partitioned_table_matches_every_partition() {
    let schema = "CREATE TABLE events (id int, day date, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
        CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        INSERT INTO events VALUES (1, '2026-01-05', 'a'), (2, '2026-01-06', 'b');";
    let mut shop = Shop::open(schema, "  - table: events\n    keys: [\"event:{id}\"]\n");
    shop.cache(&["event:1", "event:2", "event:3", "event:4"]);
    assert_eq!(shop.left_after("UPDATE events SET note = 'x' WHERE id = 1"), ["event:2", "event:3", "event:4"]);
    assert_eq!(shop.left_after("UPDATE events_1 SET note = 'x' WHERE id = 2"), ["event:3", "event:4"]);
    let attached = "CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
        INSERT INTO events VALUES (3, '2026-02-03', 'c')";
    assert_eq!(shop.left_after(attached), ["event:4"]);
}

#[test]
fn a_partition_added_while_running_without_full_identity_leaves_no_old_key_behind() {
    let schema = "CREATE TABLE m (id int PRIMARY KEY, email text NOT NULL) PARTITION BY RANGE (id);
        CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM (0) TO (10);
        ALTER TABLE m REPLICA IDENTITY FULL; ALTER TABLE m_1 REPLICA IDENTITY FULL;";
    let mut shop = Shop::open(schema, "  - table: m\n    keys: [\"m:{email}\"]\n");
    shop.cache(&["m:a", "other"]);
    let added = "CREATE TABLE m_2 PARTITION OF m FOR VALUES FROM (10) TO (20); INSERT INTO m VALUES (11, 'a')";
    assert_eq!(shop.left_after(added), ["other"]);
    shop.cache(&["m:a", "m:b"]);
    assert_eq!(shop.left_after("UPDATE m SET email = 'b' WHERE id = 11"), ["other"]);
}

#[test]
fn a_null_means_that_there_is_no_such_key() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, a text, b text); ALTER TABLE t REPLICA IDENTITY FULL;
        INSERT INTO t VALUES (1, NULL, 'b');";
    let mut shop = Shop::open(schema, "  - table: t\n    keys: [\"t:{a}:{b}\", \"id:{id}\"]\n");
    shop.cache(&["t::b", "t:a:b", "id:1"]);
    assert_eq!(shop.left_after("UPDATE t SET a = 'a'"), ["t::b"]);
}

#[test]
fn a_column_added_while_running_changes_nothing() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'a');";
    let mut shop = Shop::open(schema, "  - table: t\n    keys: [\"t:{id}\"]\n");
    shop.cache(&["t:1", "t:2"]);
    assert_eq!(shop.left_after("ALTER TABLE t ADD b int DEFAULT 5; UPDATE t SET b = 6"), ["t:2"]);
}

#[test]
fn a_column_renamed_while_running_flushes_the_scope_of_its_rule() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL); ALTER TABLE t REPLICA IDENTITY FULL;
        INSERT INTO t VALUES (1, 'a');";
    let mut shop = Shop::open(schema, "  - table: t\n    keys: [\"id:{id}\", \"code:{code}\"]\n");
    shop.cache(&["id:1", "id:2", "code:a", "code:zzz"]);
    assert_eq!(shop.left_after("ALTER TABLE t RENAME code TO kode; UPDATE t SET kode = 'b'"), ["id:2"]);
}

#[test]
fn a_column_dropped_while_running_flushes_the_scope_of_its_rule() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL, n int); ALTER TABLE t REPLICA IDENTITY FULL;
        INSERT INTO t VALUES (1, 'a', 1);";
    let mut shop = Shop::open(schema, "  - table: t\n    keys: [\"id:{id}\", \"code:{code}\"]\n");
    shop.cache(&["id:1", "id:2", "code:a", "code:zzz"]);
    assert_eq!(shop.left_after("ALTER TABLE t DROP code; UPDATE t SET n = 2"), ["id:2"]);
}

#[test]
fn two_rules_for_one_table_and_one_transaction_over_many_tables() {
    let schema = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY);";
    let rules = "  - table: a\n    keys: [\"a:{id}\"]\n  - table: a\n    keys: [\"all\"]\n  - table: b\n    keys: [\"b:{id}\"]\n";
    let mut shop = Shop::open(schema, rules);
    shop.cache(&["a:1", "all", "b:1", "b:2"]);
    assert_eq!(shop.left_after("BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); COMMIT"), ["b:2"]);
}

/// A partition tree whose root and first partition have REPLICA IDENTITY FULL.
const FULL_TREE: &str =
    "CREATE TABLE tree (id int, day int, code text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
    CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (10);
    ALTER TABLE tree_1 REPLICA IDENTITY FULL; ALTER TABLE tree REPLICA IDENTITY FULL;
    INSERT INTO tree VALUES (1, 1, 'a');";
const NEW_LEAF: &str = "CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM (10) TO (20);
    INSERT INTO tree VALUES (2, 11, 'b'), (3, 12, 'c'), (4, 13, 'd')";

#[test]
fn a_new_partition_that_does_not_log_whole_old_rows_loses_no_key() {
    for change in [
        "UPDATE tree SET code = 'x' WHERE id = 2",
        "UPDATE tree SET id = 9, code = 'x' WHERE id = 2",
        "DELETE FROM tree WHERE id = 2",
    ] {
        let mut shop = Shop::open(FULL_TREE, "  - table: tree\n    keys: [\"code:{code}\", \"id:{id}\"]\n");
        shop.cache(&["code:a"]);
        assert_eq!(shop.left_after("UPDATE tree SET code = 'aa' WHERE id = 1"), [""; 0]);
        shop.sql.run(NEW_LEAF);
        shop.settle();
        shop.cache(&["code:aa", "code:b", "id:2", "id:4"]);
        assert_eq!(shop.left_after(change), ["id:4"], "{change}");
        // The other partitions work as before, and so does the new one once it is fixed.
        shop.cache(&["code:aa", "code:c", "code:zzz"]);
        assert_eq!(
            shop.left_after("UPDATE tree SET code = NULL WHERE id = 1"),
            ["code:c", "code:zzz", "id:4"],
            "{change}"
        );
        let repaired = "ALTER TABLE tree_2 REPLICA IDENTITY FULL; UPDATE tree SET code = NULL WHERE id = 3";
        assert_eq!(shop.left_after(repaired), ["code:zzz", "id:4"], "{change}");
        assert_eq!(shop.left_after("UPDATE tree SET code = 'cc' WHERE id = 3"), ["code:zzz", "id:4"], "{change}");
    }
}

#[test]
fn when_changed_is_not_fooled_by_a_partition_that_does_not_log_whole_old_rows() {
    let rules = "  - table: tree\n    keys: [\"day:{day}\"]\n    when_changed: [code]\n";
    let mut shop = Shop::open(FULL_TREE, rules);
    shop.sql.run(NEW_LEAF);
    shop.settle();
    shop.cache(&["day:11", "day:12"]);
    assert_eq!(shop.left_after("UPDATE tree SET id = 9, code = NULL WHERE id = 2"), ["day:12"]);
}

#[test]
fn a_key_of_a_generated_column_works_from_18_on() {
    let schema = "CREATE TABLE t (id int PRIMARY KEY, name text, slug text GENERATED ALWAYS AS (lower(name)) STORED);
        ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 'Ann');";
    if Postgres::shared().version() < 180_000 {
        return;
    }
    let (database, redis) = (Database::create(), Redis::start());
    database.run(schema);
    let mut daemon = Daemon::configure(&database, &redis.url(), "rules:\n  - table: t\n    keys: [\"t:{slug}\"]\n");
    // FULL does not permit a column list, so the publication itself must say that it sends generated columns.
    daemon.setup(&database);
    daemon.launch();
    let sql = database.client();
    let mut shop = Shop { daemon, redis, sql, database };
    shop.cache(&["t:ann", "t:bob", "t:cid"]);
    assert_eq!(shop.left_after("UPDATE t SET name = 'BOB'"), ["t:cid"]);
    let publication = format!("ALTER PUBLICATION {} SET (publish_generated_columns =", shop.database.name);
    shop.sql.run(&format!("{publication} none)"));
    let checked = shop.daemon.command(&["check"]);
    let remedy = format!("{publication} stored);");
    assert!(!checked.status.success() && text(&checked).contains(&remedy), "{}", text(&checked));
}
