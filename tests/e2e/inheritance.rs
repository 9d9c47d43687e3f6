//! Inheritance: SELECT FROM parent also returns the rows of its children, so a rule on the parent covers them.

use super::Shop;
use crate::preview::file;
use crate::support::daemon::text;
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Redis, until};

const PARENT: &str = "CREATE TABLE parent (id int PRIMARY KEY, v int);";
const CHILD: &str = "CREATE TABLE child (extra text, PRIMARY KEY (id)) INHERITS (parent);";
const GRANDCHILD: &str = "CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (child);";
const RULE: &str = "  - table: parent\n    keys: [\"p:{id}\"]\n";

const NONE: [&str; 0] = [];

impl Shop {
    /// Opens a shop with a publication for all tables, which includes a new child from its first commit.
    fn of_all_tables(schema: &str) -> Shop {
        let database = Database::create();
        let publication = format!("CREATE PUBLICATION {} FOR ALL TABLES;", database.name);
        let mut shop = Shop::open_on(database, &format!("{schema}{publication}"), RULE);
        shop.settle();
        shop
    }

    /// Waits for the flush, and for the next look, which flushes again because transactions may have been running at
    /// the first.
    fn until_flushed(&mut self, why: &str) {
        until(why, || self.cached().is_empty().then_some(()));
        self.until_looked_at();
        self.settle();
    }

    fn until_uncovered(&self, said: &str) {
        let body = until("readiness tells of it", || {
            let (code, body) = self.daemon.http("/readyz");
            (code == 503 && body.contains("is not covered")).then_some(body)
        });
        assert!(body.contains(said), "{body}");
    }

    fn until_ready(&self) {
        until("it is ready", || (self.daemon.http("/readyz").0 == 200).then_some(()));
    }
}

#[test]
fn a_rule_on_a_parent_covers_its_children_and_theirs() {
    let rows =
        "INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2), (3); INSERT INTO grandchild VALUES (4), (5)";
    let mut shop = Shop::open(&format!("{PARENT}{CHILD}{GRANDCHILD}{rows}"), RULE);
    shop.settle();
    shop.cache(&["p:1", "p:2", "p:3", "p:4", "p:5", "other"]);
    assert_eq!(shop.left_after("UPDATE child SET extra = 'x' WHERE id = 2"), ["other", "p:1", "p:3", "p:4", "p:5"]);
    assert_eq!(shop.left_after("UPDATE parent SET v = 1 WHERE id = 4"), ["other", "p:1", "p:3", "p:5"]);
    assert_eq!(shop.left_after("DELETE FROM ONLY grandchild WHERE id = 5"), ["other", "p:1", "p:3"]);
    // A key that moves to another row.
    assert_eq!(shop.left_after("UPDATE ONLY child SET id = 6 WHERE id = 3"), ["other", "p:1"]);
    // The stream shows the TRUNCATE under the child's own name.
    assert_eq!(shop.left_after("TRUNCATE ONLY grandchild"), ["other"]);
    shop.cache(&["p:1", "p:6"]);
    let touch = format!("SELECT coherd.touch('parent', 'id = 6', '{}')", shop.database.name);
    assert_eq!(shop.left_after(&touch), ["other", "p:1"]);
    shop.cache(&["p:6"]);
    assert_eq!(shop.left_after(&touch.replace("parent", "child")), ["other", "p:1"]);
    assert_eq!(shop.left_after("SELECT coherd.flush('child')"), ["other"]);
}

#[test]
fn what_harms_no_reader_of_the_parent_flushes_nothing() {
    let mut shop = Shop::open(&format!("{PARENT}{CHILD}INSERT INTO child VALUES (1), (2)"), RULE);
    shop.settle();
    shop.cache(&["p:1", "p:2"]);
    shop.sql.run("VACUUM FULL child");
    shop.sql.run("CREATE ROLE owner_of_child; ALTER TABLE child OWNER TO owner_of_child");
    shop.sql.run("CREATE TEMP TABLE own () INHERITS (parent)");
    shop.until_looked_at();
    assert_eq!(shop.left_after("UPDATE child SET v = 1 WHERE id = 1"), ["p:2"]);
    // From now on its changes arrive under another name. coherd identifies the table by its oid.
    shop.sql.run("ALTER TABLE child RENAME TO other; UPDATE other SET v = 2 WHERE id = 2");
    shop.settle();
    assert_eq!(shop.cached(), NONE);
    shop.sql.run("ALTER TABLE other OWNER TO CURRENT_USER; DROP ROLE owner_of_child");
}

