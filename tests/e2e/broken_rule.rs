//! After a restart, a rule can no longer be covered: the daemon runs without it and keeps the others.

use super::Shop;
use crate::support::daemon::text;
use crate::support::process::Signal;
use crate::support::until;

const SCHEMA: &str = "
    CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 9);
    CREATE TABLE orders (no int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO orders SELECT generate_series(1, 9);";
const RULES: &str = "  - table: users\n    keys: [\"user:{id}\"]\n  - table: orders\n    keys: [\"order:{no}\"]\n";

/// Breaks the rule of `orders` with `breaks` while the daemon is down, starts the daemon, and repairs the rule with
/// `repairs`. `misses`: the rule may have missed changes, so the repair flushes it.
fn goes_on_without_the_rule(breaks: &str, repairs: &str, misses: bool) {
    let mut shop = Shop::open(SCHEMA, RULES);
    let publication = shop.database.name.clone();
    let sql = |text: &str| text.replace("$pub", &publication);
    shop.settle();
    shop.daemon.stop(Signal::Term);
    shop.cache(&["user:1", "user:2", "order:1", "other"]);
    shop.sql.run(&sql(breaks));
    shop.sql.run("UPDATE users SET n = n + 1 WHERE id = 1");
    shop.daemon.launch_unready();
    let named = |body: &str| body.contains("rules[1] public.orders is not covered") && !body.contains("rules[0]");
    until("readiness names the broken rule alone", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503 && named(&body)).then_some(())
    });
    until("the key of the other rule is gone, and so is what the broken one can make", || {
        (shop.cached() == ["other", "user:2"]).then_some(())
    });
    shop.sql.run("UPDATE users SET n = n + 1 WHERE id = 2");
    until("the other rule is kept", || (shop.cached() == ["other"]).then_some(()));
    shop.cache(&["order:2"]);
    shop.sql.run(&sql(repairs));
    until("the daemon is ready", || {
        assert!(!shop.daemon.has_ended(), "{}", shop.daemon.log());
        (shop.daemon.http("/readyz").0 == 200).then_some(())
    });
    shop.settle();
    if misses {
        assert_eq!(shop.cached(), ["other"], "what the rule may have missed is flushed");
    }
    assert_eq!(shop.left_after("UPDATE orders SET n = n + 1 WHERE no = 2"), ["other"]);
    shop.cache(&["order:3", "order:4"]);
    assert_eq!(shop.left_after("UPDATE orders SET n = n + 1 WHERE no = 3"), ["order:4", "other"]);
}

#[test]
fn a_key_column_that_was_renamed() {
    goes_on_without_the_rule(
        // A change whose keys are not known flushes the rule.
        "ALTER TABLE orders RENAME no TO number; UPDATE orders SET n = n + 1 WHERE number = 1",
        "ALTER TABLE orders RENAME number TO no",
        false,
    );
}

#[test]
fn a_table_that_was_dropped() {
    goes_on_without_the_rule(
        "DROP TABLE orders",
        "CREATE TABLE orders (no int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO orders SELECT generate_series(1, 9);
         ALTER PUBLICATION $pub ADD TABLE orders",
        true,
    );
}

#[test]
fn a_table_that_is_not_published_any_more() {
    let (breaks, repairs) = ("ALTER PUBLICATION $pub DROP TABLE orders", "ALTER PUBLICATION $pub ADD TABLE orders");
    goes_on_without_the_rule(breaks, repairs, true);
}

#[test]
fn a_first_start_refuses_also_after_setup() {
    let mut shop = Shop::open(SCHEMA, RULES);
    shop.daemon.stop(Signal::Term);
    let setup = |shop: &mut Shop| {
        shop.sql.run(&format!("SELECT pg_drop_replication_slot('{}')", shop.database.name));
        shop.redis.restart();
        shop.daemon.setup(&shop.database);
    };
    setup(&mut shop);
    shop.sql.run("ALTER TABLE orders RENAME no TO number");
    let refused = shop.daemon.command(&["run"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused));
    assert!(text(&refused).contains("not started, because invalidations would be lost"), "{}", text(&refused));
}
