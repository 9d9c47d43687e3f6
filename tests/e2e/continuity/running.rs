//! The same cases, but they happen while the daemon runs.

use super::*;
use crate::support::Proxy;

/// A shop whose daemon reaches its database through a proxy.
fn behind_proxy(settings: &str, rest: &str) -> (Shop, Proxy) {
    let mut shop = Shop::alone(settings, SCHEMA, &format!("{RULE}{rest}"));
    shop.settle();
    shop.daemon.stop(Signal::Term);
    let port = shop.database.server.port();
    let proxy = Proxy::start(port);
    shop.daemon.edit(&format!("127.0.0.1:{port}/"), &format!("127.0.0.1:{}/", proxy.port()));
    shop.daemon.launch();
    shop.settle();
    shop.cache(&["user:1", "user:2", "other"]);
    (shop, proxy)
}

/// Runs `what` while the daemon cannot reach its database.
fn while_away(shop: &mut Shop, proxy: &Proxy, what: impl FnOnce(&mut Shop)) {
    proxy.refuse(true);
    proxy.cut();
    what(shop);
    proxy.behave();
}

#[test]
fn record_but_no_slot_dropped_while_running() {
    let (mut shop, proxy) = behind_proxy("", "");
    while_away(&mut shop, &proxy, |shop| {
        shop.change_user_1();
        shop.drop_slot();
    });
    shop.is_flushed_because("slot_gone");
}

#[test]
fn slot_lost_by_max_slot_wal_keep_size_while_running() {
    let (mut shop, proxy) = behind_proxy(SCANTY, "");
    while_away(&mut shop, &proxy, |shop| {
        shop.change_user_1();
        shop.lose_slot();
    });
    shop.is_flushed_because("slot_gone");
}

#[test]
fn slot_lost_by_max_slot_wal_keep_size_while_a_target_is_away() {
    let mut shop = Shop::alone(SCANTY, SCHEMA, RULE);
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.daemon.edit("source:\n", "source:\n  wal_budget: none\n");
    shop.daemon.launch();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.redis.signal(Signal::Stop);
    shop.change_user_1();
    shop.sql.run("CREATE TABLE bulk (x text)");
    // The daemon creates a new slot at once, which may be lost as well.
    until("the daemon tells that the slot was lost", || {
        shop.write_bulk();
        shop.daemon.log().contains("the slot was lost and coherd created a new one").then_some(())
    });
    shop.redis.signal(Signal::Continue);
    until("every key of the rules is gone", || (shop.cached() == ["other"]).then_some(()));
    shop.ready();
    assert!(shop.told("gaps").iter().all(|reason| reason == "slot_gone"), "{:?}", shop.told("gaps"));
    shop.invalidates_by_name();
}

#[test]
fn slot_but_no_record_empty_target_while_running() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.settle();
    shop.redis.restart();
    shop.change_user_1();
    shop.settle();
    shop.cache(&["other"]);
    shop.invalidates_by_name();
    assert!(shop.told("gaps").is_empty() && shop.told("flushes").is_empty(), "{}", shop.daemon.log());
}

#[test]
fn slot_but_no_record_full_target_while_running() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.settle();
    // A cache that others have filled: another server under the same name.
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.signal(Signal::Stop);
    shop.forget_record();
    let foreign = shop.redis.dump();
    shop.redis.restore(&foreign);
    shop.daemon.signal(Signal::Continue);
    shop.is_flushed_because("record_gone");
}

#[test]
fn record_behind_target_restored_while_running() {
    let mut shop = Shop::open(SCHEMA, RULE);
    let snapshot = with_snapshot(&mut shop);
    shop.redis.restore(&snapshot);
    shop.lost_user_1_by_a_flush_or_sent_again();
    let () = redis::cmd("DEL").arg("user:2").query(&mut shop.redis.client()).unwrap();
    shop.invalidates_by_name();
}

#[test]
fn record_ahead_database_restored_while_running() {
    let mut shop = with_backup("");
    shop.restore_backup();
    shop.is_flushed_because("database_went_back");
}

#[test]
fn other_system_identifier_while_running() {
    let (mut shop, proxy) = behind_proxy("", "");
    let other = another_cluster(&shop);
    proxy.lead_to(other.server.port());
    (shop.sql, shop.database) = (other.client(), other);
    shop.is_flushed_because("other_database");
}

#[test]
fn slot_moved_by_somebody_else_while_running() {
    let (mut shop, proxy) = behind_proxy("", "");
    while_away(&mut shop, &proxy, |shop| {
        shop.change_user_1();
        let slot = shop.database.name.clone();
        let advance = format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())");
        until("the slot can be moved", || shop.sql.try_run(&advance).ok());
    });
    shop.is_flushed_because("target_went_back");
}

#[test]
fn new_timeline_slot_survived_while_running() {
    let (mut shop, proxy) = behind_proxy("", "");
    // The database stays unreachable until the end of this: the promotion would end an earlier session, and cause a
    // second flush.
    while_away(&mut shop, &proxy, Shop::promote);
    shop.change_user_1();
    shop.lost_user_1_or_flushed();
}

#[test]
fn publication_dropped_and_made_again_while_running() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:1", "user:2", "other"]);
    let publication = shop.database.name.clone();
    shop.sql.run(&format!("DROP PUBLICATION {publication}"));
    shop.change_user_1();
    until("the daemon has noticed", || (shop.daemon.http("/readyz").0 == 503).then_some(()));
    shop.sql.run(&format!("CREATE PUBLICATION {publication} FOR TABLE users (id) WITH (publish_via_partition_root)"));
    until("every key of the rule is gone", || (shop.cached() == ["other"]).then_some(()));
    // The publication is another one, which a look at the catalogue finds a moment later.
    until("that is told", || shop.told("flushes").contains(&"publication_changed".to_owned()).then_some(()));
    shop.ready();
    shop.invalidates_by_name();
}

#[test]
fn table_missing_from_the_publication_and_added_back_while_running() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.settle();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.unpublish();
    shop.change_user_1();
    let covered = |shop: &Shop, value: char| {
        let metrics = shop.daemon.http("/metrics").1;
        let line = metrics.lines().find(|line| line.starts_with("coherd_rule_covered{"));
        line.is_some_and(|line| line.ends_with(value)).then_some(())
    };
    until("readiness names the table", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && body.contains("users")).then_some(())
    });
    until("the metric says that the rule is not covered", || covered(&shop, '0'));
    // The reader that filled it cannot know; coherd does not see the next change either.
    shop.cache(&["user:1"]);
    shop.change_user_1();
    shop.publish_again();
    until("every key of the rule is gone", || (shop.cached() == ["other"]).then_some(()));
    shop.ready();
    until("the metric says that the rule is covered", || covered(&shop, '1'));
    assert!(shop.told("flushes").contains(&"publication_changed".to_owned()));
    shop.invalidates_by_name();
}
