//! A server with coherd in `synchronous_standby_names`. No writer ever waits for coherd, and nothing is lost.

use std::thread::JoinHandle;

use super::Shop;
use crate::support::standby::STANDBY_NAME;
use crate::support::{Daemon, Database, Postgres, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users VALUES (1)";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

/// Both settings select the daemon before the standby, which counts only when the daemon is gone: among equal
/// priorities, the first to connect is selected.
fn settings() -> [String; 2] {
    ["*".to_owned(), format!("FIRST 1 (Coherd, {STANDBY_NAME})")]
}

/// A shop on a server of its own, and a standby that connects after the daemon.
fn shop_with_standby() -> (Shop, Postgres) {
    let shop = Shop::alone("", SCHEMA, RULE);
    let standby = shop.database.server.standby("");
    standby.catch_up(&shop.database.server);
    (shop, standby)
}

/// Runs a change whose commit may wait.
fn change(database: &Database, sql: &'static str) -> JoinHandle<()> {
    let mut client = database.client();
    std::thread::spawn(move || client.run(sql))
}

fn until_unready(daemon: &Daemon) -> String {
    until("readiness names the setting", || {
        let (code, body) = daemon.http("/readyz");
        (code == 503 && body.contains("synchronous_standby_names")).then_some(body)
    })
}

fn until_ready(daemon: &Daemon) {
    until("the daemon is ready again", || (daemon.http("/readyz").0 == 200).then_some(()));
}

#[test]
fn a_writer_never_waits_for_coherd_and_nothing_is_lost_meanwhile() {
    let (mut shop, _standby) = shop_with_standby();
    for setting in settings() {
        shop.cache(&["user:1"]);
        let before = shop.daemon.log().matches("\"ERROR\"").count();
        let waiting = shop.database.server.wait_for(&setting);
        let writer = change(&shop.database, "UPDATE users SET n = n + 1 WHERE id = 1");
        until("the commit returns", || writer.is_finished().then_some(()));
        let said = until_unready(&shop.daemon);
        assert!(said.contains("ALTER SYSTEM SET synchronous_standby_names"), "{said}");
        let follows = format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{}'", shop.database.name);
        assert_eq!(shop.sql.one(&follows), "f");
        shop.cache(&["user:1"]);
        let writer = change(&shop.database, "UPDATE users SET n = n + 1 WHERE id = 1");
        until("a later commit returns", || writer.is_finished().then_some(()));
        assert_eq!(shop.daemon.log().matches("\"ERROR\"").count(), before + 1, "{}", shop.daemon.log());
        drop(waiting);
        until_ready(&shop.daemon);
        shop.settle();
        assert_eq!(shop.cached(), [] as [&str; 0], "{}", shop.daemon.log());
    }
}

#[test]
fn a_second_instance_does_not_take_over_what_writers_would_wait_for_and_stays_up() {
    let (mut shop, _standby) = shop_with_standby();
    let mut second = shop.daemon.twin();
    second.launch_unready();
    until("the second one stands by", || second.http("/readyz").1.contains("hot standby").then_some(()));
    let waiting = shop.database.server.wait_for("*");
    until_unready(&shop.daemon);
    until_unready(&second);
    shop.cache(&["user:1"]);
    let writer = change(&shop.database, "UPDATE users SET n = n + 1 WHERE id = 1");
    until("the commit returns", || writer.is_finished().then_some(()));
    drop(waiting);
    shop.settle();
    assert_eq!(shop.cached(), [] as [&str; 0], "{}\n{}", shop.daemon.log(), second.log());
    assert!(!shop.daemon.has_ended() && !second.has_ended(), "{}\n{}", shop.daemon.log(), second.log());
}
