//! A cache at `maxmemory` with the policy `noeviction`.

use super::Shop;
use crate::support::until;

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO users SELECT generate_series(1, 400);";
const RULES: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

#[test]
fn a_full_cache_loses_every_key_that_changes_and_settles() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let keys: Vec<String> = (1..=400).map(|id| format!("user:{id}")).collect();
    shop.cache(&keys.iter().map(String::as_str).collect::<Vec<_>>());
    let mut client = shop.redis.client();
    for setting in [["maxmemory-policy", "noeviction"], ["maxmemory", "1"]] {
        let () = redis::cmd("CONFIG").arg("SET").arg(&setting).query(&mut client).unwrap();
    }
    // One transaction per row, so that no single delivery has them all.
    for id in 1..=400 {
        shop.sql.run(&format!("UPDATE users SET n = 1 WHERE id = {id}"));
    }
    shop.settle();
    assert!(shop.cached().is_empty(), "{} keys are left", shop.cached().len());
    let refused = redis::cmd("SET").arg("k").arg("v").exec(&mut client).unwrap_err();
    assert!(refused.to_string().contains("OOM"), "it has been full all the time: {refused}");
    assert_eq!(shop.daemon.http("/readyz").0, 200, "{}", shop.daemon.http("/readyz").1);

    // The next start finds the record as it was written.
    shop.daemon.stop(crate::support::process::Signal::Kill);
    shop.daemon.launch_unready();
    until("it is ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    assert!(!shop.daemon.log().contains("flushing the affected scopes"), "{}", shop.daemon.log());
}