#[test]
fn a_child_that_comes_is_covered_from_its_first_look_and_flushed_for_what_was_before() {
    let mut shop = Shop::of_all_tables(PARENT);
    shop.cache(&["p:1", "p:2"]);
    shop.sql.run(&format!("{CHILD}INSERT INTO child VALUES (1)"));
    shop.until_flushed("its rows came before anybody knew of it");
    shop.cache(&["p:1", "p:2"]);
    assert_eq!(shop.left_after("UPDATE child SET v = 1"), ["p:2"]);
    for change in ["ALTER TABLE child NO INHERIT parent", "ALTER TABLE child INHERIT parent", "DROP TABLE child"] {
        shop.cache(&["p:1", "p:2"]);
        shop.sql.run(change);
        shop.until_flushed(change);
    }
    shop.until_ready();
}

/// One message is one transaction, so no look can happen in between.
#[test]
fn a_child_that_was_away_is_flushed() {
    let mut shop = Shop::open(&format!("{PARENT}{CHILD}INSERT INTO child VALUES (1)"), RULE);
    let publication = shop.database.name.clone();
    let left_out = format!(
        "ALTER PUBLICATION {publication} DROP TABLE ONLY child; UPDATE child SET v = v + 1;
         ALTER PUBLICATION {publication} ADD TABLE ONLY child"
    );
    let disowned = "ALTER TABLE child NO INHERIT parent; UPDATE child SET v = 3; ALTER TABLE child INHERIT parent";
    for change in [left_out.as_str(), disowned] {
        for is_down in [false, true] {
            shop.settle();
            shop.cache(&["p:1"]);
            if is_down {
                shop.daemon.stop(Signal::Term);
            }
            shop.sql.run(change);
            if is_down {
                shop.daemon.launch();
            }
            shop.until_flushed(change);
        }
    }
}

#[test]
fn a_child_that_is_not_in_the_publication_uncovers_the_rule_until_setup_has_added_it() {
    let mut shop = Shop::open(PARENT, RULE);
    shop.settle();
    shop.cache(&["p:1"]);
    shop.sql.run(&format!("{CHILD}INSERT INTO child VALUES (1)"));
    shop.until_uncovered("rules[0] public.parent is not covered: child public.child: it is not in publication");
    until("no more is known of it than before", || shop.cached().is_empty().then_some(()));
    let checked = shop.daemon.command(&["check"]);
    assert!(!checked.status.success());
    assert!(text(&checked).contains("rules[0] public.parent, child public.child"), "{}", text(&checked));
    shop.cache(&["p:1"]);
    shop.sql.run("UPDATE child SET v = 1");
    shop.daemon.command(&["setup", "--dsn", &shop.database.dsn()]);
    shop.until_flushed("it is followed from now on");
    shop.settle();
    shop.until_ready();
    shop.cache(&["p:1", "p:2"]);
    assert_eq!(shop.left_after("UPDATE child SET v = 2"), ["p:2"]);
    let checked = shop.daemon.command(&["check"]);
    assert!(checked.status.success(), "{}", text(&checked));
}

#[test]
fn children_whose_changes_cannot_be_followed_are_refused_with_the_reason() {
    for (schema, said) in [
        (format!("{PARENT} CREATE UNLOGGED TABLE child (PRIMARY KEY (id)) INHERITS (parent)"), "it is unlogged"),
        (format!("{PARENT} CREATE TABLE child () INHERITS (parent)"), "it has no replica identity"),
        (
            format!(
                "{PARENT} CREATE SCHEMA _timescaledb_internal;
                 CREATE TABLE _timescaledb_internal._hyper_1_1_chunk (PRIMARY KEY (id)) INHERITS (parent)"
            ),
            "it is a TimescaleDB hypertable",
        ),
        (
            format!(
                "{PARENT} CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;
                 CREATE FOREIGN TABLE child () INHERITS (parent) SERVER s"
            ),
            "a foreign table",
        ),
    ] {
        let (database, redis) = (Database::create(), Redis::start());
        database.run(&schema);
        let daemon = Daemon::configure(&database, &redis.url(), &format!("rules:\n{RULE}"));
        daemon.command(&["setup", "--dsn", &database.dsn()]);
        for command in ["check", "run"] {
            let output = daemon.command(&[command]);
            assert!(!output.status.success(), "{command}: {schema}");
            assert!(text(&output).contains(said), "{command}: {}", text(&output));
        }
    }
}

#[test]
fn a_preview_knows_the_children_too() {
    let shop = Shop::open(&format!("{PARENT}{CHILD}INSERT INTO child VALUES (1), (2)"), RULE);
    let fix = file(&shop, "fix.sql", "UPDATE child SET v = 1 WHERE id = 1");
    let dsn = shop.database.dsn();
    for arguments in [
        &["keys", "--dsn", &dsn, "--table", "child", "--where", "id = 1"][..],
        &["keys", "--dsn", &dsn, "--table", "parent", "--where", "id = 1"],
        &["keys", "--dsn", &dsn, "--sql", &fix],
    ] {
        let output = shop.daemon.command(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains("p:1") && !text(&output).contains("p:2"), "{arguments:?}: {}", text(&output));
        assert!(!text(&output).contains("no rule names"), "{arguments:?}: {}", text(&output));
    }
}
