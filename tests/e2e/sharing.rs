//! Two daemons that follow two databases and share one record, which the default names cause.

use super::Shop;
use crate::support::daemon::text;
use crate::support::postgres::postgres_client;
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Postgres, until};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 9);";
const USERS: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";
const PERSONS: &str = "rules:\n  - table: users\n    keys: [\"person:{id}\"]\n";

/// A shop that follows its database, and a daemon of another database that uses the same record.
struct Shared {
    shop: Shop,
    second: Daemon,
    other: Database,
}

impl Shared {
    /// The other database is in another cluster and has the same names.
    fn of_another_cluster() -> Shared {
        let shop = Shop::open(SCHEMA, USERS);
        let name = shop.database.name.clone();
        let server = Postgres::start_another("");
        postgres_client(&server.dsn("postgres")).unwrap().run(&format!("CREATE DATABASE {name}"));
        Shared::with(shop, Database { server: server.into(), name })
    }

    /// The other database is in the same cluster, and its slot has another name.
    fn of_the_same_cluster() -> Shared {
        let shop = Shop::open(SCHEMA, USERS);
        let shared = Shared::with(shop, Database::create());
        let record = format!("    record: coherd:{}\n", shared.shop.database.name);
        shared.second.edit("admin:\n", &format!("{record}admin:\n"));
        shared
    }

    fn with(mut shop: Shop, other: Database) -> Shared {
        other.run(SCHEMA);
        shop.settle();
        let second = Daemon::configure(&other, &shop.redis.url(), PERSONS);
        Shared { shop, second, other }
    }

    /// The second daemon refuses to run and says how to separate the two. The first one works as if it were alone.
    fn second_is_refused(&mut self) {
        let said = refused(&self.second);
        let id = |database: &Database| database.client().one("SELECT system_identifier FROM pg_control_system()");
        for words in [&id(&self.shop.database), &id(&self.other), &self.other.name, "targets.cache.record"] {
            assert!(said.contains(words), "{words} is not in {said}");
        }
        assert!(!said.contains("has not answered yet"), "{said}");
        assert_eq!(self.shop.daemon.http("/readyz").0, 200, "{}", self.shop.daemon.log());
        assert_eq!(self.shop.cached(), ["other", "person:1", "user:1", "user:2"], "nothing of either is flushed");
        assert_eq!(self.shop.left_after("UPDATE users SET n = n + 1 WHERE id = 1"), ["other", "person:1", "user:2"]);
        assert!(self.shop.daemon.status()["gaps"].as_array().unwrap().is_empty(), "{}", self.shop.daemon.log());
        let checked = text(&self.second.command(&["check"]));
        assert!(checked.contains("error [record-foreign] target cache"), "{checked}");
        assert!(!text(&self.shop.daemon.command(&["check"])).contains("record-foreign"));
        let table = text(&self.second.command(&["status"]));
        assert!(table.contains("refused"), "{table}");
    }
}

fn refused(daemon: &Daemon) -> String {
    until("readiness tells of the other coherd", || {
        let (code, body) = daemon.http("/readyz");
        (code == 503 && body.contains("another coherd writes the record of this target")).then_some(body)
    })
}

/// The second daemon is refused, and works once it has its own record.
fn second_comes_later(mut shared: Shared, record: &str) {
    shared.second.setup(&shared.other);
    shared.shop.cache(&["user:1", "user:2", "person:1", "other"]);
    shared.second.launch_unready();
    shared.second_is_refused();

    shared.second.stop(Signal::Term);
    let own = "    record: coherd:second\n";
    if record.is_empty() {
        shared.second.edit("admin:\n", &format!("{own}admin:\n"));
    } else {
        shared.second.edit(record, own);
    }
    shared.second.launch();
    // The second daemon cannot know what the cache holds for its rule.
    until("what the second may have missed is flushed", || (shared.shop.cached() == ["other", "user:2"]).then_some(()));
    shared.shop.cache(&["person:3"]);
    shared.other.run("UPDATE users SET n = n + 1 WHERE id = 3");
    until("the second keeps its rule", || (shared.shop.cached() == ["other", "user:2"]).then_some(()));
    assert!(shared.shop.left_after("UPDATE users SET n = n + 1 WHERE id = 2") == ["other"]);
}

#[test]
fn a_second_database_of_another_cluster_is_refused_and_harms_nobody() {
    second_comes_later(Shared::of_another_cluster(), "");
}

#[test]
fn a_second_database_of_the_same_cluster_is_refused_and_harms_nobody() {
    let shared = Shared::of_the_same_cluster();
    let record = format!("    record: coherd:{}\n", shared.shop.database.name);
    second_comes_later(shared, &record);
}

#[test]
fn of_two_that_start_at_once_one_is_refused_and_the_other_works() {
    // Dropped from the last to the first: the daemon before its database.
    let Shared { other, mut shop, mut second } = Shared::of_another_cluster();
    second.setup(&other);
    shop.daemon.stop(Signal::Term);
    shop.redis.restart();
    shop.daemon.launch_unready();
    second.launch_unready();
    let is_refused =
        |daemon: &Daemon| daemon.http("/readyz").1.contains("another coherd writes the record of this target");
    let works = |daemon: &Daemon| daemon.http("/readyz").0 == 200;
    let first_works = until("one is refused and the other works", || {
        match (works(&shop.daemon), is_refused(&second), works(&second), is_refused(&shop.daemon)) {
            (true, true, ..) => Some(true),
            (.., true, true) => Some(false),
            _ => None,
        }
    });
    let (database, key) = if first_works { (&shop.database, "user:5") } else { (&other, "person:5") };
    shop.cache(&[key, "other"]);
    database.run("UPDATE users SET n = n + 1 WHERE id = 5");
    until("the one that works does", || (shop.cached() == ["other"]).then_some(()));
}

/// No daemon writes the record any more: the database was replaced, which is a gap.
#[test]
fn a_record_that_another_database_has_left_behind_is_a_gap() {
    // Dropped from the last to the first: the daemon before its database.
    let Shared { other, mut shop, mut second } = Shared::of_another_cluster();
    second.setup(&other);
    shop.daemon.stop(Signal::Term);
    shop.cache(&["user:1", "person:1", "other"]);
    let checked = text(&second.command(&["check"]));
    assert!(checked.contains("warning [record-foreign] target cache"), "{checked}");
    second.launch();
    until("what was left of the rule is flushed", || (shop.cached() == ["other", "user:1"]).then_some(()));
    assert_eq!(second.status()["gaps"][0]["reason"], "other_database");
}
