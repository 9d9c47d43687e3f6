//! The same cases with `on_gap: halt`: the daemon stays up, says what to do, and changes nothing.

use super::*;

const HALT: &str = "on_gap: halt\n";

/// The remedies, in the words that every message uses.
const ADVICE: &str = "to flush every scope and continue, run coherd flush, or set on_gap: flush and reload coherd (systemctl \
                      reload coherd)";

/// The answer of `/readyz`, once it reports the halt.
fn halts(shop: &Shop) -> String {
    until("readiness tells of the halt", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("halted") && body.contains(ADVICE)).then_some(body)
    })
}

/// `coherd flush` ends the halt: the daemon flushes what it may have missed and continues.
fn ends_with_a_flush(shop: &mut Shop) {
    let flushed = shop.daemon.command(&["flush", "--yes", "--dsn", &shop.database.dsn()]);
    assert!(flushed.status.success(), "{}", crate::support::daemon::text(&flushed));
    until("every key of the rules is gone", || (shop.cached() == ["other"]).then_some(()));
    shop.ready();
    assert_eq!(shop.daemon.status()["targets"][0]["halted"], false);
    assert!(shop.daemon.log().contains(ADVICE), "{}", shop.daemon.log());
    shop.invalidates_by_name();
}

/// The daemon is up, not ready, and names the reason and the remedy; the cache is unchanged. A start with `on_gap:
/// flush` repairs it.
fn halts_and_is_flushed(shop: &mut Shop, reason: &str, words: &str) {
    let before = ["other", "user:1", "user:2"];
    let said = halts(shop);
    assert!(said.contains(words), "{said}");
    assert_eq!(shop.daemon.http("/livez").0, 200);
    shop.change_user_1();
    let token = shop.sql.one("SELECT coherd.token()");
    assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=1s")).0, 504, "nothing is called settled");
    assert_eq!(shop.cached(), before);
    assert!(shop.told("flushes").is_empty());
    assert!(!shop.daemon.has_ended());
    assert_eq!(shop.daemon.stop(Signal::Term), 0);
    shop.daemon.edit(HALT, "on_gap: flush\n");
    shop.daemon.launch();
    shop.is_flushed_because(reason);
}

#[test]
fn record_but_no_slot_halts() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}{HALT}"));
    shop.settle();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.drop_slot();
    shop.daemon.launch_unready();
    // The new slot stays, and begins after the record.
    halts_and_is_flushed(&mut shop, "target_went_back", "the replication slot was lost");
}

#[test]
fn slot_lost_by_max_slot_wal_keep_size_halts() {
    let mut shop = Shop::alone(SCANTY, SCHEMA, &format!("{RULE}{HALT}"));
    shop.settle();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.lose_slot();
    shop.daemon.launch_unready();
    // The new slot exists, begins after the record, and can carry the manual flush that ends the halt.
    halts_and_is_flushed(&mut shop, "target_went_back", "the slot is lost");
}

#[test]
fn slot_but_no_record_halts() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}{HALT}"));
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.forget_record();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.launch_unready();
    halts_and_is_flushed(&mut shop, "record_gone", "no record");
}

#[test]
fn record_behind_target_restored_halts() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}{HALT}"));
    let snapshot = with_snapshot(&mut shop);
    shop.daemon.stop(Signal::Term);
    shop.redis.restore(&snapshot);
    shop.daemon.launch_unready();
    halts_and_is_flushed(&mut shop, "target_went_back", "the target went back in time");
}

#[test]
fn record_ahead_database_restored_halts() {
    let mut shop = with_backup(HALT);
    shop.daemon.stop(Signal::Term);
    shop.restore_backup();
    shop.daemon.launch_unready();
    halts_and_is_flushed(&mut shop, "database_went_back", "the database went back in time");
}

#[test]
fn publication_dropped_while_running_halts_and_the_gap_stays_provable() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}{HALT}"));
    shop.cache(&["user:1", "other"]);
    let publication = shop.database.name.clone();
    shop.sql.run(&format!("DROP PUBLICATION {publication}"));
    shop.change_user_1();
    until("readiness tells of the publication", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("the publication") && body.contains("does not exist")).then_some(())
    });
    shop.sql.run(&format!("CREATE PUBLICATION {publication} FOR TABLE users (id) WITH (publish_via_partition_root)"));
    halts(&shop);
    assert_eq!(shop.cached(), ["other", "user:1"]);
    shop.daemon.stop(Signal::Term);
    shop.daemon.edit(HALT, "on_gap: flush\n");
    shop.daemon.launch();
    until("the stale key is gone", || (shop.cached() == ["other"]).then_some(()));
}

#[test]
fn a_manual_flush_of_every_table_ends_a_halt_and_a_restart_does_not() {
    let schema = format!("{SCHEMA} CREATE TABLE orders (id int PRIMARY KEY);");
    let mut shop = Shop::open(&schema, &format!("{RULE}  - table: orders\n    keys: [\"order:{{id}}\"]\n{HALT}"));
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.forget_record();
    shop.cache(&["user:1", "order:1", "other"]);
    shop.daemon.launch_unready();
    halts(&shop);
    shop.daemon.stop(Signal::Term);
    shop.daemon.launch_unready();
    halts(&shop);
    let dsn = shop.database.dsn();
    let flushed = shop.daemon.command(&["flush", "--table", "users", "--yes", "--dsn", &dsn]);
    assert!(flushed.status.success(), "{}", crate::support::daemon::text(&flushed));
    let token = shop.sql.one("SELECT pg_current_wal_insert_lsn()");
    until("the order has been read", || {
        let decoded = shop.daemon.status()["watermarks"]["decoded"].as_str()?.to_owned();
        (shop.sql.one(&format!("SELECT pg_lsn '{decoded}' >= '{token}'")) == "t").then_some(())
    });
    assert_eq!(shop.cached(), ["order:1", "other", "user:1"], "{}", halts(&shop));
    ends_with_a_flush(&mut shop);
}

#[test]
fn a_manual_flush_ends_a_halt_because_of_a_lost_slot_also_behind_much_that_was_written() {
    let mut shop = Shop::alone(SCANTY, SCHEMA, &format!("{RULE}{HALT}"));
    shop.settle();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.lose_slot();
    shop.daemon.launch_unready();
    halts(&shop);
    // More than coherd keeps for a target that has to catch up.
    shop.sql.run("ALTER SYSTEM SET max_slot_wal_keep_size = -1");
    shop.sql.run("SELECT pg_reload_conf()");
    shop.sql.run("INSERT INTO users SELECT generate_series(2001, 60000)");
    ends_with_a_flush(&mut shop);
}
