//! One test for each row of DESIGN §4: the state that the daemon finds, and what happens to the keys.

mod halted;
mod poisoned;
mod running;

use super::Shop;
use crate::support::postgres::postgres_client;
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Postgres, Redis, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 2000);";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";
/// With these settings, a slot that holds back a few MB is lost.
const SCANTY: &str = "max_slot_wal_keep_size = 1MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB";

impl Shop {
    /// Updates the row of `user:1`.
    fn change_user_1(&mut self) {
        self.sql.run("UPDATE users SET n = n + 1 WHERE id = 1");
    }

    /// The reasons of the gaps or flushes in the daemon's status, oldest first.
    fn told(&self, events: &str) -> Vec<String> {
        let status = self.daemon.status();
        let reason = |event: &serde_json::Value| event["reason"].as_str().map(str::to_owned);
        status[events].as_array().into_iter().flatten().filter_map(reason).collect()
    }

    /// Drops the slot as soon as it is no longer in use.
    fn drop_slot(&mut self) {
        let drop = format!("SELECT pg_drop_replication_slot('{}')", self.database.name);
        until("the slot can be dropped", || self.sql.try_run(&drop).ok());
    }

    /// Writes WAL until the slot is lost.
    fn lose_slot(&mut self) {
        self.sql.run("CREATE TABLE IF NOT EXISTS bulk (x text)");
        until("the slot is lost", || {
            self.write_bulk();
            (self.sql.one("SELECT wal_status FROM pg_replication_slots") == "lost").then_some(())
        });
    }

    fn write_bulk(&mut self) {
        self.sql.run("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 20000)");
        self.sql.run("SELECT pg_switch_wal(); CHECKPOINT");
    }

    fn ready(&self) {
        until("the daemon is ready", || (self.daemon.http("/readyz").0 == 200).then_some(()));
    }

    /// Waits until only `other` is left in the cache. The gap is reported once, and then keys are invalidated by name
    /// again.
    fn is_flushed_because(&mut self, reason: &str) {
        until("every key of the rules is gone", || (self.cached() == ["other"]).then_some(()));
        self.ready();
        assert_eq!((self.told("gaps"), self.told("flushes")), (vec![reason.to_owned()], vec![reason.to_owned()]));
        self.invalidates_by_name();
    }

    /// Checks that a change invalidates its own key and no other.
    fn invalidates_by_name(&mut self) {
        self.settle();
        self.cache(&["user:3", "user:4"]);
        let left = self.left_after("UPDATE users SET n = n + 1 WHERE id = 3");
        assert_eq!(left, ["other", "user:4"], "{}", self.daemon.log());
        assert!(!self.daemon.has_ended());
    }

    /// Waits until the stale key `user:1` is gone, by a flush or because coherd sent the invalidation again from
    /// memory.
    fn lost_user_1_by_a_flush_or_sent_again(&self) {
        until("the stale key is gone", || (!self.cached().contains(&"user:1".to_owned())).then_some(()));
        self.ready();
        let (flushed, resent) =
            (!self.told("flushes").is_empty(), self.daemon.log().contains("sending again from memory"));
        assert!(flushed || resent, "{}", self.daemon.log());
        let left = if flushed { &["other"][..] } else { &["other", "user:2"] };
        assert_eq!(self.cached(), left);
    }
}

/// A filled cache before the first start of coherd: no slot, no record.
fn first_start(on_first_start: &str) -> Shop {
    let (database, redis) = (Database::create(), Redis::start());
    database.run(SCHEMA);
    let rest = format!("rules:\n{RULE}on_first_start: {on_first_start}\n");
    let daemon = Daemon::configure(&database, &redis.url(), &rest);
    daemon.setup(&database);
    let mut shop = Shop { daemon, redis, sql: database.client(), database };
    shop.drop_slot();
    shop.forget_record();
    shop.cache(&["user:1", "other"]);
    shop.daemon.launch();
    shop
}

impl Shop {
    /// Deletes only the record.
    fn forget_record(&self) {
        let record = format!("coherd:{}", self.database.name);
        let () = redis::cmd("DEL").arg(record).query(&mut self.redis.client()).unwrap();
    }
}

#[test]
fn no_slot_no_record_keeps_what_is_cached() {
    let mut shop = first_start("keep");
    assert_eq!(shop.left_after("UPDATE users SET n = 1 WHERE id = 5"), ["other", "user:1"]);
    assert!(shop.told("gaps").is_empty() && shop.told("flushes").is_empty());
    assert!(shop.left_after("UPDATE users SET n = 1 WHERE id = 1") == ["other"]);
    shop.invalidates_by_name();
}

#[test]
fn no_slot_no_record_flushes_where_on_first_start_says_so() {
    let mut shop = first_start("flush");
    until("every key of the rules is gone", || (shop.cached() == ["other"]).then_some(()));
    assert_eq!((shop.told("gaps"), shop.told("flushes")), (vec![], vec!["first_start".to_owned()]));
    shop.invalidates_by_name();
}

