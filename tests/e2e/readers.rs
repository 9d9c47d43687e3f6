//! Readers with leases and versions while the daemon runs: the reads that DESIGN calls never stale.

use super::Shop;
use crate::protocol::{Form, Got, Reader};
use crate::support::{Daemon, Database, Redis, until};

const USERS: &str = "CREATE TABLE users (id bigint PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'Ann');";

const RULES: &str = "rules:\n  - table: users\n    keys: [\"user:{id}\", \"user:{{{id}}}:name\"]\n";

/// A shop whose target has the additional setting `setting`.
fn shop(redis_url: impl Fn(&Redis) -> String, setting: &str, prepare: impl Fn(&Redis)) -> Shop {
    let (database, redis) = (Database::create(), Redis::start());
    prepare(&redis);
    database.run(USERS);
    let mut daemon = Daemon::configure(&database, &redis_url(&redis), RULES);
    daemon.edit("admin:\n", &format!("{setting}admin:\n"));
    daemon.setup(&database);
    daemon.launch();
    let sql = database.client();
    Shop { daemon, redis, sql, database }
}

fn with_leases() -> Shop {
    shop(Redis::url, "    leases: true\n", |_| {})
}

fn reader(shop: &Shop) -> Reader {
    Reader { connection: shop.redis.client(), form: Form::Function }
}

#[test]
fn a_reader_that_read_before_an_update_cannot_fill_after_it() {
    let mut shop = with_leases();
    let mut reader = reader(&shop);
    for key in [b"user:1".as_slice(), b"user:{1}:name"] {
        shop.sql.run("UPDATE users SET name = 'Ann'");
        shop.settle();
        let token = reader.lease(key);
        let name = shop.sql.one("SELECT name FROM users WHERE id = 1");
        shop.left_after("UPDATE users SET name = 'Anne' WHERE id = 1");
        assert!(!reader.fill(key, &token, name.as_bytes()), "{name} is old");
        let token = reader.lease(key);
        let name = shop.sql.one("SELECT name FROM users WHERE id = 1");
        assert!(reader.fill(key, &token, name.as_bytes()));
        assert_eq!(reader.get(key), Got::Value(b"Anne".to_vec()));
    }
}

#[test]
fn what_flushes_a_table_ends_the_leases_of_its_readers() {
    let mut shop = with_leases();
    let mut reader = reader(&shop);
    let (first, second) = (reader.lease(b"user:1"), reader.lease(b"user:{1}:name"));
    assert!(shop.left_after("TRUNCATE users").is_empty());
    assert!(!reader.fill(b"user:1", &first, b"Ann") && !reader.fill(b"user:{1}:name", &second, b"Ann"));
}

#[test]
fn without_leases_true_a_lease_is_left_standing() {
    let mut shop = shop(Redis::url, "", |_| {});
    let mut reader = reader(&shop);
    let token = reader.lease(b"user:1");
    shop.left_after("UPDATE users SET name = 'Anne' WHERE id = 1");
    assert!(reader.fill(b"user:1", &token, b"Ann"), "which is why the setting has to be there before such readers");
}

#[test]
fn a_cache_that_was_emptied_with_its_functions_has_them_again() {
    let mut shop = with_leases();
    let mut reader = reader(&shop);
    reader.lease(b"user:1");
    shop.redis.restart();
    until("the library is back", || {
        let mut client = shop.redis.client();
        let call = redis::cmd("FCALL").arg(&["coherd_version", "1", "p:version"]).query::<u64>(&mut client);
        call.ok()
    });
    // The server has the library a moment before the daemon logs it.
    until("it is told each time", || {
        let log = shop.daemon.log();
        (log.matches("loaded the function library coherd, version 1").count() == 2).then_some(())
    });
    assert!(shop.left_after("UPDATE users SET name = 'Anne' WHERE id = 1").iter().all(|key| key == "p:version"));
}

#[test]
fn a_user_that_may_load_no_functions_is_told_of_once_and_keys_go_all_the_same() {
    let url = |redis: &Redis| redis.url().replace("redis://", "redis://coherd:mellon@");
    let mut shop = shop(url, "", |redis| {
        let rule = ["SETUSER", "coherd", "on", ">mellon", "~*", "&*", "+@all", "-function"];
        let () = redis::cmd("ACL").arg(&rule).query(&mut redis.client()).unwrap();
    });
    let told = |shop: &Shop| shop.daemon.log().matches("the function library coherd may be missing").count();
    until("it is told", || (told(&shop) == 1).then_some(()));
    assert!(shop.daemon.log().contains("NOPERM") && shop.daemon.log().contains("coherd lua | redis-cli"));
    shop.cache(&["user:1"]);
    assert!(shop.left_after("UPDATE users SET name = 'Anne' WHERE id = 1").is_empty());
    let kill = ["KILL", "USER", "coherd"];
    let () = redis::cmd("CLIENT").arg(&kill).query(&mut shop.redis.client()).unwrap();
    shop.cache(&["user:1"]);
    assert!(shop.left_after("UPDATE users SET name = 'Annie' WHERE id = 1").is_empty());
    assert_eq!(told(&shop), 1, "{}", shop.daemon.log());
}

#[test]
fn check_and_setup_bring_no_functions() {
    let (database, redis) = (Database::create(), Redis::start());
    database.run(USERS);
    let daemon = Daemon::configure(&database, &redis.url(), RULES);
    daemon.setup(&database);
    assert!(daemon.command(&["check"]).status.success());
    let list: Vec<redis::Value> = redis::cmd("FUNCTION").arg("LIST").query(&mut redis.client()).unwrap();
    assert!(list.is_empty(), "{list:?}");
}
