//! When a look includes the catalogue, and how the watcher reacts when the server or the receiver goes away.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use coherd::config::Config;
use coherd::postgres::watch::WATCH_PACE;
use coherd::postgres::{ErrorKind, Watched};
use coherd::types::table::PublishedBy;

use super::super::{dsn, own_server};
use super::Watching;
use crate::support::process::Signal;
use crate::support::proxy::Way;
use crate::support::{Database, Postgres, Proxy, until};

#[test]
fn the_catalogue_comes_only_with_what_concerns_the_rules() {
    let database = Database::create();
    let name = &database.name;
    database.run(
        "CREATE TABLE t (id int PRIMARY KEY, v int, note text); CREATE TABLE other (id int PRIMARY KEY);
         CREATE TABLE p (id int PRIMARY KEY, v int NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
    );
    database.run(&format!("CREATE PUBLICATION {name} FOR TABLE t, p"));
    let mut watching = Watching::start(&database, &["p", "t"]);
    assert!(matches!(watching.next(), Watched::Seen(seen) if seen.database.is_some()));
    for (comes, sql) in [
        (false, "SELECT 1"),
        (true, "ALTER TABLE t ADD COLUMN extra int"),
        (true, "ALTER TABLE t RENAME COLUMN extra TO more"),
        (true, "ALTER TABLE t ALTER COLUMN more TYPE bigint"),
        (true, "ALTER TABLE t ALTER COLUMN more SET NOT NULL"),
        (true, "ALTER TABLE t DROP COLUMN more"),
        (true, "ALTER TABLE t ADD COLUMN g int GENERATED ALWAYS AS (id) STORED"),
        (true, "ALTER TABLE t ALTER COLUMN g DROP EXPRESSION"),
        (true, "ALTER TABLE t REPLICA IDENTITY FULL"),
        (true, "ALTER TABLE p1 REPLICA IDENTITY FULL"),
        (false, "TRUNCATE p1"),
        (true, "ALTER TABLE p1 RENAME TO p_1"),
        (true, "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)"),
        (true, "ALTER TABLE p DETACH PARTITION p2"),
        (true, "ALTER PUBLICATION $P SET (publish_via_partition_root = true)"),
        (true, "ALTER PUBLICATION $P DROP TABLE t"),
        (false, "ALTER PUBLICATION $P ADD TABLE other"),
        (false, "GRANT SELECT ON t, p, p_1 TO PUBLIC"),
        (false, "CREATE INDEX ON t (v); CREATE INDEX ON p (v)"),
        (false, "INSERT INTO t VALUES (1); UPDATE t SET v = 2; DELETE FROM t; INSERT INTO p VALUES (1, 1)"),
        (false, "ANALYZE"),
        (false, "VACUUM"),
        (false, "ALTER TABLE other ADD COLUMN v int"),
        (false, "CREATE TABLE another (id int)"),
        (true, "DROP TABLE t"),
    ] {
        watching.look();
        database.run(&sql.replace("$P", name));
        let database = watching.look().database;
        assert_eq!(database.is_some(), comes, "{sql}");
    }
}

/// While the log grows fast, the watcher looks at the slot more often than at the catalogue.
#[test]
fn a_look_says_as_of_when_the_catalogue_is_known() {
    let database = Database::create();
    let name = &database.name;
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    database.run(&format!("CREATE PUBLICATION {name} FOR TABLE t"));
    database.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"));
    database.create_role();
    let mut watching = Watching::paced(&database.dsn_as("coherd"), name, &["t"], WATCH_PACE);
    watching.seen_bare();
    let mut change = |identity: &str, log_bytes: usize| {
        let before = Instant::now();
        database.run(&format!(
            "SELECT pg_logical_emit_message(true, 'x', repeat('x', {log_bytes})); ALTER TABLE t REPLICA IDENTITY {identity}"
        ));
        let after = Instant::now();
        for looks in 1.. {
            let seen = watching.seen_bare();
            let is_shown = !seen.tables.is_empty();
            assert!(is_shown || seen.catalogue_at < after, "known as of a time when it had changed");
            assert!(!is_shown || seen.catalogue_at > before, "shown as of a time when it had not changed");
            if is_shown {
                return looks;
            }
        }
        0
    };
    until("a look at the slot alone comes before the one that shows the change", || {
        change("FULL", 100_000_000);
        (change("DEFAULT", 1) > 1).then_some(())
    });
    // Nothing happens, and each look shows that it knows this.
    watching.seen_bare();
    let now = Instant::now();
    watching.seen_bare();
    assert!(watching.seen_bare().catalogue_at > now);
}

#[test]
fn the_catalogue_and_the_marks_are_of_one_moment() {
    let database = Database::create();
    let name = database.name.clone();
    database.run("CREATE TABLE t (id int PRIMARY KEY, v int)");
    database.run(&format!("CREATE PUBLICATION {name} FOR TABLE t"));
    let mut watching = Watching::start(&database, &["t"]);
    std::thread::scope(|scope| {
        let (going_on, told) = std::sync::mpsc::channel::<()>();
        let database = &database;
        scope.spawn(move || {
            let mut dba = database.client();
            while told.recv_timeout(Duration::ZERO) != Err(RecvTimeoutError::Disconnected) {
                dba.run("ALTER TABLE t REPLICA IDENTITY FULL");
                dba.run("ALTER TABLE t REPLICA IDENTITY DEFAULT");
            }
        });
        let mut compared = 0;
        while compared < 100 {
            let seen = watching.seen();
            let Some(catalogue) = seen.database else { continue };
            let stamp = seen.tables[0].stamp.clone().unwrap();
            let full = catalogue.tables[0].identity == coherd::types::change::ReplicaIdentity::Full;
            assert_eq!(stamp.contains("identity f"), full, "{stamp}");
            compared += 1;
        }
        drop(going_on);
    });
}

#[test]
fn nobody_is_waited_for_at_a_locked_table() {
    let database = Database::create();
    database.run(
        "CREATE TABLE t (id int); CREATE TABLE p (id int) PARTITION BY RANGE (id);
         CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
    );
    let mut watching = Watching::start(&database, &["p", "t"]);
    let before = watching.look().tables;
    let mut dba = database.client();
    dba.run("BEGIN; LOCK TABLE t, p, p1 IN ACCESS EXCLUSIVE MODE; ALTER TABLE t ADD COLUMN v int; TRUNCATE p");
    assert_eq!(watching.look().tables, before);
    dba.run("COMMIT");
    assert_ne!(watching.look().tables, before);
}

#[test]
fn a_server_that_is_restarted_is_away_and_then_seen_with_its_catalogue() {
    let server = own_server("");
    let database = Database::create_on(Arc::clone(&server));
    database.run("CREATE TABLE t (id int)");
    let mut watching = Watching::start(&database, &["t"]);
    let before = watching.look();
    assert!(watching.look().database.is_none());
    server.stop(Signal::Interrupt);
    let away = |watching: &mut Watching| {
        until("it is away", || match watching.next() {
            Watched::Seen(_) | Watched::Attested(_) => None,
            Watched::Away(error) => Some(error),
        })
    };
    assert!(away(&mut watching).kind() == ErrorKind::Lost);
    // The watcher reports each failed attempt.
    for _ in 0..3 {
        assert!(matches!(watching.next(), Watched::Away(error) if error.kind() == ErrorKind::Lost));
    }
    server.launch();
    let seen = until("it is seen again", || match watching.next() {
        Watched::Seen(seen) => Some(watching.with_all_tables(seen)),
        Watched::Away(_) | Watched::Attested(_) => None,
    });
    assert!(seen.database.is_some());
    assert_eq!(seen.tables, before.tables);
    assert!(watching.seen().database.is_none());
}

#[test]
fn a_server_that_stops_answering_is_away() {
    let database = Database::create();
    database.create_role();
    let proxy = Proxy::start(database.server.port());
    let text = format!("postgresql://coherd@127.0.0.1:{}/{}?sslmode=disable", proxy.port(), database.name);
    let mut watching = Watching::over(&text, "s", &["t"]);
    watching.look();
    proxy.stall(Way::ToClient, true);
    // Bytes in transit may still arrive. Then the paused clock advances, because only waiting is left.
    watching.runtime.block_on(async { tokio::time::pause() });
    let mut next = || loop {
        if let Watched::Away(error) = watching.next() {
            return error.to_string();
        }
    };
    insta::assert_snapshot!(next(), @"could not watch the server: it has not answered within 10 s");
    assert!(next().contains("no answer within 10 s (connect_timeout)"));
}

#[test]
fn a_session_that_is_ended_is_replaced() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int)");
    let mut watching = Watching::start(&database, &["t"]);
    watching.look();
    let mut dba = database.client();
    let own = format!("datname = '{}' AND usename = 'coherd'", database.name);
    assert_eq!(
        dba.one(&format!("SELECT string_agg(application_name, ',') FROM pg_stat_activity WHERE {own}")),
        "coherd"
    );
    dba.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {own}"));
    let mut aways = 0;
    let seen = until("it is seen again", || match watching.next() {
        Watched::Seen(seen) if aways > 0 => Some(seen),
        Watched::Seen(_) | Watched::Attested(_) => None,
        Watched::Away(_) => {
            aways += 1;
            None
        }
    });
    assert!(seen.database.is_some());
    assert_eq!(aways, 1);
}

