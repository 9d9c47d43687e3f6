//! Inheritance: SELECT FROM parent shows the rows of its children too.

use super::Shop;
use crate::support::daemon::text;
use crate::support::{Daemon, Database, Redis, until};

const PARENT: &str = "CREATE TABLE parent (id int PRIMARY KEY, v int);";
const CHILD: &str = "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);";
const RULE: &str = "  - table: parent\n    keys: [\"p:{id}\"]\n";

#[test]
fn a_parent_whose_children_have_no_rule_is_refused_and_never_missed_silently() {
    for (schema, said) in [
        (format!("{PARENT}{CHILD}"), "its inheritance children have no rule (public.child)"),
        (
            format!(
                "{PARENT} CREATE SCHEMA _timescaledb_internal;
                 CREATE TABLE _timescaledb_internal._hyper_1_1_chunk (PRIMARY KEY (id)) INHERITS (parent)"
            ),
            "it is a hypertable of TimescaleDB",
        ),
    ] {
        let (database, redis) = (Database::create(), Redis::start());
        database.run(&schema);
        let daemon = Daemon::configure(&database, &redis.url(), &format!("rules:\n{RULE}"));
        daemon.command(&["setup", "--dsn", &database.dsn()]);
        for command in ["check", "run"] {
            let output = daemon.command(&[command]);
            assert!(!output.status.success(), "{command}");
            assert!(text(&output).contains(said), "{command}: {}", text(&output));
        }
    }
}

#[test]
fn a_child_that_comes_while_the_daemon_runs_uncovers_the_rule() {
    let mut shop = Shop::open(PARENT, RULE);
    shop.settle();
    shop.cache(&["p:1"]);
    shop.sql.run(CHILD);
    let body = until("readiness tells of it", || {
        let (code, body) = shop.daemon.http("/readyz");
        (code == 503).then_some(body)
    });
    assert!(body.contains("rules[0] public.parent is not covered: its inheritance children have no rule"), "{body}");
    until("the rule is flushed", || shop.cached().is_empty().then_some(()));
    shop.sql.run("DROP TABLE child");
    until("it is ready", || (shop.daemon.http("/readyz").0 == 200).then_some(()));
    shop.settle();
}

#[test]
fn with_rules_for_the_children_their_rows_are_followed_and_their_coming_and_going_flushes() {
    let schema = format!("{PARENT}{CHILD} INSERT INTO child VALUES (1, 1), (2, 2);");
    let rules = format!("{RULE}  - table: child\n    keys: [\"p:{{id}}\"]\n");
    let mut shop = Shop::open(&schema, &rules);
    shop.settle();
    shop.cache(&["p:1", "p:2"]);
    assert_eq!(shop.left_after("UPDATE parent SET v = 3 WHERE id = 1"), ["p:2"]);
    shop.sql.run("ALTER TABLE child NO INHERIT parent");
    until("readers of the parent see fewer rows", || shop.cached().is_empty().then_some(()));
    shop.settle();
    shop.cache(&["p:2"]);
    shop.sql.run("ALTER TABLE child INHERIT parent");
    until("readers of the parent see more rows", || shop.cached().is_empty().then_some(()));
    shop.settle();
    // What is emptied is in the stream, under its own name.
    shop.cache(&["p:2"]);
    assert_eq!(shop.left_after("TRUNCATE child"), Vec::<String>::new());
}
