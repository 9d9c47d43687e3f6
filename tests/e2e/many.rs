//! A schema for each tenant: thousands of tables with rules.

use std::time::{Duration, Instant};

use super::Shop;
use crate::postgres::watch::many::{cpu, create_tenants, share_max, tables};
use crate::support::daemon::Daemon;
use crate::support::{Database, Redis, until};

#[test]
fn with_many_tables_it_is_soon_ready_invalidates_and_costs_little() {
    let database = Database::create();
    let names = create_tenants(&database, tables());
    database
        .run(&format!("CREATE PUBLICATION {} FOR ALL TABLES WITH (publish_via_partition_root = true)", database.name));
    database.run("VACUUM ANALYZE");
    let rule = |name: &String| format!("  - table: {name}\n    keys: [\"{name}:{{id}}\"]\n");
    let rules: String = names.iter().map(rule).collect();
    let redis = Redis::start();
    let mut daemon = Daemon::configure(&database, &redis.url(), &format!("rules:\n{rules}"));
    daemon.setup(&database);
    let began = Instant::now();
    daemon.launch();
    println!("with {} tables it was ready after {:?}", names.len(), began.elapsed());
    let sql = database.client();
    let mut shop = Shop { daemon, redis, sql, database };
    shop.cache(&["tenant_5.users:1", "tenant_6.users:1"]);
    let rows = "INSERT INTO tenant_5.users VALUES (1)";
    assert_eq!(shop.left_after(rows), ["tenant_6.users:1"]);

    // A writer is always active, so no look can be skipped because nothing has happened.
    shop.sql.run("CREATE TABLE other (id int PRIMARY KEY)");
    let pid = shop.daemon.pid().to_string();
    let (began, before) = (Instant::now(), cpu(&pid));
    while began.elapsed() < Duration::from_secs(10) {
        shop.sql.run("INSERT INTO other SELECT coalesce(max(id), 0) + 1 FROM other");
        std::thread::sleep(Duration::from_millis(50));
    }
    let share = (cpu(&pid) - before) * 100_000 / began.elapsed().as_nanos();
    println!("the daemon took {share} hundred-thousandths of a core");
    // Twenty commits per second, and a build without optimisation, also cost something. With other tests on the same
    // two cores the figure means little, so the limit applies only when this test runs alone (make test-full).
    assert!(
        std::env::var_os("COHERD_MANY_TABLES").is_none() || share <= 100 * share_max(names.len()) + 2_500,
        "{share} hundred-thousandths of a core"
    );

    shop.sql.run("ALTER TABLE tenant_6.users RENAME COLUMN name TO title");
    until("the table's rule is flushed", || shop.cached().is_empty().then_some(()));
    shop.settle();
}
