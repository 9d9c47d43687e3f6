//! Another session holds a lock that excludes everybody.

use std::time::{Duration, Instant};

use super::Shop;
use crate::support::daemon::text;
use crate::support::process::Signal;
use crate::support::until;

#[test]
fn locked_tables_and_partitions_keep_no_command_waiting_and_no_session_behind() {
    let schema = "CREATE TABLE events (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100);
        CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);";
    let rules = "  - table: events\n    keys: [\"event:{id}\"]\n  - table: users\n    keys: [\"user:{id}\"]\n";
    let mut shop = Shop::open(schema, rules);
    shop.settle();
    assert_eq!(shop.daemon.stop(Signal::Term), 0);
    let mut dba = shop.database.client();
    dba.run("BEGIN; LOCK TABLE events_1, users IN ACCESS EXCLUSIVE MODE");
    let dsn = shop.database.dsn();
    for command in [&["check"][..], &["setup", "--dsn", &dsn], &["explain", "event:1"]] {
        let began = Instant::now();
        let output = shop.daemon.command(command);
        assert!(began.elapsed() < Duration::from_secs(15), "{command:?} took {:?}", began.elapsed());
        // Setup and check may give advice about partitions; the test only requires that they have read the catalogue.
        let said = text(&output);
        assert!(!said.contains("has not answered") && !said.contains("timeout"), "{command:?}: {said}");
    }
    shop.daemon.launch();
    until("everything is settled", || {
        let (code, _) = shop.daemon.http("/readyz");
        (code == 200).then_some(())
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    assert_eq!(shop.sql.one(waiting), "0");
    dba.run("COMMIT");
    shop.cache(&["user:1", "event:1"]);
    assert_eq!(shop.left_after("INSERT INTO users VALUES (1); INSERT INTO events VALUES (1)"), Vec::<String>::new());
}