#[test]
fn it_ends_with_its_receiver() {
    let database = Database::create();
    // This also holds while it waits for the time of the next look.
    let mut watching = Watching::paced(&database.dsn(), &database.name, &["t"], Duration::from_hours(1));
    watching.seen();
    let Watching { runtime, observations, attest: _attest, task, .. } = watching;
    drop(observations);
    runtime.block_on(async { tokio::time::timeout(crate::support::wait::PATIENCE, task).await }).unwrap().unwrap();
    // This also holds while it cannot reach a server.
    let Watching { runtime, observations, attest: _attest, task, .. } =
        Watching::over("host=127.0.0.1 port=1 user=a", "s", &["t"]);
    drop(observations);
    runtime.block_on(async { tokio::time::timeout(crate::support::wait::PATIENCE, task).await }).unwrap().unwrap();
}

#[test]
fn the_configuration_says_what_is_watched_and_each_table_once() {
    let text = "source: {dsn: 'host=h', slot: s, publication: p}
targets: {cache: {url: 'redis://h'}}
rules: [{table: b.u, keys: ['a:{id}']}, {table: t, keys: ['b:{id}']}, {table: t, keys: ['c:{id}']}]
";
    let config = Config::parse(text, Path::new("c.yaml"), &|_| None).unwrap();
    let watch = coherd::cli::parts::watch_config(&config, dsn("host=h user=u"));
    assert_eq!((watch.slot.as_str(), watch.publication.as_str(), watch.pace), ("s", "p", WATCH_PACE));
    let names: Vec<String> = watch.tables.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["b.u", "public.t"]);
}

#[test]
fn the_catalogue_is_the_whole_one() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int PRIMARY KEY)");
    database.run(&format!("CREATE PUBLICATION {} FOR TABLE t", database.name));
    let seen = *Watching::start(&database, &["t"]).seen().database.unwrap();
    assert_eq!((seen.name.as_str(), seen.server.version), (database.name.as_str(), Postgres::shared().version()));
    assert_eq!(seen.tables[0].published.as_ref().map(|published| published.by), Some(PublishedBy::Table));
    assert_eq!((seen.role.name.as_str(), seen.role.superuser), ("coherd", false));
}