#[test]
fn slot_and_record_continue() {
    for signal in [Signal::Term, Signal::Kill] {
        let mut shop = Shop::open(SCHEMA, RULE);
        shop.settle();
        shop.daemon.stop(signal);
        shop.cache(&["user:1", "user:2", "other"]);
        shop.change_user_1();
        shop.daemon.launch();
        shop.settle();
        assert_eq!(shop.cached(), ["other", "user:2"], "{}", shop.daemon.log());
        assert!(shop.told("gaps").is_empty() && shop.told("flushes").is_empty());
    }
}

/// The record has other names for two fields, and neither a writer nor a last transaction.
#[test]
fn a_record_of_an_earlier_build_continues() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.change_user_1();
    shop.settle();
    shop.daemon.stop(Signal::Term);
    let (mut cache, key) = (shop.redis.client(), format!("coherd:{}", shop.database.name));
    for (field, before) in [("confirmed", "struck"), ("rules", "marks")] {
        let value: String = redis::cmd("HGET").arg(&key).arg(field).query(&mut cache).unwrap();
        let () = redis::cmd("HSET").arg(&key).arg(before).arg(value).query(&mut cache).unwrap();
        let () = redis::cmd("HDEL").arg(&key).arg(field).query(&mut cache).unwrap();
    }
    let () = redis::cmd("HDEL").arg(&key).arg(&["writer", "commit_lsn", "commit_xid"]).query(&mut cache).unwrap();
    shop.cache(&["user:1", "user:2"]);
    shop.change_user_1();
    shop.daemon.launch();
    shop.settle();
    assert_eq!(shop.cached(), ["user:2"]);
    assert_eq!((shop.told("gaps"), shop.told("flushes")), (vec![], vec![]));
}

#[test]
fn record_but_no_slot_dropped_while_down() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.drop_slot();
    shop.change_user_1();
    shop.daemon.launch();
    shop.is_flushed_because("slot_gone");
}

#[test]
fn record_but_no_slot_is_not_called_settled_before_the_flush() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:1", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.drop_slot();
    shop.change_user_1();
    let token = shop.sql.one("SELECT coherd.token()");
    shop.redis.signal(Signal::Stop);
    shop.daemon.launch_unready();
    // The new slot begins after the change, and the cache cannot be flushed yet.
    let active = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = '{}' AND active", shop.database.name);
    until("the daemon follows a new slot", || shop.sql.rows(&active).pop());
    let wait = |timeout| format!("SELECT coherd.wait({token}, '{timeout}', '{}')", shop.database.name);
    let (soon, later) = (wait("500ms"), wait("30s"));
    assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=500ms")).0, 504);
    assert_eq!(shop.sql.one(&soon), "f", "the position of the new slot is no proof");
    shop.redis.signal(Signal::Continue);
    assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=30s")).0, 200);
    assert_eq!(shop.sql.one(&later), "t");
    assert_eq!(shop.cached(), ["other"]);
}

#[test]
fn slot_lost_by_max_slot_wal_keep_size_while_down() {
    let mut shop = Shop::alone(SCANTY, SCHEMA, RULE);
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.change_user_1();
    shop.lose_slot();
    shop.daemon.launch();
    shop.is_flushed_because("slot_gone");
}

#[test]
fn slot_lost_by_idle_replication_slot_timeout_while_down() {
    if Postgres::shared().version() < 180_000 {
        return;
    }
    let mut shop = Shop::alone("idle_replication_slot_timeout = 1s", SCHEMA, RULE);
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.change_user_1();
    until("the slot is lost", || {
        shop.sql.run("CHECKPOINT");
        (shop.sql.one("SELECT wal_status FROM pg_replication_slots") == "lost").then_some(())
    });
    shop.daemon.launch();
    shop.is_flushed_because("slot_gone");
}

#[test]
fn slot_but_no_record_empty_target() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.redis.restart();
    shop.change_user_1();
    shop.daemon.launch();
    shop.cache(&["other"]);
    shop.invalidates_by_name();
    assert!(shop.told("gaps").is_empty() && shop.told("flushes").is_empty());
}

#[test]
fn slot_but_no_record_full_target() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.forget_record();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.launch();
    shop.is_flushed_because("record_gone");
}

/// Caches `user:1` and takes a snapshot. Then the key is invalidated and the record moves on.
fn with_snapshot(shop: &mut Shop) -> Vec<u8> {
    shop.cache(&["user:1", "user:2", "other"]);
    let snapshot = shop.redis.dump();
    shop.change_user_1();
    shop.settle();
    assert_eq!(shop.cached(), ["other", "user:2"]);
    snapshot
}

