//! Row data stays private: no log, page or error text contains a cell value or a secret, even at the lowest log level
//! and whatever fails. Every test daemon's output is searched for both when it ends (`tests/support/planted.rs`).

use super::Shop;
use crate::support::planted::VALUE;
use crate::support::process::Signal;
use crate::support::until;

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, email text NOT NULL);
    CREATE UNIQUE INDEX users_identity ON users (id, email);
    ALTER TABLE users REPLICA IDENTITY USING INDEX users_identity;
    CREATE TABLE products (name text PRIMARY KEY, n int NOT NULL DEFAULT 0);
    GRANT SELECT ON users TO public;";
const RULES: &str = "  - table: users\n    keys: [\"user:{email}\"]\n  - table: products\n    keys: [\"product:{name}\"]\n    \
    action: bump\nlog:\n  level: trace\n";

#[test]
fn whatever_fails_no_value_is_in_a_log_or_on_a_page() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let pages = |shop: &Shop| ["/", "/status", "/readyz", "/metrics"].map(|page| shop.daemon.http(page));
    shop.cache(&[&format!("user:{VALUE}")]);
    assert!(shop.left_after(&format!("INSERT INTO users VALUES (1, '{VALUE}')")).is_empty());

    // A long key, a rolled back transaction, TRUNCATE, and manual invalidations, one of which cannot be parsed.
    for sql in [
        format!("BEGIN; INSERT INTO users VALUES (3, '{VALUE}'); ROLLBACK"),
        format!("INSERT INTO users VALUES (2, '{VALUE}' || repeat('x', 2000))"),
        format!("SELECT coherd.invalidate('user:{VALUE}', repeat('{VALUE}', 1000))"),
        format!("SELECT coherd.touch('users', 'email = ''{VALUE}''', '{}')", shop.database.name),
        format!("SELECT pg_logical_emit_message(true, 'coherd', '{{\"{VALUE}')"),
        "TRUNCATE users".to_owned(),
    ] {
        shop.sql.run(&sql);
    }
    shop.settle();
    pages(&shop);

    // A key of another type, a target that refuses a key, then a target that goes down and comes back.
    let mut client = shop.redis.client();
    let pointer = format!("product:{VALUE}:version");
    let () = redis::cmd("HSET").arg(&pointer).arg("a").arg(VALUE).query(&mut client).unwrap();
    shop.sql.run(&format!("INSERT INTO products VALUES ('{VALUE}')"));
    shop.settle();
    assert!(shop.daemon.log().contains("not version pointers"), "{}", shop.daemon.log());
    let () = redis::cmd("ACL").arg(&["SETUSER", "default", "-get"]).query(&mut client).unwrap();
    shop.sql.run(&format!("UPDATE products SET n = 7 WHERE name = '{VALUE}'"));
    until("the target refuses it", || (shop.daemon.http("/readyz").0 == 503).then_some(()));
    pages(&shop);
    let () = redis::cmd("ACL").arg(&["SETUSER", "default", "+get"]).query(&mut client).unwrap();
    shop.settle();
    shop.redis.signal(Signal::Stop);
    shop.sql.run(&format!("UPDATE products SET n = 1 WHERE name = '{VALUE}'"));
    until("the target is away", || (shop.daemon.http("/readyz").0 == 503).then_some(()));
    pages(&shop);
    shop.redis.signal(Signal::Continue);
    shop.settle();

    assert!(shop.daemon.log().contains("\"level\":\"TRACE\""), "the lowest level is on");
    shop.daemon.stop(Signal::Term);
}
