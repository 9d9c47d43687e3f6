//! Long-running transactions, including prepared ones that nobody ends.

use super::Shop;
use crate::support::postgres::postgres_client;
use crate::support::process::Signal;
use crate::support::until;

const USERS: &str =
    "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users VALUES (1), (2);";
const RULES: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";
const PREPARE: &str = "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'left behind'";
/// After this, coherd must wait for the transactions that were running, because of what they may have written.
const DRIFT: &str = "ALTER PUBLICATION {p} DROP TABLE users; ALTER PUBLICATION {p} ADD TABLE users";

fn shop() -> Shop {
    let mut shop = Shop::alone("max_prepared_transactions = 5", USERS, RULES);
    shop.settle();
    shop.cache(&["user:1"]);
    shop
}

#[test]
fn a_prepared_transaction_of_another_database_keeps_nothing_from_settling() {
    let mut shop = shop();
    postgres_client(&shop.database.server.dsn("postgres")).unwrap().run(PREPARE);
    shop.alter(DRIFT);
    until("the rule is flushed", || shop.cached().is_empty().then_some(()));
    shop.sql.run("UPDATE users SET n = 1");
    shop.settle();
    // This also holds for a new process.
    shop.daemon.stop(Signal::Term);
    shop.alter(DRIFT);
    shop.daemon.launch();
    shop.settle();
    postgres_client(&shop.database.server.dsn("postgres")).unwrap().run("ROLLBACK PREPARED 'left behind'");
}

#[test]
fn a_transaction_that_everything_waits_for_is_named() {
    for (begin, named, end) in [
        (
            PREPARE,
            "(the oldest: prepared transaction 'left behind' of role postgres, since 20",
            "ROLLBACK PREPARED 'left behind'",
        ),
        ("BEGIN; SELECT pg_current_xact_id()", "(the oldest: process ", "COMMIT"),
    ] {
        let mut shop = shop();
        shop.daemon.stop(Signal::Term);
        shop.daemon.edit("admin:\n", "admin:\n  ready_max_lag: 2s\n");
        shop.daemon.launch();
        let mut other = shop.database.client();
        other.run(begin);
        shop.alter(DRIFT);
        let body = until("readiness names it", || {
            shop.sql.run("UPDATE users SET n = n + 1");
            Some(shop.daemon.http("/readyz").1).filter(|body| body.contains(named))
        });
        assert!(body.contains("of role postgres"), "{body}");
        other.run(end);
        shop.settle();
    }
}
