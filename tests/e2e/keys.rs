//! Which keys are invalidated.

use super::Shop;
use crate::support::until;

const USERS: &str = "CREATE TABLE users (id bigint PRIMARY KEY, name text, email text NOT NULL);
    CREATE UNIQUE INDEX users_identity ON users (id, email);
    ALTER TABLE users REPLICA IDENTITY USING INDEX users_identity;
    INSERT INTO users VALUES (1, 'Ann', 'ann@x'), (2, 'Bob', 'bob@x');";

const BY_ID_AND_EMAIL: &str = "  - table: public.users\n    keys: [\"user:{id}\", \"user:by-email:{email|lower}\"]\n";

#[test]
fn an_update_typed_manually_removes_its_keys_and_no_others() {
    let mut shop = Shop::open(USERS, BY_ID_AND_EMAIL);
    shop.cache(&["user:1", "user:2", "user:by-email:ann@x", "user:by-email:bob@x", "user:10", "other"]);
    let left = shop.left_after("UPDATE users SET name = 'Anne' WHERE id = 1");
    assert_eq!(left, ["other", "user:10", "user:2", "user:by-email:bob@x"]);
}

#[test]
fn a_changed_email_drops_the_old_key_and_the_new_one() {
    let mut shop = Shop::open(USERS, BY_ID_AND_EMAIL);
    shop.cache(&["user:by-email:ann@x", "user:by-email:new@x", "user:by-email:bob@x"]);
    let left = shop.left_after("UPDATE users SET email = 'NEW@x' WHERE id = 1");
    assert_eq!(left, ["user:by-email:bob@x"]);
}

#[test]
fn inserts_and_deletes_invalidate_too() {
    let mut shop = Shop::open(USERS, BY_ID_AND_EMAIL);
    shop.cache(&["user:3", "user:by-email:cid@x", "user:2", "user:by-email:bob@x"]);
    assert_eq!(shop.left_after("INSERT INTO users VALUES (3, 'Cid', 'cid@x')"), ["user:2", "user:by-email:bob@x"]);
    assert!(shop.left_after("DELETE FROM users WHERE id = 2").is_empty());
}

#[test]
fn what_is_rolled_back_invalidates_nothing_and_a_prepared_transaction_only_when_it_commits() {
    let mut shop = Shop::alone("max_prepared_transactions = 5", USERS, BY_ID_AND_EMAIL);
    shop.cache(&["user:1", "user:2"]);
    assert_eq!(shop.left_after("BEGIN; UPDATE users SET name = 'x'; ROLLBACK"), ["user:1", "user:2"]);
    let savepoint = "BEGIN; UPDATE users SET name = 'y' WHERE id = 1; SAVEPOINT s;
        UPDATE users SET name = 'y' WHERE id = 2; ROLLBACK TO s; COMMIT";
    assert_eq!(shop.left_after(savepoint), ["user:2"]);
    shop.sql.run("BEGIN; UPDATE users SET name = 'z' WHERE id = 2; PREPARE TRANSACTION 'p'");
    shop.settle();
    assert_eq!(shop.cached(), ["user:2"]);
    assert!(shop.left_after("COMMIT PREPARED 'p'").is_empty());
}

#[test]
fn a_bump_moves_the_version_pointer_and_leaves_the_entry() {
    let rules = "  - table: users\n    keys: [\"user:{id}\"]\n    action: bump\n";
    let mut shop = Shop::open(USERS, rules);
    shop.cache(&["user:1"]);
    let mut client = shop.redis.client();
    let mut versions = Vec::new();
    for name in ["a", "b", "c"] {
        shop.left_after(&format!("UPDATE users SET name = '{name}' WHERE id = 1"));
        versions.push(redis::cmd("GET").arg("user:1:version").query::<u64>(&mut client).unwrap());
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert_eq!(shop.cached(), ["user:1", "user:1:version"]);
    let ttl: i64 = redis::cmd("TTL").arg("user:1:version").query(&mut client).unwrap();
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
}

#[test]
fn a_publish_rule_sends_the_key_on_the_channel() {
    let rules = "  - table: users\n    keys: [\"user:{id}\"]\n    action: publish\n";
    let mut shop = Shop::open(USERS, rules);
    let mut listener = shop.redis.client();
    let mut subscription = listener.as_pubsub();
    subscription.subscribe(format!("coherd:{}:invalidations", shop.database.name)).unwrap();
    shop.cache(&["user:1"]);
    assert_eq!(shop.left_after("UPDATE users SET name = 'x' WHERE id = 1"), ["user:1"]);
    assert_eq!(subscription.get_message().unwrap().get_payload::<String>().unwrap(), "user:1");
}

#[test]
fn when_changed_ignores_updates_that_leave_its_columns_alone() {
    let schema = "CREATE TABLE items (id int PRIMARY KEY, order_id int, qty int, note text);
        ALTER TABLE items REPLICA IDENTITY FULL; INSERT INTO items VALUES (1, 9, 1, 'a');";
    let rules = "  - table: items\n    keys: [\"order:{order_id}\"]\n    when_changed: [qty]\n";
    let mut shop = Shop::open(schema, rules);
    shop.cache(&["order:9"]);
    assert_eq!(shop.left_after("UPDATE items SET note = 'b'"), ["order:9"]);
    assert!(shop.left_after("UPDATE items SET qty = 2").is_empty());
}

#[test]
fn an_emptied_table_flushes_its_scopes_and_nothing_else() {
    let mut shop = Shop::open(USERS, BY_ID_AND_EMAIL);
    shop.cache(&["user:1", "user:by-email:zoe@x", "userx", "product:1"]);
    assert_eq!(shop.left_after("TRUNCATE users"), ["product:1", "userx"]);
}

#[test]
fn without_the_old_email_a_rule_may_flush_or_skip_as_it_says() {
    let schema = "CREATE TABLE users (id bigint PRIMARY KEY, email text); INSERT INTO users VALUES (1, 'ann@x');";
    for (on_missing_old, expected) in [("flush", &[][..]), ("skip", &["mail:ann@x", "mail:bob@x"])] {
        let rules = format!("  - table: users\n    keys: [\"mail:{{email}}\"]\n    on_missing_old: {on_missing_old}\n");
        let mut shop = Shop::open(schema, &rules);
        shop.cache(&["mail:ann@x", "mail:bob@x", "mail:new@x"]);
        assert_eq!(shop.left_after("UPDATE users SET email = 'new@x'"), expected, "{on_missing_old}");
    }
}

#[test]
fn a_value_left_in_its_toast_table_flushes_the_scope() {
    let schema =
        "CREATE TABLE docs (id int PRIMARY KEY, slug text, n int); ALTER TABLE docs ALTER slug SET STORAGE EXTERNAL;
        INSERT INTO docs VALUES (1, repeat('s', 4000), 1);";
    let rules = "  - table: docs\n    keys: [\"doc:{slug|md5}\"]\n    on_missing_old: skip\n";
    let mut shop = Shop::open(schema, rules);
    shop.cache(&["doc:1", "doc:2", "other"]);
    assert_eq!(shop.left_after("UPDATE docs SET n = 2"), ["other"]);
}

#[test]
fn a_change_is_gone_from_the_cache_without_anybody_waiting_for_it() {
    let mut shop = Shop::open(USERS, BY_ID_AND_EMAIL);
    shop.cache(&["user:1"]);
    shop.sql.run("UPDATE users SET name = 'Anne' WHERE id = 1");
    until("user:1 is gone", || shop.cached().is_empty().then_some(()));
}
