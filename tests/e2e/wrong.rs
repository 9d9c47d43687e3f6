//! Foreign values under keys that belong to coherd.

use super::Shop;
use crate::support::until;

const SCHEMA: &str = "CREATE TABLE product (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO product SELECT generate_series(1, 9);
    CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO users SELECT generate_series(1, 9);";
const RULES: &str = "  - table: product\n    keys: [\"product:{id}\"]\n    action: bump\n  \
    - table: users\n    keys: [\"user:{id}\"]\n";

fn run(shop: &Shop, command: &[&str]) {
    let _: redis::Value = redis::cmd(command[0]).arg(&command[1..]).query(&mut shop.redis.client()).unwrap();
}

#[test]
fn a_pointer_that_is_none_is_replaced_named_by_rule_once_and_in_nobodys_way() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let spoilt: &[&[&str]] = &[
        &["SET", "product:1:version", "abc"],
        &["RPUSH", "product:2:version", "abc"],
        &["SET", "product:3:version", "99999999999999999999"],
    ];
    for round in 0..2 {
        for command in spoilt {
            run(&shop, command);
        }
        shop.cache(&["user:1"]);
        shop.sql.run(&format!("UPDATE product SET n = {round}; UPDATE users SET n = {round} WHERE id = 1"));
        shop.settle();
        assert!(!shop.cached().contains(&"user:1".to_owned()), "another table's key is gone");
        for id in 1..=3 {
            let pointer: u64 =
                redis::cmd("GET").arg(format!("product:{id}:version")).query(&mut shop.redis.client()).unwrap();
            assert!(pointer > 1 << 50, "{pointer}");
        }
        for command in spoilt {
            run(&shop, &["DEL", command[1]]);
        }
    }
    let log = shop.daemon.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("not version pointers")).collect();
    assert_eq!(told.len(), 1, "{told:?}\n{log}");
    assert!(told[0].contains("rules[0] public.product") && told[0].contains("\"cache\""), "{}", told[0]);
    assert!(!log.contains("product:1") && !log.contains("abc"), "no key and no value: {log}");
    assert_eq!(shop.daemon.http("/readyz").0, 200);
}

#[test]
fn a_record_that_is_none_is_flushed_for_at_a_start_and_replaced() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let record = format!("coherd:{}", shop.database.name);
    let spoils: [&[&str]; 4] = [
        &["SET", &record, "mine"],
        &["RPUSH", &record, "mine"],
        &["HSET", &record, "applied", "abc"],
        &["HSET", &record, "sequence", "18446744073709551615"],
    ];
    for spoil in spoils {
        shop.daemon.stop(crate::support::process::Signal::Kill);
        shop.cache(&["user:1", "other:1"]);
        if spoil[0] != "HSET" {
            run(&shop, &["DEL", &record]);
        }
        run(&shop, spoil);
        shop.daemon.launch_unready();
        until("the scopes are flushed and all is ready", || {
            (shop.cached() == ["other:1"] && shop.daemon.http("/readyz").0 == 200).then_some(())
        });
        shop.settle();
        let kind: String = redis::cmd("TYPE").arg(&record).query(&mut shop.redis.client()).unwrap();
        assert_eq!(kind, "hash");
    }
    let log = shop.daemon.log();
    assert!(log.contains(&record) && log.contains("is no record of coherd"), "{log}");
    assert!(!log.contains("mine") && !log.contains("abc"), "{log}");
}
