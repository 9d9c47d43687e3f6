//! A partition is detached, changed and attached again between two looks at the catalogue. While it is detached it is
//! not published, so the change is in no stream.
//!
//! Therefore coherd also identifies a partition by its rows in `pg_inherits`, between two looks and in the record's
//! marks. Reattaching changes these rows, while oid and file stay the same.

use super::*;

const PARTITIONED: &str = "CREATE TABLE users (id int, region int, n int NOT NULL DEFAULT 0, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE users_0 PARTITION OF users FOR VALUES IN (0); CREATE TABLE users_1 PARTITION OF users DEFAULT;
    INSERT INTO users SELECT id, 0 FROM generate_series(1, 10) id;
    CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);";
/// One message is one transaction, so no look can happen in between.
const REATTACH: &str = "ALTER TABLE users DETACH PARTITION users_0; UPDATE users_0 SET n = n + 1;
    ALTER TABLE users ATTACH PARTITION users_0 FOR VALUES IN (0)";

fn shop() -> Shop {
    let mut shop = Shop::open(PARTITIONED, &RULES["rules:\n".len()..]);
    shop.settle();
    let () = redis::cmd("SET").arg("user:1").arg(0).query(&mut shop.redis.client()).unwrap();
    shop
}

impl Shop {
    fn is_told_apart(&mut self) {
        self.until_looked_at();
        self.settle();
        let stale = self.stale();
        assert!(stale.is_empty(), "all being settled, and the catalogue looked at: {stale:?}");
    }
}

#[test]
fn a_partition_that_was_away_between_two_looks_is_flushed() {
    let mut shop = shop();
    shop.sql.run(REATTACH);
    shop.is_told_apart();
}

#[test]
fn a_partition_that_was_away_while_the_daemon_was_down_is_flushed() {
    let mut shop = shop();
    shop.daemon.stop(Signal::Term);
    shop.sql.run(REATTACH);
    shop.daemon.launch();
    shop.is_told_apart();
}