#[test]
fn record_behind_target_restored_while_down() {
    let mut shop = Shop::open(SCHEMA, RULE);
    let snapshot = with_snapshot(&mut shop);
    shop.daemon.stop(Signal::Term);
    shop.redis.restore(&snapshot);
    shop.daemon.launch();
    shop.is_flushed_because("target_went_back");
}

/// A server of its own with a backup. Afterwards `user:1` has changed, and its new value is cached.
fn with_backup(rest: &str) -> Shop {
    let mut shop = Shop::alone("", SCHEMA, &format!("{RULE}{rest}"));
    shop.settle();
    let server = std::sync::Arc::clone(&shop.database.server);
    server.stop(Signal::Interrupt);
    server.back_up();
    server.launch();
    shop.sql = shop.database.client();
    // More log than a server writes by itself after a start.
    shop.sql.run("CREATE TABLE bulk AS SELECT repeat('x', 1000) FROM generate_series(1, 5000)");
    shop.change_user_1();
    shop.settle();
    shop.cache(&["user:1", "user:2", "other"]);
    shop
}

impl Shop {
    /// Restores the database from the backup.
    fn restore_backup(&mut self) {
        let server = std::sync::Arc::clone(&self.database.server);
        server.stop(Signal::Interrupt);
        server.restore();
        server.launch();
        self.sql = self.database.client();
    }
}

#[test]
fn record_ahead_database_restored_while_down() {
    let mut shop = with_backup("");
    shop.daemon.stop(Signal::Term);
    shop.restore_backup();
    shop.daemon.launch();
    shop.is_flushed_because("database_went_back");
}

/// A server of another cluster with the same database, tables, rows and names.
fn another_cluster(shop: &Shop) -> Database {
    let server = Postgres::start_another("");
    let name = shop.database.name.clone();
    postgres_client(&server.dsn("postgres")).unwrap().run(&format!("CREATE DATABASE {name}"));
    let database = Database { server: server.into(), name };
    database.run(SCHEMA);
    database.create_role();
    shop.daemon.setup(&database);
    database
}

#[test]
fn other_system_identifier_at_the_start() {
    let mut shop = Shop::alone("", SCHEMA, RULE);
    shop.settle();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.stop(Signal::Term);
    let other = another_cluster(&shop);
    let port = |database: &Database| format!("127.0.0.1:{}/", database.server.port());
    shop.daemon.edit(&port(&shop.database), &port(&other));
    shop.daemon.launch();
    (shop.sql, shop.database) = (other.client(), other);
    shop.is_flushed_because("other_database");
}

#[test]
fn new_timeline_slot_survived_while_down() {
    let mut shop = Shop::alone("", SCHEMA, RULE);
    shop.cache(&["user:1", "user:2", "other"]);
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.promote();
    shop.change_user_1();
    shop.daemon.launch();
    shop.lost_user_1_or_flushed();
}

impl Shop {
    /// Makes the server recover from its own log: it ends on a new timeline and keeps its slots.
    fn promote(&mut self) {
        let server = std::sync::Arc::clone(&self.database.server);
        server.stop(Signal::Interrupt);
        server.append_settings("restore_command = 'false'");
        server.write_file("recovery.signal", "");
        server.launch();
        self.sql = self.database.client();
        until("the server is on a new timeline", || {
            let sql = "SELECT NOT pg_is_in_recovery() AND (SELECT timeline_id FROM pg_control_checkpoint()) > 1";
            (self.sql.one(sql) == "t").then_some(())
        });
    }

    /// The fork lost nothing, so both a flush and a plain continuation are correct.
    fn lost_user_1_or_flushed(&mut self) {
        until("the changed key is gone", || (!self.cached().contains(&"user:1".to_owned())).then_some(()));
        self.ready();
        let flushed = self.told("flushes");
        let left = if flushed.is_empty() { &["other", "user:2"][..] } else { &["other"] };
        assert_eq!(self.cached(), left);
        assert!(flushed.is_empty() || flushed == ["new_timeline"], "{flushed:?}");
        let () = redis::cmd("DEL").arg("user:2").query(&mut self.redis.client()).unwrap();
        self.invalidates_by_name();
    }
}

#[test]
fn table_added_back_to_the_publication_while_down() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.settle();
    shop.cache(&["user:1", "user:2", "other"]);
    shop.daemon.stop(Signal::Term);
    shop.unpublish();
    shop.change_user_1();
    shop.publish_again();
    shop.daemon.launch();
    shop.is_flushed_because("publication_changed");
}

impl Shop {
    fn unpublish(&mut self) {
        self.sql.run(&format!("ALTER PUBLICATION {} DROP TABLE users", self.database.name));
    }

    fn publish_again(&mut self) {
        self.sql.run(&format!("ALTER PUBLICATION {} ADD TABLE users (id)", self.database.name));
    }
}
