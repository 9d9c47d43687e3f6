//! Data too large to hold. coherd skips it and flushes everything that it may have concerned.

use super::Shop;
use crate::support::process::peak_rss_kib;
use crate::support::until;

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, mail text, note text);
    CREATE TABLE pets (id int PRIMARY KEY);
    ALTER TABLE users ALTER mail SET STORAGE EXTERNAL; ALTER TABLE users ALTER note SET STORAGE EXTERNAL;";
const RULES: &str = "  - table: users\n    keys: ['user:{id}', 'mail:{mail|md5}', 'note:{note|md5}']\n    on_missing_old: skip\n  \
                     - table: pets\n    keys: ['pet:{id}']\n";

/// The permitted resident memory, in MiB.
const MIB_MAX: u64 = 64;

fn peak_mib(shop: &Shop) -> u64 {
    peak_rss_kib(shop.daemon.pid()) / 1024
}

#[test]
fn a_message_that_any_role_may_write_takes_no_memory_and_one_of_ours_flushes_everything() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.sql.run("INSERT INTO users VALUES (1)");
    shop.settle();
    shop.cache(&["user:1", "pet:1", "other"]);
    shop.sql.run("SELECT pg_logical_emit_message(true, 'app', repeat('x', 100 << 20))");
    shop.sql.run("SELECT pg_logical_emit_message(false, repeat('p', 30 << 20), '')");
    shop.sql.run("UPDATE users SET note = 'a'");
    shop.settle();
    assert_eq!(shop.cached(), ["other", "pet:1"], "what is not ours changes nothing");
    // coherd's prefix with more text behind it is a foreign prefix.
    shop.sql.run("SELECT pg_logical_emit_message(true, 'coherd' || repeat('p', 2 << 20), '{')");
    let keys = "SELECT pg_logical_emit_message(true, 'coherd',
        '{\"v\":1,\"do\":\"invalidate\",\"keys\":[' || repeat('\"a\",', 10000000) || '\"a\"]}')";
    shop.sql.run(keys);
    shop.settle();
    assert_eq!(shop.cached(), ["other"]);
    let metrics = shop.daemon.http("/metrics").1;
    assert!(metrics.contains("coherd_flushes_total{reason=\"manual_too_large\"} 1"), "{metrics}");
    let log = shop.daemon.log();
    assert_eq!(log.matches("has more than 1048576 bytes").count(), 1, "{log}");
    // As many keys as the limit allows.
    shop.sql.run(&keys.replace("10000000", "250000"));
    shop.cache(&["pet:2"]);
    shop.sql.run("INSERT INTO pets VALUES (2)");
    shop.settle();
    assert_eq!(shop.cached(), ["other"]);
    assert!(peak_mib(&shop) < MIB_MAX, "{} MiB", peak_mib(&shop));
}

#[test]
fn a_large_row_gives_its_keys_and_flushes_those_that_need_a_large_value() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.sql.run("INSERT INTO users VALUES (1, 'a')");
    shop.settle();
    shop.cache(&["user:1", "user:2", "mail:x", "note:x", "pet:1"]);
    shop.sql.run("UPDATE users SET note = repeat('n', 70 << 20)");
    shop.settle();
    assert_eq!(shop.cached(), ["mail:x", "pet:1", "user:2"]);
    shop.sql.run("UPDATE users SET mail = repeat('m', 70 << 20)");
    shop.settle();
    assert_eq!(shop.cached(), ["pet:1", "user:2"]);
    shop.sql.run("INSERT INTO users VALUES (2, 'b', repeat('n', 70 << 20))");
    shop.settle();
    assert_eq!(shop.cached(), ["pet:1"]);
    assert!(peak_mib(&shop) < MIB_MAX, "{} MiB", peak_mib(&shop));
}

#[test]
fn manual_requests_come_in_pieces_that_the_daemon_reads() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let quotes = "repeat('\"', 100000)";
    shop.sql.run(&format!("INSERT INTO users SELECT id, {quotes} FROM generate_series(1, 30) id"));
    shop.sql.run("INSERT INTO users VALUES (31, repeat('x', 2000000))");
    shop.settle();
    shop.cache(&["user:1", "user:30", "pet:1"]);
    assert_eq!(shop.sql.one(&format!("SELECT coherd.touch('users', 'id < 31', '{}')", shop.database.name)), "30");
    shop.settle();
    assert_eq!(shop.cached(), ["pet:1"]);
    // One row that fits no message: all keys of its table are flushed, and no others.
    shop.cache(&["user:1"]);
    assert_eq!(shop.sql.one(&format!("SELECT coherd.touch('users', 'id > 30', '{}')", shop.database.name)), "1");
    shop.settle();
    assert_eq!(shop.cached(), ["pet:1"]);
    // Each byte of these keys takes six bytes in the message.
    shop.sql.run(
        "SELECT coherd.invalidate(VARIADIC array_agg('pet:' || repeat(chr(1), 60000))) FROM generate_series(1, 50)",
    );
    shop.sql.run("SELECT coherd.invalidate('pet:1')");
    shop.settle();
    assert!(shop.cached().is_empty() && !shop.daemon.log().contains("cannot be read"));
    let refused = shop.sql.try_run("SELECT coherd.invalidate('pet:1', repeat('x', 131073))").unwrap_err();
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("54000"));
    let metrics = shop.daemon.http("/metrics").1;
    assert!(!metrics.contains("manual_too_large"), "{metrics}");
    until("the daemon is ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
}
