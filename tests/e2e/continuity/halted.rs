//! The same rows with `on_gap: halt`: the daemon stays up, says what to do, and touches nothing.

use super::*;

const HALT: &str = "on_gap: halt\n";

/// It is up, not ready, says why and what to do, and the cache is as it was; a start with `on_gap: flush` heals.
fn halts_and_heals(shop: &mut Shop, reason: &str, words: &str) {
    let before = ["other", "user:1", "user:2"];
    let said = until("readiness tells of the gap", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("halted")).then_some(body)
    });
    assert!(said.contains(words), "{said}");
    assert!(
        said.contains("on_gap to flush and start coherd again") || said.contains("restart with on_gap: flush"),
        "{said}"
    );
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
    halts_and_heals(&mut shop, "target_went_back", "the replication slot was gone");
}

#[test]
fn slot_lost_by_max_slot_wal_keep_size_halts() {
    let mut shop = Shop::alone(SCANTY, SCHEMA, &format!("{RULE}{HALT}"));
    shop.settle();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.lose_slot();
    shop.daemon.launch_unready();
    halts_and_heals(&mut shop, "slot_gone", "the slot is lost");
}

#[test]
fn slot_but_no_record_halts() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}{HALT}"));
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.forget_record();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.launch_unready();
    halts_and_heals(&mut shop, "record_gone", "no record");
}

#[test]
fn record_behind_target_restored_halts() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}{HALT}"));
    let snapshot = with_snapshot(&mut shop);
    shop.daemon.stop(Signal::Term);
    shop.redis.restore(&snapshot);
    shop.daemon.launch_unready();
    halts_and_heals(&mut shop, "target_went_back", "it went back in time");
}

#[test]
fn record_ahead_database_restored_halts() {
    let mut shop = with_backup(HALT);
    shop.daemon.stop(Signal::Term);
    shop.restore_backup();
    shop.daemon.launch_unready();
    halts_and_heals(&mut shop, "database_went_back", "it went back in time");
}

#[test]
fn publication_dropped_while_running_halts_and_the_gap_stays_provable() {
    let mut shop = Shop::open(SCHEMA, &format!("{RULE}{HALT}"));
    shop.cache(&["user:1", "other"]);
    let publication = shop.database.name.clone();
    shop.sql.run(&format!("DROP PUBLICATION {publication}"));
    shop.change_user_1();
    until("readiness tells of the gap", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("on_gap")).then_some(())
    });
    assert_eq!(shop.cached(), ["other", "user:1"]);
    shop.sql.run(&format!("CREATE PUBLICATION {publication} FOR TABLE users (id) WITH (publish_via_partition_root)"));
    shop.daemon.stop(Signal::Term);
    shop.daemon.edit(HALT, "on_gap: flush\n");
    shop.daemon.launch();
    until("the stale key is gone", || (shop.cached() == ["other"]).then_some(()));
}
