//! SIGHUP: the new configuration takes effect as a whole, or nothing changes.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Shop;
use crate::support::process::Signal;
use crate::support::{Daemon, Redis, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO users SELECT generate_series(1, 3000);
    CREATE TABLE carts (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO carts VALUES (1), (2);";
const USERS: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";
const USERS_AND_CARTS: &str =
    "  - table: users\n    keys: [\"user:{id}\"]\n  - table: carts\n    keys: [\"cart:{id}\"]\n";
const RELOADED: &str = "the configuration is reloaded";
const REFUSED: &str = "the configuration is not reloaded, and nothing has changed";

fn shop() -> Shop {
    Shop::open(SCHEMA, USERS)
}

/// Sends SIGHUP and waits until the log contains `word` once more.
fn hang_up(daemon: &Daemon, word: &str) {
    let before = daemon.log().matches(word).count();
    daemon.signal(Signal::Hangup);
    until("SIGHUP is answered in the log", || {
        assert!(!daemon.has_ended(), "it ended:\n{}", daemon.log());
        (daemon.log().matches(word).count() > before).then_some(())
    });
}

fn until_ready(daemon: &Daemon) {
    until("it is ready", || (daemon.http("/readyz").0 == 200).then_some(()));
}

#[test]
fn a_rule_that_is_added_is_kept_from_then_on_and_what_it_may_have_missed_is_flushed() {
    let mut shop = shop();
    let pid = shop.daemon.pid();
    shop.cache(&["user:1", "user:2", "cart:1", "cart:2"]);
    shop.daemon.edit(USERS, USERS_AND_CARTS);
    shop.daemon.setup(&shop.database);
    hang_up(&shop.daemon, RELOADED);
    until("what changed before the rule was there is flushed", || {
        (shop.cached() == ["user:1", "user:2"]).then_some(())
    });
    until_ready(&shop.daemon);
    // The rule is flushed again after every transaction that was running at the reload has ended, including those of
    // other tests. Nothing settles before that.
    shop.settle();
    shop.cache(&["cart:1", "cart:2"]);
    assert_eq!(
        shop.left_after("UPDATE carts SET n = 1 WHERE id = 2; UPDATE users SET n = 1 WHERE id = 1"),
        ["cart:1", "user:2"]
    );
    assert_eq!(shop.daemon.pid(), pid, "the same process");
    let status = shop.daemon.status();
    assert_eq!(status["rules"].as_array().map(Vec::len), Some(2), "{status}");
}

/// Such a transaction may have decided what it logs before the table was published.
#[test]
fn a_rule_that_is_added_is_flushed_again_when_the_transactions_of_that_moment_have_ended() {
    let mut shop = shop();
    let mut running = shop.database.client();
    running.run("BEGIN; SELECT pg_current_xact_id()");
    shop.cache(&["user:1", "cart:1"]);
    shop.daemon.edit(USERS, USERS_AND_CARTS);
    shop.daemon.setup(&shop.database);
    hang_up(&shop.daemon, RELOADED);
    until("what changed before the rule was there is flushed", || (shop.cached() == ["user:1"]).then_some(()));
    shop.cache(&["cart:1"]);
    running.run("COMMIT");
    shop.settle();
    assert_eq!(shop.cached(), ["user:1"]);
}

#[test]
fn a_rule_that_cannot_be_kept_changes_nothing_and_the_log_has_the_sql() {
    let mut shop = shop();
    shop.daemon.edit(USERS, USERS_AND_CARTS);
    hang_up(&shop.daemon, REFUSED);
    assert!(shop.daemon.log().contains("ALTER PUBLICATION"), "{}", shop.daemon.log());
    shop.cache(&["user:1", "user:2"]);
    assert_eq!(shop.left_after("UPDATE users SET n = 1 WHERE id = 1"), ["user:2"]);
    let status = shop.daemon.status();
    assert_eq!(status["rules"].as_array().map(Vec::len), Some(1), "{status}");
}

#[test]
fn a_file_that_cannot_be_read_as_a_configuration_changes_nothing() {
    let mut shop = shop();
    for (broken, word) in [
        ("rules:\n  - tabel: users\n", "tabel"),
        ("admin:\n  listen: 127.0.0.1:1\n  ready_max_lag: 7s\n", "admin.listen has changed, which needs a restart"),
    ] {
        let config = std::fs::read_to_string(shop.daemon.config()).unwrap();
        let (head, rest) = config.split_at(config.find(if word == "tabel" { "rules:" } else { "admin:" }).unwrap());
        let after = if word == "tabel" { "" } else { &rest[rest.find("rules:").unwrap()..] };
        std::fs::write(shop.daemon.config(), format!("{head}{broken}{after}")).unwrap();
        hang_up(&shop.daemon, REFUSED);
        assert!(shop.daemon.log().contains(word), "{}", shop.daemon.log());
        std::fs::write(shop.daemon.config(), config).unwrap();
        shop.cache(&["user:1", "user:2"]);
        assert_eq!(shop.left_after("UPDATE users SET n = n + 1 WHERE id = 1"), ["user:2"]);
    }
}

#[test]
fn a_target_that_is_added_is_brought_along_and_one_that_is_taken_out_is_left_alone() {
    let mut shop = shop();
    let edge = Redis::start();
    let set = |keys: &[&str]| {
        for key in keys {
            let () = redis::cmd("SET").arg(key).arg("cached").query(&mut edge.client()).unwrap();
        }
    };
    let has = |key: &str| redis::cmd("EXISTS").arg(key).query::<bool>(&mut edge.client()).unwrap();
    set(&["user:1", "user:2", "other"]);
    let one = format!("    url: {}\n", shop.redis.url());
    let two = format!("{one}  edge:\n    url: {}\n", edge.url());
    shop.daemon.edit(&one, &two);
    hang_up(&shop.daemon, RELOADED);
    until("what it may have missed is flushed there", || (!has("user:1") && !has("user:2")).then_some(()));
    assert!(has("other"), "what no rule makes stays");
    until_ready(&shop.daemon);
    set(&["user:1"]);
    shop.cache(&["user:1"]);
    assert!(shop.left_after("UPDATE users SET n = 1 WHERE id = 1").is_empty());
    assert!(!has("user:1"));

    shop.daemon.edit(&two, &one);
    hang_up(&shop.daemon, RELOADED);
    until_ready(&shop.daemon);
    set(&["user:1"]);
    shop.cache(&["user:1"]);
    assert!(shop.left_after("UPDATE users SET n = 2 WHERE id = 1").is_empty());
    assert!(has("user:1"), "nobody tells it any more");
}

#[test]
fn a_target_that_halted_goes_on_when_on_gap_is_flush() {
    // A server of its own, because the role is locked out for a moment.
    let mut shop = Shop::alone("", SCHEMA, &format!("{USERS}on_gap: halt\n"));
    shop.cache(&["user:1", "other"]);
    let record = format!("coherd:{}", shop.database.name);
    shop.daemon.stop(Signal::Term);
    let () = redis::cmd("DEL").arg(record).query(&mut shop.redis.client()).unwrap();
    shop.daemon.launch_unready();
    let halted = |daemon: &Daemon| (daemon.http("/readyz").1.contains("halted")).then_some(());
    until("the target halts", || halted(&shop.daemon));
    shop.daemon.edit("on_gap: halt", "on_gap: flush");
    hang_up(&shop.daemon, RELOADED);
    until("it is flushed", || (shop.cached() == ["other"]).then_some(()));
    until_ready(&shop.daemon);

    shop.daemon.edit("on_gap: flush", "on_gap: halt");
    hang_up(&shop.daemon, RELOADED);
    until_ready(&shop.daemon);
    shop.cache(&["user:2"]);
    let walsender = shop.walsender();
    let name = &shop.database.name;
    shop.sql.run(&format!("ALTER ROLE coherd CONNECTION LIMIT 0; SELECT pg_terminate_backend({walsender})"));
    until("nobody follows the slot", || {
        let dropped = format!(
            "SELECT count(pg_drop_replication_slot(slot_name)) FROM pg_replication_slots WHERE slot_name = '{name}' AND NOT active"
        );
        (shop.sql.one(&dropped) == "1").then_some(())
    });
    shop.sql.run("ALTER ROLE coherd CONNECTION LIMIT -1");
    until("the target halts again", || halted(&shop.daemon));
    shop.daemon.edit("on_gap: halt", "on_gap: flush");
    hang_up(&shop.daemon, RELOADED);
    until("it is flushed again", || (shop.cached() == ["other"]).then_some(()));
    until_ready(&shop.daemon);
}

#[test]
fn the_level_of_the_log_follows() {
    let shop = shop();
    assert!(!shop.daemon.log().contains("\"level\":\"DEBUG\""));
    let config = std::fs::read_to_string(shop.daemon.config()).unwrap();
    std::fs::write(shop.daemon.config(), format!("{config}log:\n  level: debug\n")).unwrap();
    hang_up(&shop.daemon, RELOADED);
    until("a line of that level", || shop.daemon.log().contains("\"level\":\"DEBUG\"").then_some(()));
}

/// Caches every key before the commit that invalidates it, while the configuration is reloaded repeatedly.
#[test]
fn nothing_is_lost_while_it_is_reloaded_again_and_again() {
    let mut shop = shop();
    let over = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut sql, mut cache) = (shop.database.client(), shop.redis.client());
            let ids = 1..=3000;
            let under_way = ids.take_while(|_| !over.load(Ordering::SeqCst));
            let write = |id| {
                let () = redis::cmd("SET").arg(format!("user:{id}")).arg("cached").query(&mut cache).unwrap();
                sql.run(&format!("UPDATE users SET n = n + 1 WHERE id = {id}"));
            };
            under_way.map(write).count()
        });
        for _ in 0..10 {
            hang_up(&shop.daemon, RELOADED);
        }
        over.store(true, Ordering::SeqCst);
        writer.join().unwrap()
    });
    shop.settle();
    assert_eq!(shop.cached(), [""; 0], "of {written} commits");
    assert_eq!(shop.daemon.status()["gaps"], serde_json::json!([]), "{}", shop.daemon.log());
}
